"""The agent and the host's side of it, in processes of this machine: what they do needs no VM."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from labyard.testing.vm import artefacts
from labyard.testing.vm.errors import VMCommandError, VMError, VMTimeout
from labyard.testing.waiting import PATIENCE, wait_until


@pytest.fixture(autouse=True)
def _home(monkeypatch, vm, tmp_path):
    """The guest's default folder is root's, which this machine's user may not enter."""
    run, spawn = vm.run, vm.spawn
    monkeypatch.setattr(vm, "run", lambda *args, **options: run(*args, **({"cwd": str(tmp_path)} | options)))
    monkeypatch.setattr(vm, "spawn", lambda *args, **options: spawn(*args, **({"cwd": str(tmp_path)} | options)))


def is_running(pid: int) -> bool:
    """Here a killed orphan waits for this machine's process 1 to reap it; in a VM, that is the agent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class TestRun:
    def test_gives_code_and_both_streams(self, vm):
        result = vm.run("echo out; echo err >&2; exit 3", check=False)
        assert (result.returncode, result.stdout, result.stderr) == (3, "out\n", "err\n")
        assert result.args == "echo out; echo err >&2; exit 3"
        assert result.duration > 0

    def test_pipes_and_redirects_work(self, vm, tmp_path):
        assert vm.run(f"printf 'b\\na\\n' | sort > {tmp_path}/x; cat {tmp_path}/x").stdout == "a\nb\n"

    def test_a_code_other_than_zero_raises_with_the_last_lines(self, vm):
        with pytest.raises(VMCommandError) as raised:
            vm.run("seq 100; echo bad >&2; exit 4")
        assert raised.value.returncode == 4
        shown = str(raised.value).splitlines()
        assert shown[0] == "command ended with 4: seq 100; echo bad >&2; exit 4"
        assert "stdout, last 40 of 100 lines:" in shown
        assert "  61" in shown
        assert "  60" not in shown
        assert shown[-2:] == ["stderr:", "  bad"]

    def test_death_by_a_signal(self, vm):
        with pytest.raises(VMCommandError, match=r"137 \(SIGKILL\)") as raised:
            vm.run("kill -KILL $$")
        assert raised.value.returncode == 137

    def test_output_that_is_no_text(self, vm):
        result = vm.run(r"printf '\xff\x00ok'")
        assert result.stdout_bytes == b"\xff\x00ok"
        assert result.stdout == "\ufffd\x00ok"

    def test_much_output_on_both_streams(self, vm):
        size = 20 << 20
        result = vm.run(f"head -c {size} /dev/zero & head -c {size} /dev/zero >&2; wait")
        assert (len(result.stdout_bytes), len(result.stderr_bytes)) == (size, size)

    def test_input_environment_and_folder(self, vm, tmp_path):
        result = vm.run("cat; echo $WORD; pwd", input="in\n", env={"WORD": "word"}, cwd=str(tmp_path))
        assert result.stdout == f"in\nword\n{tmp_path}\n"

    def test_much_input(self, vm):
        assert vm.run("wc -c", input=bytes(5 << 20)).stdout.strip() == str(5 << 20)

    def test_input_that_nobody_reads(self, vm):
        assert vm.run("echo done", input=bytes(3 << 20)).stdout == "done\n"

    def test_without_input_there_is_none(self, vm):
        assert vm.run("cat").stdout == ""

    def test_no_such_folder(self, vm):
        with pytest.raises(FileNotFoundError):
            vm.run("true", cwd="/no/such/folder")

    def test_too_long_kills_the_group(self, vm, tmp_path):
        with pytest.raises(VMTimeout, match=r"killed after 5 s: .*\nstdout:\n  begun"):
            vm.run("echo begun; sleep 300 & echo $! > child; wait", timeout=5)
        wait_until_gone(int((tmp_path / "child").read_text()))

    def test_what_it_leaves_running_does_not_hold_it(self, vm):
        result = vm.run("(sleep 300; echo late) & echo $!")
        pid = int(result.stdout)
        os.kill(pid, signal.SIGKILL)
        assert result.duration < 100

    def test_what_is_left_running_may_go_on_writing(self, vm, tmp_path):
        vm.run("(sleep 1; head -c 1000000 /dev/zero; echo alive > after) &")
        vm.run("until test -s after; do sleep 0.05; done", timeout=PATIENCE)

    def test_many_at_once(self, vm):
        results = {}
        threads = [
            threading.Thread(target=lambda n=n: results.update({n: vm.run(f"sleep 0.2; echo {n}").stdout}))
            for n in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == {n: f"{n}\n" for n in range(12)}

    def test_is_on_record(self, vm):
        vm.run("echo yes")
        vm.run("exit 3", check=False)
        assert [(r.command, r.code, r.stdout) for r in vm.records] == [("echo yes", 0, b"yes\n"), ("exit 3", 3, b"")]


class TestSpawn:
    def test_output_so_far(self, vm, tmp_path):
        process = vm.spawn("echo first; until test -e go; do sleep 0.02; done; echo second; echo error >&2")
        vm.run("until test -e /proc/$PID; do sleep 0.02; done", env={"PID": str(process.pid)})
        assert process.running
        assert process.poll() is None
        (tmp_path / "go").touch()
        assert process.wait() == 0
        assert (process.stdout, process.stderr) == ("first\nsecond\n", "error\n")
        assert not process.running
        assert process.poll() == 0

    def test_wait_in_vain_kills_nothing(self, vm):
        process = vm.spawn("sleep 300")
        with pytest.raises(VMTimeout, match=r"still running after 0\.1 s: sleep 300"):
            process.wait(0.1)
        assert process.running
        process.kill()
        assert process.wait() == 128 + signal.SIGTERM

    @pytest.mark.parametrize("number", [signal.SIGINT, 9, signal.SIGTERM])
    def test_kill_takes_signals_and_numbers(self, vm, number):
        process = vm.spawn("exec sleep 300")
        process.kill(number)
        assert process.wait() == 128 + int(number)

    def test_kill_by_name_of_the_argument(self, vm):
        process = vm.spawn("exec sleep 300")
        process.kill(signal=signal.SIGKILL)
        assert process.wait() == 137

    def test_kill_reaches_the_whole_group(self, vm):
        process = vm.spawn("sleep 300 & sleep 300 & wait")
        process.kill(signal.SIGTERM)
        process.wait()
        assert vm.run(f"pgrep --pgroup {process.pid}", check=False).stdout == ""

    def test_kill_after_the_end_does_nothing(self, vm):
        process = vm.spawn("exit 5")
        assert process.wait() == 5
        process.kill()
        process.kill(9)
        assert process.poll() == 5

    def test_wait_is_for_the_whole_group(self, vm, tmp_path):
        process = vm.spawn("(until test -e go; do sleep 0.02; done; echo last) & exit 7")
        with pytest.raises(VMTimeout):
            process.wait(0.3)
        assert process.poll() is None
        (tmp_path / "go").touch()
        assert process.wait() == 7
        assert process.stdout == "last\n"

    def test_keeps_the_last_mib(self, vm):
        process = vm.spawn("head -c 3000000 /dev/zero; echo end")
        process.wait()
        assert len(process.stdout) == 1 << 20
        assert process.stdout.endswith("\0end\n")

    def test_a_flood_does_not_stop_other_things(self, vm):
        process = vm.spawn("yes")
        for _ in range(5):
            vm.run("true", timeout=PATIENCE)
        process.kill(9)
        assert process.wait() == 137

    def test_python_writes_at_once(self, vm):
        process = vm.spawn("python3 -c 'import time; print(1); time.sleep(300)'")
        assert wait_until(lambda: process.stdout, "it has written") == "1\n"
        process.kill()
        process.wait()


class TestFiles:
    @pytest.mark.parametrize(
        "content", [b"", b"\0\xff", bytes(5_000_001), "tëxt"], ids=["empty", "bytes", "big", "text"]
    )
    def test_come_back_as_they_went(self, vm, tmp_path, content):
        path = f"{tmp_path}/some/new/folder/file"
        vm.write_file(path, content)
        assert vm.read_file(path) == (content.encode() if isinstance(content, str) else content)
        assert Path(path).stat().st_mode & 0o7777 == 0o644

    def test_mode(self, vm, tmp_path):
        vm.write_file(f"{tmp_path}/program", "#!/bin/sh\necho ran", mode=0o755)
        assert vm.run(f"{tmp_path}/program").stdout == "ran\n"

    def test_replace_in_one_step_and_leave_nothing_beside(self, vm, tmp_path):
        vm.write_file(f"{tmp_path}/file", "old")
        with (tmp_path / "file").open() as before:
            vm.write_file(f"{tmp_path}/file", "new")
            assert before.read() == "old"
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def test_a_link_stays_one(self, vm, tmp_path):
        (tmp_path / "target").touch()
        (tmp_path / "link").symlink_to("target")
        vm.write_file(f"{tmp_path}/link", "content")
        assert (tmp_path / "target").read_text() == "content"

    def test_errors_are_pythons_own(self, vm, tmp_path):
        with pytest.raises(FileNotFoundError, match="/no/such/file"):
            vm.read_file("/no/such/file")
        with pytest.raises(IsADirectoryError):
            vm.read_file(str(tmp_path))
        with pytest.raises(IsADirectoryError):
            vm.write_file(str(tmp_path), "x")
        with pytest.raises(FileExistsError):
            vm.write_file("/etc/passwd/x", "x")
        with pytest.raises(ValueError, match="not an absolute path"):
            vm.read_file("relative")

    def test_a_big_file_that_cannot_be_written(self, vm):
        with pytest.raises(OSError):
            vm.write_file("/proc/none/file", bytes(4 << 20))
        assert vm.run("echo well").stdout == "well\n"

    def test_of_proc(self, vm):
        assert vm.read_file("/proc/self/status").startswith(b"Name:")

    def test_one_is_read_while_commands_run(self, vm, tmp_path):
        (tmp_path / "big").write_bytes(bytes(30 << 20))
        sizes = []
        thread = threading.Thread(target=lambda: sizes.append(len(vm.read_file(f"{tmp_path}/big"))))
        thread.start()
        assert vm.run("echo well").stdout == "well\n"
        thread.join()
        assert sizes == [30 << 20]


class TestConnection:
    def test_a_request_that_it_does_not_know(self, agent):
        with pytest.raises(VMError, match="KeyError"):
            agent.ask("dance")
        with pytest.raises(VMError, match="KeyError"):
            agent.ask("run")

    def test_a_new_hello_forgets_what_was_under_way(self, agent, vm, tmp_path):
        vm.run("(sleep 300 & echo $! > pid)")
        process = vm.spawn("echo old; exec sleep 300")
        agent._nonce, agent._greeted = "another", False
        agent.hello(PATIENCE)
        assert vm.run("echo new").stdout == "new\n"
        assert process.running
        vm.run(f"kill -9 {process.pid} $(cat pid)")

    def test_all_fails_when_it_is_gone(self, agent, vm):
        process = vm.spawn("sleep 300")
        os.kill(int(vm.run("echo $PPID").stdout), signal.SIGKILL)
        with pytest.raises(VMError, match="the VM is gone"):
            process.wait()
        with pytest.raises(VMError, match="the VM is gone"):
            vm.run("true")
        os.kill(process.pid, signal.SIGKILL)


class TestArtefacts:
    def test_of_a_vm_that_does_not_answer(self, vm, tmp_path, monkeypatch):
        monkeypatch.setattr(artefacts, "SECONDS", 5)
        monkeypatch.setattr(
            artefacts, "ASKED", {"slow": f"echo begun; echo $$ > {tmp_path}/slow; exec sleep 300", "next": "echo"}
        )
        qemu = vm.guest.qemu
        qemu.read_log = lambda name: f"{name} of QEMU"
        vm.run("echo said; exit 3", check=False)
        pid = int(vm.run("echo $PPID").stdout)
        found = artefacts.collect(vm, tmp_path / "there")
        assert found["slow.txt"].startswith("begun\n[cut off")
        assert "$ echo said; exit 3\n[code 3, " in found["commands.txt"]
        os.kill(pid, signal.SIGKILL)
        wait_until_gone(pid)
        os.kill(int((tmp_path / "slow").read_text()), signal.SIGKILL)
        found = artefacts.collect(vm, tmp_path / "gone")
        assert found["slow.txt"].startswith("not collected: the VM is gone")
        assert (tmp_path / "gone/commands.txt").read_text() == found["commands.txt"]
        assert found["serial.log"] == "serial.log of QEMU"


def wait_until_gone(pid: int) -> None:
    wait_until(lambda: not is_running(pid), f"process {pid} is gone")
