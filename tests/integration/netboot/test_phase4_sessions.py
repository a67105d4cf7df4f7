"""The requirement document's tests (PHASE 4), under its names."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from labyard.netboot.adapters import ipxe, isc_text
from labyard.netboot.adapters.dhcp import Reservation
from labyard.netboot.adapters.isc import Isc
from labyard.netboot.adapters.tftp import Scripts, extract_mac_from_filename
from labyard.netboot.models import BootSession, Image, ImageStatus
from labyard.netboot.service import Netboot
from labyard.netboot.settings import Settings

from .conftest import Client

START = "/api/v1/sessions/start"


class TestSessionOrchestration:
    def test_start_session_success(
        self, operator: Client, netboot: Netboot, test_machine: dict[str, Any], test_image: Image
    ) -> None:
        answer = operator.post(
            START,
            json={
                "machine_id": 1,
                "image_id": 1,
                "session_type": "DISKLESS_BOOT",
                "description": "Manual test session",
            },
        )
        assert answer.status_code == 201, answer.text
        body = answer.json()
        session, details = body["session"], body["iscsi_details"]
        assert (session["machine_id"], session["image_id"], session["status"]) == (1, 1, "active")
        assert (session["session_type"], session["user_notes"]) == ("diskless_boot", "Manual test session")
        assert (session["boot_phase"], session["initiated_by"]) == ("waiting", "operator")
        assert session["session_id"].startswith("session-1-") and session["duration_seconds"] >= 0
        # The target, with an account of its own
        adapters = netboot.provision.adapters
        seen = adapters.iscsi.observed()[details["target_iqn"]]
        assert seen.initiators == ("iqn.2025-01.lab.labyard:initiator-001122334455",)
        assert seen.chap_users == (details["chap_username"],)
        assert body["target_info"]["iqn"] == details["target_iqn"]
        assert body["target_info"]["backstore"]["size"] == test_image.virtual_size_bytes
        # The script, on TFTP and at the address in the answer
        script = netboot.settings.tftp_root / "machines/00-11-22-33-44-55.ipxe"
        assert script.read_text() == body["boot_script"]
        assert stat.S_IMODE(script.stat().st_mode) == 0o644
        assert (
            operator.http.get(body["ipxe_script_url"].removeprefix(netboot.settings.public_url)).text
            == script.read_text()
        )
        # The reservation
        (entry,) = adapters.dhcp.observed()
        assert (entry.label, entry.mac, entry.address) == ("test-workstation", "00:11:22:33:44:55", "192.168.1.101")
        # The record
        with netboot.database.read() as database:
            row = database.scalars(select(BootSession)).one()
        assert row.completed_steps == ["session", "overlay", "target", "script", "tftp", "dhcp", "activate"]

    def test_start_session_machine_not_found(self, operator: Client, netboot: Netboot, test_image: Image) -> None:
        answer = operator.post(START, json={"machine_id": 999, "image_id": test_image.id})
        assert answer.status_code == 404  # decision D1
        assert answer.json()["detail"] == "Machine with ID 999 not found"
        assert operator.get("/api/v1/sessions").json()["total"] == 0
        assert operator.get("/api/v1/targets").json()["total"] == 0
        assert not netboot.provision.adapters.iscsi.observed()

    @pytest.mark.parametrize("status", [status for status in ImageStatus if status not in ("ready", "deleted")])
    def test_start_session_image_not_ready(
        self, operator: Client, netboot: Netboot, test_machine: dict[str, Any], test_image: Image, status: str
    ) -> None:
        with netboot.database.write() as database:
            database.get_one(Image, test_image.id).status = status
        answer = operator.post(START, json={"machine_id": 1, "image_id": 1})
        assert answer.status_code == 400
        assert answer.json()["error"] == "session_error"
        assert answer.json()["detail"] == f"Image must be in READY status. Current status: {status}"
        assert operator.get("/api/v1/sessions").json()["total"] == 0

    def test_stop_session_success(self, operator: Client, netboot: Netboot, test_session: dict[str, Any]) -> None:
        number = test_session["session"]["id"]
        answer = operator.post(f"/api/v1/sessions/{number}/stop")
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"message": "Session stopped successfully", "session_id": number, "machine_id": 1}
        adapters = netboot.provision.adapters
        assert not adapters.iscsi.observed() and not adapters.iscsi.accounts()
        assert not adapters.disks.observed() and not adapters.dhcp.observed() and not adapters.scripts.observed()
        assert list(netboot.settings.overlay_dir.glob("machine-*")) == []
        session = operator.get(f"/api/v1/sessions/{number}").json()
        assert session["status"] == "stopped" and session["ended_at"] and not session["cleanup_pending"]
        target = operator.get(f"/api/v1/targets/{session['target_id']}").json()
        assert target["status"] == "inactive"
        assert (
            operator.http.get(test_session["ipxe_script_url"].removeprefix(netboot.settings.public_url)).status_code
            == 404
        )

    def test_list_sessions(self, operator: Client, test_machine: dict[str, Any], test_image: Image) -> None:
        for _ in range(3):
            number = operator.post(START, json={"machine_id": 1, "image_id": 1}).json()["session"]["id"]
            operator.post(f"/api/v1/sessions/{number}/stop")
        last = operator.post(START, json={"machine_id": 1, "image_id": 1}).json()["session"]["id"]
        everything = operator.get("/api/v1/sessions/").json()
        assert (everything["total"], everything["page"], everything["per_page"]) == (4, 1, 100)
        assert everything["sessions"][0]["id"] == last  # newest first
        second = operator.get("/api/v1/sessions", params={"skip": 2, "limit": 2}).json()
        assert (second["total"], second["page"], second["per_page"], len(second["sessions"])) == (4, 2, 2, 2)
        active = operator.get("/api/v1/sessions", params={"status": "ACTIVE"}).json()
        assert (active["total"], [row["id"] for row in active["sessions"]]) == (1, [last])
        assert operator.get("/api/v1/sessions", params={"status": "sleeping"}).status_code == 422

    def test_get_machine_boot_script(
        self, operator: Client, viewer: Client, netboot: Netboot, test_session: dict[str, Any]
    ) -> None:
        answer = operator.get("/api/v1/sessions/machine/1/boot-script")
        assert answer.status_code == 200
        body = answer.json()
        assert body["script_content"] == test_session["boot_script"]
        assert body["iscsi_details"] == test_session["iscsi_details"]
        hidden = viewer.get("/api/v1/sessions/machine/1/boot-script").json()["script_content"]
        assert "set password ********" in hidden and "/script/********/events" in hidden
        assert operator.get("/api/v1/sessions/machine/7/boot-script").json()["detail"] == "Machine with ID 7 not found"
        operator.post(f"/api/v1/sessions/{test_session['session']['id']}/stop")
        gone = operator.get("/api/v1/sessions/machine/1/boot-script")
        assert (gone.status_code, gone.json()["detail"]) == (404, "No active session found for machine 1")

    def test_get_session_stats(self, operator: Client, test_session: dict[str, Any]) -> None:
        stats = operator.get("/api/v1/sessions/stats").json()
        assert stats["total_sessions"] == stats["active_sessions"] == stats["status_counts"]["active"] == 1
        assert set(stats["status_counts"]) == {"starting", "active", "stopping", "stopped", "error", "timeout"}
        operator.post(f"/api/v1/sessions/{test_session['session']['id']}/stop")
        stats = operator.get("/api/v1/sessions/stats").json()
        assert stats["active_sessions"] == 0 and stats["status_counts"]["stopped"] == 1
        assert sum(stats["status_counts"].values()) == stats["total_sessions"]


SPEC = ipxe.ScriptSpec(
    machine_id=1,
    machine_name="test-workstation",
    session_id="session-1-0a1b2c3d",
    event_url="http://192.168.1.10:8000/api/v1/ipxe/script/TOKEN/events",
    initiator="iqn.2025-01.lab.labyard:initiator-001122334455",
    chap_user="s-0a1b2c3d",
    chap_secret="abcdefgh12345678",
    portal_ip="192.168.1.10",
    portal_port=3260,
    lun=1,
    iqn="iqn.2025-01.lab.labyard:target-machine-1-0a1b2c3d",
)
SAN = "iscsi:192.168.1.10::3260:1:iqn.2025-01.lab.labyard:target-machine-1-0a1b2c3d"


class TestiPXEScriptGeneration:
    def test_generate_machine_boot_script(self) -> None:
        lines = ipxe.generate_machine_script(SPEC).splitlines()
        assert lines[:5] == [
            "#!ipxe",
            "# Labyard netboot: machine 1, session session-1-0a1b2c3d",
            "set event-url http://192.168.1.10:8000/api/v1/ipxe/script/TOKEN/events",
            "echo Booting test-workstation",
            "imgfetch --name ev --timeout 2000 ${event-url}/ipxe_load && imgfree ev || echo Event not sent",
        ]
        assert f"sanboot {SAN} || goto failed" in lines
        assert "set username s-0a1b2c3d" in lines and "set password abcdefgh12345678" in lines
        assert "menu Labyard: test-workstation did not boot" in lines
        assert lines[-1] == "reboot"
        assert ipxe.validate("\n".join(lines)) == []

    def test_generate_generic_boot_script(self) -> None:
        text = ipxe.generate_generic_script()
        assert "chain --autofree tftp://${next-server}/machines/${net0/mac:hexhyp}.ipxe || goto failed" in text
        assert "menu Labyard: no session for this machine" in text
        assert "item local Boot from local disk" in text and ":local\nexit 0\n" in text
        assert ipxe.validate(text) == []

    def test_get_machine_script_filename(self) -> None:
        assert ipxe.get_machine_script_filename("00:11:22:33:44:55") == "machines/00-11-22-33-44-55.ipxe"
        assert ipxe.get_machine_script_filename("AA:BB:CC:DD:EE:FF") == "machines/aa-bb-cc-dd-ee-ff.ipxe"

    @pytest.mark.parametrize(
        ("broken", "code"),
        [
            (lambda text: text.removeprefix("#!ipxe\n"), "no_shebang"),
            (lambda text: text.replace(" || goto failed", ""), "no_fallback"),
            (lambda text: text.replace("goto failed", "goto nowhere"), "no_label"),
            (lambda text: text.replace(":shell\n", ""), "no_label"),
            (lambda text: text.replace("::3260", ":3260"), "bad_san_uri"),
            (lambda text: text.replace("::3260", "::0"), "bad_san_uri"),
            (lambda text: text.replace("target-machine", "target_machine"), "bad_iqn"),
            (lambda text: text.replace("reboot", "poweroff"), "unknown_command"),
            (lambda text: text.replace("Booting", "Booting ${net0/user-class}"), "foreign_variable"),
            (lambda text: text.replace("Booting", "Boot\ting\x07"), "control_character"),
            (lambda text: "#!ipxe\necho nothing\n", "no_boot"),
            (lambda text: "", "no_shebang"),
        ],
    )
    def test_validate_script_syntax(self, broken: Any, code: str) -> None:
        errors = ipxe.validate(broken(ipxe.generate_machine_script(SPEC)))
        assert code in {error.code for error in errors}
        assert all(error.line >= 1 and error.message for error in errors)


class TestDHCPConfiguration:
    def test_generate_dhcp_config_entry(self) -> None:
        entry = Reservation(
            1, "test-workstation", "00:11:22:33:44:55", "192.168.1.101", "192.168.1.10",
            "machines/00-11-22-33-44-55.ipxe", "legacy",
        )  # fmt: skip
        assert isc_text.render_entry(entry).strip() == (
            "host test-workstation {\n"
            "  hardware ethernet 00:11:22:33:44:55;\n"
            "  fixed-address 192.168.1.101;\n"
            '  option host-name "test-workstation";\n'
            "  next-server 192.168.1.10;\n"
            '  if exists user-class and option user-class = "iPXE" { filename "machines/00-11-22-33-44-55.ipxe"; }\n'
            "}"
        )

    def test_dhcp_adapter_status(self, settings: Settings, operator: Client, test_session: dict[str, Any]) -> None:
        answer = operator.get("/api/v1/dhcp/status").json()
        assert answer["backend"] == "fake" and answer["machines_configured"] == 1 and answer["last_reload"]
        # The ISC backend without its daemon: facts it cannot have are false or null, and `error` says why.
        isc_settings = settings.model_copy(
            update={"dhcp_backend": "isc", "dhcp_config": Path("/nonexistent/dhcpd.conf")}
        )
        status = Isc(isc_settings).status()
        assert status.config_file_exists is False and not status.config_valid
        assert status.error


class TestTFTPManagement:
    def test_tftp_adapter_status(self, settings: Settings, operator: Client, test_session: dict[str, Any]) -> None:
        answer = operator.get("/api/v1/tftp/status").json()
        assert answer["tftp_root_exists"] and answer["machines_dir_exists"] and answer["boot_dir_exists"]
        assert (answer["machine_scripts_count"], answer["boot_files_count"]) == (1, 0)
        (settings.tftp_root / "boot/undionly.kpxe").write_bytes(b"x")
        (settings.tftp_root / "machines/notes.txt").write_text("not a script")
        answer = operator.get("/api/v1/tftp/status").json()
        assert (answer["machine_scripts_count"], answer["boot_files_count"]) == (1, 1)
        status = Scripts(settings.model_copy(update={"tftp_root": settings.tftp_root / "gone"})).status()
        assert not status.tftp_root_exists and not status.machines_dir_exists and status.error

    @pytest.mark.parametrize(
        ("name", "mac"),
        [
            ("machines/00-11-22-33-44-55.ipxe", "00:11:22:33:44:55"),
            ("00-11-22-33-44-55.ipxe", "00:11:22:33:44:55"),
            ("machines/aa-bb-cc-dd-ee-ff.ipxe", "AA:BB:CC:DD:EE:FF"),
            ("machines/00:11:22:33:44:55.ipxe", None),
            ("machines/00-11-22-33-44.ipxe", None),
            ("machines/00-11-22-33-44-55-66.ipxe", None),
            ("machines/../00-11-22-33-44-55.ipxe", None),
            ("../machines/00-11-22-33-44-55.ipxe", None),
            ("machines/00-11-22-33-44-55.txt", None),
            ("machines/00-11-22-33-44-gg.ipxe", None),
            ("machines/00-11-22-33-44-55.ipxe\n", None),
            ("", None),
        ],
    )
    def test_extract_mac_from_filename(self, name: str, mac: str | None) -> None:
        assert extract_mac_from_filename(name) == mac
