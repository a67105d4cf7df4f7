"""Folders of running VMs. A lock says whether one is in use; the kernel gives it back however its owner ends."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PREFIX = "labyard-vm-"
_NEW = f".{PREFIX}new-"
_LOCK = "lock"
_FACTS = "vm.json"
_LONGEST = 80  # a socket's path has 107 bytes at most, and its name comes after this
_NEW_SECONDS = 60.0  # a folder without its final name is in the making for less than that


def place() -> Path:
    """Where the folders are: the temporary folder, unless sockets in it would have too long a path."""
    folder = tempfile.gettempdir()
    return Path(folder if len(os.fsencode(folder)) + len(PREFIX) + 12 < _LONGEST else "/tmp")


class RunFolder:
    """A folder for as long as this object is open, or a program that was given its lock runs."""

    def __init__(self) -> None:
        # It gets its name when the lock is held, so that no sweep ever sees it without.
        new = Path(tempfile.mkdtemp(prefix=_NEW, dir=place()))
        self.lock = os.open(new / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.path = new.with_name(PREFIX + new.name.removeprefix(_NEW))
        new.rename(self.path)

    def note(self, **facts: Any) -> None:
        """Say what is in it, for others to read with `live`."""
        temporary = self.path / f"{_FACTS}.new"
        temporary.write_text(json.dumps(facts), encoding="utf-8")
        temporary.replace(self.path / _FACTS)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self.leave()

    def leave(self) -> None:
        """Let it be: it is swept when whoever else has its lock has ended."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def sweep() -> list[Path]:
    """Remove the folders whose owners are dead; which these were."""
    removed = []
    for folder in _ours(PREFIX):
        with _try_lock(folder) as free:
            if free:
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder)
    for folder in _ours(_NEW):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _NEW_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder)
    return removed


def live() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Folders in use that hold a VM, with what was noted."""
    for folder in _ours(PREFIX):
        try:
            facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        with _try_lock(folder) as free:
            if not free:
                yield folder, facts


def _ours(prefix: str) -> list[Path]:
    found = []
    for folder in place().glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid == os.geteuid() and folder.is_dir() and not folder.is_symlink():
                found.append(folder)
    return found


@contextlib.contextmanager
def _try_lock(folder: Path) -> Iterator[bool]:
    """Whether nobody has the folder's lock; held inside, so that only one sweeps it."""
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR)
    except FileNotFoundError:
        # Being removed, by its owner or by another sweep.
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)
