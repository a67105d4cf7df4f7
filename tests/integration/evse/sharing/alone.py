"""A network of one's own for tests: a loopback, and no other gateway of this machine or its LAN."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from labyard.testing import host_lock

TESTS = Path(__file__).parents[3]
PATIENCE = 120
CLONE_NEWNET = 0x40000000  # os.unshare comes with Python 3.12


@contextmanager
def own_network() -> Iterator[None]:
    """For this thread and what it starts. Where this user may have none it is the host's, and for us alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as before:
        if not hasattr(libc, "unshare") or libc.unshare(CLONE_NEWNET) != 0:
            with host_lock("tests of load sharing"):
                yield
            return
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
        finally:
            if libc.setns(before.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "the host's network is not to be had back")


def run_alone(script: str, *arguments: str, before: str = "true") -> list[str]:
    """Run a script in a network of its own, as any user. The lines it prints. `before` is what a shell does first.

    Skips where a test may not have a namespace.
    """
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rn", "true"], capture_output=True).returncode:
        pytest.skip("this host does not let a test have a network namespace of its own")
    shell = f'ip link set lo up && {before} && PYTHONPATH={TESTS} exec "$0" -c "$@"'
    done = subprocess.run(
        [unshare, "-rn", "sh", "-c", shell, sys.executable, script, *arguments],
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,  # a script waits, too, and says better what for
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
