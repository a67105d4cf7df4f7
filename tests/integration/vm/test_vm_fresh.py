"""Each test's VM is a new one, and differs where two machines differ."""

from __future__ import annotations

import time
import uuid

import pytest

from integration.vm.conftest import PRELOADED, PRELOADED_CONTENT
from labyard.testing.vm import VMError
from labyard.testing.vm.session import VMSession

MARK = "/root/left-by-a-test"


@pytest.mark.parametrize("turn", ["first", "second"])
def test_nothing_is_left_of_another_test(vm, turn):
    assert vm.run(f"test -e {MARK}", check=False).returncode == 1
    assert vm.run("pgrep -x sleep", check=False).stdout == ""
    vm.write_file(MARK, turn)
    vm.spawn("sleep 300")


def test_restore_goes_back(vm):
    vm.write_file(MARK, "x")
    process = vm.spawn("sleep 300")
    vm.restore()
    with pytest.raises(FileNotFoundError):
        vm.read_file(MARK)
    assert vm.run("pgrep -x sleep", check=False).stdout == ""
    assert vm.read_file(PRELOADED) == PRELOADED_CONTENT
    with pytest.raises(VMError, match="the VM is gone"):
        process.wait()


EVERYTHING = """
find /etc /home /opt /root /srv /usr/local /var -printf '%p %i %n %M %U:%G %s %T@ %C@\\n' | sort
find /dev /run /tmp /sys/fs/cgroup | sort
ps -eo pid,ppid,args | awk '$1 != 2 && $2 != 2 && !/EVERYTHING|ps -eo|awk/'
cat /proc/mounts /proc/modules
ip addr; nft list ruleset
"""


def test_the_first_of_all_is_as_fresh_as_those_after_it(vm_session, vm, tmp_path, monkeypatch):
    """It is the guest that the snapshot was made from."""
    vm.close()  # it has said whether there are VMs here
    monkeypatch.setenv("LABYARD_VM_CACHE", str(tmp_path))
    session = VMSession(vm_session().image.folder, vm.accel)
    try:
        seen = []
        for _ in range(2):
            each = session.fresh({PRELOADED: PRELOADED_CONTENT}, ["python3 -c 'import uuid'"])
            before = time.time()
            clock = float(each.run("date +%s.%N").stdout)
            assert before - 1 <= clock <= time.time() + 1
            seen.append(
                (each.run(f"# EVERYTHING{EVERYTHING}").stdout, each.run("cat /proc/sys/kernel/random/uuid").stdout)
            )
            each.write_file(MARK, "x")
            each.spawn("sleep 300")
            each.close()
        (first, first_uuid), (second, second_uuid) = seen
        assert first.splitlines() == second.splitlines()
        assert "/usr/bin/python3" in first
        assert first_uuid != second_uuid
        assert len(list(tmp_path.glob("*.qcow2"))) == 1
    finally:
        session.close()


def test_two_have_the_right_time_and_random_numbers_of_their_own(vm_factory):
    seen = []
    for vm in (vm_factory(), vm_factory()):
        before = time.time()
        lines = vm.run(
            "date +%s.%N; python3 -c 'import uuid; print(uuid.uuid4())'; cat /proc/sys/kernel/random/uuid"
        ).stdout
        now, *ids = lines.split()
        assert before - 1 <= float(now) <= time.time() + 1
        seen += [uuid.UUID(text) for text in ids]
    assert len(set(seen)) == 4


def test_what_is_preloaded_is_there_and_is_not_sent_again(vm, bytes_sent):
    vm.write_file(PRELOADED, PRELOADED_CONTENT)
    assert bytes_sent() == 0
    assert vm.read_file(PRELOADED) == PRELOADED_CONTENT


@pytest.mark.parametrize("touch", ["echo x >> {0}", "rm {0}", "cp {0} y && mv y {0}", "chmod 600 {0}"])
def test_what_was_touched_is_sent_again(vm, bytes_sent, touch):
    vm.run(touch.format(PRELOADED))
    vm.write_file(PRELOADED, PRELOADED_CONTENT)
    assert bytes_sent() == len(PRELOADED_CONTENT)
    assert vm.read_file(PRELOADED) == PRELOADED_CONTENT
    assert vm.run(f"stat -c %a {PRELOADED}").stdout == "644\n"


def test_other_content_is_sent(vm, bytes_sent):
    vm.write_file(PRELOADED, b"other")
    assert bytes_sent() == 5
    assert vm.read_file(PRELOADED) == b"other"


def test_hardware_on_request(vm_factory):
    vm = vm_factory(memory=512, cpus=1, kernel_args="labyard.test=1")
    assert vm.run("nproc").stdout.strip() == "1"
    assert int(vm.run("awk '/MemTotal/ {print $2}' /proc/meminfo").stdout) < 512 * 1024
    assert b"labyard.test=1" in vm.read_file("/proc/cmdline")


def test_a_service_that_runs_already(vm_factory):
    """From a snapshot that is taken in the middle of its work."""
    counting = "while true; do echo >> /root/count; sleep 0.1; done"
    running = f"setsid bash -c '{counting}' >/dev/null 2>&1 & until [ -s /root/count ]; do sleep 0.1; done"
    count = "wc -l </root/count"
    for vm in (vm_factory(warmup=[running]), vm_factory(warmup=[running])):
        vm.run(f"before=$({count}); until [ $({count}) -gt $before ]; do sleep 0.1; done", timeout=60 * vm.time_scale)


def test_two_on_a_network_of_their_own(vm_factory):
    one, two = vm_factory(nics=["lan"]), vm_factory(nics=["lan"])
    for number, vm in enumerate((one, two), start=1):
        vm.run(f"ip addr add 10.9.0.{number}/24 dev eth0 && ip link set eth0 up")
    one.run("until ping -c 1 10.9.0.2; do sleep 0.2; done", timeout=60 * one.time_scale)
    assert two.read_file(PRELOADED) == PRELOADED_CONTENT
