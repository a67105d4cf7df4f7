"""Other hosts than the usual one: crun in place of runc, and control groups of version 2 without controllers."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from labyard.testing.faas.host import Host
from labyard.testing.waiting import wait_until

Image = Callable[..., bytes]
# The kernel's hierarchies of version 1, as many as it has, in this host's mount namespace alone.
MOUNT_ALL = """
set -e
mount -t tmpfs tmpfs /sys/fs/cgroup
while IFS=: read -r _ names _; do
    options="$names"
    case "$names" in
        "") continue ;;
        name=*) options="none,$names" ;;
    esac
    folder="/sys/fs/cgroup/${names#name=}"
    mkdir "$folder"
    mount -t cgroup -o "$options" cgroup "$folder"
    for name in $(echo "$names" | tr , " "); do
        test -e "/sys/fs/cgroup/${name#name=}" || ln -s "$names" "/sys/fs/cgroup/$name"
    done
done </proc/self/cgroup
"""


@pytest.mark.skipif(not shutil.which("crun"), reason="needs crun")
class TestCrun:
    def test_requests_and_failures(self, host: Host, image: Image) -> None:
        host.start(runtime="crun")
        assert host.api("GET", "/health").json["runtime"] == "crun"
        ip = host.function("th", image())
        for number in range(10):
            assert f"GET /{number} " in host.get(ip, f"/{number}").text
        for arguments, detail in (
            (("exit-early", "3"), "handler exited with code 3 before it connected"),
            (("exit-connected", "4"), "handler exited with code 4 without an answer"),
        ):
            assert host.get(host.function("fails", image(*arguments))).json["detail"] == detail
        reply = host.get(host.function("fails", image(Entrypoint=["/nothing"])))
        assert (reply.status, "/nothing" in reply.json["detail"]) == (502, True)
        host.settle()
        assert host.stop() == 0
        host.start(runtime="crun", connect_timeout=2)
        ip = host.function("fails", image("never-connects"))
        assert host.get(ip).json["detail"] == "handler did not connect within 2 s"
        host.settle()

    def test_parked(self, host: Host, image: Image) -> None:
        host.start(runtime="crun", warm=1)
        ip = host.function("th", image())
        for _ in range(5):
            wait_until(lambda: host.api("GET", "/api/function/th").json["pool"]["parked"] == 1, "one is parked")
            assert host.get(ip).status == 200
        assert host.api("GET", "/api/function/th").json["stats"]["warm_hits"] == 5
        assert host.stop() == 0
        host.settle()

    def test_killed_and_started_again(self, host: Host, image: Image) -> None:
        host.start(runtime="crun", warm=1)
        ip = host.function("th", image())
        wait_until(lambda: host.api("GET", "/api/function/th").json["pool"]["parked"] == 1, "one is parked")
        host.stop(9)
        host.start(runtime="crun")
        host.settle()
        assert host.get(ip).status == 200

    def test_limits_where_all_controllers_are_mounted(self, host: Host, image: Image) -> None:
        """crun wants each of the kernel's; and the groups are the daemon's own, not the root's."""
        host.run("sh", "-c", MOUNT_ALL)
        if "memory" not in host.run("cat", "/proc/self/cgroup").stdout:
            pytest.skip("this host has control groups of version 2 only")

        def groups() -> list[str]:
            return host.run("find", "/sys/fs/cgroup/", "-type", "d", "-name", host.groups.name).stdout.split()

        before = groups()
        host.start(runtime="crun")
        assert "not_enforced" not in host.api("GET", "/health").json, host.log()
        ip = host.function("hog", image("memory"), {"memory": "48M"})
        assert host.get(ip).json["detail"] == "handler exited with code 137 without an answer: out of memory"
        ip = host.function("forks", image("fork"), {"pids": 20})
        assert host.get(ip).text.endswith("Resource temporarily unavailable")
        host.settle()
        # It makes the daemon's group in hierarchies that have none; they go with the daemon.
        assert len(groups()) > len(before)
        assert host.stop() == 0
        assert groups() == before


class TestAuto:
    def test_the_first_that_works(self, host: Host) -> None:
        host.start(runtime="auto")
        assert host.api("GET", "/health").json["runtime"] == "runc"


class TestVersion2:
    def test_limits_that_cannot_be_enforced_are_named(self, host: Host, image: Image) -> None:
        """Controllers are taken by version 1 on such a host, so that a version 2 tree has none."""
        host.run("mount", "-t", "cgroup2", "none", "/sys/fs/cgroup")
        if "memory" in host.path("/sys/fs/cgroup/cgroup.controllers").read_text():
            pytest.skip("this host has all controllers in version 2")
        host.start()
        health = host.api("GET", "/health").json
        assert health["not_enforced"] == ["memory", "cpu", "pids"]
        assert "cgroup v2" in host.log()
        reply = host.deploy("th", image())
        assert reply.json["not_enforced"] == ["memory", "cpu", "pids"]
        assert b"Not enforced on this host: memory, cpu, pids" in host.faas("new", "th", input=image()).stdout
        assert host.get(reply.json["ip"]).status == 200
        host.settle()
