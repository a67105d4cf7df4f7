"""Starts sessions, in the order of contract section 6, each step with its undo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from labyard.core import audit
from labyard.core.clock import now
from labyard.core.coalesce import Coalesced
from labyard.core.errors import ServiceError, invalid, not_found
from labyard.core.models import AuditLog, Severity
from labyard.core.steps import Step, StepFailed, run_steps
from labyard.netboot import names
from labyard.netboot.adapters.seed import user_data_problem
from labyard.netboot.models import (
    BootSession,
    Image,
    ImageStatus,
    Machine,
    MachineStatus,
    SessionStatus,
    StartPower,
    Target,
    TargetStatus,
)
from labyard.netboot.schemas import SessionStart
from labyard.netboot.service.images.files import check_file
from labyard.netboot.service.lookups import current_target, live_session
from labyard.netboot.service.machines import require as require_machine
from labyard.netboot.service.power import Cycle
from labyard.netboot.service.provision import DHCP, ISCSI, POWER, SCRIPT, STORAGE, TFTP
from labyard.netboot.service.sessions import Parts
from labyard.netboot.service.shared import Shared
from labyard.netboot.service.stop import Stops


@dataclass(frozen=True)
class Started:
    parts: Parts
    script: str


class Starts:
    def __init__(self, shared: Shared, stops: Stops) -> None:
        self._db = shared.database
        self._settings = shared.settings
        self._provision = shared.provision
        self._reservations = shared.reservations
        self._metrics = shared.metrics
        self._locks = shared.locks
        self._power = shared.power
        self._stops = stops
        self._record = Coalesced(self._write_progress)
        self._make_active = Coalesced(self._write_active)

    def start(self, given: SessionStart, user_id: int, username: str) -> Started:
        """Give a machine its disk. When this returns the machine can boot. ServiceError says what stands in the way;
        after a failed step everything is undone."""
        if problem := user_data_problem(given.user_data):
            raise invalid("user_data", problem)
        with self._locks.hold(given.machine_id), self._reservations.coming() as arrived:
            try:
                parts = self._insert(given, user_id, username)
            except IntegrityError:
                self._make_way(given.machine_id)
                try:
                    parts = self._insert(given, user_id, username)
                except IntegrityError as error:
                    raise _has_session(given.machine_id) from error
            return self._run_start(parts, arrived)

    def _make_way(self, machine_id: int) -> None:
        """An index has refused the machine's session: ServiceError says why. What an earlier session could not clean up
        is cleaned up first, since what stood in its way may be over."""
        with self._db.read() as session:
            left, target = live_session(session, machine_id), current_target(session, machine_id)
        if left is None:
            if target is not None:
                raise _refusal(f"Target already exists for machine {machine_id}")
        elif left.status == SessionStatus.ERROR:
            with self._db.write() as session:
                session.get_one(BootSession, left.id).status = SessionStatus.STOPPING
            self._stops.tear_down(left.id)
        else:
            raise _has_session(machine_id)

    def _insert(self, given: SessionStart, user_id: int, username: str) -> Parts:
        """Steps 1 and 2: check, then commit the session as `starting`. IntegrityError: the machine has a session or a
        target; the unique indexes decide, races too."""
        with self._db.write() as session:
            machine = require_machine(session, given.machine_id)
            image = session.get(Image, given.image_id) if 0 < given.image_id < 2**31 else None
            if image is None or image.status == ImageStatus.DELETED:
                raise not_found(f"Image with ID {given.image_id} not found")
            self._check(machine, image, given)
            suffix = names.new_suffix()
            target = self._provision.new_target(machine, image, suffix, user_id)
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
                power=given.power,
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

    def _check(self, machine: Machine, image: Image, given: SessionStart) -> None:
        if given.power == StartPower.CYCLE:
            self._power.require(machine, given.power)
        if machine.status != MachineStatus.ACTIVE:
            raise _refusal(f"Machine must be active to start session. Current status: {machine.status}")
        if image.status != ImageStatus.READY:
            raise _refusal(f"Image must be in READY status. Current status: {image.status}")
        if missing := self._provision.missing_boot_files(image, given.boot_method):
            raise _refusal(
                f"boot_method {given.boot_method} needs {' and '.join(missing)} in the TFTP folder; "
                "put them there or boot with sanboot"
            )

    def _run_start(self, parts: Parts, arrived: Callable[[], None]) -> Started:
        boot, machine, target = parts.boot, parts.machine, parts.target
        assert target is not None
        done = list(boot.completed_steps)
        script: list[str] = []
        timeout = self._settings.step_timeout_seconds

        def begin(name: str) -> None:
            """What came before is done: recorded before this step runs. The reservation is wanted from dhcp on."""
            if done != boot.completed_steps:
                boot.completed_steps, boot.reserved = list(done), name in ("dhcp", "power", "activate")
                self._record({"id": boot.id, "completed_steps": boot.completed_steps, "reserved": boot.reserved})
            if name == "dhcp":
                arrived()
            done.append(name)

        def make_disk() -> None:
            check_file(parts.image)
            self._provision.make_disk(target)
            self._provision.make_seed(target, machine, boot)

        def render() -> None:
            script.append(self._provision.script(machine, target, boot))

        def unreserve() -> None:
            self._save(boot, reserved=False)
            self._reservations.withdraw(machine.id)

        cycle = Cycle(self._power, machine)
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
            Step(
                "dhcp",
                lambda: self._reservations.apply(machine.id),
                unreserve,
                DHCP,
                self._reservations.timeout,
            ),
        ]
        if boot.power == StartPower.CYCLE:
            steps.append(Step("power", cycle.run, cycle.undo, POWER, self._power.step_seconds))
        steps.append(Step("activate", lambda: self._activate(parts, done), None, "internal_error", timeout))
        try:
            run_steps(steps, begin, self._metrics.step)
        except StepFailed as failure:
            raise self._failed_start(parts, failure, cycle.left_on) from failure
        return Started(parts, script[0])

    def _activate(self, parts: Parts, done: list[str]) -> None:
        boot = parts.boot
        entry = audit.entry(
            "session_started",
            f"session {boot.session_id} started on machine {parts.machine.name} from image {parts.image.name}",
            resource=("session", boot.id),
            new={"machine_id": boot.machine_id, "image_id": boot.image_id, "session_type": boot.session_type}
            | ({"power": boot.power} if boot.power != StartPower.NONE else {}),
            status_code=201,
        )
        if boot.id not in self._make_active((boot, list(done), entry)):
            raise RuntimeError("the session was ended while it was starting")
        boot.status, boot.completed_steps = SessionStatus.ACTIVE, list(done)

    def _write_active(self, rows: Sequence[tuple[BootSession, list[str], AuditLog]]) -> set[int]:
        """Ids of those that are active now: one transaction for all that come to their last step at this moment."""
        active: set[int] = set()
        with self._db.write() as session:
            for steps in {tuple(steps) for _, steps, _ in rows}:  # with the power step, and without
                these = [boot.id for boot, done, _ in rows if tuple(done) == steps]
                wanted = BootSession.id.in_(these), BootSession.status == SessionStatus.STARTING
                values = {"status": SessionStatus.ACTIVE, "completed_steps": list(steps)}
                change = update(BootSession).where(*wanted).values(**values)
                active |= set(session.scalars(change.returning(BootSession.id)))
            done = [(boot, entry) for boot, _, entry in rows if boot.id in active]
            targets = Target.id.in_([boot.target_id for boot, _ in done])
            session.execute(update(Target).where(targets).values(status=TargetStatus.ACTIVE))
            images = Image.id.in_({boot.image_id for boot, _ in done})
            session.execute(update(Image).where(images).values(last_used=now()))
            session.add_all(entry for _, entry in done)
        return active

    def _failed_start(self, parts: Parts, failure: StepFailed, left_on: str) -> ServiceError:
        detail = f"Session start failed at step {failure.step.name}: {failure.reason}"
        if left_on:
            detail += f"; the machine may still be on: {left_on}"
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

    def _save(self, boot: BootSession, **values: Any) -> None:
        with self._db.write() as session:
            session.execute(update(BootSession).where(BootSession.id == boot.id).values(**values))
        for name, value in values.items():
            setattr(boot, name, value)

    def _write_progress(self, rows: Sequence[dict[str, Any]]) -> None:
        """How far starts have come: one transaction for all that have something to say at this moment."""
        with self._db.write() as session:
            session.execute(update(BootSession), rows)


def _refusal(text: str) -> ServiceError:
    return ServiceError(400, "session_error", text)


def _has_session(machine_id: int) -> ServiceError:
    return _refusal(f"Machine {machine_id} already has an active session")
