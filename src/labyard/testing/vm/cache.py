"""What is kept between sessions: snapshots, and what was found out about KVM."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from labyard.testing.vm.errors import VMError


def folder() -> Path:
    """LABYARD_VM_CACHE, or in the user's cache. VMError: it cannot be made."""
    named = os.environ.get("LABYARD_VM_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(named) if named else Path(base, "labyard/vm")
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise VMError(f"no folder for snapshots of VMs: {error}; name another with LABYARD_VM_CACHE") from error
    return path


@contextlib.contextmanager
def locked(name: str) -> Iterator[Path]:
    """The cache's folder, with the lock of that name: other processes wait."""
    path = folder()
    with (path / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path
