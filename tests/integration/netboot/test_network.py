"""DHCP, TFTP, the public boot routes without a token, and monitoring (contract sections 5.6 to 5.8)."""

from __future__ import annotations

import fcntl
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from labyard.netboot.adapters.fake import Fault
from labyard.netboot.adapters.ipxe import generate_generic_script
from labyard.netboot.service import Netboot, network
from labyard.netboot.settings import Settings
from labyard.testing.waiting import PATIENCE

from .conftest import Client

START = "/api/v1/sessions/start"
SCRIPT = "00-11-22-33-44-55.ipxe"


class TestDhcp:
    def test_status_has_the_contract_s_facts(self, viewer: Client, netboot: Netboot, test_session: Any) -> None:
        answer = viewer.get("/api/v1/dhcp/status").json()
        assert answer.pop("last_reload").endswith("Z")
        assert answer == {
            "service_running": True,
            "config_file_exists": True,
            "config_valid": True,
            "machines_configured": 1,
            "backend": "fake",
            "config_path": str(netboot.settings.dhcp_config),
            "last_error": None,
            "error": None,
        }

    @pytest.mark.parametrize("trouble", ["raises", "is odd", "hangs"])
    def test_status_is_always_answered_in_time(
        self, viewer: Client, netboot: Netboot, monkeypatch: pytest.MonkeyPatch, trouble: str
    ) -> None:
        dhcp = netboot.provision.adapters.dhcp
        monkeypatch.setattr(network, "WITHIN", 1.8)

        def odd() -> None:
            if trouble == "hangs":
                dhcp.released.wait(PATIENCE)
            raise KeyError("no such thing in what the daemon said")

        if trouble == "raises":
            dhcp.faults["status"] = Fault.RAISE
        else:
            monkeypatch.setattr(dhcp, "status", odd)
        begun = time.monotonic()
        answer = viewer.get("/api/v1/dhcp/status")
        taken = time.monotonic() - begun
        dhcp.released.set()
        assert answer.status_code == 200 and taken < PATIENCE / 2  # where it hangs, it would be all of it
        assert answer.json()["error"]
        assert answer.json()["service_running"] is answer.json()["machines_configured"] is None

    def test_reservations(self, viewer: Client, netboot: Netboot, test_session: Any) -> None:
        assert viewer.get("/api/v1/dhcp/reservations").json() == [
            {
                "machine_id": 1,
                "label": "test-workstation",
                "mac_address": "00:11:22:33:44:55",
                "ip_address": "192.168.1.101",
                "filename": f"machines/{SCRIPT}",
            }
        ]
        netboot.provision.adapters.dhcp.faults["observed"] = Fault.RAISE
        answer = viewer.get("/api/v1/dhcp/reservations")
        assert (answer.status_code, answer.json()["error"]) == (500, "dhcp_error")

    def test_apply_renders_from_the_database(
        self, admin: Client, operator: Client, netboot: Netboot, test_session: Any
    ) -> None:
        dhcp = netboot.provision.adapters.dhcp
        dhcp.apply([])
        answer = operator.post("/api/v1/dhcp/apply")
        assert (answer.status_code, answer.json()["detail"]) == (403, "Admin privileges required")
        answer = admin.post("/api/v1/dhcp/apply")
        assert (answer.status_code, answer.json()["machines_configured"]) == (200, 1)
        assert [entry.label for entry in dhcp.observed()] == ["test-workstation"]
        dhcp.faults["apply"] = Fault.RAISE
        answer = admin.post("/api/v1/dhcp/apply")
        assert (answer.status_code, answer.json()["error"]) == (500, "dhcp_error")
        assert "told to fail" in admin.get("/api/v1/dhcp/status").json()["last_error"]

    def test_only_one_process_applies_at_a_time(self, netboot: Netboot) -> None:
        """The lock is the file's: another worker process holds it here."""
        dhcp = netboot.provision.adapters.dhcp
        other = os.open(netboot.settings.state_dir / "dhcp.lock", os.O_RDWR | os.O_CREAT)
        with ThreadPoolExecutor(1) as pool:
            try:
                fcntl.flock(other, fcntl.LOCK_EX)
                applying = pool.submit(netboot.reservations.apply)
                time.sleep(0.3)
                waited = not applying.done() and ("apply", "") not in dhcp.calls
            finally:
                os.close(other)
            applying.result(PATIENCE)
        assert waited and ("apply", "") in dhcp.calls


