"""Sessions: start and stop, in the order of contract section 6, each step with its undo."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from labyard.core import audit
from labyard.core.clock import now
from labyard.core.database import Database
from labyard.core.errors import ServiceError, invalid, not_found
from labyard.core.models import Severity
from labyard.core.paging import Page, fetch
from labyard.core.secretbox import SecretBox
from labyard.core.steps import Step, StepFailed, call, run_steps
from labyard.netboot import names
from labyard.netboot.adapters.seed import user_data_problem
from labyard.netboot.metrics import Metrics
from labyard.netboot.models import (
    RUNNING,
    BootSession,
    Image,
    ImageStatus,
    Machine,
    MachineStatus,
    SessionStatus,
    Target,
    TargetStatus,
)
from labyard.netboot.schemas import SessionStart
from labyard.netboot.service.images.files import check_file
from labyard.netboot.service.lookups import current_target, live_session
from labyard.netboot.service.machines import require as require_machine
from labyard.netboot.service.provision import Provision
from labyard.netboot.service.reservations import Reservations
from labyard.netboot.settings import Settings

log = structlog.get_logger(__name__)

STORAGE, ISCSI, SCRIPT, TFTP, DHCP = "storage_error", "iscsi_error", "script_error", "tftp_error", "dhcp_error"


@dataclass(frozen=True)
class Parts:
    """The rows that belong to one session."""

    boot: BootSession
    machine: Machine
    image: Image
    target: Target | None


@dataclass(frozen=True)
class Started:
    parts: Parts
    script: str


class MachineLocks:
    """Work on one machine is done one thing at a time within this process; the database decides between processes."""

    def __init__(self) -> None:
        self._locks: defaultdict[int, threading.RLock] = defaultdict(threading.RLock)
        self._guard = threading.Lock()

    @contextmanager
    def __call__(self, machine_id: int) -> Iterator[None]:
        with self._guard:
            lock = self._locks[machine_id]
        with lock:
            yield


class Sessions:
    def __init__(
        self,
        database: Database,
        settings: Settings,
        provision: Provision,
        reservations: Reservations,
        box: SecretBox,
        metrics: Metrics,
        locks: MachineLocks,
    ) -> None:
        self._db = database
        self._settings = settings
        self._provision = provision
        self._reservations = reservations
        self._box = box
        self._metrics = metrics
        self._locks = locks

    # -- start ---------------------------------------------------------------------------------------------------

    def start(self, given: SessionStart, user_id: int, username: str) -> Started:
        """Give a machine its disk. When this returns the machine can boot. ServiceError says what stands in the way;
        after a failed step everything is undone."""
        if problem := user_data_problem(given.user_data):
            raise invalid("user_data", problem)
        with self._locks(given.machine_id):
            self._finish_cleanup(given.machine_id)
            return self._run_start(self._insert(given, user_id, username))

    def _finish_cleanup(self, machine_id: int) -> None:
        """An earlier session of the machine may have left something behind; what stood in the way may be over."""
        with self._db.read() as session:
            left = live_session(session, machine_id)
        if left is not None and left.status == SessionStatus.ERROR:
            with self._db.write() as session:
                boot = session.get_one(BootSession, left.id)
                boot.status = SessionStatus.STOPPING
            self.tear_down(left.id)

    def _insert(self, given: SessionStart, user_id: int, username: str) -> Parts:
        """Steps 1 and 2: check, then commit the session as `starting`. The unique indexes decide races."""
        try:
            with self._db.write() as session:
                machine = require_machine(session, given.machine_id)
                image = session.get(Image, given.image_id) if 0 < given.image_id < 2**31 else None
                if image is None or image.status == ImageStatus.DELETED:
                    raise not_found(f"Image with ID {given.image_id} not found")
                self._check(session, machine, image, given)
                suffix = names.new_suffix()
                target = self._new_target(machine, image, suffix, user_id)
                session.add(target)
                session.flush()
                boot = BootSession(
                    session_id=names.session_id(machine.id, suffix),
                    machine_id=machine.id,
                    image_id=image.id,
                    target_id=target.id,
                    session_type=given.session_type,
                    boot_method=given.boot_method,
                    transport=given.transport,
                    boot_token=names.new_boot_token(),
                    server_ip=self._settings.portal_ip,
                    user_notes=given.description,
                    created_by=user_id,
                    initiated_by=username,
                    target_iqn=target.iqn,
                    target_portal=f"{self._settings.portal_ip}:{self._settings.portal_port}",
                    seed={"ssh_keys": given.ssh_keys, "user_data": given.user_data},
                    completed_steps=["session"],
                    last_activity=now(),
                )
                session.add(boot)
                session.flush()
                return Parts(boot, machine, image, target)
        except IntegrityError as error:
            raise ServiceError(
                400, "session_error", f"Machine {given.machine_id} already has an active session"
            ) from error

    def _check(self, session: Session, machine: Machine, image: Image, given: SessionStart) -> None:
        def refuse(text: str) -> ServiceError:
            return ServiceError(400, "session_error", text)

        if machine.status != MachineStatus.ACTIVE:
            raise refuse(f"Machine must be active to start session. Current status: {machine.status}")
        if image.status != ImageStatus.READY:
            raise refuse(f"Image must be in READY status. Current status: {image.status}")
        if live_session(session, machine.id):
            raise refuse(f"Machine {machine.id} already has an active session")
        if current_target(session, machine.id):
            raise refuse(f"Target already exists for machine {machine.id}")
        if missing := self._provision.missing_boot_files(image, given.boot_method):
            raise refuse(
                f"boot_method {given.boot_method} needs {' and '.join(missing)} in the TFTP folder; "
                "put them there or boot with sanboot"
            )

    def _new_target(self, machine: Machine, image: Image, suffix: str, user_id: int) -> Target:
        return new_target(self._settings, self._provision, self._box, machine, image, suffix, user_id)

    def _run_start(self, parts: Parts) -> Started:
        boot, machine, target = parts.boot, parts.machine, parts.target
        assert target is not None
        done = list(boot.completed_steps)
        script: list[str] = []
        timeout = self._settings.step_timeout_seconds

        def begin(name: str) -> None:
            """What came before is done: recorded before this step runs."""
            if done != boot.completed_steps:
                self._save(boot, completed_steps=list(done))
            done.append(name)

        def make_disk() -> None:
            check_file(parts.image)
            self._provision.make_disk(target)
            self._provision.make_seed(target, machine, boot)

        def render() -> None:
            script.append(self._provision.script(machine, target, boot))

        def reserve() -> None:
            self._save(boot, reserved=True)
            self._reservations.apply(machine.id)

        def unreserve() -> None:
            self._save(boot, reserved=False)
            self._reservations.withdraw(machine.id)

        filename = self._provision.script_file(machine)
        scripts = self._provision.adapters.scripts
        steps = [
            Step("overlay", make_disk, lambda: self._provision.remove_disk(target.target_id), STORAGE, timeout),
            Step(
                "target",
                lambda: self._provision.make_target(target),
                lambda: self._provision.remove_target(target),
                ISCSI,
                timeout,
            ),
            Step("script", render, None, SCRIPT, timeout),
            Step("tftp", lambda: scripts.apply(filename, script[0]), lambda: scripts.remove(filename), TFTP, timeout),
            Step("dhcp", reserve, unreserve, DHCP, self._dhcp_timeout),
            Step("activate", lambda: self._activate(parts, done), None, "internal_error", timeout),
        ]
        try:
            run_steps(steps, begin, self._metrics.step)
        except StepFailed as failure:
            raise self._failed_start(parts, failure) from failure
        return Started(parts, script[0])

    @property
    def _dhcp_timeout(self) -> float:
        # Test, set and write, and one apply of others before it.
        return self._settings.dhcp_timeout_seconds * 3

    def _activate(self, parts: Parts, done: list[str]) -> None:
        with self._db.write() as session:
            boot = session.get_one(BootSession, parts.boot.id)
            if boot.status != SessionStatus.STARTING:
                raise RuntimeError(f"the session became {boot.status} while it was starting")
            boot.status = parts.boot.status = SessionStatus.ACTIVE
            boot.completed_steps = parts.boot.completed_steps = list(done)
            parts.boot.reserved = True
            target = session.get_one(Target, boot.target_id)
            target.status = TargetStatus.ACTIVE
            session.execute(update(Image).where(Image.id == boot.image_id).values(last_used=now()))
            audit.record(
                session,
                "session_started",
                f"session {boot.session_id} started on machine {parts.machine.name} from image {parts.image.name}",
                resource=("session", boot.id),
                new={"machine_id": boot.machine_id, "image_id": boot.image_id, "session_type": boot.session_type},
                status_code=201,
            )

    def _failed_start(self, parts: Parts, failure: StepFailed) -> ServiceError:
        detail = f"Session start failed at step {failure.step.name}: {failure.reason}"
        with self._db.write() as session:
            boot = session.get_one(BootSession, parts.boot.id)
            boot.status = SessionStatus.ERROR
            boot.ended_at = now()
            boot.error_code = failure.step.code
            boot.error_message = detail
            boot.cleanup_pending = bool(failure.left_over)
            boot.ending_as = SessionStatus.ERROR
            boot.reserved = False
            target = session.get_one(Target, boot.target_id)
            if failure.left_over:
                target.status = TargetStatus.ERROR
            else:
                boot.target_id = None
                session.flush()
                session.delete(target)
            audit.record(
                session,
                "session_error",
                detail,
                severity=Severity.ERROR,
                resource=("session", boot.id),
                status_code=500,
            )
        return ServiceError(500, failure.step.code, detail)

    # -- stop ----------------------------------------------------------------------------------------------------

    def stop(self, session_id: int, keep_overlay: bool = False) -> BootSession:
        """Take a machine's disk away. Every step runs, also after one that failed; then the session says so."""
        parts = self.parts(session_id)
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
                boot.keep_overlay |= keep_overlay  # a stop that is repeated keeps what the first was to keep
                boot.ending_as = SessionStatus.STOPPED
                boot.reserved = False
            if failed := self.tear_down(session_id):
                raise ServiceError(500, failed[0][1], f"Session stop failed at step {failed[0][0]}: {failed[0][2]}")
        return self.get(session_id)

    def end_if_idle(self, session_id: int, limit: timedelta) -> bool:
        """Take an active session down, as `timeout`, when its last sign of life is older than `limit`.

        Asked under the machine's lock: since the caller looked it may have been stopped, or its machine been seen.
        """
        with self._locks(self.get(session_id).machine_id):
            boot = self.get(session_id)
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

    def tear_down(self, session_id: int) -> list[tuple[str, str, str]]:
        """Remove what a `stopping` session stands on, and end it. Idempotent. Returns (step, code, reason) of what
        failed; then the session is `error` with cleanup_pending, and this may be repeated."""
        parts = self.parts(session_id)
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
                timeout = self._dhcp_timeout if name == "dhcp" else self._settings.step_timeout_seconds
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

    # -- look ----------------------------------------------------------------------------------------------------

    def get(self, session_id: int) -> BootSession:
        with self._db.read() as session:
            return require(session, session_id)

    def parts(self, session_id: int) -> Parts:
        with self._db.read() as session:
            return _parts(session, require(session, session_id))

    def active_of(self, machine_id: int) -> Parts:
        """The machine's active session. 404 for an unknown machine, and for one without a session."""
        with self._db.read() as session:
            require_machine(session, machine_id)
            boot = session.scalar(
                select(BootSession).where(
                    BootSession.machine_id == machine_id, BootSession.status == SessionStatus.ACTIVE
                )
            )
            if boot is None:
                raise not_found(f"No active session found for machine {machine_id}")
            return _parts(session, boot)

    def list(self, page: Page, **equal: Any) -> tuple[list[BootSession], int]:
        query = select(BootSession)
        for column, value in equal.items():
            if value is not None:
                query = query.where(getattr(BootSession, column) == value)
        with self._db.read() as session:
            return fetch(session, query.order_by(BootSession.id.desc()), page)

    def stats(self) -> dict[str, Any]:
        with self._db.read() as session:
            counted = dict(session.execute(select(BootSession.status, func.count()).group_by(BootSession.status)).all())
        counts = {status.value: counted.get(status, 0) for status in SessionStatus}
        return {
            "total_sessions": sum(counts.values()),
            "active_sessions": counts[SessionStatus.ACTIVE],
            "status_counts": counts,
        }

    def script(self, parts: Parts) -> str:
        assert parts.target is not None
        return self._provision.script(parts.machine, parts.target, parts.boot)

    def _save(self, boot: BootSession, **values: Any) -> None:
        with self._db.write() as session:
            session.execute(update(BootSession).where(BootSession.id == boot.id).values(**values))
        for name, value in values.items():
            setattr(boot, name, value)


