"""Every route in dry run: statuses, check order, and the texts that clients match (contract section 4)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import httpx
import pytest
import yaml
from fastapi.testclient import TestClient

from labyard.vms.app import build
from labyard.vms.service.manager import VmManager
from labyard.vms.settings import Settings

TEMPLATE = {"name": "small", "cpu_count": 1, "ram_amount": 512}
UNKNOWN = "3f0e8f0a-0000-4000-8000-000000000000"
HOSTILE = ["..%2F..%2Fx", "%2e%2e", "a%20b", "-a", ".hidden", "a" * 64, "%00", "a%0ab", "é", "..;", "a*b"]


def refused(answer: httpx.Response, status: int, detail: str) -> None:
    assert (answer.status_code, answer.json()) == (status, {"detail": detail})


class TestTemplates:
    def test_create_get_list(self, dry: TestClient) -> None:
        made = dry.post("/templates", json=TEMPLATE | {"unknown": 1})
        assert (made.status_code, made.json()) == (201, TEMPLATE)
        assert dry.get("/templates/small").json() == TEMPLATE
        assert dry.get("/templates").json() == [TEMPLATE]

    def test_duplicate(self, dry: TestClient, small: str) -> None:
        refused(dry.post("/templates", json=TEMPLATE), 400, "Template already exists")

    def test_two_at_once_make_one(self, dry: TestClient) -> None:
        with ThreadPoolExecutor(5) as pool:
            answers = [a.status_code for a in pool.map(lambda _: dry.post("/templates", json=TEMPLATE), range(5))]
        assert sorted(answers) == [201, 400, 400, 400, 400]

    def test_delete(self, dry: TestClient, make_vm: Callable[..., str]) -> None:
        refused(dry.delete("/templates/none"), 404, "Template not found")
        refused(dry.get("/templates/none"), 404, "Template not found")
        make_vm("a")
        make_vm("b")
        refused(dry.delete("/templates/small"), 400, "Template is in use by 2 VM(s)")
        for name in "ab":
            assert dry.delete(f"/vms/{name}").status_code == 204
        gone = dry.delete("/templates/small")
        assert (gone.status_code, gone.content) == (204, b"")
        assert dry.get("/templates").json() == []

    @pytest.mark.parametrize(
        "wrong",
        [
            {"name": ""}, {"name": "x" * 129}, {"name": "a/b"}, {"name": "a\nb"}, {"name": 5}, {"name": None},
            {"cpu_count": 0}, {"cpu_count": 256}, {"cpu_count": 1.5}, {"cpu_count": "many"}, {"cpu_count": None},
            {"ram_amount": 0}, {"ram_amount": 1048577}, {"ram_amount": 2**70}, {"ram_amount": 10**400},
            {"ram_amount": [1]}, {"name": "\ud800"},
        ],
    )  # fmt: skip
    def test_validation(self, dry: TestClient, wrong: dict[str, Any]) -> None:
        answer = dry.post(
            "/templates", content=json.dumps(TEMPLATE | wrong), headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 422, answer.text
        assert {"type", "loc", "msg", "input"} == set(answer.json()["detail"][0])
        assert answer.json()["detail"][0]["loc"] == ["body", next(iter(wrong))]

    @pytest.mark.parametrize(
        "body", [b"", b"{", b"[]", b"5", b"null", b'{"ram_amount": ' + b"9" * 6000 + b"}", b"\xff"]
    )
    def test_bodies_that_are_none(self, dry: TestClient, body: bytes) -> None:
        answer = dry.post("/templates", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422
        assert isinstance(answer.json()["detail"], list)

    def test_lax_numbers_and_small_amounts(self, dry: TestClient) -> None:
        body = {"name": "tiny", "cpu_count": "2", "ram_amount": 4.0}
        assert dry.post("/templates", json=body).json() == {"name": "tiny", "cpu_count": 2, "ram_amount": 4}


class TestVms:
    def test_create(self, dry: TestClient, small: str, manager: VmManager) -> None:
        made = dry.post("/vms", json={"template_name": small, "name": "web-1"})
        assert made.status_code == 201
        vm = made.json()
        assert (vm["id"], vm["vm_template"], vm["state"], vm["local_ip"]) == ("web-1", TEMPLATE, "stopped", None)
        assert (vm["network_mode"], vm["domain_type"], vm["state_reason"]) == ("nat", "qemu", None)
        assert vm["mac"].startswith("52:54:00:") and uuid.UUID(vm["domain_uuid"])
        assert set(vm) == {
            "id", "vm_template", "state", "local_ip", "mac", "network_mode", "domain_type", "domain_uuid",
            "state_reason",
        }  # fmt: skip
        assert dry.get("/vms/web-1").json() == vm
        assert dry.get("/vms").json() == [vm]
        assert (manager.settings.vms_dir / "web-1" / ".labyard").exists()

    @pytest.mark.parametrize("name", [None, ""])
    def test_without_a_name_the_server_makes_one(self, dry: TestClient, small: str, name: str | None) -> None:
        made = dry.post("/vms", json={"template_name": small, "name": name}).json()
        assert uuid.UUID(made["id"]).version == 4

    def test_check_order_of_create(self, dry: TestClient, make_vm: Callable[..., str]) -> None:
        make_vm("web")
        bad_name = dry.post("/vms", json={"template_name": "none", "name": "../../x"})
        assert bad_name.status_code == 422
        refused(dry.post("/vms", json={"template_name": "none", "name": "web"}), 400, "Template not found")
        refused(dry.post("/vms", json={"template_name": "small", "name": "web"}), 400, "VM with this ID already exists")

    @pytest.mark.parametrize(
        "name", ["../../x", "a/b", "-a", ".a", "_a", "a b", "a\n", "a" * 64, "é", "a\0", 5, [], "a;b"]
    )
    def test_bad_names(self, dry: TestClient, small: str, name: Any, manager: VmManager) -> None:
        assert dry.post("/vms", json={"template_name": small, "name": name}).status_code == 422
        assert dry.get("/vms").json() == []
        assert list(manager.settings.vms_dir.iterdir()) == []

    @pytest.mark.parametrize("name", ["A", "0", "a" * 63, "a.b_c-d"])
    def test_good_names(self, dry: TestClient, small: str, name: str) -> None:
        assert dry.post("/vms", json={"template_name": small, "name": name}).status_code == 201
        assert dry.get(f"/vms/{name}").status_code == 200

    def test_list_by_state(self, dry: TestClient, make_vm: Callable[..., str]) -> None:
        make_vm("off")
        make_vm("on", running=True)

        def listed(state: str) -> list[str]:
            return [vm["id"] for vm in dry.get("/vms", params={"state": state}).json()]

        assert (listed("running"), listed("stopped"), listed("error"), listed("paused")) == (["on"], ["off"], [], [])
        for state in ("asleep", "RUNNING", ""):
            assert dry.get("/vms", params={"state": state}).status_code == 422

    @pytest.mark.parametrize("vm_id", [UNKNOWN, *HOSTILE])
    def test_unknown_and_hostile_ids_are_404_everywhere(self, dry: TestClient, vm_id: str) -> None:
        for method, path in (
            ("GET", ""), ("DELETE", ""), ("POST", "/actions/start"), ("POST", "/actions/stop"),
            ("POST", "/actions/restart"), ("GET", "/console"), ("GET", "/metadata"), ("DELETE", "/metadata"),
            ("PUT", "/metadata"), ("GET", "/screenshot"),
        ):  # fmt: skip
            answer = dry.request(method, f"/vms/{vm_id}{path}", json={} if method == "PUT" else None)
            assert answer.status_code == 404, (method, path, answer.text)
            assert answer.json()["detail"] in ("VM not found", "Not Found")

    def test_start_and_stop(self, dry: TestClient, make_vm: Callable[..., str]) -> None:
        make_vm("web")
        refused(dry.post("/vms/web/actions/stop"), 400, "VM is not running (current state: stopped)")
        started = dry.post("/vms/web/actions/start")
        assert (started.status_code, started.json()) == (202, {"status": "started"})
        vm = dry.get("/vms/web").json()
        assert (vm["state"], vm["local_ip"]) == ("running", "192.168.100.2")
        refused(dry.post("/vms/web/actions/start"), 400, "VM is already running")
        stopped = dry.post("/vms/web/actions/stop")
        assert (stopped.status_code, stopped.json()) == (202, {"status": "stopped"})
        vm = dry.get("/vms/web").json()
        assert (vm["state"], vm["local_ip"]) == ("stopped", None)
        assert dry.get("/network/leases").json() == []

    def test_stop_by_force(self, dry: TestClient, make_vm: Callable[..., str]) -> None:
        make_vm("web", running=True)
        assert dry.post("/vms/web/actions/stop", params={"force": "maybe"}).status_code == 422
        assert dry.post("/vms/web/actions/stop", params={"force": "true"}).status_code == 202

    def test_restart_from_every_state(self, dry: TestClient, make_vm: Callable[..., str], sql: Any) -> None:
        make_vm("web")
        mac = dry.get("/vms/web").json()["mac"]
        for state in ("stopped", "running", "error"):
            sql("UPDATE vms SET state=:state", state=state)
            answer = dry.post("/vms/web/actions/restart")
            assert (answer.status_code, answer.json()) == (202, {"status": "restarted"})
            vm = dry.get("/vms/web").json()
            assert (vm["state"], vm["local_ip"], vm["mac"]) == ("running", "192.168.100.2", mac)

    def test_delete_a_running_one(
        self, dry: TestClient, make_vm: Callable[..., str], make_disk: Callable[..., str], manager: VmManager
    ) -> None:
        make_vm("web", running=True)
        disk = make_disk(mount_point="/data")
        dry.post(f"/disks/{disk}/attach", json={"vm_id": "web"})
        dry.put("/vms/web/metadata", json={"hostname": "web"})
        gone = dry.delete("/vms/web")
        assert (gone.status_code, gone.content) == (204, b"")
        refused(dry.get("/vms/web"), 404, "VM not found")
        refused(dry.delete("/vms/web"), 404, "VM not found")
        freed = dry.get(f"/disks/{disk}").json()
        assert (freed["state"], freed["vm_id"], freed["mount_point"], freed["target"]) == (
            "available",
            None,
            None,
            None,
        )
        assert dry.get("/network/leases").json() == []
        assert not (manager.settings.vms_dir / "web").exists()
        make_vm("web")
        assert dry.get("/vms/web/metadata").json()["hostname"] is None

    def test_admission(self, dry: TestClient) -> None:
        for name, cpus, ram, what in (("huge", 1, 1048576, "memory"),):
            dry.post("/templates", json={"name": name, "cpu_count": cpus, "ram_amount": ram})
            dry.post("/vms", json={"template_name": name, "name": name})
            answer = dry.post(f"/vms/{name}/actions/start")
            assert answer.status_code == 400
            assert answer.json()["detail"].startswith(f"Failed to start VM: admission failed: insufficient host {what}")
            vm = dry.get(f"/vms/{name}").json()
            assert (vm["state"], vm["local_ip"]) == ("error", None)
            assert vm["state_reason"].startswith("admission failed")
            assert dry.get("/network/leases").json() == []

    def test_busy(self, dry: TestClient, make_vm: Callable[..., str], manager: VmManager) -> None:
        make_vm("web")
        manager.shared.vm_locks._patience = 0.05
        with manager.shared.vm_locks.hold("web"):
            for path in ("/vms/web/actions/start", "/vms/web/actions/stop", "/vms/web/actions/restart"):
                refused(dry.post(path), 409, "VM is busy with another operation")
            refused(dry.delete("/vms/web"), 409, "VM is busy with another operation")
            assert dry.get("/vms/web").status_code == 200

    def test_many_at_once(self, dry: TestClient, make_vm: Callable[..., str]) -> None:
        names = [make_vm(f"web-{number}") for number in range(6)]

        def all_at_once(action: str) -> list[int]:
            with ThreadPoolExecutor(len(names)) as pool:
                return [a.status_code for a in pool.map(lambda name: dry.post(f"/vms/{name}/actions/{action}"), names)]

        assert all_at_once("start") == [202] * 6
        vms = dry.get("/vms").json()
        assert len({vm["local_ip"] for vm in vms}) == 6 and {vm["state"] for vm in vms} == {"running"}
        assert all_at_once("stop") == [202] * 6
        assert {vm["state"] for vm in dry.get("/vms").json()} == {"stopped"}


class TestConsole:
    PATH = "/vms/web/console"

    def test_no_file(self, dry: TestClient, make_vm: Callable[..., str]) -> None:
        make_vm()
        assert dry.get(self.PATH).json() == {
            "vm_id": "web", "console": "", "size": 0, "file_size": 0, "next_offset": 0,
            "message": "Console file not found (VM may not have started yet)",
        }  # fmt: skip

    def test_tail_and_range(self, dry: TestClient, make_vm: Callable[..., str], manager: VmManager) -> None:
        make_vm()
        file = manager.shared.files.console("web")
        file.write_bytes(b"x" * 200_000 + "žend\xff".encode("latin-1", "ignore"))
        answer = dry.get(self.PATH).json()
        assert (answer["size"], answer["file_size"], answer["message"]) == (51200, file.stat().st_size, None)
        part = dry.get(self.PATH, params={"offset": 199_999, "limit": 2}).json()
        assert (part["console"], part["next_offset"]) == ("xe", 200_001)
        for offset in (file.stat().st_size, 2**63 - 1):
            past = dry.get(self.PATH, params={"offset": offset}).json()
            assert (past["console"], past["next_offset"]) == ("", offset)

    def test_goes_on_in_the_rotated_file(
        self, dry: TestClient, make_vm: Callable[..., str], manager: VmManager
    ) -> None:
        make_vm()
        file = manager.shared.files.console("web")
        file.write_text("second")
        file.with_name("console.txt.0").write_text("first ")
        file.with_name("console.txt.1").write_text("older ")
        answer = dry.get(self.PATH).json()
        assert (answer["console"], answer["size"], answer["file_size"]) == ("first second", 12, 6)

    @pytest.mark.parametrize(
        "query", [{"limit": 0}, {"limit": 1024 * 1024 + 1}, {"offset": -1}, {"offset": 2**64}, {"offset": "x"}]
    )
    def test_bad_query(self, dry: TestClient, make_vm: Callable[..., str], query: dict[str, Any]) -> None:
        make_vm()
        assert dry.get(self.PATH, params=query).status_code == 422

    def test_unreadable(self, dry: TestClient, make_vm: Callable[..., str], manager: VmManager) -> None:
        make_vm()
        manager.shared.files.console("web").mkdir()
        refused(dry.get(self.PATH), 500, "Failed to read console: Is a directory")


class TestScreenshot:
    PATH = "/vms/web/screenshot"

    def test_dry_run_has_no_screen(self, dry: TestClient, make_vm: Callable[..., str]) -> None:
        make_vm("web")
        refused(dry.get(self.PATH), 400, "VM is not running (current state: stopped)")
        dry.post("/vms/web/actions/start")
        why = "screenshot failed: a machine of a dry run has no screen"
        refused(dry.get(self.PATH), 400, f"Failed to take a screenshot: {why}")

    def test_it_is_documented_as_a_picture(self, dry: TestClient) -> None:
        route = dry.get("/openapi.json").json()["paths"]["/vms/{vm_id}/screenshot"]["get"]
        assert list(route["responses"]["200"]["content"]) == ["image/png"]


class TestMetadata:
    PATH = "/vms/web/metadata"
    NOTHING: dict[str, Any] = {  # noqa: RUF012
        "vm_id": "web", "hostname": None, "user_data": None, "ssh_keys": None, "created_at": None, "updated_at": None,
    }  # fmt: skip

    def test_none_stored(self, dry: TestClient, make_vm: Callable[..., str]) -> None:
        make_vm()
        assert dry.get(self.PATH).json() == self.NOTHING
        assert dry.delete(self.PATH).status_code == 204

    def test_merge_and_clear(self, dry: TestClient, make_vm: Callable[..., str]) -> None:
        make_vm()
        first = dry.put(self.PATH, json={"hostname": "web", "user_data": "#!/bin/sh\n", "ssh_keys": "a\nb"}).json()
        assert (first["hostname"], first["user_data"], first["ssh_keys"]) == ("web", "#!/bin/sh\n", "a\nb")
        assert datetime.fromisoformat(first["created_at"]).tzinfo is None
        second = dry.put(self.PATH, json={"hostname": "", "user_data": None}).json()
        assert (second["hostname"], second["user_data"], second["ssh_keys"]) == (None, "#!/bin/sh\n", "a\nb")
        assert second["created_at"] == first["created_at"] < second["updated_at"]
        assert dry.get(self.PATH).json() == second
        gone = dry.delete(self.PATH)
        assert (gone.status_code, gone.content) == (204, b"")
        assert dry.get(self.PATH).json() == self.NOTHING

    @pytest.mark.parametrize(
        "wrong",
        [
            {"hostname": "x" * 254}, {"hostname": "a\nb"}, {"user_data": "x" * (256 * 1024 + 1)},
            {"user_data": "ž" * (128 * 1024 + 1)}, {"ssh_keys": "x" * (64 * 1024 + 1)}, {"ssh_keys": ["a"]}, [], None,
        ],
    )  # fmt: skip
    def test_validation(self, dry: TestClient, make_vm: Callable[..., str], wrong: Any) -> None:
        make_vm()
        assert dry.put(self.PATH, json=wrong).status_code == 422

    def test_largest(self, dry: TestClient, make_vm: Callable[..., str]) -> None:
        make_vm()
        text = "\x01" * (256 * 1024)
        answer = dry.put(self.PATH, json={"user_data": text, "ssh_keys": "\x01" * (64 * 1024)})
        assert answer.status_code == 200 and answer.json()["user_data"] == text


class TestDisks:
    def test_create(self, dry: TestClient) -> None:
        made = dry.post("/disks", json={"size": "5", "mount_point": "/data"})
        assert made.status_code == 201
        disk = made.json()
        assert uuid.UUID(disk.pop("id")).version == 4
        assert disk == {
            "size": 5, "mount_point": "/data", "state": "available", "vm_id": None, "target": None, "device_path": None,
        }  # fmt: skip

    @pytest.mark.parametrize(
        "wrong",
        [{"size": 0}, {"size": 16385}, {"size": 1.5}, {"size": 2**70}, {}, {"size": 1, "mount_point": "x" * 256},
         {"size": 1, "mount_point": "a\nb"}, {"size": 1, "mount_point": 5}],
    )  # fmt: skip
    def test_validation(self, dry: TestClient, wrong: dict[str, Any]) -> None:
        assert dry.post("/disks", json=wrong).status_code == 422
        assert dry.get("/disks").json() == []

    @pytest.mark.parametrize("disk_id", [UNKNOWN, *HOSTILE])
    def test_unknown_and_hostile_ids(self, dry: TestClient, make_vm: Callable[..., str], disk_id: str) -> None:
        make_vm(running=True)
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/attach"), ("POST", "/detach")):
            answer = dry.request(method, f"/disks/{disk_id}{path}", json={"vm_id": "web"})
            assert answer.status_code == 404
            assert answer.json()["detail"] in ("Disk not found", "Not Found")

    def test_attach_and_detach(
        self, dry: TestClient, make_vm: Callable[..., str], make_disk: Callable[..., str]
    ) -> None:
        make_vm(running=True)
        labelled, plain = make_disk(mount_point="/data"), make_disk()
        for disk in (labelled, plain):
            answer = dry.post(f"/disks/{disk}/attach", json={"vm_id": "web"})
            assert (answer.status_code, answer.json()) == (200, {"status": "attached"})
        first, second = (dry.get(f"/disks/{disk}").json() for disk in (labelled, plain))
        assert (first["state"], first["vm_id"], first["target"], first["mount_point"]) == (
            "attached", "web", "sda", "/data",
        )  # fmt: skip
        assert first["device_path"] == f"/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_{labelled}"
        assert (second["target"], second["mount_point"]) == ("sdb", "/dev/sdb")
        answer = dry.post(f"/disks/{labelled}/detach")
        assert (answer.status_code, answer.json()) == (200, {"status": "detached"})
        first = dry.get(f"/disks/{labelled}").json()
        assert (first["state"], first["vm_id"], first["target"], first["mount_point"], first["device_path"]) == (
            "available", None, None, None, None,
        )  # fmt: skip
        assert dry.post(f"/disks/{labelled}/attach", json={"vm_id": "web"}).status_code == 200
        assert dry.get(f"/disks/{labelled}").json()["target"] == "sda"

    def test_check_order_of_attach(
        self, dry: TestClient, make_vm: Callable[..., str], make_disk: Callable[..., str]
    ) -> None:
        make_vm("on", running=True)
        make_vm("off")
        disk, attached = make_disk(), make_disk()
        dry.post(f"/disks/{attached}/attach", json={"vm_id": "on"})
        for body in (None, [], "on", 5):
            assert dry.post(f"/disks/{UNKNOWN}/attach", json=body).status_code == 422
        assert dry.post(f"/disks/{UNKNOWN}/attach").status_code == 422
        assert dry.post(f"/disks/{disk}/attach", json={"vm_id": 5}).status_code == 422
        for body in ({}, {"vm_id": None}, {"vm_id": ""}):
            refused(dry.post(f"/disks/{UNKNOWN}/attach", json=body), 400, "vm_id is required")
        refused(dry.post(f"/disks/{UNKNOWN}/attach", json={"vm_id": "none"}), 404, "Disk not found")
        refused(dry.post(f"/disks/{attached}/attach", json={"vm_id": "none"}), 400, "Disk is already attached")
        for vm_id in ("none", "../x", "\0"):
            refused(dry.post(f"/disks/{disk}/attach", json={"vm_id": vm_id}), 404, "VM not found")
        refused(dry.post(f"/disks/{disk}/attach", json={"vm_id": "off"}), 400, "VM must be running to attach disk")
        assert dry.get(f"/disks/{disk}").json()["state"] == "available"

    def test_no_free_target(self, dry: TestClient, make_vm: Callable[..., str], make_disk: Callable[..., str]) -> None:
        make_vm(running=True)
        for _ in range(23):
            assert dry.post(f"/disks/{make_disk()}/attach", json={"vm_id": "web"}).status_code == 200
        one_more = make_disk()
        answer = dry.post(f"/disks/{one_more}/attach", json={"vm_id": "web"})
        assert answer.status_code == 400 and answer.json()["detail"].startswith("Failed to attach disk: ")
        assert {disk["target"] for disk in dry.get("/disks").json()} >= {"sda", "sdw"}

    def test_check_order_of_detach(self, dry: TestClient, make_disk: Callable[..., str], sql: Any) -> None:
        disk = make_disk()
        refused(dry.post(f"/disks/{UNKNOWN}/detach"), 404, "Disk not found")
        refused(dry.post(f"/disks/{disk}/detach"), 400, "Disk is not attached")
        sql("UPDATE disks SET state='attached'")
        refused(dry.post(f"/disks/{disk}/detach"), 400, "Disk has no associated VM")
        for gone in ("gone", "../../x"):
            sql("UPDATE disks SET state='attached', vm_id=:gone", gone=gone)
            assert dry.post(f"/disks/{disk}/detach").status_code == 200
            assert dry.get(f"/disks/{disk}").json()["state"] == "available"

    def test_delete(
        self, dry: TestClient, make_vm: Callable[..., str], make_disk: Callable[..., str], sql: Any
    ) -> None:
        available, orphaned, attached = make_disk(), make_disk(), make_disk()
        gone = dry.delete(f"/disks/{available}")
        assert (gone.status_code, gone.content) == (204, b"")
        sql("UPDATE disks SET state='attached' WHERE id=:id", id=orphaned)
        refused(dry.delete(f"/disks/{orphaned}"), 400, "Cannot delete attached disk. Detach it first.")
        sql("UPDATE disks SET vm_id='gone' WHERE id=:id", id=orphaned)
        assert dry.delete(f"/disks/{orphaned}").status_code == 204
        make_vm(running=True)
        dry.post(f"/disks/{attached}/attach", json={"vm_id": "web"})
        refused(dry.delete(f"/disks/{attached}"), 400, "Cannot delete attached disk. Detach it first.")
        dry.post("/vms/web/actions/stop")
        assert dry.get(f"/disks/{attached}").json()["state"] == "attached"
        assert dry.delete(f"/disks/{attached}").status_code == 204
        assert dry.get("/disks").json() == []
        assert dry.post("/vms/web/actions/start").status_code == 202


class TestNetwork:
    def test_config(self, dry: TestClient, make_vm: Callable[..., str]) -> None:
        config = dry.get("/network/config").json()
        assert config == {
            "vlan_id": 100, "bridge_name": "br-vman", "subnet": "192.168.100.0/24", "gateway": "192.168.100.1",
            "dns": ["8.8.8.8", "8.8.4.4"], "allocated_ips": [], "available_ips": 253, "network_name": "labyard-vman",
            "mode": "nat", "vlan_applied": False, "ip_mac_filter": False,
        }  # fmt: skip
        for number in range(9):
            make_vm(f"vm{number}", running=True)
        config = dry.get("/network/config").json()
        assert config["allocated_ips"] == [f"192.168.100.{host}" for host in range(2, 11)]
        assert config["available_ips"] == 244

    def test_leases(self, dry: TestClient, make_vm: Callable[..., str]) -> None:
        make_vm("web", running=True)
        (lease,) = dry.get("/network/leases").json()
        assert datetime.fromisoformat(lease.pop("acquired_at")).tzinfo is None
        assert lease == {
            "ip": "192.168.100.2", "mac": dry.get("/vms/web").json()["mac"], "vm_id": "web", "seen": False,
        }  # fmt: skip

    def test_full_subnet_and_reuse(self, make_dry: Callable[..., TestClient]) -> None:
        dry = make_dry(subnet="10.9.8.0/29", gateway="10.9.8.3", db_url="")
        assert dry.get("/network/config").json()["available_ips"] == 5
        dry.post("/templates", json=TEMPLATE)
        for number in range(6):
            dry.post("/vms", json={"template_name": "small", "name": f"vm{number}"})
        for number in range(5):
            assert dry.post(f"/vms/vm{number}/actions/start").status_code == 202
        assert dry.get("/network/config").json()["allocated_ips"] == [f"10.9.8.{host}" for host in (1, 2, 4, 5, 6)]
        answer = dry.post("/vms/vm5/actions/start")
        refused(answer, 400, "Failed to start VM: No available IPs in subnet 10.9.8.0/29")
        assert dry.get("/vms/vm5").json()["state"] == "error"
        dry.post("/vms/vm2/actions/stop")
        assert dry.post("/vms/vm5/actions/start").status_code == 202
        assert dry.get("/vms/vm5").json()["local_ip"] == "10.9.8.4"
        assert dry.get("/network/config").json()["available_ips"] == 0

    def test_last_address_comes_back(self, dry: TestClient, make_vm: Callable[..., str]) -> None:
        make_vm("a", running=True)
        make_vm("b", running=True)
        dry.post("/vms/a/actions/stop")
        assert dry.post("/vms/b/actions/restart").status_code == 202
        assert dry.get("/vms/b").json()["local_ip"] == "192.168.100.3"

    @pytest.mark.parametrize("mode", ["user", "none"])
    def test_other_modes(self, make_dry: Callable[..., TestClient], mode: str) -> None:
        dry = make_dry(network_mode=mode)
        assert dry.get("/network/config").json() == {"status": "not_configured"}
        dry.post("/templates", json=TEMPLATE)
        dry.post("/vms", json={"template_name": "small", "name": "web"})
        assert dry.post("/vms/web/actions/start").status_code == 202
        vm = dry.get("/vms/web").json()
        assert (vm["state"], vm["local_ip"], vm["network_mode"]) == ("running", None, mode)


class TestService:
    def test_health(self, dry: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("labyard.vms.api.health.shutil.which", lambda program: f"/usr/bin/{program}")
        answer = dry.get("/health")
        assert answer.status_code == 200
        assert answer.json() == {
            "status": "ok", "service": "labyard-vms",
            "checks": {
                "database": "ok", "storage": "ok", "qemu": "available", "qemu-img": "available", "observer": "running",
                "libvirt": "skipped (dry run)", "accel": "qemu (dry run)", "network": "skipped (dry run)",
                "metadata": "skipped (dry run)",
            },
        }  # fmt: skip

    def test_health_without_qemu(self, dry: TestClient, monkeypatch: pytest.MonkeyPatch, manager: VmManager) -> None:
        monkeypatch.setattr("labyard.vms.api.health.shutil.which", lambda program: None)
        manager.observer.stop()
        answer = dry.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "degraded")
        checks = answer.json()["checks"]
        assert (checks["qemu"], checks["qemu-img"], checks["observer"]) == ("not found", "not found", "stopped")

    def test_health_without_storage(self, dry: TestClient, manager: VmManager) -> None:
        manager.settings.disks_dir.rmdir()
        answer = dry.get("/health")
        assert answer.status_code == 503 and answer.json()["checks"]["storage"].startswith("error: ")

    def test_openapi(self, dry: TestClient) -> None:
        answer = dry.get("/openapi.yaml")
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/yaml")
        assert yaml.safe_load(answer.text) == dry.get("/openapi.json").json()
        for path in ("/docs", "/redoc"):
            assert dry.get(path).status_code == 200

    def test_every_contract_route_is_there(self, dry: TestClient) -> None:
        paths = dry.get("/openapi.json").json()["paths"]
        found = {
            (method, path.replace("vm_id", "id").replace("disk_id", "id")) for path in paths for method in paths[path]
        }
        assert found == {
            ("post", "/templates"), ("get", "/templates"), ("get", "/templates/{name}"),
            ("delete", "/templates/{name}"),
            ("post", "/vms"), ("get", "/vms"), ("get", "/vms/{id}"), ("delete", "/vms/{id}"),
            ("post", "/vms/{id}/actions/start"), ("post", "/vms/{id}/actions/stop"),
            ("post", "/vms/{id}/actions/restart"), ("get", "/vms/{id}/console"),
            ("get", "/vms/{id}/screenshot"), ("put", "/vms/{id}/metadata"),
            ("get", "/vms/{id}/metadata"), ("delete", "/vms/{id}/metadata"), ("post", "/disks"), ("get", "/disks"),
            ("get", "/disks/{id}"), ("delete", "/disks/{id}"), ("post", "/disks/{id}/attach"),
            ("post", "/disks/{id}/detach"), ("get", "/health"), ("get", "/observer/status"),
            ("post", "/observer/check"),
            ("get", "/network/config"), ("get", "/network/leases"),
        }  # fmt: skip

    def test_unknown_route_and_wrong_verb(self, dry: TestClient) -> None:
        refused(dry.get("/nothing"), 404, "Not Found")
        refused(dry.put("/vms"), 405, "Method Not Allowed")

    def test_a_fault_tells_nothing(self, dry: TestClient, manager: VmManager, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object) -> None:
            raise RuntimeError("the password is swordfish")

        monkeypatch.setattr(manager.templates, "list", broken)
        refused(dry.get("/templates"), 500, "Internal error")

    def test_too_large_a_body(self, dry: TestClient) -> None:
        answer = dry.post("/templates", content=b"x" * (4 * 1024 * 1024 + 1))
        assert answer.status_code == 413 and isinstance(answer.json()["detail"], str)

    def test_token(self, make_dry: Callable[..., TestClient]) -> None:
        dry = make_dry(api_token="tellno1")
        assert dry.get("/health").json()["service"] == "labyard-vms"
        for given in (None, "Bearer wrong", "tellno1", "Basic tellno1", "Bearer ž".encode()):
            headers = {"Authorization": given} if given else {}
            for path in ("/vms", "/docs", "/openapi.yaml", "/nothing"):
                answer = dry.get(path, headers=headers)
                assert answer.status_code == 401 and isinstance(answer.json()["detail"], str)
        assert dry.get("/vms", headers={"Authorization": "Bearer tellno1"}).status_code == 200

    def test_cors(self, make_dry: Callable[..., TestClient], dry: TestClient) -> None:
        asked = {"Origin": "http://ui.example", "Access-Control-Request-Method": "POST"}
        assert not any(name.startswith("access-control") for name in dry.get("/vms", headers=asked).headers)
        dry = make_dry(cors_origins="http://ui.example, http://other.example", api_token="t")
        assert dry.options("/vms", headers=asked).headers["access-control-allow-origin"] == "http://ui.example"
        refusal = dry.get("/vms", headers=asked)
        assert (refusal.status_code, refusal.headers["access-control-allow-origin"]) == (401, "http://ui.example")
        stranger = dry.options("/vms", headers=asked | {"Origin": "http://stranger.example"})
        assert "access-control-allow-origin" not in stranger.headers

    def test_one_instance_for_a_storage(self, dry: TestClient, dry_settings: Settings) -> None:
        with pytest.raises(RuntimeError, match="uses the storage"), TestClient(build(dry_settings)):
            pass
        assert dry.get("/vms").status_code == 200

    def test_restart_loses_nothing(self, make_dry: Callable[..., TestClient], dry: TestClient, make_vm: Any) -> None:
        make_vm("on", running=True)
        make_vm("off")
        before = dry.get("/vms").json()
        assert make_dry().get("/vms").json() == before


class TestRowsOfOthers:
    """Core columns only, any string as id, dangling references: never 500."""

    ODD = ("../../etc/x", "-rf", "a b", "", "x" * 300, "é\n")

    def test_nothing_answers_500(self, dry: TestClient, sql: Any) -> None:
        for number, odd in enumerate(self.ODD):
            sql("INSERT INTO vms (id, template_name, state) VALUES (:id, 'gone', 'running')", id=odd)
            sql("INSERT INTO disks (id, size, state, vm_id) VALUES (:id, 1, 'attached', :vm)", id=odd, vm=odd)
            sql("INSERT INTO vm_metadata (vm_id, hostname) VALUES (:id, 'h')", id=odd)
            sql("INSERT INTO leases (ip, mac, vm_id) VALUES (:ip, :ip, :id)", ip=f"no address {number}", id=odd)
        sql("INSERT INTO vms (id, template_name, state, local_ip) VALUES ('bare', NULL, 'paused', 'x')")
        assert [vm["vm_template"] for vm in dry.get("/vms").json()] == [None] * 7
        assert len(dry.get("/disks").json()) == 6
        assert dry.get("/network/config").json()["available_ips"] == 253
        assert len(dry.get("/network/leases").json()) == 6
        issues = dry.post("/observer/check").json()
        assert issues["status"] == "ok"
        assert {i["issue_type"] for i in issues["issues"]} == {"vm_state_mismatch", "missing_disk"}
        for path in ("/templates", "/health", "/observer/status"):
            assert dry.get(path).status_code in (200, 503)

    def test_a_bare_row_is_a_machine(self, dry: TestClient, sql: Any, small: str) -> None:
        sql("INSERT INTO vms (id, template_name, state) VALUES ('bare', 'small', 'stopped')")
        sql("INSERT INTO disks (id, size, state, vm_id) VALUES ('d-1', 1, 'attached', 'bare')")
        assert dry.post("/vms/bare/actions/start").status_code == 202
        vm = dry.get("/vms/bare").json()
        assert vm["mac"] and vm["domain_uuid"] and vm["local_ip"]
        assert dry.get("/disks/d-1").json()["target"] == "sda"
        assert dry.delete("/vms/bare").status_code == 204

    def test_a_machine_without_a_template_cannot_start(self, dry: TestClient, sql: Any) -> None:
        sql("INSERT INTO vms (id, template_name, state) VALUES ('bare', 'gone', 'stopped')")
        for action in ("start", "restart"):
            answer = dry.post(f"/vms/bare/actions/{action}")
            assert answer.status_code == 400 and answer.json()["detail"].startswith("Failed to start VM: ")
        assert dry.get("/vms/bare").json()["state"] == "error"
        refused(dry.post("/vms/bare/actions/stop"), 400, "VM is not running (current state: error)")
        assert dry.delete("/vms/bare").status_code == 204

    def test_a_row_that_another_changed_is_seen_at_once(self, dry: TestClient, make_vm: Any, sql: Any) -> None:
        make_vm("web", running=True)
        sql("UPDATE vms SET state='stopped'")
        assert dry.get("/vms/web").json()["state"] == "stopped"
        assert dry.post("/vms/web/actions/start").status_code == 202
        sql("UPDATE vms SET state='running'")
        refused(dry.post("/vms/web/actions/start"), 400, "VM is already running")

    def test_times_that_are_none(self, dry: TestClient, make_vm: Any, sql: Any) -> None:
        make_vm("web")
        sql(
            "INSERT INTO vm_metadata (vm_id, created_at, updated_at) VALUES ('web', 'yesterday', '2025-01-02 03:04:05')"
        )
        answer = dry.get("/vms/web/metadata").json()
        assert (answer["created_at"], answer["updated_at"]) == (None, "2025-01-02T03:04:05")


class TestObserver:
    def test_reports_truthfully_that_nothing_is_behind_the_rows(
        self, dry: TestClient, make_vm: Callable[..., str], make_disk: Callable[..., str], manager: VmManager
    ) -> None:
        make_vm("on", running=True)
        make_vm("off")
        disk = make_disk()
        path = manager.settings.disks_dir / f"{disk}.qcow2"
        answer = dry.post("/observer/check")
        assert answer.status_code == 200
        body = answer.json()
        assert (body["status"], body["issues_count"], body["error"]) == ("ok", 2, None)
        assert body["started_at"] <= body["finished_at"]
        assert body["issues"] == [
            {"issue_type": "missing_disk", "resource_id": disk, "details": f"Disk file not found: {path}"},
            {
                "issue_type": "vm_state_mismatch", "resource_id": "on",
                "details": "DB state is 'running' but QEMU process not found",
            },
        ]  # fmt: skip
        status = dry.get("/observer/status").json()
        assert (status["status"], status["check_interval"], status["last_issues_count"]) == ("running", 3600, 2)
        assert status["last_issues"] == body["issues"] and status["sweeps"] >= 1 and status["last_error"] is None

    def test_orphan_file(self, dry: TestClient, manager: VmManager) -> None:
        path = manager.settings.disks_dir / "stray.qcow2"
        path.touch()
        (manager.settings.disks_dir / ".half.qcow2").touch()
        assert dry.post("/observer/check").json()["issues"] == [
            {
                "issue_type": "orphan_disk", "resource_id": "stray",
                "details": f"Disk file exists but not found in database: {path}",
            }
        ]  # fmt: skip

    def test_repair_tells_what_is_left_and_what_was_mended(
        self, dry: TestClient, make_disk: Callable[..., str], manager: VmManager, sql: Any
    ) -> None:
        disk = make_disk()
        (manager.settings.disks_dir / f"{disk}.qcow2").touch()
        (manager.settings.disks_dir / "stray.qcow2").touch()
        sql("UPDATE disks SET vm_id = 'gone' WHERE id = :disk", disk=disk)
        assert "repaired" not in dry.post("/observer/check").json()
        answer = dry.post("/observer/check?repair=true").json()
        assert [issue["resource_id"] for issue in answer["repaired"]] == [disk]
        assert [issue["resource_id"] for issue in answer["issues"]] == ["stray"] and answer["issues_count"] == 1
        assert dry.get(f"/disks/{disk}").json()["vm_id"] is None
        assert dry.post("/observer/check?repair=maybe").status_code == 422

    def test_check_when_stopped(self, dry: TestClient, manager: VmManager) -> None:
        manager.observer.stop()
        manager.observer.stop()
        assert dry.get("/observer/status").json()["status"] == "stopped"
        assert dry.post("/observer/check").json()["status"] == "ok"

    def test_not_initialised(self, dry_settings: Settings) -> None:
        app = build(dry_settings)
        assert TestClient(app).get("/observer/status").json() == {"status": "not_initialized", "issues": []}
