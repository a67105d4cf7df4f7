"""iSCSI targets of LIO, the kernel's own target, through rtslib-fb on configfs. For hosts whose kernel has it.

Nothing is saved with saveconfig: after a reboot the service's reconciler makes the targets again. A CHAP account is
part of the rule for its initiator here, so it goes with its target.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from labyard.core.adapter import AdapterError
from labyard.netboot.adapters.iscsi import Connection, Lun, TargetSeen, TargetSpec
from labyard.netboot.names import CHAP_USER, iqn_error, target_id_of
from labyard.netboot.settings import Settings

CONFIGFS = Path("/sys/kernel/config")
# Only the initiator with a rule, and only with its secret; nobody gets a rule by knocking.
ATTRIBUTES = {"authentication": "1", "generate_node_acls": "0", "demo_mode_write_protect": "1"}


class Lio:
    """The kernel's target with one portal per target: `settings.portal_ip` and `portal_port`. Thread-safe."""

    name = "lio"
    first_lun = 0

    def __init__(self, settings: Settings) -> None:
        self._prefix = settings.iqn_prefix
        self._portal = (settings.portal_ip, settings.portal_port)
        self._lock = threading.Lock()  # rtslib keeps a table of its own, and is not safe with threads

    def apply(self, spec: TargetSpec) -> None:
        """Make the target so. One that is so already keeps its sessions; any other is made anew. AdapterError."""
        self._check(spec)
        with self._rtslib() as rts:
            target = _find(rts, spec.iqn)
            if target and self._is_right(target, spec):
                return
            self._delete(rts, spec.iqn, target)
            self._create(rts, spec)

    def remove(self, iqn: str, chap_user: str) -> None:
        """Drop the target's clients, then target, disks and rule; the account is in the rule."""
        with self._rtslib() as rts:
            self._delete(rts, iqn, _find(rts, iqn))

    def observed(self) -> Mapping[str, TargetSeen]:
        """`backing_ok` is False for a file that is gone; a replaced one is not noticed: the kernel holds it."""
        with self._rtslib() as rts:
            return {target.wwn: _seen(target) for target in self._ours(rts)}

    def connections(self) -> Mapping[str, tuple[Connection, ...]]:
        with self._rtslib() as rts:
            found = {target.wwn: _clients(_rules(target)) for target in self._ours(rts)}
        return {iqn: clients for iqn, clients in found.items() if clients}

    def accounts(self) -> set[str]:
        with self._rtslib() as rts:
            users = {rule.chap_userid for target in self._ours(rts) for rule in _rules(target)}
        return {user for user in users if CHAP_USER.fullmatch(user)}

    def remove_account(self, chap_user: str) -> None:
        """Delete the rules that carry the account; their clients are out then."""
        with self._rtslib() as rts:
            for target in self._ours(rts):
                for rule in _rules(target):
                    if rule.chap_userid == chap_user:
                        rule.delete()

    def ping(self) -> None:
        with self._rtslib() as rts:
            list(rts.FabricModule("iscsi").targets)

    @contextlib.contextmanager
    def _rtslib(self) -> Iterator[Any]:
        """rtslib, alone with it, its errors turned into AdapterError."""
        try:
            rts = import_module("rtslib_fb")
            tcm = import_module("rtslib_fb.tcm")
        except ImportError as error:
            raise _no_configfs() or AdapterError(
                f"lio: rtslib-fb is not installed in this service's environment ({error})"
            ) from None
        with self._lock:
            try:
                # Its table of disks is read once; others (targetcli, the role) change them too.
                tcm.bs_cache.clear()
                rts.RTSRoot()  # loads the modules and mounts configfs
                yield rts
            except (rts.RTSLibError, OSError) as error:
                raise _no_configfs() or AdapterError(f"lio: {error}") from error

    def _check(self, spec: TargetSpec) -> None:
        for iqn in (spec.iqn, spec.initiator):
            if problem := iqn_error(iqn):
                raise AdapterError(f"lio: {iqn!r} is no name for it: {problem}")
        if target_id_of(self._prefix, spec.iqn) is None:
            raise AdapterError(f"lio: {spec.iqn} is not a target of this service")

    def _ours(self, rts: Any) -> list[Any]:
        return [each for each in rts.FabricModule("iscsi").targets if target_id_of(self._prefix, each.wwn)]

    def _is_right(self, target: Any, spec: TargetSpec) -> bool:
        groups = list(target.tpgs)
        if len(groups) != 1 or not groups[0].enable:
            return False
        group, seen = groups[0], _seen(target)
        return (
            seen.backing_ok
            and seen.luns == tuple(sorted(spec.luns, key=lambda lun: lun.number))
            and all(group.get_attribute(name) == value for name, value in ATTRIBUTES.items())
            and [(portal.ip_address, portal.port) for portal in group.network_portals] == [self._portal]
            and [(rule.node_wwn, rule.chap_userid, rule.chap_password) for rule in group.node_acls]
            == [(spec.initiator, spec.chap_user, spec.chap_secret)]
        )

    def _create(self, rts: Any, spec: TargetSpec) -> None:
        target = rts.Target(rts.FabricModule("iscsi"), spec.iqn, mode="create")
        group = rts.TPG(target, 1, mode="create")
        group.enable = False
        for name, value in ATTRIBUTES.items():
            group.set_attribute(name, value)
        for portal in group.network_portals:
            portal.delete()  # tools of LIO add 0.0.0.0:3260 to every new target
        rule = group.node_acl(spec.initiator, mode="create")
        rule.chap_userid, rule.chap_password = spec.chap_user, spec.chap_secret
        for lun in spec.luns:
            size = lun.path.stat().st_size
            name = self._store(spec.iqn, lun.number)
            store = rts.FileIOStorageObject(name, dev=str(lun.path), size=size, write_back=True)
            rule.mapped_lun(lun.number, group.lun(lun.number, store), write_protect=lun.readonly)
        group.network_portal(*self._portal, mode="create")
        group.enable = True

    def _delete(self, rts: Any, iqn: str, target: Any) -> None:
        """The target, ending its sessions, and its disks, those of a half-made target too."""
        if target:
            target.delete()
        first = self._store(iqn, self.first_lun)
        for store in list(rts.RTSRoot().storage_objects):
            if store.plugin == "fileio" and (store.name == first or store.name.startswith(f"{first}-")):
                store.delete()

    def _store(self, iqn: str, number: int) -> str:
        """Name of a disk in LIO (contract section 3): the first is `img-<target id>`."""
        name = f"img-{target_id_of(self._prefix, iqn)}"
        return name if number == self.first_lun else f"{name}-{number}"


