"""Recording: start, stop, pause, resume, and what happens meanwhile (contract 5.4, 5.5).

One process records: its threads pull the segments of each session that is recorded. States follow what is really there,
and a service that was killed finds its way back to them from the database and the nodes' agents.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from labyard.core.clock import now
from labyard.core.database import Database
from labyard.core.errors import ServiceError
from labyard.desktops import audit, names
from labyard.desktops.adapters.agent import AgentClient, AgentError, AgentRefused, Agents, RecordSpec, RecordStatus
from labyard.desktops.adapters.chunk_store import ChunkStore
from labyard.desktops.adapters.ledger import Ledger
from labyard.desktops.errors import Refusal
from labyard.desktops.evidence.compression import Compression
from labyard.desktops.keyring import Keyring
from labyard.desktops.locks import Locks
from labyard.desktops.models import DeskSession, Node, NodeStatus, RdpServer, RdpStatus, SessionChunk, SessionStatus
from labyard.desktops.moments import as_text, from_text, now_text
from labyard.desktops.roles import Principal
from labyard.desktops.schemas.sessions import size_of
from labyard.desktops.service.data_keys import DataKeys
from labyard.desktops.service.samples import Samples
from labyard.desktops.service.sessions import stages
from labyard.desktops.service.sessions.binding import AUTO, Provisioner, Target, resolve
from labyard.desktops.service.sessions.intake import Intake, Plan
from labyard.desktops.service.sessions.records import Records, password_of
from labyard.desktops.service.sessions.seal import anchoring, seal
from labyard.desktops.service.sessions.shared import WORKING, locked, refused, visible
from labyard.desktops.service.sessions.statistics import statistics
from labyard.desktops.settings import Settings

log = structlog.get_logger(__name__)

PULL = 0.2  # seconds between two looks for segments
LOOK = 1.0  # seconds between two questions how the recorder is
RETRY = 2.0  # seconds before what failed is tried again
JOIN = 10.0  # seconds that a thread gets to end
GIB = 2**30
EVERYTHING = 2**31 - 1

# Why a recording ended.
REQUESTED = "requested"
CRASHED = "crash_recovered"
SERVER_LOST = "rdp_server_lost"
NODE_LOST = "node_lost"
RECORDER_FAILED = "recorder_failed"
RETENTION = "retention"


@dataclass(frozen=True)
class Parts:
    """What recordings stand on: one of each for the whole service."""

    database: Database
    settings: Settings
    agents: Agents
    keyring: Keyring
    keys: DataKeys
    store: ChunkStore
    ledger: Ledger
    records: Records
    node_samples: Samples
    server_samples: Samples
    provisioner: Provisioner | None


class Recordings:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._database = parts.database
        self._locks = Locks()
        self._intakes: dict[str, Intake] = {}
        self._threads: dict[str, threading.Thread] = {}
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
            with self._locks.hold(session_id):
                if row.provisioning["policy"] == AUTO and not row.provisioning["server_id"]:
                    self._parts.records.provision(session_id)
                target = self._bind(session_id, who)
                status = self._parts.agents.of(target.node_id).record_start(
                    self._spec(session_id, target), names.made("req")
                )
                row = self._begin(session_id, status)
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
                "anchoring": anchoring(session, row, self._parts.ledger),
            }

    def pause(self, session_id: str, who: Principal) -> dict[str, Any]:
        return self._turn(session_id, who, SessionStatus.RECORDING, SessionStatus.PAUSED)

    def resume(self, session_id: str, who: Principal) -> dict[str, Any]:
        return self._turn(session_id, who, SessionStatus.PAUSED, SessionStatus.RECORDING)

    def anchoring(self, session_id: str, who: Principal) -> dict[str, Any]:
        with self._database.read() as session:
            return anchoring(session, visible(session, session_id, who), self._parts.ledger)

    # The life of the service

    def recover(self) -> None:
        """After a start: every session that was at work gets its thread again, which finds out what is left of it."""
        with self._database.read() as session:
            rows = list(session.scalars(select(DeskSession).where(DeskSession.status.in_(WORKING))))
        for row in rows:
            self._watch(row.session_id)

    def close(self) -> None:
        """Recorders go on; their segments wait for the next start."""
        self._closing.set()
        for thread in list(self._threads.values()):
            thread.join(JOIN)

    # Starting

    def _bind(self, session_id: str, who: Principal) -> Target:
        """The target, with a slot of its node, and on record before anything is started."""
        parts = self._parts
        if parts.store.free_bytes() < parts.settings.session_storage_reserve:
            raise Refusal("STORAGE_FULL", "The store is down to its reserve")
        with self._database.transaction() as session:
            row = locked(session, session_id)
            target = resolve(session, row, who, parts.settings, self._password(row))
            _take_slot(session, target)
            row.binding, row.node_id, row.server_id = dict(target.binding), target.node_id, target.server_id
            if row.storage_config["encryption_enabled"]:
                parts.keys.make(session, session_id)
        return target

    def _password(self, row: DeskSession) -> str | None:
        if row.password_sealed is None:
            return None
        return self._parts.keyring.open(row.password_sealed, password_of(row.session_id)).decode()

    def _spec(self, session_id: str, target: Target) -> RecordSpec:
        with self._database.read() as session:
            config = session.get_one(DeskSession, session_id).recording_config
        width, height = size_of(config["resolution"])
        return RecordSpec(
            session_id=session_id,
            target=target.spec,
            frame_rate=config["frame_rate"],
            width=width,
            height=height,
            quality=config["quality"],
            bitrate=config["bitrate"],
            cursor=config["cursor_enabled"],
            audio=config["audio_enabled"],
            slice_seconds=self._parts.settings.session_slice,
        )

    def _begin(self, session_id: str, status: RecordStatus) -> DeskSession:
        """The recorder has its first frame: the session is recorded from that moment on."""
        if status.first_frame_at is None:
            raise AgentRefused("the recorder started without a frame", "AGENT_BAD_RESPONSE")
        with self._database.transaction() as session:
            row = locked(session, session_id)
            row.status = SessionStatus.PAUSED if status.state == "paused" else SessionStatus.RECORDING
            row.started_at = from_text(status.first_frame_at)
            if status.display is not None:
                row.binding = {**(row.binding or {}), "display": f":{status.display}"}
            row.audio = dict(status.audio) if status.audio else None
            stages.enter(session, session_id, stages.ACTIVE)
            stages.enter(session, session_id, stages.INACTIVE, [stages.ANCHORING])
            stages.recovered(session, session_id)
            audit.record(
                session, "session", "start", resource=("session", session_id), details={"binding": row.binding}
            )
        self._sample(row)
        return row

    def _take_back(self, session_id: str, code: str, reason: str) -> None:
        """The start failed: the session is `created` again, and says why. Where that fails, too, its thread does it."""
        try:
            self._put_back(session_id, code, reason)
        except SQLAlchemyError:
            self._watch(session_id)
            raise

    def _put_back(self, session_id: str, code: str, reason: str) -> None:
        with self._database.read() as session:
            row = session.get_one(DeskSession, session_id)
        if row.node_id:
            self._abandon(row)
        with self._database.transaction() as session:
            row = locked(session, session_id)
            row.status = SessionStatus.CREATED
            row.binding = row.node_id = row.server_id = row.started_at = None
            stages.enter(session, session_id, stages.INACTIVE)
            stages.add_error(session, session_id, code, reason[:500], stages.RECORDING)

    def _abandon(self, row: DeskSession) -> None:
        """End a recorder that may have been started after all. Its agent forgets it later when it is away now."""
        try:
            agent = self._parts.agents.of(row.node_id or "")
            agent.record_stop(row.session_id, names.made("req"))
            agent.segments_ack(row.session_id, EVERYTHING)
        except AgentError as error:
            log.info("no recorder to end", session=row.session_id, reason=str(error))

    # Pausing

    def _turn(self, session_id: str, who: Principal, before: str, after: str) -> dict[str, Any]:
        pausing = after == SessionStatus.PAUSED
        with self._locks.hold(session_id):
            with self._database.read() as session:
                row = visible(session, session_id, who)
            if row.status != before:
                raise refused(row, "paused" if pausing else "resumed")
            agent = self._parts.agents.of(row.node_id or "")
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
        with self._locks.hold(session_id):
            with self._database.transaction() as session:
                row = locked(session, session_id)
                if row.status not in (SessionStatus.RECORDING, SessionStatus.PAUSED, SessionStatus.STOPPING):
                    raise refused(row, "stopped")
                row.stop_reason = row.stop_reason or reason
                row.status = SessionStatus.STOPPING
                stages.enter(session, session_id, stages.ACTIVE, [stages.ANCHORING])
                row.anchoring_status = "anchoring"
            self._sample(row)
            try:
                ended = self._drain(row, give_up_node)
                with self._database.transaction() as session:
                    row = locked(session, session_id)
                    moment = max(row.started_at or ended, ended)
                    row.pauses = _ended(row.pauses, moment)
                    seal(session, row, self._parts.ledger, moment)
            except (AgentError, SQLAlchemyError, OSError) as error:
                log.error("a session is not sealed yet", session=session_id, error=str(error))
                self._watch(session_id)
                raise Refusal(
                    "SEAL_INCOMPLETE",
                    f"The session {session_id} is not sealed yet; it will be, and stop may be called again",
                ) from error
            self._intakes.pop(session_id, None)
        self._forget(row)
        return row

    def _drain(self, row: DeskSession, give_up_node: bool) -> datetime:
        """All segments are committed; when the recording ended."""
        try:
            agent = self._parts.agents.of(row.node_id or "")
            status = agent.record_stop(row.session_id, names.made("req"))
            stopped = now()
            while self._intake(row).pull(agent):
                pass
            self._note(row.session_id, status)
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
            self._parts.agents.of(row.node_id or "").segments_ack(row.session_id, EVERYTHING)
            server_id = row.provisioning["server_id"]
            if row.provisioning["policy"] == AUTO and server_id and self._parts.provisioner:
                self._parts.provisioner.release(server_id)
        except (AgentError, ServiceError) as error:
            log.warning("not cleaned up", session=row.session_id, reason=str(error))

    # Meanwhile

    def _watch(self, session_id: str) -> None:
        """A thread for it, unless there is one."""
        with self._locks.hold("threads"):
            thread = self._threads.get(session_id)
            if self._closing.is_set() or (thread and thread.is_alive()):
                return
            thread = threading.Thread(target=self._follow, args=(session_id,), name=session_id, daemon=True)
            self._threads[session_id] = thread
            thread.start()

    def _follow(self, session_id: str) -> None:
        """Until the session is over. Nothing that is away for a while ends it."""
        follower = Follower(self, session_id)
        pause = PULL
        while not self._closing.wait(pause):
            try:
                if not follower.step():
                    break
                pause = PULL
            except (SQLAlchemyError, Refusal, AgentError) as error:
                log.warning("a recording waits", session=session_id, reason=str(error))
                pause = RETRY
            except Exception:
                log.exception("a recording stumbles", session=session_id)
                pause = RETRY
        with self._locks.hold("threads"):
            if self._threads.get(session_id) is threading.current_thread():
                del self._threads[session_id]

    def _intake(self, row: DeskSession) -> Intake:
        found = self._intakes.get(row.session_id)
        if found is None:
            recording, storage = row.recording_config, row.storage_config
            packed = recording["compression"] if storage["compression_enabled"] else Compression.NONE
            plan = Plan(
                session_id=row.session_id,
                compression=Compression(packed),
                key=self._parts.keys.of(row.session_id) if storage["encryption_enabled"] else None,
                backed_up=storage["backup_enabled"],
                most_bytes=storage["max_size_gb"] * GIB,
            )
            reserve = self._parts.settings.session_storage_reserve
            found = self._intakes[row.session_id] = Intake(self._database, self._parts.store, plan, reserve)
        return found

    def _note(self, session_id: str, status: RecordStatus) -> DeskSession:
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

    def _sample(self, row: DeskSession) -> None:
        """Measure node and server at the ends of a recording: a short one has samples, too."""
        try:
            agent = self._parts.agents.of(row.node_id or "")
            measured = [(self._parts.node_samples, row.node_id, agent.metrics())]
            if row.server_id:
                measured.append((self._parts.server_samples, row.server_id, agent.server_usage(row.server_id)))
            with self._database.transaction() as session:
                for samples, subject, usage in measured:
                    samples.store(session, subject or "", usage)
        except (AgentError, SQLAlchemyError) as error:
            log.warning("no sample", session=row.session_id, reason=str(error))


class Follower:
    """What the thread of one session does: pulls, looks after the recorder, ends the recording when it must."""

    def __init__(self, recordings: Recordings, session_id: str) -> None:
        self._recordings = recordings
        self._parts = recordings._parts
        self._session_id = session_id
        self._looked = 0.0
        self._troubled: float | None = None  # since when the node or the display does not answer

    def step(self) -> bool:
        """False when there is nothing more to do."""
        with self._recordings._locks.hold(self._session_id):
            with self._parts.database.read() as session:
                row = session.get(DeskSession, self._session_id)
            if row is None or row.status not in WORKING:
                return False
            if row.status == SessionStatus.STARTING:
                return self._settle(row)
            if row.status == SessionStatus.STOPPING:
                lost = self._is_lost()
                self._recordings.finish(self._session_id, row.stop_reason or CRASHED, give_up_node=lost)
                return False
            reason = self._record(row)
            if reason:
                self._recordings.finish(self._session_id, reason, give_up_node=reason == NODE_LOST)
                return False
        return True

    def _settle(self, row: DeskSession) -> bool:
        """The service was killed within a start: the recorder is there with a frame, or there was no start."""
        status = self._status(row) if row.node_id else None
        if status is not None and status.first_frame_at:
            self._recordings._begin(self._session_id, status)
            return True
        self._recordings._put_back(self._session_id, "INTERNAL", "the service was restarted within the start")
        return False

    def _record(self, row: DeskSession) -> str | None:
        """Why the recording is to end now, or None."""
        intake = self._recordings._intake(row)
        try:
            agent = self._agent(row)
            intake.pull(agent)
            if time.monotonic() - self._looked < LOOK:
                return intake.full
            self._looked = time.monotonic()
            status = self._status(row)
        except AgentRefused:
            return RECORDER_FAILED
        except AgentError as error:
            return self._trouble(str(error), NODE_LOST)
        if status is None:
            return CRASHED
        self._recordings._note(self._session_id, status)
        if status.state in ("stopped", "failed"):
            return RECORDER_FAILED
        if status.error:
            return self._trouble(status.error, SERVER_LOST)
        self._well(row)
        if row.started_at and now() - row.started_at > timedelta(days=row.storage_config["retention_days"]):
            return RETENTION
        return intake.full

    def _agent(self, row: DeskSession) -> AgentClient:
        return self._parts.agents.of(row.node_id or "")

    def _status(self, row: DeskSession) -> RecordStatus | None:
        """None when the node has no such recorder."""
        try:
            return self._agent(row).record_status(self._session_id)
        except AgentRefused:
            return None

    def _is_lost(self) -> bool:
        if self._troubled is None:
            self._troubled = time.monotonic()
        return time.monotonic() - self._troubled > self._parts.settings.rdp_grace

    def _trouble(self, reason: str, ending: str) -> str | None:
        """Degraded from now on; over when the grace time is."""
        first = self._troubled is None
        if self._is_lost():
            return ending
        if first:
            with self._parts.database.transaction() as session:
                locked(session, self._session_id).degraded = True
                code = "AGENT_UNREACHABLE" if ending == NODE_LOST else "RDP_NOT_FOUND"
                stages.failed(session, self._session_id, stages.RECORDING, code, reason[:500], 0)
        return None

    def _well(self, row: DeskSession) -> None:
        self._troubled = None
        if row.degraded:
            with self._parts.database.transaction() as session:
                locked(session, self._session_id).degraded = False
                stages.enter(session, self._session_id, stages.ACTIVE, [stages.RECORDING])
                stages.recovered(session, self._session_id)


def _take_slot(session: Session, target: Target) -> None:
    """One of the node's `max_sessions`, and a server that still runs. Both are locked until the binding is recorded."""
    node = session.scalar(select(Node).where(Node.node_id == target.node_id).with_for_update())
    if node is None or node.status != NodeStatus.ACTIVE:
        raise Refusal("NO_ACTIVE_NODE", f"The node {target.node_id} is not active")
    busy = session.scalar(
        select(func.count()).where(DeskSession.node_id == target.node_id, DeskSession.status.in_(WORKING))
    )
    if (busy or 0) >= int(node.configuration.get("max_sessions", 10)):
        raise Refusal("CAPACITY_EXHAUSTED", f"The node {target.node_id} records as many sessions as it may")
    if target.server_id:
        server = session.scalar(select(RdpServer).where(RdpServer.server_id == target.server_id).with_for_update())
        if server is None or server.status != RdpStatus.RUNNING:
            raise Refusal("SES_NO_RDP_TARGET", f"The RDP server {target.server_id} does not run any more")


def _ended(pauses: list[Any], moment: datetime) -> list[Any]:
    """The pauses, the open one ended now."""
    return [{**pause, "to": pause["to"] or as_text(moment)} for pause in pauses]
