"""What the service asks of a hypervisor, whichever it is: libvirt, or none at all (dry run, contract section 10)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class DataDisk:
    """A data disk of a machine. `target` is the device name it has in the domain, sda to sdw."""

    disk_id: str
    path: Path
    target: str


@dataclass(frozen=True)
class DomainSpec:
    """All that the service decides of a domain. Memory in MiB."""

    vm_id: str
    uuid: str
    mac: str
    memory_mib: int
    vcpus: int
    root: Path
    seed: Path
    console: Path
    disks: tuple[DataDisk, ...] = ()


@dataclass(frozen=True)
class DomainSeen:
    """A domain of ours as the hypervisor has it, by name or by the metadata element; with or without a row."""

    vm_id: str
    uuid: str
    active: bool


class EventKind(StrEnum):
    STARTED = "started"  # by anyone
    STOPPED = "stopped"  # destroyed, or the guest powered off
    FAILED = "failed"  # killed, crashed, or signalled by somebody else


@dataclass(frozen=True)
class DomainEvent:
    """Something happened to a domain of ours (contract section 5.4)."""

    vm_id: str
    kind: EventKind
    detail: str = ""


@dataclass(frozen=True)
class Limits:
    """What a machine can be given on this host. Memory in MiB."""

    memory_mib: int
    vcpus: int


@dataclass(frozen=True)
class StrayProcess:
    """A live QEMU process of ours that is no domain's and that no row speaks for (contract section 9.2), by the name
    that the observer gives it."""

    resource_id: str


class Hypervisor(Protocol):
    """Every verb raises AdapterError with `<call> failed: <reason>` when the hypervisor refuses or is not there."""

    domain_type: str  # "qemu" or "kvm", as resolved
    domain_type_reason: str

    def open(self, on_event: Callable[[DomainEvent], None], on_reconnect: Callable[[], None]) -> None:
        """Connect and watch. Both are called in threads of the hypervisor's. `on_event` must only queue. `on_reconnect`
        tells that a lost connection is there again: events were missed, so everything is to be reconciled."""

    def close(self) -> None: ...

    def ping(self) -> None:
        """AdapterError when the hypervisor does not answer."""

    def limits(self) -> Limits: ...

    def domains(self) -> Mapping[str, DomainSeen]:
        """All domains of ours by VM id, active or only defined."""

    def macs(self) -> frozenset[str]:
        """The MAC addresses of all domains, ours or not, in lower case."""

    def is_active(self, vm_id: str) -> bool: ...

    def define(self, spec: DomainSpec) -> None:
        """Make the stored definition so. It is written anew only when it is missing or was made from another spec: what
        others wrote into it (a Redfish boot override) survives."""

    def start(self, vm_id: str) -> None: ...

    def shutdown(self, vm_id: str) -> None:
        """Ask the guest to power off (ACPI). Returns at once."""

    def destroy(self, vm_id: str) -> None:
        """Power off at once. Not active is fine."""

    def wait_inactive(self, vm_id: str, seconds: float) -> bool:
        """Whether the domain became inactive in time."""

    def undefine(self, vm_id: str) -> None:
        """Remove the definition with NVRAM, managed save, snapshots and checkpoints. Absent is fine."""

    def screenshot(self, vm_id: str) -> bytes:
        """What the screen of a running machine shows, as a picture in a format of the hypervisor's choice."""

    def attach(self, vm_id: str, disk_id: str, path: Path) -> str:
        """Plug a data disk into a running domain and its definition. Returns the target. Leaves nothing on failure."""

    def detach(self, vm_id: str, disk_id: str, seconds: float) -> None:
        """Unplug a data disk; returns when it is really gone from the running domain (if it runs) and the definition.
        A disk that is not there is fine. AdapterError when the guest refused or took longer than `seconds`."""

    def disks(self, vm_id: str) -> Mapping[str, str]:
        """The data disks that a running domain really has, each with its target."""

    def trouble(self, vm_id: str) -> str:
        """Why the domain cannot work, though it is active; empty when nothing is known against it."""

    def strays(self, known: frozenset[str]) -> list[StrayProcess]:
        """Live QEMU processes of ours that are no domain's and whose machine is not in `known` (ids with a row)."""
