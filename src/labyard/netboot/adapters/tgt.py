"""iSCSI targets of tgt, through tgtd's management socket. No process is started for a request.

Facts of tgt 1.0.85 (its source, and tests/integration/netboot/test_tgt_daemon.py) that the order of requests stands on:

- A target without a rule lets nobody in; one without a CHAP account lets in whom its rules let in, without a secret.
  So the rule for the initiator comes last and goes first.
- A rule for an address or one for a name is enough: ALL, which tgt-admin adds to a target that has no address rule,
  opens it to everyone. NO_ADDRESS keeps tgt-admin from it.
- When one of several accounts of a target is deleted or unbound, the next `show` kills tgtd (signal 11): its list has a
  hole then.
- A delete, forced or not, is refused while a command of a client is on its way: a busy client's target was refused 200
  times in a row. So sessions are closed first, and the delete is tried until their last command has ended.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from labyard.core.adapter import AdapterError
from labyard.core.coalesce import Coalesced
from labyard.netboot.adapters.iscsi import Connection, Lun, TargetSeen, TargetSpec
from labyard.netboot.adapters.tgt_wire import (
    NEXUS,
    Code,
    Mode,
    Op,
    Refused,
    Shown,
    ShownLun,
    ShownTarget,
    Wire,
    pack,
    parse_accounts,
)
from labyard.netboot.names import CHAP_USER, iqn_error, target_id_of
from labyard.netboot.settings import Settings

NO_ADDRESS = "255.255.255.255"  # no packet comes from there
# Drawn, not counted: writers side by side rarely draw the same. tgt builds a disk's SCSI id from four hexadecimal
# digits of the number; what is above the range is for who counts, as tgt-admin does.
TIDS = 0x1000, 0xEFFF


class Tgt:
    """tgtd behind `settings.tgt_socket`. Keeps nothing: each verb asks the daemon. Thread-safe, without a lock."""

    name = "tgt"
    first_lun = 1  # LUN 0 is the controller

    def __init__(self, settings: Settings) -> None:
        self._prefix = settings.iqn_prefix
        self._patience = settings.step_timeout_seconds / 2  # seconds that a busy target is waited for
        self._wire = Wire(settings.tgt_socket, min(5.0, settings.step_timeout_seconds / 3))
        self._show = Coalesced[None, Shown](lambda _: self._wire.show())

    def apply(self, spec: TargetSpec) -> None:
        """Make the target so. One that is there with the right disks keeps its sessions; any other is made anew."""
        _check(spec)
        deadline = time.monotonic() + self._patience
        rules: list[str] = []
        # The usual case first: a list of all targets would cost more than making one.
        while (tid := self._create(spec)) is None:
            shown = self._wire.show()
            there = shown.target(spec.iqn)
            if there and self._usable(there, spec, shown.pid):
                tid, rules = there.tid, there.rules
                break
            if there:
                self._delete(there, deadline)
            elif time.monotonic() > deadline:
                raise AdapterError(f"tgt: no free number for target {spec.iqn}")
        # tgtd does not tell a secret, so the account is always made anew, behind closed doors.
        self._set_rules(tid, rules, [])
        self._make_account(spec)
        user = {"user": spec.chap_user}
        self._wire.call(f"bind account {spec.chap_user}", pack(Mode.ACCOUNT, Op.BIND, user, tid=tid))
        self._set_rules(tid, [], [NO_ADDRESS, spec.initiator])

    def remove(self, iqn: str, chap_user: str) -> None:
        """Drop the target's clients, then the target, then the account (if any). Waits for disk I/O under way."""
        shown = self._show(None)
        if there := shown.target(iqn):
            self._delete(there, time.monotonic() + self._patience)
        if chap_user:
            self._drop_account(chap_user, shown, gone=iqn)

    def observed(self) -> Mapping[str, TargetSeen]:
        """Targets with names of ours. Costs one request, and a stat for each of the daemon's open files."""
        shown = self._wire.show()
        opened = _open_files(shown.pid)
        ours = (shown.target(iqn) for iqn in shown.tids if target_id_of(self._prefix, iqn))
        return {there.iqn: _seen(there, opened) for there in ours if there}

    def connections(self) -> Mapping[str, tuple[Connection, ...]]:
        shown = self._wire.show()
        busy = (iqn for iqn, block in shown.blocks.items() if NEXUS in block and target_id_of(self._prefix, iqn))
        return {iqn: clients for iqn in busy if (there := shown.target(iqn)) and (clients := _clients(there))}

    def accounts(self) -> set[str]:
        text = self._wire.call("show the accounts", pack(Mode.ACCOUNT, Op.SHOW))
        return {user for user in parse_accounts(text) if CHAP_USER.fullmatch(user)}

    def remove_account(self, chap_user: str) -> None:
        self._drop_account(chap_user, self._wire.show())

    def ping(self) -> None:
        self._wire.call("show the drivers", pack(Mode.DRIVER, Op.SHOW))

    def _usable(self, there: ShownTarget, spec: TargetSpec, pid: int) -> bool:
        """Whether the target can stay: right disks, and no account but ours."""
        seen = _seen(there, _open_files(pid))
        return seen.backing_ok and seen.luns == _sorted(spec.luns) and there.accounts in ([], [spec.chap_user])

    def _create(self, spec: TargetSpec) -> int | None:
        """A new target with its disks, that lets nobody in yet; None when its name, or the number tried, is taken."""
        tid = random.randint(*TIDS)
        try:
            name = {"targetname": spec.iqn}
            self._wire.call(f"create target {spec.iqn}", pack(Mode.TARGET, Op.NEW, name, tid=tid))
        except Refused as error:
            if error.code != Code.TARGET_EXIST:
                raise
            return None
        for lun in spec.luns:
            doing = f"add {lun.path} as LUN {lun.number} of {spec.iqn}"
            self._wire.call(doing, pack(Mode.LUN, Op.NEW, {"path": str(lun.path)}, tid=tid, lun=lun.number))
            if lun.readonly:
                self._wire.call(doing, pack(Mode.LUN, Op.UPDATE, {"readonly": "1"}, tid=tid, lun=lun.number))
        return tid

    def _make_account(self, spec: TargetSpec) -> None:
        request = pack(Mode.ACCOUNT, Op.NEW, {"user": spec.chap_user, "password": spec.chap_secret})
        doing = f"create account {spec.chap_user}"
        try:
            self._wire.call(doing, request)
        except Refused as error:
            if error.code != Code.USER_EXIST:
                raise
            self._drop_account(spec.chap_user, self._wire.show(), gone=spec.iqn)
            self._wire.call(doing, request)

    def _set_rules(self, tid: int, before: list[str], after: list[str]) -> None:
        for rule in before:
            request = pack(Mode.TARGET, Op.UNBIND, _rule(rule), tid=tid)
            self._wire.call(f"drop the rule {rule}", request, Code.ACL_NOEXIST, Code.NO_TARGET)
        for rule in after:
            request = pack(Mode.TARGET, Op.BIND, _rule(rule), tid=tid)
            self._wire.call(f"let in {rule}", request, Code.ACL_EXIST)

    def _delete(self, there: ShownTarget, deadline: float) -> None:
        """Shut the door, close the sessions, and delete once their I/O has ended. AdapterError after the deadline."""
        self._set_rules(there.tid, there.rules, [])
        pause = 0.0005
        while True:
            for nexus in there.nexuses:
                request = pack(Mode.CONNECTION, Op.DELETE, tid=there.tid, sid=nexus.session, cid=nexus.connection)
                # Gone by itself, or with its session.
                gone = (Code.NO_SESSION, Code.NO_CONNECTION, Code.NO_TARGET)
                self._wire.call(f"close the session of {nexus.client.initiator}", request, *gone)
            try:
                request = pack(Mode.TARGET, Op.DELETE, tid=there.tid)
                self._wire.call(f"delete target {there.iqn}", request, Code.NO_TARGET)
                return
            except Refused as error:
                if error.code not in (Code.TARGET_ACTIVE, Code.LUN_ACTIVE) or time.monotonic() > deadline:
                    raise
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
            # A login under way when the door was shut may have become a session.
            again = self._wire.show().target(there.iqn)
            if again is None:
                return
            there = again

    def _drop_account(self, user: str, shown: Shown, gone: str = "") -> None:
        """Delete an account wherever it is bound. AdapterError where that would kill tgtd; `gone` is looked after."""
        for target in shown.having(user):
            if target.iqn != gone and len(target.accounts) > 1:
                raise AdapterError(
                    f"tgt: account {user} is bound to {target.iqn} beside {', '.join(set(target.accounts) - {user})}; "
                    "deleting one of several makes tgtd crash: delete that target first"
                )
        request = pack(Mode.ACCOUNT, Op.DELETE, {"user": user})
        self._wire.call(f"delete account {user}", request, Code.NO_USER)


