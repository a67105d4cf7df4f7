"""What the thread of one recording does."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Protocol

from sqlalchemy import select

from labyard.core.clock import now
from labyard.core.locks import KeyLocks
from labyard.desktops import names
from labyard.desktops.adapters.agent import AgentClient, AgentError, AgentRefused, RecordStatus
from labyard.desktops.models import DeskSession, Node, NodeStatus, SessionStatus
from labyard.desktops.service.sessions import stages
from labyard.desktops.service.sessions.intake import Intake
from labyard.desktops.service.sessions.parts import Parts
from labyard.desktops.service.sessions.shared import WORKING, locked
from labyard.desktops.service.sessions.starts import Starts

PULL = 0.2  # seconds between two looks for a segment that is due
LOOK = 1.0  # seconds between two questions how the recorder is

# Why a recording ended, when nobody asked for it.
CRASHED = "crash_recovered"
SERVER_LOST = "rdp_server_lost"
NODE_LOST = "node_lost"
NODE_STOPPED = "node_stopped"
RECORDER_FAILED = "recorder_failed"
RETENTION = "retention"
# The code that `/errors` shows while it may still get well.
CODES = {SERVER_LOST: "RDP_NOT_FOUND", NODE_LOST: "AGENT_UNREACHABLE", NODE_STOPPED: "NODE_STATE"}


class Followed(Protocol):
    """What `Recordings` gives to those that follow one."""

    parts: Parts
    locks: KeyLocks[str]
    starts: Starts

    def finish(self, session_id: str, reason: str, give_up_node: bool = False) -> DeskSession: ...

    def intake(self, row: DeskSession) -> Intake: ...

    def note(self, session_id: str, status: RecordStatus) -> DeskSession: ...


class Follower:
    """Pulls, looks after the recorder, ends the recording when it must. `pause` is how long to wait before the next
    step, in seconds."""

    def __init__(self, recordings: Followed, session_id: str) -> None:
        self._recordings = recordings
        self._parts = recordings.parts
        self._session_id = session_id
        self._looked = 0.0
        self.pause = PULL
        self._troubled: float | None = None  # since when the node or the display does not answer

    def step(self) -> bool:
        """False when there is nothing more to do."""
        with self._recordings.locks.hold(self._session_id):
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
                self._recordings.finish(self._session_id, reason, give_up_node=reason in (NODE_LOST, NODE_STOPPED))
                return False
        return True

    def _settle(self, row: DeskSession) -> bool:
        """The service was killed within a start: the recorder is there with a frame, or there was no start."""
        status = self._status(row) if row.node_id else None
        if status is not None and status.first_frame_at:
            self._recordings.starts.begin(self._session_id, status)
            return True
        self._recordings.starts.put_back(self._session_id, "INTERNAL", "the service was restarted within the start")
        return False

    def _record(self, row: DeskSession) -> str | None:
        """Why the recording is to end now, or None."""
        intake = self._recordings.intake(row)
        try:
            agent = self._agent(row)
            # The next one is a slice away; where several had come, or none, it is due. Every look costs two processes.
            early = self._parts.settings.session_slice - PULL
            self.pause = max(PULL, early) if intake.pull(agent) == 1 else PULL
            if time.monotonic() - self._looked < LOOK:
                return intake.full
            self._looked = time.monotonic()
            status = self._status(row)
        except AgentRefused as error:
            # It knows nothing of the recorder: the machine went down, and what lay in its memory with it.
            return CRASHED if error.code == "SES_NOT_FOUND" else RECORDER_FAILED
        except AgentError as error:
            return self._trouble(str(error), NODE_LOST)
        if status is None:
            return CRASHED
        self._recordings.note(self._session_id, status)
        if status.state in ("stopped", "failed"):
            return RECORDER_FAILED
        if self._node_status(row) == NodeStatus.INACTIVE:
            return self._trouble(f"the node {row.node_id} was stopped", NODE_STOPPED)
        if status.error:
            return self._trouble(status.error, SERVER_LOST)
        self._well(row)
        self._align(row, status)
        if row.started_at and now() - row.started_at > timedelta(days=row.storage_config["retention_days"]):
            return RETENTION
        return intake.full

    def _align(self, row: DeskSession, status: RecordStatus) -> None:
        """A pause or a resume that was cut off between recorder and database has not happened."""
        if row.status == SessionStatus.RECORDING and status.state == "paused":
            self._agent(row).record_resume(self._session_id, names.made("req"))
        if row.status == SessionStatus.PAUSED and status.state == "recording":
            self._agent(row).record_pause(self._session_id, names.made("req"))

    def _agent(self, row: DeskSession) -> AgentClient:
        return self._parts.agents.of(row.node_id or "")

    def _status(self, row: DeskSession) -> RecordStatus | None:
        """None when the node has no such recorder."""
        try:
            return self._agent(row).record_status(self._session_id)
        except AgentRefused:
            return None

    def _node_status(self, row: DeskSession) -> str | None:
        with self._parts.database.read() as session:
            return session.scalar(select(Node.status).where(Node.node_id == row.node_id))

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
                stages.failed(session, self._session_id, stages.RECORDING, CODES[ending], reason[:500], 0)
        return None

    def _well(self, row: DeskSession) -> None:
        self._troubled = None
        if row.degraded:
            with self._parts.database.transaction() as session:
                locked(session, self._session_id).degraded = False
                stages.enter(session, self._session_id, stages.ACTIVE, [stages.RECORDING])
                stages.recovered(session, self._session_id)
