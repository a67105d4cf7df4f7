"""The guest, and the fixture's four methods in it."""

from __future__ import annotations

import signal

import pytest

from labyard.testing.vm import VMCommandError, VMStalled, VMTimeout
from labyard.testing.vm.monitor import monitor
from labyard.testing.waiting import wait_until


class TestGuest:
    def test_is_a_debian_with_its_own_kernel_and_nothing_but_loopback(self, vm):
        assert vm.run("uname -r").stdout.strip() == vm.kernel
        assert b"debian" in vm.read_file("/etc/os-release")
        assert vm.run("whoami; echo $HOME; pwd").stdout == "root\n/root\n/root\n"
        assert vm.run("ls /sys/class/net").stdout.split() == ["lo"]
        assert "UP" in vm.run("ip link show lo").stdout
        assert vm.run("getent hosts 127.0.0.1").stdout.split() == ["127.0.0.1", "localhost", "vm"]

    def test_has_the_programs(self, vm):
        vm.run("command -v python3 runc crun ip curl ps bash nft modprobe mount timeout ping iscsi-inq")

    def test_has_what_containers_need(self, vm):
        vm.run(
            """
            set -e
            mkdir /sys/fs/cgroup/test
            grep -w memory /sys/fs/cgroup/test/cgroup.controllers
            grep -w cpu /sys/fs/cgroup/test/cgroup.controllers
            grep -w pids /sys/fs/cgroup/test/cgroup.controllers
            python3 -c 'import os; os.openpty()'
            touch /dev/shm/x /var/x /root/x /tmp/x /run/x
            echo yes > >(cat)
            """
        )

    def test_loads_modules_that_hosts_often_lack(self, vm):
        vm.run("modprobe -a dummy veth bridge wireguard && ip link add d0 type dummy && ip link add w0 type wireguard")
        assert vm.run("ip -br link | grep -c -E '^(d0|w0)'").stdout.strip() == "2"

    def test_runs_a_container(self, vm):
        vm.run(
            """
            set -e
            mkdir -p c/rootfs/bin && cp /bin/busybox c/rootfs/bin/ && cd c
            runc spec
            python3 - <<'END'
import json
spec = json.load(open("config.json"))
spec["process"].update(terminal=False, args=["/bin/busybox", "echo", "inside"])
json.dump(spec, open("config.json", "w"))
END
            """
        )
        for runtime in ("runc", "crun"):
            assert vm.run(f"{runtime} run test", cwd="/root/c").stdout == "inside\n"

    def test_orphans_are_reaped(self, vm):
        vm.run("for n in 1 2 3; do setsid sh -c 'echo $$ >> pids; sleep 0.1' & done")
        vm.run("until [ -e pids ] && [ $(wc -l <pids) = 3 ]; do sleep 0.05; done", timeout=30)
        # Of one that ended and was not reaped, the folder stays.
        vm.run("for pid in $(cat pids); do while [ -e /proc/$pid ]; do sleep 0.05; done; done", timeout=30)


class TestMethods:
    def test_example(self, vm):
        """The requirement document's, as it stands there; the file that it reads and a program were put there first."""
        vm.write_file("/tmp/output.txt", b"output")
        vm.write_file("/root/faasd.py", "#!/bin/sh\nexec sleep 300\n", mode=0o755)

        # vm.run() - Execute commands
        result = vm.run("uname -r")
        print(f"Kernel: {result.stdout}")

        # vm.spawn() - Start background process
        proc = vm.spawn("/root/faasd.py")

        # vm.write_file() - Write files to VM
        vm.write_file("/tmp/test.txt", b"content")

        # vm.read_file() - Read files from VM
        content = vm.read_file("/tmp/output.txt")

        assert content == b"output"
        assert result.stdout.strip() == vm.kernel
        assert vm.read_file("/tmp/test.txt") == b"content"
        proc.kill()
        assert proc.wait() == 128 + signal.SIGTERM
        proc.kill(signal.SIGKILL)
        proc.kill(signal=9)

    def test_failures(self, vm):
        with pytest.raises(VMCommandError, match="command ended with 3: echo no >&2; exit 3"):
            vm.run("echo no >&2; exit 3")
        with pytest.raises(VMTimeout):
            vm.run("sleep 60", timeout=0.5)
        with pytest.raises(FileNotFoundError, match="/no/such"):
            vm.read_file("/no/such")
        assert vm.run("kill -9 $$", check=False).returncode == 137
        assert vm.run("pgrep -x sleep", check=False).stdout == ""

    def test_a_processor_that_stands_still_is_told(self, vm):
        """By what the kernel writes then: no guest can be made to have one."""
        with pytest.raises(VMStalled, match="kthread starved for 5252 jiffies"):
            vm.run("echo '<2>rcu: rcu_preempt kthread starved for 5252 jiffies! g377' >/dev/kmsg; sleep 60")

    def test_a_machine_that_stands_still_is_told(self, vm, monkeypatch):
        monkeypatch.setattr("labyard.testing.vm.vm.SILENCE", 2.0)
        monitor(vm.guest.qemu.folder.path / "qmp.sock", "stop")
        with pytest.raises(VMStalled, match="its agent has said nothing for 2 s"):
            vm.run("true")

    def test_a_big_file_there_and_back(self, vm):
        content = bytes(30 << 20)
        vm.write_file("/root/new/folder/big", content, mode=0o600)
        assert vm.run("stat -c '%s %a' /root/new/folder/big").stdout == f"{len(content)} 600\n"
        assert vm.read_file("/root/new/folder/big") == content

    def test_much_output(self, vm):
        assert len(vm.run("head -c 64M /dev/zero").stdout_bytes) == 64 << 20

    def test_a_daemon_with_its_children(self, vm):
        daemon = vm.spawn("python3 -m http.server 8000 --bind 127.0.0.1 & wait")
        vm.run("until curl -fs http://localhost:8000/ >/dev/null; do sleep 0.1; done", timeout=30)
        assert daemon.running
        daemon.kill()
        assert daemon.wait() == 143
        assert "GET /" in daemon.stderr
        with pytest.raises(VMCommandError):
            vm.run("curl -fs http://localhost:8000/")

    def test_the_log_of_the_kernel(self, vm):
        vm.run("echo '<1>a line from the test' > /dev/kmsg")
        wait_until(lambda: "a line from the test" in vm.serial_log, "the line is in the log")
