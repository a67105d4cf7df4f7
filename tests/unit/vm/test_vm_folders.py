"""Folders of running VMs: who owns one, and when it is swept."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from labyard.testing.vm import folders
from labyard.testing.vm.folders import RunFolder, live, place, sweep

OWNER = """
import sys, time
from pathlib import Path
from labyard.testing.vm import folders
folders.place = lambda: Path(sys.argv[1])
folder = folders.RunFolder()
(folder.path / "agent.sock").touch()
folder.note(pid=1, memory=512)
print(folder.path, flush=True)
time.sleep(300)
"""


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "place", lambda: tmp_path)


@pytest.fixture
def owner(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_one_whose_owner_was_killed_is_swept(owner):
    folder = Path(owner.stdout.readline().strip())
    assert sweep() == []
    assert [(path, facts["memory"]) for path, facts in live()] == [(folder, 512)]
    owner.kill()
    owner.wait()
    assert list(live()) == []
    assert sweep() == [folder]
    assert not folder.exists()


def test_ours_is_not_swept_and_goes_when_told(tmp_path):
    folder = RunFolder()
    assert sweep() == []
    assert folder.path.stat().st_mode & 0o777 == 0o700
    folder.remove()
    folder.remove()
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_left_lives_as_long_as_who_was_given_its_lock():
    folder = RunFolder()
    heir = subprocess.Popen(["sleep", "300"], pass_fds=[folder.lock])
    folder.leave()
    assert sweep() == []
    heir.kill()
    heir.wait()
    assert sweep() == [folder.path]


def test_what_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / "labyard-vm-file").touch()
    (tmp_path / "labyard-vm-link").symlink_to(tmp_path)
    (tmp_path / "labyard-vm-no-lock").mkdir()
    (tmp_path / "other").mkdir()
    assert sweep() == []


def test_one_that_was_never_finished_is_swept_when_it_is_old(tmp_path):
    new, old = tmp_path / ".labyard-vm-new-a", tmp_path / ".labyard-vm-new-b"
    for folder in (new, old):
        folder.mkdir()
    long_ago = time.time() - 3600
    os.utime(old, (long_ago, long_ago))
    assert sweep() == [old]


@pytest.mark.parametrize(("temporary", "expected"), [("/tmp/x", "/tmp/x"), ("/tmp/" + "x" * 60, "/tmp")])
def test_sockets_never_get_too_long_a_path(monkeypatch, temporary, expected):
    monkeypatch.setattr("tempfile.gettempdir", lambda: temporary)
    assert place() == Path(expected)
