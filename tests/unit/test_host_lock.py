"""labyard.testing.host_lock: one at a time on a host."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from labyard.testing import HostLockError, host_lock

HOLD = """
import sys, time
from pathlib import Path
from labyard.testing import host_lock
module = sys.modules[host_lock.__module__]
module.lock_file = lambda: Path(sys.argv[1])
with host_lock("the other one"):
    print("has it", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "lock"
    monkeypatch.setattr(sys.modules[host_lock.__module__], "lock_file", lambda: path)
    return path


@pytest.fixture
def holder(lock_file: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, lock_file], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "has it\n"
    yield process
    process.kill()
    process.wait()


def test_who_waits_is_told_for_whom_and_gets_it_when_the_holder_is_killed(holder: subprocess.Popen[str]) -> None:
    told: list[str] = []

    def say(text: str) -> None:
        told.append(text)
        holder.send_signal(signal.SIGKILL)

    with host_lock("me", seconds=30, say=say):
        pass
    assert told == [f"waiting for the chargers of this host, in use by process {holder.pid}, the other one"]


def test_patience_ends_with_the_holders_name(holder: subprocess.Popen[str]) -> None:
    message = rf"in use by process {holder.pid}, the other one: not free within 0.1 s"
    with pytest.raises(HostLockError, match=message), host_lock("me", seconds=0.1, say=lambda _: None):
        pytest.fail("it was free")


def test_it_is_free_after_a_failure(lock_file: Path) -> None:
    with pytest.raises(ZeroDivisionError), host_lock("me", seconds=0):
        raise ZeroDivisionError
    with host_lock("me again", seconds=0):
        assert lock_file.read_text().endswith("me again")
