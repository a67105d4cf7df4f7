"""What the role desktops promises: the API answers, on real PostgreSQL, Redis and a real node."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Api, assert_gone, assert_runs

from labyard.client.where import address
from labyard.lab import LabHost
from labyard.testing.waiting import wait_until

UNIT = "labyard-desktops.service"
ROLES = "session_manager,rdp_operator,node_operator"
SERVER = {
    "name": "check",
    "user_id": "check",
    "configuration": {"desktop_environment": "icewm"},
    "resources": {"cpu_limit": 1.0, "memory_limit": 1024, "disk_limit": 1024, "network_bandwidth": 1000},
}


class Local(Api):
    """Called on the host itself, where plain HTTP is."""

    def __init__(self, host: LabHost) -> None:
        super().__init__(host, f"http://{host.value('desktops_http_host')}:{host.value('desktops_http_port')}")


@pytest.fixture
def api(host: LabHost) -> Api:
    caller = Local(host)
    caller.token = host.check("labyard-desktops token issue --sub check --roles %s --ttl 10m", ROLES).strip()
    return caller


class TestApplied:
    def test_runs_and_not_as_root(self, host: LabHost) -> None:
        assert_runs(host, UNIT)
        pid = host.check(f"systemctl show --property MainPID --value {UNIT}").strip()
        assert host.check("ps -o user:32= -p %s", pid).strip() == host.value("desktops_user")

    def test_is_ready(self, host: LabHost) -> None:
        # Who does not answer the service within 2 s is not ready for the moment.
        found = Local(host)
        wait_until(
            lambda: found.call("GET", "/ready")[1]["status"] == "ready", lambda: f"ready: {found.call('GET', '/ready')}"
        )

    def test_doctor_finds_nothing(self, host: LabHost) -> None:
        done = host.run("labyard-desktops doctor")
        assert done.rc == 0 and "✘" not in done.stdout, done.stdout

    def test_https_is_reached_from_the_lab_and_plain_http_is_not(self, host: LabHost, probe_host: LabHost) -> None:
        if not host.value("desktops_tls_host"):
            pytest.skip("this lab asks for no HTTPS")
        secure = Api(probe_host, f"https://{host.address}:{host.value('desktops_tls_port')}")
        assert secure.call("GET", "/health", "--insecure")[0] == 200
        plain = Api(probe_host, f"http://{host.address}:{host.value('desktops_http_port')}")
        with pytest.raises(RuntimeError):
            plain.call("GET", "/health")

    def test_its_own_certificate_is_for_where_operators_reach_it(self, host: LabHost) -> None:
        """Also where the engine has given the host another address since it was made."""
        if not host.value("desktops_tls_host"):
            pytest.skip("this lab asks for no HTTPS")
        certificate = f"{host.value('desktops_state_dir')}/https.pem"
        url = f"https://{address(host)}:{host.value('desktops_tls_port')}/health"
        host.check("curl --silent --show-error --fail --cacert %s %s", certificate, url)

    def test_keys_are_the_services_alone(self, host: LabHost) -> None:
        state = host.shell.file(host.value("desktops_state_dir"))
        assert (state.mode, state.user) == (0o700, host.value("desktops_user"))

    def test_this_host_is_a_node(self, api: Api) -> None:
        node = api.good("GET", "/api/v1/nodes/node_local")
        assert (node["status"], node["pool_id"]) == ("active", "pool_local")

    def test_a_server_from_create_to_delete(self, api: Api) -> None:
        made: dict[str, Any] = api.good("POST", "/api/v1/rdp/servers", **SERVER)
        path = f"/api/v1/rdp/servers/{made['server_id']}"
        try:
            assert api.good("POST", f"{path}/start")["status"] == "running"
            found = api.good("POST", f"{path}/test-connection")
            assert (found["connection_available"], found["login"]["succeeded"]) == (True, True), found
            assert api.good("POST", f"{path}/stop")["status"] == "stopped"
        finally:
            assert api.call("DELETE", path)[0] == 204


class TestRemoved:
    def test_nothing_is_left(self, host: LabHost) -> None:
        assert_gone(
            host,
            "desktops",
            host.value("desktops_state_dir"),
            "/etc/labyard/desktops.env",
            f"/etc/systemd/system/{UNIT}",
            "/usr/local/bin/labyard-desktops",
            "/usr/local/bin/labyard-verify",
        )
        assert host.run("getent passwd %s", host.value("desktops_user")).rc == 2