def new_target(
    settings: Settings,
    provision: Provision,
    box: SecretBox,
    machine: Machine,
    image: Image,
    suffix: str,
    user_id: int,
    lun_id: int = 0,
    description: str | None = None,
) -> Target:
    """A target's row, `pending`. Its names are checked before any tool sees them."""
    target_id = names.target_id(machine.id, suffix)
    target = Target(
        target_id=target_id,
        iqn=names.target_iqn(settings.iqn_prefix, machine.id, suffix),
        machine_id=machine.id,
        image_id=image.id,
        image_path=image.file_path,
        image_format=image.format,
        overlay_path=str(provision.adapters.disks.overlay_path(target_id)),
        initiator_iqn=names.initiator_iqn(settings.iqn_prefix, machine.mac_address),
        lun_id=lun_id or provision.adapters.iscsi.first_lun,
        chap_username=names.chap_user(suffix),
        chap_secret=box.seal(names.new_chap_secret()),
        status=TargetStatus.PENDING,
        description=description,
        created_by=user_id,
    )
    for iqn in (target.iqn, target.initiator_iqn):
        if problem := names.iqn_error(iqn):
            raise ServiceError(400, "session_error", f"IQN {iqn}: {problem}")
    return target


def require(session: Session, session_id: int) -> BootSession:
    boot = session.get(BootSession, session_id) if 0 < session_id < 2**31 else None
    if boot is None:
        raise not_found(f"Session with ID {session_id} not found")
    return boot


def duration_seconds(boot: BootSession, moment: datetime | None = None) -> float:
    """From the start to the end, or to now while live. Never negative."""
    return round(max(((boot.ended_at or moment or now()) - boot.started_at).total_seconds(), 0.0), 3)


def _parts(session: Session, boot: BootSession) -> Parts:
    target = session.get(Target, boot.target_id) if boot.target_id is not None else None
    return Parts(boot, session.get_one(Machine, boot.machine_id), session.get_one(Image, boot.image_id), target)