@pytest.fixture
def isc(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration file of the backend `isc`, with a dhcpd that takes every configuration but ws-13's."""
    settings.dhcp_backend = "isc"
    dhcpd = tmp_path / "bin/dhcpd"
    dhcpd.parent.mkdir()
    dhcpd.write_text('#!/bin/sh\n! grep -q "host ws-13 " "$3" || { echo "unlucky" >&2; exit 1; }\n')
    dhcpd.chmod(0o755)
    monkeypatch.setenv("PATH", f"{dhcpd.parent}:/usr/bin:/bin")
    config = settings.dhcp_config
    assert config is not None
    return config


class TestIsc:
    def test_requirement_s_grep(self, isc: Path, operator: Client, test_image: Any) -> None:
        """`cat dhcpd.conf | grep "host workstation"`; ws-1's entry goes without ws-10's and ws-11's (11.5)."""
        numbers = {}
        for mac, name in enumerate(("workstation", "ws-1", "ws-10", "ws-11"), 1):
            made = operator.post("/machines", json={"name": name, "mac_address": f"02000000000{mac}"})
            started = operator.post(START, json={"machine_id": made.json()["id"], "image_id": 1})
            assert started.status_code == 201, started.text
            numbers[name] = started.json()["session"]["id"]
        assert operator.get("/api/v1/dhcp/status").json()["machines_configured"] == 4
        for name in ("workstation", "ws-1"):
            assert f"host {name} {{" in isc.read_text().splitlines()
            assert operator.post(f"/api/v1/sessions/{numbers[name]}/stop").status_code == 200
            assert f"host {name} {{" not in isc.read_text().splitlines()
        hosts = [line for line in isc.read_text().splitlines() if line.startswith("host ")]
        assert hosts == ["host ws-10 {", "host ws-11 {"]

    def test_one_entry_that_dhcpd_refuses_blocks_nobody_else(
        self, isc: Path, operator: Client, netboot: Netboot, test_image: Any
    ) -> None:
        for number in (12, 13):
            operator.post("/machines", json={"name": f"ws-{number}", "mac_address": f"0200000000{number}"})
        first = operator.post(START, json={"machine_id": 1, "image_id": 1})
        assert first.status_code == 201, first.text
        before = isc.read_text()
        bad = operator.post(START, json={"machine_id": 2, "image_id": 1})
        assert (bad.status_code, bad.json()["error"]) == (500, "dhcp_error") and "unlucky" in bad.json()["detail"]
        assert isc.read_text() == before
        assert operator.post(f"/api/v1/sessions/{first.json()['session']['id']}/stop").status_code == 200


class TestTftp:
    def test_status_has_the_contract_s_facts(self, viewer: Client, netboot: Netboot, test_session: Any) -> None:
        assert viewer.get("/api/v1/tftp/status").json() == {
            "service_running": None,  # service_manager none: there is nobody to ask
            "tftp_root_exists": True,
            "machines_dir_exists": True,
            "boot_dir_exists": True,
            "machine_scripts_count": 1,
            "boot_files_count": 0,
            "tftp_root": str(netboot.settings.tftp_root),
            "error": None,
        }

    def test_a_missing_systemctl_is_told(
        self, viewer: Client, netboot: Netboot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        netboot.settings.service_manager = "systemd"
        monkeypatch.setenv("PATH", str(tmp_path))
        answer = viewer.get("/api/v1/tftp/status").json()
        assert answer["service_running"] is None and "systemctl" in answer["error"]
        services = viewer.get("/monitoring/network-services").json()["services"]
        assert services[1]["name"] == "tftp" and services[1]["status"] == "ERROR"

    def test_scripts(self, viewer: Client, operator: Client, netboot: Netboot, test_session: Any) -> None:
        (found,) = viewer.get("/api/v1/tftp/scripts").json()
        path = netboot.settings.tftp_root / "machines" / SCRIPT
        assert found.pop("modified").endswith("Z")
        assert found == {
            "filename": SCRIPT,
            "path": str(path),
            "size": path.stat().st_size,
            "machine_mac": "00:11:22:33:44:55",
        }
        assert viewer.get(f"/api/v1/tftp/scripts/{SCRIPT}").status_code == 403
        for name in (SCRIPT, f"machines/{SCRIPT}"):
            answer = operator.get(f"/api/v1/tftp/scripts/{name}")
            assert answer.text == test_session["boot_script"]
            assert answer.headers["Content-Type"].startswith("text/plain")
        assert operator.get("/api/v1/tftp/scripts/02-00-00-00-00-99.ipxe").status_code == 404
        for name in ("boot.ipxe", "00:11:22:33:44:55.ipxe", "..%2f..%2fetc%2fpasswd", f"other/{SCRIPT}"):
            answer = operator.get(f"/api/v1/tftp/scripts/{name}")
            assert (answer.status_code, answer.json()["error"]) == (422, "validation_error"), name

    def test_a_folder_that_is_a_link_is_not_followed(
        self, operator: Client, netboot: Netboot, test_session: Any, tmp_path: Path
    ) -> None:
        machines = netboot.settings.tftp_root / "machines"
        machines.rename(tmp_path / "elsewhere")
        machines.symlink_to(tmp_path / "elsewhere")
        (netboot.settings.tftp_root / "boot/undionly.kpxe").write_bytes(b"x")
        answer = operator.get("/api/v1/tftp/status").json()
        assert (answer["machine_scripts_count"], answer["boot_files_count"]) == (None, 1)
        assert "list machines/" in answer["error"]
        for path in ("scripts", f"scripts/{SCRIPT}"):
            refused = operator.get(f"/api/v1/tftp/{path}")
            assert (refused.status_code, refused.json()["error"]) == (500, "tftp_error")
        number = test_session["session"]["id"]
        stopped = operator.post(f"/api/v1/sessions/{number}/stop")
        assert (stopped.status_code, stopped.json()["error"]) == (500, "tftp_error")
        assert (tmp_path / "elsewhere" / SCRIPT).exists()


class TestBootRoutes:
    def test_generic_script(self, service: TestClient, netboot: Netboot) -> None:
        answer = service.get("/api/v1/ipxe/generic")
        assert answer.text == generate_generic_script() == (netboot.settings.tftp_root / "boot.ipxe").read_text()
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert answer.headers["Cache-Control"] == "no-store"

    def test_validate(self, viewer: Client, operator: Client, service: TestClient, test_session: Any) -> None:
        path = "/api/v1/ipxe/validate"
        good = operator.post(path, json={"script": test_session["boot_script"]})
        assert (good.status_code, good.json()) == (200, {"valid": True, "errors": []})
        bad = operator.post(path, json={"script": "#!ipxe\nchain tftp://x/machines/y.ipxe\n"}).json()
        assert bad["valid"] is False
        assert [(error["line"], error["code"]) for error in bad["errors"]] == [(2, "no_fallback")]
        assert bad["errors"][0]["message"]
        assert viewer.post(path, json={"script": ""}).status_code == 403
        assert service.post(path, json={"script": ""}).status_code == 401
        assert operator.post(path, json={}).status_code == 422

    def test_boot_files_over_http(self, service: TestClient, netboot: Netboot, tmp_path: Path) -> None:
        boot = netboot.settings.tftp_root / "boot"
        (boot / "sub").mkdir()
        (boot / "sub/vmlinuz").write_bytes(b"kernel")
        (tmp_path / "secret").write_text("not for you")
        (boot / "link").symlink_to(tmp_path / "secret")
        assert service.get("/api/v1/ipxe/boot/sub/vmlinuz").content == b"kernel"
        for path in ("link", "sub", "gone", "..%2f..%2fsecret", "sub/%2e%2e/link"):
            assert service.get(f"/api/v1/ipxe/boot/{path}").status_code == 404, path


def test_network_services(viewer: Client, netboot: Netboot) -> None:
    netboot.provision.adapters.iscsi.faults["ping"] = Fault.RAISE
    services = viewer.get("/monitoring/network-services").json()["services"]
    assert [(each["name"], each["port"], each["status"]) for each in services] == [
        ("dhcp", 67, "RUNNING"),
        ("tftp", 69, "STOPPED"),
        ("iscsi", 3260, "STOPPED"),
    ]
    assert all(each["last_check"].endswith("Z") for each in services)


def test_observer_report(viewer: Client, operator: Client, netboot: Netboot) -> None:
    netboot.observer.last = None
    assert viewer.get("/api/v1/observer/report").json() == {
        "checked_at": None,
        "findings": [],
        "repaired": [],
        "failed": [],
    }
    assert operator.post("/api/v1/observer/check").json()["checked_at"].endswith("Z")
    assert viewer.get("/api/v1/observer/report").json()["findings"] == []
    assert viewer.post("/api/v1/observer/check").status_code == 403


@pytest.mark.parametrize(
    "path",
    ["/api/v1/dhcp/status", "/api/v1/dhcp/reservations", "/api/v1/tftp/status", "/api/v1/tftp/scripts",
     f"/api/v1/tftp/scripts/{SCRIPT}", "/monitoring/boot-events", "/api/v1/monitoring/network-services"],
)  # fmt: skip
def test_they_need_a_token(service: TestClient, path: str) -> None:
    answer = service.get(path)
    assert (answer.status_code, answer.json()["detail"]) == (401, "No authentication token provided")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
