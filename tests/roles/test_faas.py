"""What the role faas promises: functions answer the lab's other hosts, with limits, and leave nothing."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

import pytest
from conftest import Api, assert_gone, assert_runs
from functions import UNIT, Functions, stock_archive

from labyard.lab import LabHost
from labyard.testing.waiting import wait_until

MEMORY = 64 << 20


@pytest.fixture
def functions(host: LabHost, probe_host: LabHost) -> Functions:
    return Functions(host, probe_host)


@pytest.fixture
def function(functions: Functions) -> Iterator[tuple[str, str]]:
    """The stock handler: name and address. One handler waits."""
    name = f"check-{secrets.token_hex(4)}"
    try:
        yield name, functions.deploy(name, stock_archive(), memory=MEMORY, warm=1)
    finally:
        functions.remove(name)


class TestApplied:
    def test_runs(self, host: LabHost) -> None:
        assert_runs(host, UNIT)

    def test_the_api_lets_in_who_has_the_token_only(self, host: LabHost, probe_host: LabHost) -> None:
        api = Api(probe_host, f"http://{host.address}:{host.value('faas_api_port')}")
        assert api.good("GET", "/health")["status"] == "ok"
        assert api.call("GET", "/api/list")[0] == 401
        api.token = "not the token, not the token"
        assert api.call("GET", "/api/list")[0] == 401
        api.token = host.value("faas_token")
        assert api.call("GET", "/api/list")[0] == 200

    def test_the_token_is_readable_by_root_only(self, host: LabHost) -> None:
        token = host.value("faas_token")
        assert host.shell.file("/etc/labyard/faas.token").mode == 0o600
        looked = "/etc/labyard /etc/systemd /usr/local/bin"
        assert host.run(f"grep -rl --exclude faas.token -e %s {looked}", token).stdout == ""
        assert host.run(f"journalctl --no-pager --unit {UNIT} | grep -c -e %s", token).stdout.strip() == "0"

    def test_the_command_on_the_host_needs_no_arguments(self, host: LabHost, function: tuple[str, str]) -> None:
        name, ip = function
        assert host.check("faas ip %s", name).strip() == ip
        assert name in host.check("faas list")

    def test_a_handler_answers_another_host_by_the_route(self, functions: Functions, function: tuple[str, str]) -> None:
        name, ip = function
        assert functions.call(ip, "/test/path") == "Hello from FaaS handler!\nRequest: GET /test/path HTTP/1.1\n"
        wait_until(lambda: functions.good("GET", f"/api/function/{name}/logs"), "the request in the log")
        assert functions.good("GET", f"/api/function/{name}/logs")[0]["result"] == "ok"

    def test_limits_are_in_force(self, host: LabHost, functions: Functions, function: tuple[str, str]) -> None:
        """Of the handler that waits, as the kernel has it: cgroup v1 or v2."""
        name, _ = function
        assert "not_enforced" not in functions.good("GET", "/health")
        (container,) = functions.parked(name)
        found = host.check(
            f"find /sys/fs/cgroup -path '*/{container}/*' '(' -name memory.max -o -name memory.limit_in_bytes ')' "
            "-exec cat {} +"
        )
        assert found.split() == [str(MEMORY)]

    def test_a_request_leaves_nothing(self, functions: Functions, function: tuple[str, str]) -> None:
        name, ip = function
        used = functions.parked(name)
        functions.call(ip)
        wait_until(lambda: not functions.leftovers(used), "nothing of it")
        assert functions.parked(name).isdisjoint(used)

    def test_addresses_go_with_the_daemon_and_come_back(
        self, host: LabHost, functions: Functions, function: tuple[str, str]
    ) -> None:
        _, ip = function
        assert ip in functions.addresses()
        host.check(f"systemctl stop {UNIT}")
        try:
            assert functions.addresses() == set()
            assert host.check(f"systemctl show --property Result --value {UNIT}").strip() == "success"
        finally:
            host.check(f"systemctl start {UNIT}")
        assert ip in functions.addresses()
        assert functions.answers(ip)

    def test_what_is_declared_is_deployed(self, host: LabHost, functions: Functions) -> None:
        there = functions.good("GET", "/api/list")
        for wanted in host.value("faas_functions"):
            if wanted.get("state", "present") == "absent":
                assert wanted["name"] not in there
            else:
                assert there[wanted["name"]]["limits"] == wanted.get("limits", {})
                assert functions.answers(there[wanted["name"]]["ip"])

    def test_observer_finds_nothing(self, functions: Functions, function: tuple[str, str]) -> None:
        assert functions.good("POST", "/api/observer/check")["issues"] == []

    def test_the_card_says_what_listens_where(self, host: LabHost) -> None:
        card = json.loads(host.check("cat /etc/labyard/services.d/faas.json"))
        assert card["unit"] == UNIT and host.value("faas_pool") in card["about"]
        for address in card["listen"]:
            assert host.check(f"ss -H -lnt src {address.removesuffix('/tcp')}")


class TestRemoved:
    def test_nothing_is_left(self, host: LabHost) -> None:
        settings = ["/etc/labyard/faas.env", "/etc/labyard/faas.token", f"/etc/systemd/system/{UNIT}"]
        folders = ["/var/lib/faasd", "/run/faasd", "/opt/labyard", "/var/lib/labyard/faas"]
        assert_gone(host, "faas", *settings, *folders, "/usr/local/bin/faas")
        assert host.check("ip -4 address show dev lo label lo:faas") == ""
        assert host.run("pgrep --list-full --full '[f]aasd|[r]unc |[/]app/handler'").stdout == ""
        assert host.check("find /tmp -name 'faas-*.sock'") == ""
        for port in (host.value("faas_api_port"), host.value("faas_function_port")):
            assert not host.check(f"ss -H -lnt sport = :{port}")

    def test_no_group_of_a_container_is_left(self, host: LabHost) -> None:
        """Below the host's own groups: the roots may be shared with other hosts of functions."""
        own = set(host.check("cut -d: -f3 /proc/1/cgroup").split()) - {"/"}
        found = host.check("find /sys/fs/cgroup -type d -name 'faas-*'").split()
        assert [path for path in found if any(f"{group}/" in path for group in own)] == []
