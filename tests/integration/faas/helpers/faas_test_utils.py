"""The daemon, as its users see it from inside the machine that it runs on.

`vm` is anything with `run` and `read_file` as the fixture `vm` has them: a VM, or a host of a built lab
(`labyard.testing.vm.visit`). Waits are multiplied by its `time_scale`; the daemon's own limits never are.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from helpers.waiting import wait_for_condition

FAAS = "/root/faas"
ROOT = "/var/lib/faasd"
CLIENTS = Path(__file__).parents[1] / "fixtures/clients.py"
CLIENTS_IN_VM = "/root/clients.py"
ADDRESS = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b")


class Answer(NamedTuple):
    """What one of many requests got. `status` is 0 when there was no answer, and `body` says why."""

    address: str
    status: int
    body: str
    seconds: float


class FaaSTestHelper:
    """What tests do with the daemon, and what they look at."""

    def __init__(self, vm: Any) -> None:
        self.vm = vm

    # Deploy

    def deploy_handler(self, image_tar_path: str, handler_name: str, *options: str) -> str:
        """Deploy an archive of the machine; the address. AssertionError with all that `faas` said.

        `options` of `faas new`, such as `--memory`, `64M`.
        """
        words = shlex.join([FAAS, "new", handler_name, *options])
        command = f"cat {shlex.quote(image_tar_path)} | {words}"
        done = self.vm.run(command, check=False)
        assert done.returncode == 0, f"{command} failed with {done.returncode}:\n{done.stdout}{done.stderr}"
        return parse_ip_from_output(done.stdout)

    def get_handler_ip(self, handler_name: str) -> str:
        """The address of a function. AssertionError with the daemon's answer when there is none of that name."""
        done = self.vm.run(f"{FAAS} ip {shlex.quote(handler_name)}", check=False)
        assert done.returncode == 0, f"faas ip {handler_name}: {done.stdout}{done.stderr}"
        return str(done.stdout.strip())

    def list_handlers(self) -> list[dict[str, str]]:
        """`name`, `ip` and `command` of each function, as `faas list` prints them."""
        lines = self.vm.run(f"{FAAS} list").stdout.splitlines()
        rows = [line.split(maxsplit=2) for line in lines[2:]]  # under the head and its rule
        return [dict(zip(("name", "ip", "command"), row, strict=True)) for row in rows]

    # Ask

    def make_request(self, ip: str, path: str = "/", timeout: float = 5) -> str:
        """The body of the answer, whatever its status. AssertionError when there is none within `timeout` s."""
        seconds = timeout * time_scale(self.vm)
        url = shlex.quote(f"http://{ip}{path}")
        done = self.vm.run(f"curl --silent --show-error --max-time {seconds:g} {url}", check=False)
        assert done.returncode == 0, f"GET {url}: {done.stderr.strip()}"
        return str(done.stdout)

    def make_requests(self, ips: str | Sequence[str], count: int, at_once: int = 1, path: str = "/") -> list[Answer]:
        """Many requests to one or several addresses in turn, `at_once` at a time, from one program in the machine."""
        self.vm.write_file(CLIENTS_IN_VM, CLIENTS.read_bytes())
        addresses = ips if isinstance(ips, str) else ",".join(ips)
        said = self.vm.run(f"python3 {CLIENTS_IN_VM} {addresses} {count} {at_once} {shlex.quote(path)}", timeout=550)
        return [Answer(*row) for row in json.loads(said.stdout)]

    # Look

    def check_ip_configured(self, ip: str) -> bool:
        """Whether `lo` has exactly this address."""
        return ip in self.loopback_addresses()

    def check_ip_has_label(self, ip: str, label: str) -> bool:
        """Whether `lo` has exactly this address with exactly this label."""
        return self.loopback_addresses().get(ip) == label

    def loopback_addresses(self) -> dict[str, str]:
        """IPv4 addresses of `lo` without their prefix lengths, and their labels."""
        addresses = {}
        for line in self.vm.run("ip -4 addr show dev lo").stdout.splitlines():
            words = line.split()
            if words and words[0] == "inet":  # inet 10.0.0.10/32 scope global lo:faas
                addresses[words[1].partition("/")[0]] = words[-1]
        return addresses

    def check_rootfs_exists(self, handler_name: str) -> bool:
        """Whether the image of a function is unpacked."""
        done = self.vm.run(f"test -d {ROOT}/images/{shlex.quote(handler_name)}/rootfs", check=False)
        return bool(done.returncode == 0)

    def count_bundles(self) -> int:
        """How many requests have a container at the moment."""
        return int(self.vm.run(f"ls -1 {ROOT}/bundles/ | wc -l").stdout)

    def read_registry(self) -> dict[str, Any]:
        """The functions by name, as they are on disk. ValueError: that is not JSON, which it must be at all times."""
        found: dict[str, Any] = json.loads(self.vm.read_file(f"{ROOT}/registry.json"))
        return found

    def get_process_count(self, name: str) -> int:
        """How many processes have this text in their command line; the one that looks is not counted."""
        pattern = f"[{name[0]}]{re.escape(name[1:])}"
        return int(self.vm.run(f"pgrep --full --count {shlex.quote(pattern)}", check=False).stdout)

    def get_daemon_pid(self) -> int:
        """The process of the one daemon that runs."""
        return int(self.vm.run("pgrep --full --oldest '[p]ython3 /root/faasd.py'").stdout)

    def count_daemon_resources(self) -> dict[str, int]:
        """Descriptors, threads and child processes that the daemon has at the moment."""
        pid = self.get_daemon_pid()
        said = self.vm.run(
            f"ls /proc/{pid}/fd | wc -l; ls /proc/{pid}/task | wc -l; pgrep --count --parent {pid}; true"
        )
        return dict(zip(("descriptors", "threads", "children"), map(int, said.stdout.split()), strict=True))

    # Stop

    def stop_daemon(self, timeout: float = 3) -> None:
        """SIGTERM, and wait until its process is gone. AssertionError: it is not within `timeout` s."""
        pid, seconds = self.get_daemon_pid(), timeout * time_scale(self.vm)
        done = self.vm.run(f"kill {pid} && timeout {seconds:g} tail --pid={pid} --follow /dev/null", check=False)
        assert done.returncode == 0, f"the daemon runs still, {seconds:g} s after SIGTERM"

    # Wait

    def wait_for_cleanup(self, timeout: float = 5) -> bool:
        """Wait until no request has a bundle any more. False: one still has after `timeout` s."""
        try:
            wait_for_condition(lambda: self.count_bundles() == 0, timeout * time_scale(self.vm))
        except AssertionError:
            return False
        return True

    def wait_for_api(self, timeout: float = 5) -> None:
        """Wait until the daemon answers. AssertionError: it does not within `timeout` s."""
        seconds = timeout * time_scale(self.vm)
        ask = "curl --silent --fail --max-time 2 http://localhost:8080/health"
        wait_for_condition(
            lambda: self.vm.run(ask, check=False).returncode == 0, seconds, 0.1, "the daemon's API does not answer"
        )


