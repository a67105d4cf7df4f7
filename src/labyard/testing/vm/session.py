"""VMs for one pytest process: what they start from, and what goes away at the end."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from labyard.testing.vm import accel, snapshot
from labyard.testing.vm.errors import VMUnavailable
from labyard.testing.vm.folders import RunFolder, sweep
from labyard.testing.vm.image import find_image
from labyard.testing.vm.memory import when_it_fits
from labyard.testing.vm.qemu import Hardware, Nic, Qemu, program
from labyard.testing.vm.snapshot import Base, Content
from labyard.testing.vm.vm import VM, Started, time_scale

RESTORE_SECONDS = 20.0  # times the time scale


class Wires:
    """Networks between the VMs of one test, by name: a multicast group of the host's loopback each."""

    def __init__(self) -> None:
        self._wires: dict[str, tuple[str, int]] = {}

    def nic(self, name: str) -> Nic:
        """A card of its own on the wire of that name."""
        if name not in self._wires:
            host = ".".join(str(secrets.randbelow(254) + 1) for _ in range(3))
            self._wires[name] = (f"239.{host}", 20000 + secrets.randbelow(10000))
        mac = ":".join(f"{octet:02x}" for octet in (0x52, 0x54, 0x00, *secrets.token_bytes(3)))
        return Nic(mac, *self._wires[name])


class VMSession:
    """Makes fresh VMs. One for each worker; it has the worker's copies of the snapshots."""

    def __init__(self, image_folder: Path, wanted_accel: str, keep: bool = False) -> None:
        """`keep`: VMs may be left running. VMUnavailable: no QEMU, no image. VMError: KVM was asked for and fails."""
        program()
        sweep()
        self.image = find_image(image_folder)
        self.accel = accel.choose(wanted_accel, self.image)
        self.keep = keep
        self._qemu = accel.qemu_key()
        self._folder: RunFolder | None = None
        self._bases: dict[str, Base] = {}
        self._failures: dict[str, VMUnavailable] = {}  # of bases: another try would take as long and end the same
        self._copies: dict[Path, list[Path]] = {}  # of each snapshot, those that no VM uses
        self._made = 0
        self._digests: dict[int, tuple[bytes, str]] = {}

    def fresh(
        self,
        preload: Mapping[str, bytes | str] | None = None,
        warmup: Sequence[str] = (),
        *,
        memory: int = 2048,
        cpus: int = 2,
        kernel_args: str = "",
        nics: Sequence[Nic] = (),
    ) -> VM:
        """A VM like no test had it before. With network cards it boots, else it comes from a snapshot.

        VMUnavailable: no memory, or no guest that answers.
        """
        hardware = Hardware(self.accel, memory, cpus, kernel_args, tuple(nics))
        files = {path: data.encode() if isinstance(data, str) else data for path, data in (preload or {}).items()}
        content = Content(files, tuple(warmup), {path: self.digest(data) for path, data in files.items()})
        disks: dict[int, tuple[Path, Path]] = {}

        def start() -> Started:
            if nics:
                return self._boot(hardware, content)
            base, first = self._base(hardware, content)
            if first:
                return first
            copy = self._copy(base.disk)
            try:
                started = self._restore(hardware, copy, base)
            except BaseException:  # Ctrl-C as well
                self._copies[base.disk].append(copy)
                raise
            disks[id(started.qemu)] = base.disk, copy
            return started

        def end(started: Started) -> None:
            snapshot.end(started)
            if pair := disks.pop(id(started.qemu), None):
                self._copies[pair[0]].append(pair[1])

        vm = VM(start, end, self.digest, self.accel)
        try:
            if nics:
                vm.run("modprobe virtio_net")
        except BaseException:
            vm.close()
            raise
        return vm

    def digest(self, data: bytes) -> str:
        """SHA-256, taken once for each object: tests hand over the same large files again and again."""
        found = self._digests.get(id(data))
        if found is None or found[0] is not data:
            found = self._digests[id(data)] = data, hashlib.sha256(data).hexdigest()
        return found[1]

    def close(self) -> None:
        """Remove the copies."""
        if self._folder:
            self._folder.remove()
            self._folder = None

    def _base(self, hardware: Hardware, content: Content) -> tuple[Base, Started | None]:
        """The snapshot, and the guest that it was made from if it was made for this very call."""
        key = snapshot.base_key(self.image, hardware, content, self._qemu)
        if key in self._failures:
            raise self._failures[key]
        if key in self._bases and self._bases[key].disk.exists():  # others' runs make snapshots and remove old ones
            return self._bases[key], None
        try:
            self._bases[key], first = snapshot.base(self.image, hardware, content, self._qemu, self.keep)
        except VMUnavailable as error:
            self._failures[key] = error
            raise
        return self._bases[key], first

    def _copy(self, origin: Path) -> Path:
        """A copy of a snapshot that is free for a VM: QEMU opens it for writing."""
        free = self._copies.setdefault(origin, [])
        if free:
            return free.pop()
        if self._folder is None:
            self._folder = RunFolder()
        self._made += 1
        copy = self._folder.path / f"{self._made}.qcow2"
        shutil.copyfile(origin, copy)
        return copy

    def _restore(self, hardware: Hardware, disk: Path, base: Base) -> Started:
        folder = RunFolder()
        began = time.monotonic()
        try:
            qemu = when_it_fits(
                hardware.memory, lambda: Qemu(folder, self.image, hardware, disk, restore=True, keep=self.keep)
            )
            kernel = qemu.hello(RESTORE_SECONDS * time_scale(self.accel))
        except BaseException:  # Ctrl-C as well
            folder.remove()
            raise
        return Started(qemu, base.known, kernel, time.monotonic() - began)

    def _boot(self, hardware: Hardware, content: Content) -> Started:
        folder = RunFolder()
        try:
            disk = snapshot.new_disk(folder.path / "empty.qcow2")
            return snapshot.boot(folder, self.image, hardware, content, disk, self.keep)
        except BaseException:
            folder.remove()
            raise
