"""Stops sessions, in the order of contract section 6. Every step is idempotent, so a stop may be repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import update

from labyard.core import audit
from labyard.core.clock import now
from labyard.core.coalesce import Coalesced
from labyard.core.errors import ServiceError
from labyard.core.models import AuditLog, Severity
from labyard.core.steps import Step, run_all
from labyard.netboot.models import RUNNING, BootSession, Machine, SessionStatus, StopPower, Target, TargetStatus
from labyard.netboot.service.provision import DHCP, ISCSI, POWER, STORAGE, TFTP
from labyard.netboot.service.sessions import Parts, Sessions
from labyard.netboot.service.shared import Shared

ACTIONS = {SessionStatus.STOPPED: "session_stopped", SessionStatus.TIMEOUT: "session_timeout"}


@dataclass(frozen=True)
class Stopped:
    """`power_error`: why the machine could not be switched off, when it was to be."""

    boot: BootSession
    power_error: str | None


class Stops:
    def __init__(self, shared: Shared, sessions: Sessions) -> None:
        self._db = shared.database
        self._settings = shared.settings
        self._provision = shared.provision
        self._reservations = shared.reservations
        self._metrics = shared.metrics
        self._locks = shared.locks
        self._power = shared.power
        self._sessions = sessions
        self._write_end = Coalesced(self._write_ends)

    def stop(self, session_id: int, keep_overlay: bool = False, power: StopPower = StopPower.NONE) -> Stopped:
        """Take a machine's disk away. Every step runs, also after one that failed; then the session says so.

        A machine that is to be switched off first, and cannot be, loses its disk all the same.
        """
        parts = self._sessions.parts(session_id)
        with self._locks.hold(parts.boot.machine_id):
            with self._db.write() as session:
                boot = session.get_one(BootSession, session_id)
                if boot.status != SessionStatus.ACTIVE and not (
                    boot.status == SessionStatus.ERROR and boot.cleanup_pending
                ):
                    raise ServiceError(
                        400, "session_error", f"Session must be active to stop. Current status: {boot.status}"
                    )
                if power == StopPower.OFF:
                    self._power.require(parts.machine, power)
                    boot.power_off = True
                boot.status = SessionStatus.STOPPING
                boot.keep_overlay |= keep_overlay  # a stop that is repeated keeps what the first was to keep
                boot.ending_as = SessionStatus.STOPPED
                boot.reserved = False
            failed, trouble = self._take_away(replace(parts, boot=boot))
            if failed:
                step, reason = failed[0]
                raise ServiceError(500, step.code, _stop_failure(step, reason))
        return Stopped(boot, trouble)

    def end_if_idle(self, session_id: int, limit: timedelta) -> bool:
        """Take an active session down, as `timeout`, when its last sign of life is older than `limit`.

        Asked under the machine's lock: since the caller looked it may have been stopped, or its machine been seen.
        """
        with self._locks.hold(self._sessions.get(session_id).machine_id):
            boot = self._sessions.get(session_id)
            if boot.status != SessionStatus.ACTIVE or now() - (boot.last_activity or boot.started_at) <= limit:
                return False
            self.begin_ending(session_id, SessionStatus.TIMEOUT)
            self.tear_down(session_id)
        return True

    def begin_ending(self, session_id: int, ending_as: SessionStatus) -> None:
        """Mark a running session for its end by the service itself (idle, or interrupted start)."""
        with self._db.write() as session:
            boot = session.get_one(BootSession, session_id)
            if boot.status in RUNNING:
                boot.status = SessionStatus.STOPPING
                boot.ending_as = ending_as
                boot.reserved = False

    def tear_down(self, session_id: int) -> list[tuple[Step, str]]:
        """Remove what a `stopping` session stands on, and end it. Idempotent. Returns the steps that failed, and why;
        then the session is `error` with cleanup_pending, and this may be repeated."""
        parts = self._sessions.parts(session_id)
        with self._locks.hold(parts.boot.machine_id):
            return self._take_away(parts)[0]

    def _take_away(self, parts: Parts) -> tuple[list[tuple[Step, str]], str | None]:
        """The steps that failed, and why the machine was not switched off first when it was to be."""
        machine, target, provision = parts.machine, parts.target, self._provision
        timeout = self._settings.step_timeout_seconds
        filename = provision.script_file(machine)
        trouble: list[str] = []

        def switch_off() -> None:
            if reason := self._power.try_off(machine):
                trouble.append(reason)

        # It never fails, so that a BMC that does not answer does not keep the rest from being taken away.
        off = Step("stop_power", switch_off, None, POWER, 2 * self._power.step_seconds)
        steps = [
            *([off] if parts.boot.power_off else []),
            Step("stop_dhcp", self._reservations.apply, None, DHCP, self._reservations.timeout),
            Step("stop_tftp", lambda: provision.adapters.scripts.remove(filename), None, TFTP, timeout),
        ]
        if target is not None:
            name, keep = target.target_id, parts.boot.keep_overlay
            steps += [
                Step("stop_target", lambda: provision.remove_target(target), None, ISCSI, timeout),
                Step("stop_overlay", lambda: provision.remove_disk(name, keep), None, STORAGE, timeout),
            ]
        failed = run_all(steps, self._metrics.step)
        self._end(parts, failed, trouble[0] if trouble else None)
        return failed, trouble[0] if trouble else None

    def _end(self, parts: Parts, failed: list[tuple[Step, str]], trouble: str | None) -> None:
        boot = parts.boot
        status = SessionStatus.ERROR if failed else SessionStatus(boot.ending_as)
        message = _stop_failure(*failed[0]) if failed else f"session {boot.session_id} {status}"
        values = {"id": boot.id, "status": status, "ended_at": boot.ended_at or now(), "cleanup_pending": bool(failed)}
        if failed:
            values |= {"error_code": failed[0][0].code, "error_message": message, "retry_count": boot.retry_count + 1}
        told = {"machine_id": boot.machine_id, "status": status}
        if boot.power_off:
            told["power"] = "off" if trouble is None else "not switched off"
        entry = audit.entry(
            ACTIONS.get(status, "session_error"),
            f"{message}; the machine was not switched off: {trouble}" if trouble else message,
            severity=Severity.ERROR if failed else Severity.WARNING if trouble else Severity.INFO,
            resource=("session", boot.id),
            new=told,
            status_code=500 if failed else 200,
        )
        self._write_end((boot, values, entry))

    def _write_ends(self, rows: Sequence[tuple[BootSession, dict[str, Any], AuditLog]]) -> None:
        """One transaction for all that end at this moment."""
        clean = [boot.target_id for boot, values, _ in rows if not values["cleanup_pending"]]
        machines = {boot.machine_id for boot, _, _ in rows}
        with self._db.write() as session:
            session.execute(update(BootSession), [values for _, values, _ in rows])
            session.execute(update(Target).where(Target.id.in_(clean)).values(status=TargetStatus.INACTIVE))
            session.execute(update(Machine).where(Machine.id.in_(machines)).values(is_online=False))
            session.add_all(entry for _, _, entry in rows)


def _stop_failure(step: Step, reason: str) -> str:
    return f"Session stop failed at step {step.name.removeprefix('stop_')}: {reason}"