def assert_handler_responds(vm: Any, ip: str, expected_substring: str, timeout: float = 5) -> None:
    """The function at this address answers within `timeout` s, with this in its body."""
    body = FaaSTestHelper(vm).make_request(ip, timeout=timeout)
    assert expected_substring in body, f"{expected_substring!r} is not in what {ip} answered: {body!r}"


def assert_all_answered(answers: Sequence[Answer], count: int, expected_substring: str = "Hello from FaaS") -> None:
    """There are so many answers, and each is a 200 with this in its body."""
    wrong = [answer for answer in answers if answer.status != 200 or expected_substring not in answer.body]
    assert not wrong, f"{len(wrong)} of {len(answers)} went wrong: {wrong[:5]}"
    assert len(answers) == count


def assert_ip_configured(vm: Any, ip: str, should_exist: bool = True) -> None:
    """`lo` has this address, or has it not."""
    addresses = FaaSTestHelper(vm).loopback_addresses()
    assert (ip in addresses) == should_exist, f"lo should{'' if should_exist else ' not'} have {ip}; it has {addresses}"


def assert_rootfs_exists(vm: Any, name: str) -> None:
    """The image of this function is unpacked."""
    if not FaaSTestHelper(vm).check_rootfs_exists(name):
        found = vm.run(f"ls -l {ROOT}/images {ROOT}/images/* 2>&1", check=False).stdout
        raise AssertionError(f"{ROOT}/images/{name}/rootfs is no folder; there is\n{found}")


def assert_bundles_cleaned_up(vm: Any, timeout: float = 5) -> None:
    """No request has a bundle any more, within `timeout` s."""
    if not FaaSTestHelper(vm).wait_for_cleanup(timeout):
        found = vm.run(f"ls -l {ROOT}/bundles", check=False).stdout
        raise AssertionError(f"bundles are left in {ROOT}/bundles:\n{found}")


def parse_ip_from_output(output: str) -> str:
    """The first address in what `faas new` printed. AssertionError: there is none."""
    found = ADDRESS.search(output)
    assert found, f"no address in {output!r}"
    return found[0]


def time_scale(vm: Any) -> float:
    """How many times longer things may take there than on a real machine."""
    return float(getattr(vm, "time_scale", 1))
