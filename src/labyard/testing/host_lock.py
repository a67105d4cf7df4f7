"""One at a time on a host: fixed ports, and mDNS, which all gateways of a host share."""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_STEP = 0.02  # s between two tries


class HostLockError(RuntimeError):
    """Somebody else has had the lock for too long; the message names them."""


def lock_file() -> Path:
    """The file that all users and checkouts of this host lock."""
    folder = Path("/run/lock")
    return (folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())) / "labyard-evse.lock"


def _stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def host_lock(who: str, seconds: float = 600, say: Callable[[str], None] = _stderr) -> Iterator[None]:
    """Have the host's chargers for oneself; wait at most `seconds` while somebody else has them.

    `who` is what others are told while they wait, and `say` is told whom we wait for. It ends with its process, however
    that ends. It does not nest. HostLockError: `seconds` are over.
    """
    descriptor = _open(lock_file())
    try:
        _wait(descriptor, seconds, say)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()}, {who}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    """Not created when it is there: in a folder for all, Linux refuses that for the file of another user."""
    try:
        return os.open(path, os.O_RDWR)
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        os.chmod(path, 0o666)  # noqa: PTH101 - whatever the umask is
        return descriptor


def _wait(descriptor: int, seconds: float, say: Callable[[str], None]) -> None:
    end = time.monotonic() + seconds
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = os.pread(descriptor, 1000, 0).decode(errors="replace") or "somebody"
        if time.monotonic() >= end:
            raise HostLockError(
                f"the chargers of this host are in use by {holder}: not free within {seconds:g} s. "
                "Tests of chargers run one at a time; wait until it has ended, or end it."
            )
        if not told:
            say(f"waiting for the chargers of this host, in use by {holder}")
            told = True
        time.sleep(_STEP)
