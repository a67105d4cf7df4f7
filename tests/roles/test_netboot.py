"""What the role netboot promises: the service runs, finds its daemons, and a restart of it touches no session."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Api, assert_gone, assert_runs, wait_until_ready

from labyard.lab import LabHost
from labyard.testing.waiting import wait_until

UNIT = "labyard-netboot.service"
MIB = 1024 * 1024


@pytest.fixture
def url(host: LabHost) -> str:
    return f"http://{host.value('netboot_portal_ip')}:{host.value('netboot_http_port')}"


@pytest.fixture
def public(probe_host: LabHost, url: str) -> Api:
    return Api(probe_host, url)


@pytest.fixture
def api(host: LabHost, probe_host: LabHost, url: str) -> Api:
    caller = Api(probe_host, url)
    login = {"username": "admin", "password": host.value("netboot_admin_password")}
    caller.token = caller.good("POST", "/auth/login", **login)["access_token"]
    return caller


@pytest.fixture
def image(api: Api, probe_host: LabHost) -> Iterator[int]:
    """A small image, uploaded and ready."""
    name = f"check-{secrets.token_hex(4)}"
    probe_host.check(f"head -c {MIB} /dev/urandom > /tmp/{name}.raw")
    try:
        form = ("--form", f"name={name}", "--form", f"file=@/tmp/{name}.raw")
        number = api.good("POST", "/images/upload", *form)["id"]
    finally:
        probe_host.check(f"rm /tmp/{name}.raw")
    try:

        def ready() -> bool:
            seen = api.good("GET", f"/images/{number}")
            assert seen["status"] != "error", seen
            return bool(seen["status"] == "ready")

        wait_until(ready, f"image {number} is ready")
        yield number
    finally:
        api.good("DELETE", f"/images/{number}")


@pytest.fixture
def session(api: Api, image: int) -> Iterator[dict[str, Any]]:
    """A session that is active, as /sessions/start answered."""
    mac = "52:54:00:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3))
    machine = api.good("POST", "/machines", name=f"check-{secrets.token_hex(4)}", mac_address=mac)["id"]
    try:
        started = api.good("POST", "/api/v1/sessions/start", machine_id=machine, image_id=image)
        try:
            yield started
        finally:
            api.good("POST", f"/api/v1/sessions/{started['session']['id']}/stop")
    finally:
        api.good("DELETE", f"/machines/{machine}")


def served(host: LabHost, started: dict[str, Any]) -> dict[str, str]:
    """What the daemons have for a session."""
    shown = host.check("tgtadm --lld iscsi --mode target --op show")
    iqn = started["target_info"]["iqn"]
    scripts = f"{host.value('netboot_tftp_root')}/machines"
    return {
        "target": next((line for line in shown.splitlines() if line.startswith("Target") and line.endswith(iqn)), ""),
        "export": host.check(f"mount | grep {started['target_info']['target_id']}.raw"),
        "script": host.check(f"grep -rl {iqn} {scripts} | xargs sha256sum"),
    }


class TestApplied:
    def test_runs(self, host: LabHost) -> None:
        assert_runs(host, UNIT)

    def test_answers_on_the_segment(self, public: Api) -> None:
        assert public.good("GET", "/health")["service"] == "labyard-netboot"
        assert public.good("GET", "/health/ready") == {"status": "ready"}

    def test_card_says_where_operators_reach_it(self, host: LabHost) -> None:
        about = json.loads(host.check("cat /etc/labyard/services.d/netboot.json"))["about"]
        address = host.check("ip -4 route get 192.0.2.1").split(" src ")[1].split()[0]
        assert f"http://{address}:{host.value('netboot_http_port')}/" in about

    def test_finds_every_daemon(self, public: Api) -> None:
        def found() -> dict[str, str]:
            checks = public.good("GET", "/health/detailed")["checks"]
            return {name: checks[name]["status"] for name in ("database", "storage", "iscsi", "dhcp", "tftp")}

        # One that does not answer within 2 s is not healthy for the moment.
        wait_until(lambda: set(found().values()) == {"healthy"}, lambda: f"all are healthy: {found()}")

    def test_lets_in_who_has_the_password_only(self, api: Api, public: Api) -> None:
        assert api.good("GET", "/auth/me")["role"] == "admin"
        assert public.call("POST", "/auth/login", username="admin", password="admin123")[0] == 401
        assert public.call("GET", "/machines")[0] == 401

    def test_secrets_are_readable_by_root_only(self, host: LabHost) -> None:
        assert host.shell.file("/etc/labyard/netboot.env").mode == 0o600
        for name in ("netboot_secret_key", "netboot_admin_password"):
            secret = host.value(name)
            assert host.run("grep -rl --exclude netboot.env -e %s /etc/labyard /etc/systemd", secret).stdout == ""
            assert host.run(f"journalctl --no-pager --unit {UNIT} | grep -c -e %s", secret).stdout.strip() == "0"

    def test_generic_script_is_that_of_the_role_ipxe(self, host: LabHost, public: Api) -> None:
        assert host.check(f"cat {host.value('netboot_tftp_root')}/boot.ipxe") == public.good(
            "GET", "/api/v1/ipxe/generic"
        )

    def test_a_restart_touches_no_session(self, host: LabHost, api: Api, public: Api, session: dict[str, Any]) -> None:
        before = served(host, session)
        assert all(before.values()), before
        host.check(f"systemctl restart {UNIT}")
        wait_until_ready(public, "/health/ready")
        assert served(host, session) == before
        assert api.good("GET", f"/api/v1/sessions/{session['session']['id']}")["status"] == "active"

    def test_a_stopped_session_leaves_nothing_with_the_daemons(self, host: LabHost, api: Api, image: int) -> None:
        mac = "52:54:00:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3))
        machine = api.good("POST", "/machines", name=f"check-{secrets.token_hex(4)}", mac_address=mac)["id"]
        try:
            started = api.good("POST", "/api/v1/sessions/start", machine_id=machine, image_id=image)
            api.good("POST", f"/api/v1/sessions/{started['session']['id']}/stop")
        finally:
            api.good("DELETE", f"/machines/{machine}")
        name = started["target_info"]["target_id"]
        assert name not in host.check(
            "tgtadm --lld iscsi --mode target --op show; tgtadm --lld iscsi --mode account --op show"
        )
        assert host.run(f"mount | grep {name}").stdout == ""
        assert host.run(f"grep -rl {name} {host.value('netboot_tftp_root')}/machines").stdout == ""
        assert host.run(f"ls {host.value('netboot_overlay_dir')} | grep {name}").stdout == ""


class TestRemoved:
    def test_nothing_is_left(self, host: LabHost) -> None:
        left = (
            host.value("netboot_state_dir"),
            host.value("netboot_overlay_dir"),
            "/opt/labyard",
            "/etc/labyard/netboot.env",
        )
        assert_gone(host, "netboot", *left, f"/etc/systemd/system/{UNIT}")
        assert not host.check(f"ss -H -lnt sport = :{host.value('netboot_http_port')}")
