"""Stops sessions, in the order of contract section 6. Every step is idempotent, so a stop may be repeated."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from labyard.core import audit
from labyard.core.clock import now
from labyard.core.errors import ServiceError
from labyard.core.models import Severity
from labyard.core.steps import Step, call
from labyard.netboot.models import RUNNING, BootSession, Machine, SessionStatus, Target, TargetStatus
from labyard.netboot.service.provision import DHCP, ISCSI, STORAGE, TFTP
from labyard.netboot.service.sessions import Parts, Sessions
from labyard.netboot.service.shared import Shared

log = structlog.get_logger(__name__)


class Stops:
    def __init__(self, shared: Shared, sessions: Sessions) -> None:
        self._db = shared.database
        self._settings = shared.settings
        self._provision = shared.provision
        self._reservations = shared.reservations
        self._metrics = shared.metrics
        self._locks = shared.locks
        self._sessions = sessions

    def stop(self, session_id: int, keep_overlay: bool = False) -> BootSession:
        """Take a machine's disk away. Every step runs, also after one that failed; then the session says so."""
        parts = self._sessions.parts(session_id)
        with self._locks(parts.boot.machine_id):
            with self._db.write() as session:
                boot = session.get_one(BootSession, session_id)
                if boot.status != SessionStatus.ACTIVE and not (
                    boot.status == SessionStatus.ERROR and boot.cleanup_pending
                ):
                    raise ServiceError(
                        400, "session_error", f"Session must be active to stop. Current status: {boot.status}"
                    )
                boot.status = SessionStatus.STOPPING
                boot.keep_overlay = keep_overlay
                boot.ending_as = SessionStatus.STOPPED
                boot.reserved = False
            if failed := self.tear_down(session_id):
                raise ServiceError(500, failed[0][1], f"Session stop failed at step {failed[0][0]}: {failed[0][2]}")
        return self._sessions.get(session_id)

    def begin_ending(self, session_id: int, ending_as: SessionStatus) -> None:
        """Mark a running session for its end by the service itself (idle, or interrupted start)."""
        with self._db.write() as session:
            boot = session.get_one(BootSession, session_id)
            if boot.status in RUNNING:
                boot.status = SessionStatus.STOPPING
                boot.ending_as = ending_as
                boot.reserved = False

    def tear_down(self, session_id: int) -> list[tuple[str, str, str]]:
        """Remove what a `stopping` session stands on, and end it. Idempotent. Returns (step, code, reason) of what
        failed; then the session is `error` with cleanup_pending, and this may be repeated."""
        parts = self._sessions.parts(session_id)
        boot, machine, target = parts.boot, parts.machine, parts.target
        with self._locks(boot.machine_id):
            steps: list[tuple[str, str, Callable[[], object]]] = [
                ("dhcp", DHCP, self._reservations.apply),
                ("tftp", TFTP, lambda: self._provision.adapters.scripts.remove(self._provision.script_file(machine))),
            ]
            if target is not None:
                steps += [
                    ("target", ISCSI, lambda: self._provision.remove_target(target)),
                    ("overlay", STORAGE, lambda: self._provision.remove_disk(target.target_id, boot.keep_overlay)),
                ]
            failed = []
            for name, code, run in steps:
                timeout = self._reservations.timeout if name == "dhcp" else self._settings.step_timeout_seconds
                try:
                    with self._metrics.step(Step(f"stop_{name}", run)):
                        call(run, timeout)
                except Exception as error:
                    reason = str(error) or type(error).__name__
                    log.warning("stop step failed", session=boot.session_id, step=name, reason=reason)
                    failed.append((name, code, reason))
            self._end(parts, failed)
        return failed

    def _end(self, parts: Parts, failed: list[tuple[str, str, str]]) -> None:
        with self._db.write() as session:
            boot = session.get_one(BootSession, parts.boot.id)
            boot.cleanup_pending = bool(failed)
            boot.ended_at = boot.ended_at or now()
            if failed:
                name, code, reason = failed[0]
                boot.status = SessionStatus.ERROR
                boot.error_code = code
                boot.error_message = f"Session stop failed at step {name}: {reason}"
                boot.retry_count += 1
            else:
                boot.status = boot.ending_as
                if boot.target_id is not None:
                    session.get_one(Target, boot.target_id).status = TargetStatus.INACTIVE
            session.get_one(Machine, boot.machine_id).is_online = False
            action = {SessionStatus.STOPPED: "session_stopped", SessionStatus.TIMEOUT: "session_timeout"}.get(
                SessionStatus(boot.status), "session_error"
            )
            audit.record(
                session,
                action,
                boot.error_message if failed and boot.error_message else f"session {boot.session_id} {boot.status}",
                severity=Severity.ERROR if failed else Severity.INFO,
                resource=("session", boot.id),
                new={"machine_id": boot.machine_id, "status": boot.status},
                status_code=500 if failed else 200,
            )
