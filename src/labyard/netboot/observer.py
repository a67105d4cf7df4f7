"""What netboot compares: overlays, exports, targets, accounts, scripts, reservations, and sessions that got stuck.

Contract section 6, Reconciler. A look that finds something looks again at once, and only what both saw counts: a start
or stop in between is no difference. Every repair asks the database again, under the machine's lock, before it acts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TypeVar

from sqlalchemy import select

from labyard.core.adapter import AdapterError
from labyard.core.clock import now
from labyard.core.observer import Difference, Finding, compare
from labyard.core.steps import call
from labyard.netboot.adapters.dhcp import Reservation
from labyard.netboot.adapters.disks import OverlaySeen
from labyard.netboot.adapters.iscsi import TargetSeen, TargetSpec
from labyard.netboot.adapters.tftp import ScriptSeen
from labyard.netboot.models import RUNNING, BootSession, Machine, SessionStatus, StartPower, Target, TargetStatus
from labyard.netboot.names import chap_user, mac_of_script, target_id_of
from labyard.netboot.service.sessions import Sessions
from labyard.netboot.service.shared import Shared
from labyard.netboot.service.stop import Stops

T = TypeVar("T")

STUCK_AFTER = timedelta(seconds=60)


@dataclass
class Wanted:
    """What the database wants there to be. What a start or stop works on is `busy`: neither missing nor orphan."""

    targets: dict[str, Target] = field(default_factory=dict)  # by target_id
    sessions: dict[str, BootSession] = field(default_factory=dict)  # active, by target_id
    scripts: dict[str, tuple[Machine, Target, BootSession]] = field(default_factory=dict)  # by file name
    busy: set[str] = field(default_factory=set)  # target ids
    busy_macs: set[str] = field(default_factory=set)
    unreadable: list[tuple[Target, BootSession | None]] = field(default_factory=list)


class NetbootObserver:
    def __init__(self, shared: Shared, sessions: Sessions, stops: Stops) -> None:
        self._db = shared.database
        self._settings = shared.settings
        self._provision = shared.provision
        self._reservations = shared.reservations
        self._locks = shared.locks
        self._sessions = sessions
        self._stops = stops
        # With SQLite this is the only process, so at its first look nobody is at work: what is starting or stopping was
        # interrupted. With a shared database another instance may be at it.
        self.fresh = self._db.engine.dialect.name == "sqlite"

    def look(self) -> list[Finding]:
        """Differences now, with their repairs. A daemon that does not answer is a finding itself."""
        first = list(self._look())
        if not first:
            self.fresh = False
            return []
        again = {(f.difference, f.thing, f.key): f for f in self._look()}
        self.fresh = False
        return [again[key] for f in first if (key := (f.difference, f.thing, f.key)) in again]

    def _look(self) -> Iterator[Finding]:
        # The daemons first, the database after: what was stopped in between shows as an orphan, which is harmless.
        adapters = self._provision.adapters
        silent: list[Finding] = []
        disks = self._ask("overlay", adapters.disks.observed, silent)
        seeds = self._ask("seed", self._provision.seeds, silent)
        targets = self._ask("target", adapters.iscsi.observed, silent)
        accounts = self._ask("account", adapters.iscsi.accounts, silent)
        scripts = self._ask("script", adapters.scripts.observed, silent)
        entries = self._ask("reservation", adapters.dhcp.observed, silent)
        yield from silent
        wanted = self._wanted()
        yield from self._stuck()
        yield from self._unreadable(wanted)
        if disks is not None:
            yield from self._compare_disks(wanted, disks)
        if seeds is not None:
            yield from compare(
                "seed",
                dict.fromkeys(wanted.sessions),
                dict.fromkeys(seeds - wanted.busy),
                missing=self._repair_target,
                orphan=self._remove_disk,
            )
        if targets is not None:
            yield from self._compare_targets(wanted, targets)
        if accounts is not None:
            yield from self._compare_accounts(wanted, accounts)
        if scripts is not None:
            yield from self._compare_scripts(wanted, scripts)
        if entries is not None:
            yield from self._compare_reservations(wanted, entries)

    def _ask(self, thing: str, ask: Callable[[], T], silent: list[Finding]) -> T | None:
        try:
            answer: T = call(ask, self._settings.step_timeout_seconds)
            return answer
        except (AdapterError, OSError, TimeoutError) as error:
            silent.append(Finding(Difference.DRIFT, thing, "daemon", str(error)))
            return None

    def _wanted(self) -> Wanted:
        wanted = Wanted()
        with self._db.read() as session:
            rows = session.execute(
                select(Target, BootSession, Machine)
                .join(Machine, Machine.id == Target.machine_id)
                .outerjoin(BootSession, BootSession.target_id == Target.id)
                .where(Target.status != TargetStatus.INACTIVE)
            )
            for target, boot, machine in rows:
                if not self._provision.can_open(target):
                    wanted.unreadable.append((target, boot))
                    wanted.busy.add(target.target_id)
                    wanted.busy_macs.add(machine.mac_address)
                elif boot is None and target.status == TargetStatus.ACTIVE:
                    wanted.targets[target.target_id] = target
                elif boot is not None and boot.status == SessionStatus.ACTIVE:
                    wanted.targets[target.target_id] = target
                    wanted.sessions[target.target_id] = boot
                    wanted.scripts[self._provision.script_file(machine)] = (machine, target, boot)
                elif boot is not None or not self._abandoned(target):
                    wanted.busy.add(target.target_id)
                    wanted.busy_macs.add(machine.mac_address)
        return wanted

    def _abandoned(self, target: Target) -> bool:
        """A target without a session whose making or removal did not end."""
        return self.fresh or now() - target.updated_at > STUCK_AFTER

    def _stuck(self) -> Iterator[Finding]:
        """Sessions whose start or stop was interrupted, or whose clean-up failed; and targets likewise."""
        with self._db.read() as session:
            boots = session.scalars(
                select(BootSession).where(
                    BootSession.status.in_([SessionStatus.STARTING, SessionStatus.STOPPING])
                    | ((BootSession.status == SessionStatus.ERROR) & BootSession.cleanup_pending)
                )
            ).all()
            targets = session.scalars(
                select(Target)
                .outerjoin(BootSession, BootSession.target_id == Target.id)
                .where(BootSession.id.is_(None), Target.status.in_([TargetStatus.PENDING, TargetStatus.ERROR]))
            ).all()
        for boot in boots:
            old = self.fresh or now() - boot.updated_at > STUCK_AFTER
            if boot.status == SessionStatus.ERROR or old:
                detail = f"{boot.status} since {boot.updated_at:%H:%M:%S}"
                yield Finding(Difference.DRIFT, "session", boot.session_id, detail, partial(self._finish, boot))
        for target in targets:
            if target.status == TargetStatus.ERROR or self._abandoned(target):
                yield Finding(
                    Difference.DRIFT,
                    "target",
                    target.target_id,
                    f"{target.status}, and no session owns it",
                    partial(self._finish_target, target),
                )

    def _unreadable(self, wanted: Wanted) -> Iterator[Finding]:
        """What was made with another SECRET_KEY cannot be rebuilt, so it is ended."""
        for target, boot in wanted.unreadable:
            detail = "its secret was sealed with another SECRET_KEY"
            if boot is None:
                yield Finding(
                    Difference.DRIFT, "target", target.target_id, detail, partial(self._finish_target, target)
                )
            elif boot.status == SessionStatus.ACTIVE:
                yield Finding(Difference.DRIFT, "session", boot.session_id, detail, partial(self._finish, boot))

    def _finish(self, boot: BootSession) -> None:
        with self._locks.hold(boot.machine_id):
            current = self._sessions.get(boot.id)
            if current.updated_at != boot.updated_at:
                return  # somebody is at work after all
            self._stops.begin_ending(boot.id, SessionStatus.ERROR)
            with self._db.write() as session:
                row = session.get_one(BootSession, boot.id)
                if row.status == SessionStatus.ERROR:
                    row.status = SessionStatus.STOPPING  # and it ends as it was to end: stopped, timeout or error
                if boot.status == SessionStatus.STARTING:
                    # It may have been switched on already: recorded is what was done before that.
                    row.power_off = row.power == StartPower.CYCLE and "dhcp" in row.completed_steps
                    row.error_code = "internal_error"
                    row.error_message = "The start was interrupted and has been undone"
            if failed := self._stops.tear_down(boot.id):
                raise AdapterError("; ".join(f"{step.name}: {reason}" for step, reason in failed))

    def _finish_target(self, target: Target) -> None:
        with self._locks.hold(target.machine_id):
            with self._db.read() as session:
                current = session.get(Target, target.id)
            if current is None or current.updated_at != target.updated_at:
                return  # somebody is at work after all
            self._provision.remove_target(target)
            self._provision.remove_disk(target.target_id)
            with self._db.write() as session:
                session.get_one(Target, target.id).status = TargetStatus.INACTIVE

    def _compare_disks(self, wanted: Wanted, seen: Mapping[str, OverlaySeen]) -> Iterator[Finding]:
        def drift(_: Target, have: OverlaySeen) -> str:
            if not have.overlay:
                return "its file is gone"
            return "" if have.exported else "not exported"

        yield from compare(
            "overlay",
            wanted.targets,
            {key: have for key, have in seen.items() if key not in wanted.busy},
            missing=self._repair_target,
            orphan=self._remove_disk,
            drift=drift,
        )

    def _compare_targets(self, wanted: Wanted, seen: Mapping[str, TargetSeen]) -> Iterator[Finding]:
        by_id = {target_id: have for iqn, have in seen.items() if (target_id := self._target_id(iqn))}
        yield from compare(
            "target",
            wanted.targets,
            {key: have for key, have in by_id.items() if key not in wanted.busy},
            missing=self._repair_target,
            orphan=self._remove_target,
            drift=lambda want, have: _target_drift(self._provision.target_spec(want), have),
        )

    def _target_id(self, iqn: str) -> str | None:
        return target_id_of(self._settings.iqn_prefix, iqn)

    def _compare_accounts(self, wanted: Wanted, seen: set[str]) -> Iterator[Finding]:
        owned = {target.chap_username for target in wanted.targets.values()}
        owned |= {chap_user(target_id.rsplit("-", 1)[1]) for target_id in wanted.busy}
        for user in sorted(seen - owned):
            yield Finding(Difference.ORPHAN, "account", user, repair=partial(self._remove_account, user))

    def _compare_scripts(self, wanted: Wanted, seen: Mapping[str, ScriptSeen]) -> Iterator[Finding]:
        def drift(want: tuple[Machine, Target, BootSession], have: ScriptSeen) -> str:
            try:
                text = self._provision.script(*want)
            except ValueError as error:  # one bad script must not blind the observer for the other sessions
                return f"it cannot be rendered: {error}"
            return "" if have.text == text else "its text is not what the session needs"

        ours = {name: have for name, have in seen.items() if have.ours and have.mac not in wanted.busy_macs}
        yield from compare(
            "script", wanted.scripts, ours, missing=self._repair_script, orphan=self._remove_script, drift=drift
        )

    def _compare_reservations(self, wanted: Wanted, seen: Sequence[Reservation]) -> Iterator[Finding]:
        def repair(_: str) -> None:
            self._reservations.apply()

        def by_machine(entries: Sequence[Reservation]) -> dict[str, Reservation]:
            return {str(entry.machine_id): entry for entry in entries if entry.mac not in wanted.busy_macs}

        yield from compare(
            "reservation",
            by_machine(self._reservations.wanted()),
            by_machine(seen),
            missing=repair,
            orphan=repair,
            drift=lambda want, have: "" if want == have else "its entry is not as wanted",
        )

    # -- repairs: each asks again under the machine's lock ---------------------------------------------------------

    def _current(self, target_id: str) -> tuple[Target, Machine, BootSession | None] | None:
        """The rows of a target that is still wanted, or None."""
        with self._db.read() as session:
            row = session.execute(
                select(Target, Machine, BootSession)
                .join(Machine, Machine.id == Target.machine_id)
                .outerjoin(BootSession, BootSession.target_id == Target.id)
                .where(Target.target_id == target_id, Target.status != TargetStatus.INACTIVE)
            ).first()
        if row is None:
            return None
        target, machine, boot = row
        return target, machine, boot

    def _repair_target(self, target_id: str) -> None:
        """Overlay, export, seed and target, in that order: each stands on the one before."""
        if not (found := self._current(target_id)):
            return
        with self._locks.hold(found[0].machine_id):
            if not (found := self._current(target_id)):
                return
            target, machine, boot = found
            if boot is not None and boot.status != SessionStatus.ACTIVE:
                return
            self._provision.make_disk(target)
            if boot is not None:
                self._provision.make_seed(target, machine, boot)
            self._provision.make_target(target)

    def _remove_disk(self, target_id: str) -> None:
        if not self._current(target_id):
            self._provision.remove_disk(target_id)

    def _remove_target(self, target_id: str) -> None:
        if not self._current(target_id):
            suffix = target_id.rsplit("-", 1)[1]
            self._provision.adapters.iscsi.remove(f"{self._settings.iqn_prefix}:target-{target_id}", f"s-{suffix}")

    def _remove_account(self, user: str) -> None:
        with self._db.read() as session:
            query = select(Target.id).where(Target.chap_username == user, Target.status != TargetStatus.INACTIVE)
            if session.scalar(query) is None:
                self._provision.adapters.iscsi.remove_account(user)

    def _script_owner(self, filename: str) -> tuple[Machine, Target, BootSession] | None:
        with self._db.read() as session:
            row = session.execute(
                select(Machine, Target, BootSession)
                .join(BootSession, BootSession.machine_id == Machine.id)
                .join(Target, Target.id == BootSession.target_id)
                .where(
                    Machine.mac_address == mac_of_script(filename),
                    BootSession.status.in_(RUNNING),
                )
            ).first()
        if row is None:
            return None
        machine, target, boot = row
        return machine, target, boot

    def _repair_script(self, filename: str) -> None:
        if not (owner := self._script_owner(filename)):
            return
        with self._locks.hold(owner[0].id):
            if (owner := self._script_owner(filename)) and owner[2].status == SessionStatus.ACTIVE:
                self._provision.adapters.scripts.apply(filename, self._provision.script(*owner))

    def _remove_script(self, filename: str) -> None:
        if not self._script_owner(filename):
            self._provision.adapters.scripts.remove(filename)


def _target_drift(want: TargetSpec, have: TargetSeen) -> str:
    if not have.backing_ok:
        return "its disk is not the one that is exported now"
    if {(lun.number, str(lun.path)) for lun in want.luns} != {(lun.number, str(lun.path)) for lun in have.luns}:
        return "its LUNs are not as wanted"
    if have.initiators != (want.initiator,):
        return f"open to {', '.join(have.initiators) or 'nobody'} instead of {want.initiator}"
    if have.chap_users != (want.chap_user,):
        return "its CHAP account is not as wanted"
    return ""