def _no_configfs() -> AdapterError | None:
    """The reason behind any other: rtslib has had its chance to load the module."""
    if CONFIGFS.is_dir():
        return None
    return AdapterError(f"lio: this kernel has no configfs ({CONFIGFS}): use the iSCSI backend tgt on this host")


def _find(rts: Any, iqn: str) -> Any:
    return next((target for target in rts.FabricModule("iscsi").targets if target.wwn == iqn), None)


def _rules(target: Any) -> list[Any]:
    return [rule for group in target.tpgs for rule in group.node_acls]


def _clients(rules: list[Any]) -> tuple[Connection, ...]:
    return tuple(
        Connection(rule.node_wwn, connection.get("address", ""))
        for rule in rules
        if (session := rule.session)
        for connection in session["connections"]
    )


def _seen(target: Any) -> TargetSeen:
    rules = _rules(target)
    readonly = {mapped.tpg_lun.lun for rule in rules for mapped in rule.mapped_luns if mapped.write_protect}
    luns = sorted(
        (
            Lun(lun.lun, Path(lun.storage_object.udev_path), readonly=lun.lun in readonly)
            for group in target.tpgs
            for lun in group.luns
        ),
        key=lambda lun: lun.number,
    )
    return TargetSeen(
        luns=tuple(luns),
        initiators=tuple(rule.node_wwn for rule in rules),
        chap_users=tuple(rule.chap_userid for rule in rules if rule.chap_userid),
        connections=_clients(rules),
        backing_ok=all(lun.path.exists() for lun in luns),
    )
