"""Recording: start, stop, pause, resume, and what happens meanwhile (contract 5.4, 5.5).

One process records: its threads pull the segments of each session that is recorded. States follow what is really there,
and a service that was killed finds its way back to them from the database and the nodes' agents.
"""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from labyard.core.clock import now
from labyard.core.errors import ServiceError
from labyard.core.locks import KeyLocks
from labyard.desktops import audit, names
from labyard.desktops.adapters.agent import AgentError, AgentRefused, RecordStatus
from labyard.desktops.errors import Refusal
from labyard.desktops.evidence.compression import Compression
from labyard.desktops.models import DeskSession, Node, SessionChunk, SessionStatus
from labyard.desktops.moments import as_text, now_text
from labyard.desktops.roles import Principal
from labyard.desktops.service.sessions import stages
from labyard.desktops.service.sessions.binding import AUTO
from labyard.desktops.service.sessions.follower import PULL, Follower
from labyard.desktops.service.sessions.intake import Intake, Plan
from labyard.desktops.service.sessions.parts import Parts
from labyard.desktops.service.sessions.seal import anchoring, seal
from labyard.desktops.service.sessions.shared import EVERYTHING, WORKING, locked, refused, visible
from labyard.desktops.service.sessions.starts import Starts
from labyard.desktops.service.sessions.statistics import statistics

log = structlog.get_logger(__name__)

RETRY = 2.0  # seconds before what failed is tried again
JOIN = 10.0  # seconds that a thread gets to end
GIB = 2**30
REQUESTED = "requested"  # why a recording ended that somebody stopped


