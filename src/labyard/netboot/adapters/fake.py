"""Disks, iSCSI and DHCP without a daemon (contract 1.5): for tests, and to try the service on any machine.

Their worlds are JSON files below `settings.state_dir/fake`, so that a service that starts again, and a second worker
process, find what was made. Each verb can be told to fail: `Fault`.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - its exit hook must be older than ours
import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

from labyard.core.adapter import AdapterError
from labyard.netboot.adapters.dhcp import DhcpStatus, Reservation
from labyard.netboot.adapters.disks import OverlaySeen, OverlaySpec
from labyard.netboot.adapters.iscsi import Connection, Lun, TargetSeen, TargetSpec
from labyard.netboot.adapters.power import Bmc
from labyard.netboot.names import CHAP_USER, TARGET_ID, iqn_error, target_id_of
from labyard.netboot.settings import Settings

HANG_SECONDS = 3600.0
DEFAULT_BYTES = 1 << 20  # size of a disk whose base image is not there

# The interpreter waits for its pools' threads when it ends, and calls atexit only then: too late to end a hang.
_ending = threading.Event()
threading._register_atexit(_ending.set)  # type: ignore[attr-defined]


class Fault(StrEnum):
    OK = "ok"
    RAISE = "raise"  # AdapterError at once, nothing done
    HANG = "hang"  # until `released` is set, then done after all; AdapterError after an hour, or when the process ends


class Fake:
    """What the fakes share. `faults` may be changed at any time; `calls` are (verb, key) in order."""

    kind: ClassVar[str]
    verbs: ClassVar[tuple[str, ...]]

    def __init__(self, settings: Settings) -> None:
        self.faults: dict[str, Fault] = parse_faults(settings.faults).get(self.kind, {})
        self.calls: list[tuple[str, str]] = []
        self.released = threading.Event()
        self._file = settings.state_dir / "fake" / f"{self.kind}.json"
        self._lock = threading.Lock()

    def _begin(self, verb: str, key: str = "") -> None:
        self.calls.append((verb, key))
        fault = self.faults.get(verb, Fault.OK)
        if fault is Fault.RAISE:
            raise AdapterError(f"fake {self.kind}: {verb} was told to fail")
        deadline = time.monotonic() + HANG_SECONDS
        while fault is Fault.HANG and not self.released.wait(0.1):
            if time.monotonic() > deadline or _ending.is_set():
                raise AdapterError(f"fake {self.kind}: {verb} was told to hang, and did")

    @contextlib.contextmanager
    def _world(self) -> Iterator[dict[str, Any]]:
        """The state, to read and to change: written back when the block ends without an exception."""
        with self._lock:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                before = self._file.read_text() if self._file.exists() else "{}"
                world = json.loads(before)
                yield world
                if (after := json.dumps(world, indent=1)) != before:
                    temporary = self._file.with_suffix(".new")
                    temporary.touch(mode=0o600)
                    temporary.write_text(after)
                    temporary.replace(self._file)
            finally:
                os.close(descriptor)

    def ping(self) -> None:
        self._begin("ping")


class FakeDisks(Fake):
    """Overlays and exports are small real files in OVERLAY_DIR. Nothing is mounted, and no base image is needed."""

    kind = "disks"
    verbs = ("apply", "remove", "observed", "size", "ping")

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._folder = settings.overlay_dir

    def overlay_path(self, target_id: str) -> Path:
        return self._folder / f"{target_id}.qcow2"

    def export_path(self, target_id: str) -> Path:
        return self._folder / f"{target_id}.raw"

    def apply(self, spec: OverlaySpec) -> None:
        self._begin("apply", spec.target_id)
        if not TARGET_ID.fullmatch(spec.target_id):
            raise AdapterError(
                f"fake disks: {spec.target_id!r} is no target id: it must be machine-<id>-<8 hex digits>"
            )
        with self._world() as world:
            self._folder.mkdir(parents=True, exist_ok=True)
            overlay, export = self.overlay_path(spec.target_id), self.export_path(spec.target_id)
            if not overlay.exists():
                overlay.write_text(f"fake overlay on {spec.base} ({spec.base_format})\n")
            if not export.exists():
                export.touch()
                os.truncate(export, spec.base.stat().st_size if spec.base.is_file() else DEFAULT_BYTES)
            world[spec.target_id] = {"base": str(spec.base)}

    def remove(self, target_id: str, keep: bool = False) -> None:
        self._begin("remove", target_id)
        with self._world() as world:
            self.export_path(target_id).unlink(missing_ok=True)
            overlay = self.overlay_path(target_id)
            if keep and overlay.exists():
                kept = self._folder / "kept"
                kept.mkdir(exist_ok=True)
                overlay.replace(kept / overlay.name)
            overlay.unlink(missing_ok=True)
            world.pop(target_id, None)

    def observed(self) -> Mapping[str, OverlaySeen]:
        self._begin("observed")
        with self._world() as world:
            found = {
                path.stem
                for path in (self._folder.iterdir() if self._folder.is_dir() else ())
                if path.suffix in (".qcow2", ".raw") and TARGET_ID.fullmatch(path.stem)
            }
            return {
                name: OverlaySeen(
                    overlay=self.overlay_path(name).exists(),
                    exported=self.export_path(name).exists(),
                    base=Path(world[name]["base"]) if name in world else None,
                )
                for name in sorted(found)
            }

    def size(self, target_id: str) -> int:
        self._begin("size", target_id)
        try:
            return self.export_path(target_id).stat().st_size
        except OSError as error:
            raise AdapterError(f"fake disks: {target_id} is not exported: {error.strerror}") from None


class FakeIscsi(Fake):
    """Targets and accounts as tgt would hold them. `log_in` and `log_out` are a client's."""

    kind = "iscsi"
    verbs = ("apply", "remove", "observed", "connections", "accounts", "remove_account", "ping")
    name = "fake"
    first_lun = 1

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._prefix = settings.iqn_prefix

    def apply(self, spec: TargetSpec) -> None:
        self._begin("apply", spec.iqn)
        for iqn in (spec.iqn, spec.initiator):
            if problem := iqn_error(iqn):
                raise AdapterError(f"fake iscsi: {iqn!r} is no name for it: {problem}")
        for lun in spec.luns:
            if not lun.path.exists():
                raise AdapterError(f"fake iscsi: {lun.path}, LUN {lun.number} of {spec.iqn}: no such file")
        with self._targets() as (targets, accounts):
            luns = [[lun.number, str(lun.path), lun.readonly] for lun in spec.luns]
            target = {"luns": luns, "initiators": [spec.initiator], "users": [spec.chap_user]}
            before = targets.get(spec.iqn, {})
            same = before.get("luns") == luns
            targets[spec.iqn] = target | {"connections": before["connections"] if same else []}
            accounts[spec.chap_user] = spec.chap_secret

    def remove(self, iqn: str, chap_user: str) -> None:
        self._begin("remove", iqn)
        with self._targets() as (targets, accounts):
            targets.pop(iqn, None)
            _forget(chap_user, targets, accounts)

    def observed(self) -> Mapping[str, TargetSeen]:
        self._begin("observed")
        with self._targets() as (targets, _):
            return {iqn: _seen(target) for iqn, target in targets.items() if target_id_of(self._prefix, iqn)}

    def connections(self) -> Mapping[str, tuple[Connection, ...]]:
        self._begin("connections")
        with self._targets() as (targets, _):
            found = {iqn: _seen(target).connections for iqn, target in targets.items()}
        return {iqn: clients for iqn, clients in found.items() if clients and target_id_of(self._prefix, iqn)}

    def accounts(self) -> set[str]:
        self._begin("accounts")
        with self._targets() as (_, accounts):
            return {user for user in accounts if CHAP_USER.fullmatch(user)}

    def remove_account(self, chap_user: str) -> None:
        self._begin("remove_account", chap_user)
        with self._targets() as (targets, accounts):
            _forget(chap_user, targets, accounts)

    def log_in(self, iqn: str, initiator: str, user: str, secret: str, address: str = "192.168.1.101") -> bool:
        """Whether a client gets in; if so it is among the target's connections from now on."""
        with self._targets() as (targets, accounts):
            target = targets.get(iqn, {"initiators": [], "users": []})
            if initiator not in target["initiators"] or user not in target["users"] or accounts.get(user) != secret:
                return False
            target["connections"].append([initiator, address])
            return True

    def log_out(self, iqn: str) -> None:
        """All clients of a target leave."""
        with self._targets() as (targets, _):
            targets[iqn]["connections"] = []

    @contextlib.contextmanager
    def _targets(self) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
        with self._world() as world:
            yield world.setdefault("targets", {}), world.setdefault("accounts", {})


