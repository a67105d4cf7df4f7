"""Runs of pytest as people have them: what a failure leaves to read, and what no run leaves behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from labyard.testing.vm import folders, memory
from labyard.testing.waiting import wait_until

# Each runs pytest, some thrice, and each of those may boot a VM: a busy machine takes its time.
pytestmark = [pytest.mark.vmtest, pytest.mark.timeout(600)]
SECONDS = 200  # of one run


@pytest.fixture
def temporary():
    """A folder whose sockets have short paths, and which shows what a run leaves."""
    folder = Path(tempfile.mkdtemp(prefix="vmrun-", dir="/tmp"))
    yield folder
    for process in vms(folder):
        os.kill(process, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def project(tmp_path, temporary, image_options, vm):
    """Starts pytest on a file of tests. `vm` is there so that all is skipped where no VM runs."""
    vm.close()
    (tmp_path / "pytest.ini").write_text("[pytest]\n")

    def start(tests: str, *options: str) -> subprocess.Popen[str]:
        (tmp_path / "test_it.py").write_text(tests)
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *image_options, *options]
        return subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, "TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return start


def vms(temporary: Path) -> list[int]:
    """QEMUs that use the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if b"labyard-vm-" in command and str(temporary).encode() in command and b"qemu" in command.split(b"\0")[0]:
            found.append(int(process.name))
    return found


def left(temporary: Path) -> list[Path]:
    """Folders of ours, finished or not. pytest has some of its own there."""
    return list(temporary.glob("*labyard-vm-*"))


FAILING = """
def test_fails(vm):
    vm.spawn("echo from the daemon; exec sleep 300")
    vm.run("echo from the command; exit 3", check=False)
    vm.run("ip addr add 10.9.9.9/32 dev lo")
    assert vm.run("echo to be seen >&2; exit 4")
"""
FAILING_TEARDOWN = """
import pytest

@pytest.fixture(autouse=True)
def _left_clean(request):
    yield
    raise AssertionError("something is left")

def test_passes(vm):
    vm.spawn("echo from the daemon; exec sleep 300")
    vm.run("echo from the command")
"""
WAITING = """
def test_waits(vm):
    vm.run("sleep 300")
"""


def test_a_failure_leaves_what_is_needed_to_understand_it(project, tmp_path, temporary):
    run = project(FAILING)
    shown = run.communicate(timeout=SECONDS)[0]
    assert run.returncode == 1
    assert "command ended with 4: echo to be seen >&2; exit 4" in shown
    folder = tmp_path / "artifacts/vm/test_it.py_test_fails"
    assert f"all of it is in {folder}" in shown
    commands = (folder / "commands.txt").read_text()
    assert "$ echo from the command; exit 3\n[code 3, " in commands
    assert "to be seen" in commands
    assert "from the daemon" in (folder / "processes.txt").read_text()
    assert "10.9.9.9/32" in (folder / "ip-addr.txt").read_text()
    assert "Linux version" in (folder / "dmesg.txt").read_text()
    assert "sleep 300" in (folder / "ps.txt").read_text()
    for title in ("commands.txt", "processes.txt", "ip-addr.txt", "ps.txt"):
        assert re.search(rf"-+ {re.escape(title)} -+", shown)
    assert left(temporary) == []
    assert vms(temporary) == []


def test_a_failure_after_the_end_of_the_vm_shows_what_was_done(project, tmp_path, temporary):
    shown = project(FAILING_TEARDOWN).communicate(timeout=SECONDS)[0]
    assert "1 passed, 1 error" in shown
    folder = tmp_path / "artifacts/vm/test_it.py_test_passes"
    assert "$ echo from the command\n[code 0, " in (folder / "commands.txt").read_text()
    assert "from the daemon" in (folder / "processes.txt").read_text()


def test_one_that_does_not_fit_waits_for_another_to_end(vm, temporary, monkeypatch):
    vm.close()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))  # beside no VMs but ours
    vm.restore()
    ((_, facts),) = folders.live()
    assert facts["memory"] == 2048
    # Ours do not end while we wait, so these are another's.
    monkeypatch.setattr(os, "getpid", lambda: 0)
    # Other work on this machine takes and gives some meanwhile.
    there = memory.available()
    monkeypatch.setattr(memory, "available", lambda: there)
    memory_left = int(0.8 * there) // memory.MIB - 1024
    assert memory.room(memory_left) == (False, True)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(memory.when_it_fits, memory_left, lambda: "started")
        with pytest.raises(TimeoutError):
            waiting.result(1)
        vm.close()
        assert waiting.result(60) == "started"


def test_ctrl_c_leaves_nothing(project, temporary):
    run = project(WAITING)
    wait_until(lambda: vms(temporary), "a VM runs")
    time.sleep(1)  # into the test itself, or not: either must do
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=SECONDS)
    assert run.returncode == 2
    assert vms(temporary) == []
    assert left(temporary) == []


def test_kill_9_ends_the_vm_and_the_next_run_sweeps(project, temporary):
    run = project(WAITING)
    wait_until(lambda: vms(temporary), "a VM runs")
    run.kill()
    run.communicate()
    wait_until(lambda: not vms(temporary), "no VM runs")
    assert left(temporary) != []
    after = project("def test_well(vm):\n    vm.run('true')\n")
    assert "1 passed" in after.communicate(timeout=SECONDS)[0]
    assert left(temporary) == []


def test_two_workers(project, temporary):
    tests = """
import pytest

@pytest.mark.parametrize("n", range(4))
def test_it(vm, n):
    assert vm.run("echo $((6*7))").stdout == "42\\n"
"""
    shown = project(tests, "-n", "2").communicate(timeout=SECONDS)[0]
    assert "4 passed" in shown
    assert vms(temporary) == []
    assert left(temporary) == []


def test_one_that_is_kept_can_be_reached_and_ends(project, temporary):
    shown = project(FAILING, "--vm-keep=failed").communicate(timeout=SECONDS)[0]
    found = re.search(r"test_it.py::test_fails: (labyard vm shell (\S+))", shown)
    assert found, shown
    (process,) = vms(temporary)
    # The next run's sweep leaves it alone.
    assert "1 passed" in project("def test_well(vm):\n    vm.run('true')\n").communicate(timeout=SECONDS)[0]
    assert vms(temporary) == [process]

    def labyard_vm(*words, **options):
        command = [str(Path(sys.executable).with_name("labyard")), "vm", *words]
        environment = {**os.environ, "TMPDIR": str(temporary)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, **options)

    folder = found.group(2)
    shell = labyard_vm("shell", folder, input="ip addr show lo\nexit\n")
    assert "10.9.9.9/32" in shell.stdout, shell.stderr
    assert re.search(rf"^{re.escape(folder)}  process \d+, 2048 MiB, for \d+ min$", labyard_vm("list").stdout, re.M)
    assert labyard_vm("stop", folder).returncode == 0
    assert vms(temporary) == []
    assert left(temporary) == []
    assert "no VM in" in labyard_vm("stop", folder).stderr
    assert "no VM runs" in labyard_vm("list").stdout