class Recordings:
    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.starts = Starts(parts)
        self._database = parts.database
        self.locks: KeyLocks[str] = KeyLocks()
        self._intakes: dict[str, Intake] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._again: set[str] = set()
        self._closing = threading.Event()

    # What callers ask for

    def start(self, session_id: str, who: Principal) -> dict[str, Any]:
        """Answers when the first frame was captured; else the session is as it was, with the reason in `/errors`."""
        with self._database.transaction() as session:
            row = locked(session, session_id)
            visible(session, session_id, who)
            if row.status != SessionStatus.CREATED:
                raise refused(row, "started")
            row.status = SessionStatus.STARTING
        try:
            with self.locks.hold(session_id):
                if row.provisioning["policy"] == AUTO and not row.provisioning["server_id"]:
                    self.parts.records.provision(session_id)
                target = self.starts.bind(session_id, who)
                agent = self.parts.agents.of(target.node_id)
                if session_id in agent.record_list():  # of a start that failed while the node was away
                    self.starts.abandon(session_id, target.node_id)
                status = agent.record_start(self.starts.spec(session_id, target), names.made("req"))
                row = self.starts.begin(session_id, status)
        except (ServiceError, AgentError) as error:
            self._take_back(session_id, getattr(error, "code", "INTERNAL"), str(error))
            raise
        except BaseException:
            self._take_back(session_id, "INTERNAL", "the start failed")
            raise
        self._watch(session_id)
        return {
            "session_id": session_id,
            "status": row.status,
            "started_at": row.started_at,
            "binding": row.binding,
        }

    def stop(self, session_id: str, who: Principal) -> dict[str, Any]:
        """Answers when the session is sealed and anchored. 503 SEAL_INCOMPLETE: it is tried again, by itself too."""
        with self._database.read() as session:
            visible(session, session_id, who)
        row = self.finish(session_id, REQUESTED)
        with self._database.read() as session:
            return {
                "session_id": session_id,
                "status": row.status,
                "stopped_at": row.stopped_at,
                "stop_reason": row.stop_reason,
                "final_statistics": statistics(session, row),
                "anchoring": anchoring(session, row, self.parts.ledger),
            }

    def pause(self, session_id: str, who: Principal) -> dict[str, Any]:
        return self._turn(session_id, who, SessionStatus.RECORDING, SessionStatus.PAUSED)

    def resume(self, session_id: str, who: Principal) -> dict[str, Any]:
        return self._turn(session_id, who, SessionStatus.PAUSED, SessionStatus.RECORDING)

    def anchoring(self, session_id: str, who: Principal) -> dict[str, Any]:
        with self._database.read() as session:
            return anchoring(session, visible(session, session_id, who), self.parts.ledger)

    # The life of the service

    def recover(self) -> None:
        """After a start: every session that was at work gets its thread again, which finds out what is left of it."""
        with self._database.read() as session:
            rows = list(session.scalars(select(DeskSession).where(DeskSession.status.in_(WORKING))))
        for row in rows:
            self._watch(row.session_id)

    def reconcile(self) -> None:
        """Recorders and segments of sessions that are not at work go: of a start that was taken back, of a seal after
        which the node was away."""
        with self._database.read() as session:
            nodes = list(session.scalars(select(Node.node_id)))
        for node_id in nodes:
            if not self.parts.agents.hosts(node_id):
                continue
            try:
                found = self.parts.agents.of(node_id).record_list()
            except AgentError as error:
                log.info("no list of recorders", node=node_id, reason=str(error))
                continue
            for session_id in found:
                with self.locks.hold(session_id), self._database.read() as session:
                    row = session.get(DeskSession, session_id)
                    if row is None or row.status not in WORKING:
                        log.warning("a recorder that nobody wants", session=session_id, node=node_id)
                        self.starts.abandon(session_id, node_id)

    def reset(self) -> None:
        """After all rows are gone: their threads find that out."""
        self._intakes.clear()

    def close(self) -> None:
        """Recorders go on; their segments wait for the next start."""
        self._closing.set()
        for thread in list(self._threads.values()):
            thread.join(JOIN)

    def _take_back(self, session_id: str, code: str, reason: str) -> None:
        """The start failed: the session is `created` again, and says why. Where that fails, too, its thread does it."""
        try:
            self.starts.put_back(session_id, code, reason)
        except SQLAlchemyError:
            self._watch(session_id)
            raise

    # Pausing

    def _turn(self, session_id: str, who: Principal, before: str, after: str) -> dict[str, Any]:
        pausing = after == SessionStatus.PAUSED
        with self.locks.hold(session_id):
            with self._database.read() as session:
                row = visible(session, session_id, who)
            if row.status != before:
                raise refused(row, "paused" if pausing else "resumed")
            agent = self.parts.agents.of(row.node_id or "")
            turn = agent.record_pause if pausing else agent.record_resume
            status = turn(session_id, names.made("req"))
            if (status.state == "paused") != pausing:
                raise AgentRefused(f"the recorder is {status.state}: {status.error}", "AGENT_BAD_RESPONSE")
            with self._database.transaction() as session:
                row = locked(session, session_id)
                row.status = after
                if pausing:
                    row.pauses = [*row.pauses, {"from": now_text(), "to": None}]
                else:
                    row.pauses = _ended(row.pauses, now())
                entered = stages.PAUSED if pausing else stages.ACTIVE
                stages.enter(session, session_id, entered, stages.STAGES[:3])
                audit.record(session, "session", "pause" if pausing else "resume", resource=("session", session_id))
        return {"session_id": session_id, "status": after}

    # Ending

    def finish(self, session_id: str, reason: str, give_up_node: bool = False) -> DeskSession:
        """Stop the recorder, commit what it has, seal. `give_up_node`: where its node does not answer, what is stored
        is sealed.

        Done again, it goes on where it was cut off. Refusal SES_STATE; SEAL_INCOMPLETE when something does not answer.
        """
        with self.locks.hold(session_id):
            with self._database.transaction() as session:
                row = locked(session, session_id)
                if row.status not in (SessionStatus.RECORDING, SessionStatus.PAUSED, SessionStatus.STOPPING):
                    raise refused(row, "stopped")
                row.stop_reason = row.stop_reason or reason
                row.status = SessionStatus.STOPPING
                stages.enter(session, session_id, stages.ACTIVE, [stages.ANCHORING])
                row.anchoring_status = "anchoring"
            self.starts.sample(row)
            try:
                ended = self._drain(row, give_up_node)
                with self._database.transaction() as session:
                    row = locked(session, session_id)
                    if row.status == SessionStatus.STOPPED:  # another process was quicker
                        return row
                    moment = max(row.started_at or ended, ended)
                    row.pauses = _ended(row.pauses, moment)
                    seal(session, row, self.parts.ledger, moment)
            except (AgentError, SQLAlchemyError, OSError) as error:
                log.error("a session is not sealed yet", session=session_id, error=str(error))
                self._watch(session_id)
                raise Refusal(
                    "SEAL_INCOMPLETE",
                    f"The session {session_id} is not sealed yet; it will be, and stop may be called again",
                ) from error
            self._intakes.pop(session_id, None)
        self._forget(row)
        if self.parts.on_sealed and row.node_id and row.manifest:
            self.parts.on_sealed(row.node_id, session_id, row.manifest["merkle_root"])
        return row

    def _drain(self, row: DeskSession, give_up_node: bool) -> datetime:
        """All segments are committed; when the recording ended."""
        try:
            agent = self.parts.agents.of(row.node_id or "")
            status = agent.record_stop(row.session_id, names.made("req"))
            stopped = now()
            while self.intake(row).pull(agent):
                pass
            self.note(row.session_id, status)
            if row.stop_reason == REQUESTED:
                return stopped
        except AgentRefused as error:
            # The node knows nothing of it any more: what is stored is all there is.
            log.warning("no recorder", session=row.session_id, reason=str(error))
        except AgentError as error:
            if not give_up_node:
                raise
            log.warning("the node is given up", session=row.session_id, reason=str(error))
        return self._last_moment(row)

    def _last_moment(self, row: DeskSession) -> datetime:
        """The end of the last chunk; the start when there is none."""
        with self._database.read() as session:
            last = session.scalar(
                select(SessionChunk)
                .where(SessionChunk.session_id == row.session_id)
                .order_by(SessionChunk.sequence_number.desc())
                .limit(1)
            )
        if last is None:
            return row.started_at or now()
        return last.timestamp + timedelta(seconds=last.duration_seconds)

    def _forget(self, row: DeskSession) -> None:
        """What is left of it on the node goes; a server that was made for it, too."""
        try:
            self.parts.agents.of(row.node_id or "").segments_ack(row.session_id, EVERYTHING)
            server_id = row.provisioning["server_id"]
            if row.provisioning["policy"] == AUTO and server_id and self.parts.provisioner:
                self.parts.provisioner.release(server_id, row.owner)
        except (AgentError, ServiceError) as error:
            log.warning("not cleaned up", session=row.session_id, reason=str(error))

    # Meanwhile

    def _watch(self, session_id: str) -> None:
        """A thread for it, unless there is one."""
        with self.locks.hold("threads"):
            if self._closing.is_set():
                return
            if session_id in self._threads:
                self._again.add(session_id)  # it may be about to end
                return
            thread = threading.Thread(target=self._follow, args=(session_id,), name=session_id, daemon=True)
            self._threads[session_id] = thread
            thread.start()

    def _follow(self, session_id: str) -> None:
        while True:
            self._follow_on(session_id)
            with self.locks.hold("threads"):
                if self._closing.is_set() or session_id not in self._again:
                    del self._threads[session_id]
                    return
                self._again.discard(session_id)

    def _follow_on(self, session_id: str) -> None:
        """Until the session is over. Nothing that is away for a while ends it."""
        follower = Follower(self, session_id)
        pause = PULL
        while not self._closing.wait(pause):
            try:
                if not follower.step():
                    break
                pause = follower.pause
            except (SQLAlchemyError, Refusal, AgentError) as error:
                log.warning("a recording waits", session=session_id, reason=str(error))
                pause = RETRY
            except Exception:
                log.exception("a recording stumbles", session=session_id)
                pause = RETRY

    def intake(self, row: DeskSession) -> Intake:
        found = self._intakes.get(row.session_id)
        if found is None:
            recording, storage = row.recording_config, row.storage_config
            packed = recording["compression"] if storage["compression_enabled"] else Compression.NONE
            plan = Plan(
                session_id=row.session_id,
                compression=Compression(packed),
                key=self.parts.keys.of(row.session_id) if storage["encryption_enabled"] else None,
                backed_up=storage["backup_enabled"],
                most_bytes=storage["max_size_gb"] * GIB,
            )
            reserve = self.parts.settings.session_storage_reserve
            found = self._intakes[row.session_id] = Intake(self._database, self.parts.store, plan, reserve)
        return found

    def note(self, session_id: str, status: RecordStatus) -> DeskSession:
        """What the recorder says of itself, on record."""
        with self._database.transaction() as session:
            row = locked(session, session_id)
            row.frames, row.dropped_frames = status.frames, status.dropped_frames
            known = {(gap["from"], gap["reason"]) for gap in row.gaps}
            fresh = [dict(gap) for gap in status.gaps if (gap["from"], gap["reason"]) not in known]
            if fresh:
                row.gaps = sorted([*row.gaps, *fresh], key=lambda gap: str(gap["from"]))
            stages.own(session, session_id, status)
            return row


def _ended(pauses: list[Any], moment: datetime) -> list[Any]:
    """The pauses, the open one ended now."""
    return [{**pause, "to": pause["to"] or as_text(moment)} for pause in pauses]
