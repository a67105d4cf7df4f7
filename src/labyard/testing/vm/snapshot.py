"""The base snapshot: a guest that has booted, was given its files and is warm."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from labyard.testing.vm.cache import locked
from labyard.testing.vm.errors import VMError, VMUnavailable
from labyard.testing.vm.folders import RunFolder
from labyard.testing.vm.image import Image
from labyard.testing.vm.memory import when_it_fits
from labyard.testing.vm.qemu import Hardware, Qemu
from labyard.testing.vm.vm import VM, Known, Started, time_scale

BOOT_SECONDS = 30.0  # times the time scale
FORMAT = 2  # of a snapshot and the notes beside it: other versions of Labyard may share the cache
KEPT = 6  # snapshots in the cache; the oldest go
DISK_SIZE = "64M"
WARMUP_SECONDS = 120.0
FILE_MODE = 0o644  # of preloaded files: what write_file has when it is told no other


@dataclass(frozen=True)
class Content:
    """What a guest has before the first test: files by path, and commands that were run."""

    files: Mapping[str, bytes]
    warmup: Sequence[str]
    digests: Mapping[str, str]  # of the files


@dataclass(frozen=True)
class Base:
    """A snapshot, to be copied, and what its guest has."""

    disk: Path
    known: dict[str, Known]


def new_disk(path: Path) -> Path:
    """An empty disk for a snapshot. VMUnavailable: no qemu-img."""
    if not shutil.which("qemu-img"):
        raise VMUnavailable("qemu-img not found: apt-get install qemu-utils")
    done = subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, DISK_SIZE], capture_output=True, text=True)
    if done.returncode != 0:
        raise VMError(f"qemu-img: {done.stderr.strip()}")
    return path


def base_key(image: Image, hardware: Hardware, content: Content, qemu: str) -> str:
    """Another for whatever would make another snapshot."""
    parts = [
        FORMAT,
        image.key,
        qemu,
        hardware.accel,
        hardware.arguments(image, Path("snapshot")),
        dict(content.digests),
        list(content.warmup),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def base(image: Image, hardware: Hardware, content: Content, qemu: str, keep: bool) -> tuple[Base, Started | None]:
    """The snapshot from the cache, made first if need be. Other processes that want the same one wait for it.

    With it the guest that it was made from, if it was made now: that one is as fresh as any that is restored.
    """
    key = base_key(image, hardware, content, qemu)
    started = None
    with locked("snapshots") as cache:
        disk, notes = cache / f"{key}.qcow2", cache / f"{key}.json"
        try:
            if not (disk.exists() and notes.exists()):
                started = _make(disk, notes, image, hardware, content, keep)
            disk.touch()
            _prune(cache, disk)
            found = json.loads(notes.read_text(encoding="utf-8"))
        except BaseException:
            if started:
                end(started)
            raise
    return Base(disk, {path: Known(*entry) for path, entry in found.items()}), started


def boot(
    folder: RunFolder, image: Image, hardware: Hardware, content: Content, disk: Path, keep: bool = False
) -> Started:
    """A guest that has booted, with its content."""
    began = time.monotonic()
    qemu = when_it_fits(hardware.memory, lambda: Qemu(folder, image, hardware, disk, restore=False, keep=keep))
    try:
        kernel = qemu.hello(BOOT_SECONDS * time_scale(hardware.accel))
        started = Started(qemu, {}, kernel, time.monotonic() - began)
        known = {}
        for path, data in content.files.items():
            reply = qemu.agent.write(path, data, FILE_MODE)
            identity = {name: reply[name] for name in ("inode", "size", "ctime", "mode")}
            known[path] = Known(content.digests[path], identity)
        vm = VM(lambda: started, lambda _: None, lambda _: "", hardware.accel)
        for command in content.warmup:
            vm.run(command, timeout=WARMUP_SECONDS)
    except BaseException:
        qemu.stop()
        raise
    return Started(qemu, known, kernel, started.seconds)


def end(started: Started) -> None:
    """End a guest, and remove its folder."""
    started.qemu.stop()
    started.qemu.folder.remove()


def _make(disk: Path, notes: Path, image: Image, hardware: Hardware, content: Content, keep: bool) -> Started:
    """Boot a guest and save it; it runs on."""
    folder = RunFolder()
    try:
        made = new_disk(folder.path / "base.qcow2")
        started = boot(folder, image, hardware, content, made, keep)
        try:
            started.qemu.save()
            part = disk.with_suffix(".part")
            shutil.move(made, part)
            part.replace(disk)
            known = {path: [known.digest, known.identity] for path, known in started.known.items()}
            notes.write_text(json.dumps(known), encoding="utf-8")
            # Its clock stood still while it was saved, and its random numbers are those of the snapshot.
            started.qemu.hello(BOOT_SECONDS * time_scale(hardware.accel))
        except BaseException:
            started.qemu.stop()
            raise
    except BaseException:  # Ctrl-C as well
        folder.remove()
        raise
    return started


def _prune(cache: Path, used: Path) -> None:
    for part in cache.glob("*.part"):  # of a run that was killed: who holds the lock makes none at the moment
        part.unlink()
    disks = sorted(cache.glob("*.qcow2"), key=lambda path: path.stat().st_mtime, reverse=True)
    for disk in disks[KEPT:]:
        if disk != used:
            disk.unlink()
            disk.with_suffix(".json").unlink(missing_ok=True)
