"""The home of a server's account: a file system of its own of the size that was asked for, where loop devices work."""

from __future__ import annotations

import fcntl
import os
import pwd
import stat
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from labyard.core.adapter import AdapterError
from labyard.desktops.agent.rdp.account import give
from labyard.desktops.agent.rdp.place import Place
from labyard.desktops.agent.rdp.run import run

MIB = 2**20
LOOP_MAJOR, LOOP_CTL_GET_FREE = 7, 0x4C82  # linux/major.h, linux/loop.h


@dataclass(frozen=True)
class Used:
    """Bytes. `source` says how they were counted."""

    used: int
    source: str


class Homes:
    def __init__(self) -> None:
        self._lock = threading.Lock()  # a loop device is free until it is mounted

    def prepare(self, place: Place, account: pwd.struct_passwd, limit: int) -> str | None:
        """The home is there, empty or as it was left; `limit` MiB hold. A text: they do not, and why."""
        reason = None
        if not place.home.is_mount():
            try:
                if not place.image.exists():
                    self._make_image(place.image, limit)
                with self._lock:
                    _have_loop_device()
                    run("mount", "-o", "loop,nosuid,nodev", str(place.image), str(place.home))
            except AdapterError as error:
                reason = str(error)
        give(place.home, account, 0o700)
        return reason

    def release(self, place: Place) -> None:
        """Unmounted, the content stays. Absent is fine."""
        if place.home.is_mount():
            run("umount", str(place.home))

    def used(self, place: Place) -> Used:
        if place.home.is_mount():
            facts = os.statvfs(place.home)
            return Used((facts.f_blocks - facts.f_bfree) * facts.f_frsize, "filesystem")
        return Used(_size(place.home), "files")

    def _make_image(self, image: Path, limit: int) -> None:
        """Sparse: it takes what is written."""
        new = image.with_suffix(".new")
        try:
            with new.open("wb") as file:
                file.truncate(limit * MIB)
            run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1", str(new))
            new.replace(image)
        finally:
            new.unlink(missing_ok=True)


def _have_loop_device() -> None:
    """The next free one has its node in /dev: in a container nobody else makes it. Without any, `mount` says so."""
    with suppress(OSError), Path("/dev/loop-control").open("rb") as control:
        number = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
        os.mknod(f"/dev/loop{number}", stat.S_IFBLK | 0o660, os.makedev(LOOP_MAJOR, number))


def _size(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(path) / name).lstat().st_blocks * 512
            except OSError:  # gone meanwhile
                continue
    return total
