"""What the role runc_host promises: containers run here, with no more capabilities than they need."""

from __future__ import annotations

import json

import pytest
from conftest import assert_gone

from labyard.lab import LabHost

BUNDLE = "/run/labyard-check"
# The engine's own set (docker run without --cap-add), by bit, and the two that containers in a container need.
DEFAULT = {0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31}
NET_ADMIN, SYS_ADMIN = 12, 21
CHANGE = """
import json, sys
config = json.load(open("config.json"))
config["process"].update(terminal=False, args=["sh", "-c", "hostname; ls /proc | grep -c ^[0-9]; cat /proc/net/route"])
config["hostname"] = "inside"
config["mounts"] += json.loads(sys.argv[1])
json.dump(config, open("config.json", "w"))
"""


@pytest.fixture(params=["runc", "crun"])
def runtime(request: pytest.FixtureRequest, host: LabHost) -> str:
    if request.param == "crun" and not host.value("runc_host_crun"):
        pytest.skip("this host shall not have crun")
    return str(request.param)


class TestApplied:
    def test_a_container_runs_by_itself(self, host: LabHost, runtime: str) -> None:
        """It has a name, processes and a network of its own."""
        system = [path for path in ("/bin", "/lib", "/lib64", "/usr") if host.shell.file(path).exists]
        binds = [{"destination": path, "type": "bind", "source": path, "options": ["bind", "ro"]} for path in system]
        folders = " ".join(f"{BUNDLE}/rootfs{path}" for path in ("/proc", "/dev", "/sys", *system))
        try:
            host.check(f"mkdir -p {folders}")
            host.check(f"cd {BUNDLE} && {runtime} spec && python3 -c %s %s", CHANGE, json.dumps(binds))
            said = host.check(f"{runtime} --root {BUNDLE}/state run --bundle {BUNDLE} labyard-check")
        finally:
            host.check(f"{runtime} --root {BUNDLE}/state delete --force labyard-check; rm -rf {BUNDLE}")
        name, processes, *routes = said.splitlines()
        assert name == "inside"
        assert int(processes) <= 4
        assert len(routes) == 1, "the heading only"

    def test_a_host_in_a_container_has_what_it_needs_and_no_more(self, host: LabHost) -> None:
        if not host.url.startswith("docker"):
            pytest.skip("this host is no container")
        bits = int(host.check("sed -n 's/^CapEff:\\s*//p' /proc/1/status"), 16)
        assert {bit for bit in range(64) if bits >> bit & 1} == DEFAULT | {NET_ADMIN, SYS_ADMIN}
        assert host.check("sed -n 's/^Seccomp:\\s*//p' /proc/1/status").strip() == "0"


class TestRemoved:
    def test_nothing_is_left(self, host: LabHost) -> None:
        assert_gone(host, "runc_host", "/usr/sbin/runc", "/usr/bin/crun")
        assert host.shell.package("iproute2").is_installed