def _forget(user: str, targets: dict[str, Any], accounts: dict[str, str]) -> None:
    accounts.pop(user, None)
    for target in targets.values():
        target["users"] = [other for other in target["users"] if other != user]


def _seen(target: dict[str, Any]) -> TargetSeen:
    luns = tuple(Lun(number, Path(path), readonly) for number, path, readonly in target["luns"])
    return TargetSeen(
        luns=luns,
        initiators=tuple(target["initiators"]),
        chap_users=tuple(target["users"]),
        connections=tuple(Connection(*client) for client in target["connections"]),
        backing_ok=all(lun.path.exists() for lun in luns),
    )


class FakeDhcp(Fake):
    """The set of reservations. As the real daemons' tests do, it refuses a set that names one thing twice."""

    kind = "dhcp"
    verbs = ("apply", "observed", "status", "ping")
    name = "fake"

    def apply(self, reservations: Sequence[Reservation]) -> None:
        self._begin("apply", ",".join(each.label for each in reservations))
        unique: tuple[Callable[[Reservation], str | None], ...] = (
            lambda each: each.label,
            lambda each: each.mac,
            lambda each: each.address,
        )
        for values in ([value for each in reservations if (value := of(each))] for of in unique):
            if twice := sorted({value for value in values if values.count(value) > 1}):
                raise AdapterError(f"fake dhcp: {', '.join(twice)} is there twice")
        with self._world() as world:
            world["reservations"] = [
                asdict(each) for each in sorted(reservations, key=lambda reservation: reservation.machine_id)
            ]

    def observed(self) -> Sequence[Reservation]:
        self._begin("observed")
        with self._world() as world:
            return [Reservation(**each) for each in world.get("reservations", [])]

    def status(self) -> DhcpStatus:
        try:
            if self.faults.get("status") is not Fault.HANG:  # it never hangs
                self._begin("status")
                with self._world() as world:
                    return DhcpStatus(True, True, True, len(world.get("reservations", [])))
            raise AdapterError("fake dhcp: status was told to hang")
        except AdapterError as error:
            return DhcpStatus(None, True, None, None, str(error))


