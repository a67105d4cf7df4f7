"""How a recording begins: a target, a slot on its node, the first frame. And how a beginning is taken back."""

from __future__ import annotations

from contextlib import suppress

import structlog
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from labyard.desktops import audit, names
from labyard.desktops.adapters.agent import AgentError, AgentRefused, RecordSpec, RecordStatus
from labyard.desktops.errors import Refusal
from labyard.desktops.models import DeskSession, Node, NodeStatus, RdpServer, RdpStatus, SessionStatus
from labyard.desktops.moments import from_text
from labyard.desktops.roles import Principal
from labyard.desktops.schemas.sessions import size_of
from labyard.desktops.service.sessions import stages
from labyard.desktops.service.sessions.binding import Target, resolve
from labyard.desktops.service.sessions.parts import Parts
from labyard.desktops.service.sessions.records import password_of
from labyard.desktops.service.sessions.shared import EVERYTHING, WORKING, locked

log = structlog.get_logger(__name__)


class Starts:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._database = parts.database

    def bind(self, session_id: str, who: Principal) -> Target:
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

    def spec(self, session_id: str, target: Target) -> RecordSpec:
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
            bitrate=config.get("bitrate"),
            cursor=config["cursor_enabled"],
            audio=config["audio_enabled"],
            slice_seconds=self._parts.settings.session_slice,
        )

    def begin(self, session_id: str, status: RecordStatus) -> DeskSession:
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
        self.sample(row)
        return row

    def put_back(self, session_id: str, code: str, reason: str) -> None:
        """The start failed: the session is `created` again, and says why."""
        with self._database.read() as session:
            row = session.get_one(DeskSession, session_id)
        if row.node_id:
            self.abandon(session_id, row.node_id)
        with self._database.transaction() as session:
            row = locked(session, session_id)
            row.status = SessionStatus.CREATED
            row.binding = row.node_id = row.server_id = row.started_at = None
            stages.enter(session, session_id, stages.INACTIVE)
            stages.add_error(session, session_id, code, reason[:500], stages.RECORDING)

    def abandon(self, session_id: str, node_id: str) -> None:
        """End a recorder that may have been started after all. Where the node is away now, `reconcile` does it."""
        try:
            agent = self._parts.agents.of(node_id)
            with suppress(AgentRefused):  # there is none, but there may be segments
                agent.record_stop(session_id, names.made("req"))
            agent.segments_ack(session_id, EVERYTHING)
        except AgentError as error:
            log.info("no recorder to end", session=session_id, reason=str(error))

    def sample(self, row: DeskSession) -> None:
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