def _check(spec: TargetSpec) -> None:
    for iqn in (spec.iqn, spec.initiator):
        if problem := iqn_error(iqn):
            raise AdapterError(f"tgt: {iqn!r} is no name for it: {problem}")
    if not CHAP_USER.fullmatch(spec.chap_user):
        raise AdapterError(f"tgt: {spec.chap_user!r} is no CHAP user name of this service: it must be s-<8 hex digits>")
    for lun in spec.luns:
        if not 1 <= lun.number <= 255:
            raise AdapterError(f"tgt: LUN {lun.number} of {spec.iqn}: disks have 1 to 255, 0 is the controller")
        try:
            lun.path.stat()
        except OSError as error:
            # tgtd would only say "invalid request".
            raise AdapterError(f"tgt: {lun.path}, LUN {lun.number} of {spec.iqn}: {error.strerror}") from None


def _rule(rule: str) -> Mapping[str, str]:
    return {"initiator-name" if rule.startswith(("iqn.", "eui.", "naa.")) else "initiator-address": rule}


def _sorted(luns: tuple[Lun, ...]) -> tuple[Lun, ...]:
    return tuple(sorted(luns, key=lambda lun: lun.number))


def _seen(there: ShownTarget, opened: Callable[[Path], bool]) -> TargetSeen:
    return TargetSeen(
        luns=_sorted(tuple(shown.lun for shown in there.luns)),
        initiators=tuple(rule for rule in there.rules if rule != NO_ADDRESS),
        chap_users=tuple(there.accounts),
        connections=_clients(there),
        backing_ok=there.state == "ready" and all(_served(shown, opened) for shown in there.luns),
    )


def _clients(there: ShownTarget) -> tuple[Connection, ...]:
    return tuple(nexus.client for nexus in there.nexuses)


def _served(shown: ShownLun, opened: Callable[[Path], bool]) -> bool:
    return shown.online and opened(shown.lun.path)


def _open_files(pid: int) -> Callable[[Path], bool]:
    """A question: does the daemon hold the very file that is at this path now?

    After a new FUSE mount the path is the same and the file another one: tgtd still holds the old. Device and inode
    tell. Where the daemon's files cannot be looked at (another process namespace), being there must do.
    """
    held: set[tuple[int, int]] | None = None
    if pid > 0:
        try:
            with os.scandir(f"/proc/{pid}/fd") as entries:
                held = {found for entry in entries if (found := _identity(entry.path))}
        except OSError:
            held = None

    def holds(path: Path) -> bool:
        found = _identity(str(path))
        return found is not None and (held is None or found in held)

    return holds


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - hundreds of them in one look
    except OSError:
        return None  # gone, or the mount's server is
    return found.st_dev, found.st_ino