class FakePower(Fake):
    """Machines by the URL of their BMC: on or off, and how often they were switched on."""

    kind = "power"
    verbs = ("cycle", "off")

    def cycle(self, bmc: Bmc) -> None:
        self._begin("cycle", bmc.url)
        with self._world() as world:
            world[bmc.url] = {"on": True, "starts": world.get(bmc.url, {}).get("starts", 0) + 1}

    def off(self, bmc: Bmc) -> None:
        self._begin("off", bmc.url)
        with self._world() as world:
            world[bmc.url] = {"starts": 0} | world.get(bmc.url, {}) | {"on": False}

    def is_on(self, url: str) -> bool:
        """As one who stands before the machine sees it."""
        with self._world() as world:
            return bool(world.get(url, {}).get("on"))


FAKES: tuple[type[Fake], ...] = (FakeDisks, FakeIscsi, FakeDhcp, FakePower)


def parse_faults(text: str) -> dict[str, dict[str, Fault]]:
    """`disks.apply=raise,dhcp.apply=hang` -> faults by fake and verb. ValueError says what there is instead."""
    faults: dict[str, dict[str, Fault]] = {}
    known = {fake.kind: fake.verbs for fake in FAKES}
    for part in filter(None, (part.strip() for part in text.split(","))):
        place, _, fault = part.partition("=")
        kind, _, verb = place.partition(".")
        if verb not in known.get(kind, ()):
            there = "; ".join(f"{name}: {', '.join(verbs)}" for name, verbs in known.items())
            raise ValueError(f"faults: {part!r} names no verb of a fake, write FAKE.VERB=FAULT ({there})")
        if fault not in tuple(Fault):
            raise ValueError(f"faults: {part!r}: the fault must be one of {', '.join(Fault)}")
        faults.setdefault(kind, {})[verb] = Fault(fault)
    return faults
