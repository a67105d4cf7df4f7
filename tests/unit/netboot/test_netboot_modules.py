"""The modules netboot_machine, netboot_image and netboot_session against the real service over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from labyard.netboot.adapters.fake import Fault

MAC = "52:54:00:00:00:01"
DISK = b"\0" * 510 + b"\x55\xaa"  # a disk with a boot sector

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(live: Any, collection: None, load_module: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run a module as Ansible does: arguments in, one JSON object out."""

    def call(module: str, /, *, check: bool = False, **given: Any) -> dict[str, Any]:
        arguments = {"url": live.url, "password": live.password} | given
        options = {"_ansible_check_mode": check, "_ansible_diff": True, "_ansible_remote_tmp": str(tmp_path)}
        capsys.readouterr()
        with patch_module_args(arguments | options), pytest.raises(SystemExit):
            load_module(module).main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert live.password not in json.dumps(answer)
        return answer

    return call


def failed(answer: dict[str, Any], text: str) -> bool:
    return bool(answer.get("failed")) and text in answer["msg"]


@pytest.fixture
def image(live: Any, tmp_path: Path) -> str:
    live.image("debian", tmp_path)
    return "debian"


@pytest.fixture
def machine(live: Any) -> str:
    live.client.add_machine(name="ws 1", mac_address=MAC, ip_address="192.168.1.101")
    return "ws 1"


# -- netboot_machine -------------------------------------------------------------------------------------------------


def test_machine_is_registered_once(run: Run, live: Any) -> None:
    given = {"name": "ws 1", "mac_address": "52-54-00-00-00-01", "boot_mode": "bios", "hostname": "WS1.lab"}
    checked = run("netboot_machine", check=True, **given)
    assert checked["changed"] and live.client.machines() == []
    made = run("netboot_machine", **given)
    assert made["changed"] and made["machine"]["mac_address"] == MAC
    assert made["diff"]["before"] == {} and made["diff"]["after"]["hostname"] == "ws1.lab"
    again = run("netboot_machine", **given)
    assert not again["changed"] and again["machine"]["id"] == made["machine"]["id"]


def test_machine_is_changed_where_it_is_different(run: Run, live: Any, machine: str) -> None:
    given = {"name": machine, "status": "maintenance", "ip_address": "", "room": "Lab 2"}
    checked = run("netboot_machine", check=True, **given)
    assert checked["changed"] and live.client.machine(machine)["status"] == "active"
    changed = run("netboot_machine", **given)
    assert changed["diff"]["before"] == {"status": "active", "ip_address": "192.168.1.101", "room": None}
    assert changed["diff"]["after"] == {"status": "maintenance", "ip_address": None, "room": "Lab 2"}
    now = live.client.machine(machine)
    assert (now["status"], now["ip_address"], now["mac_address"]) == ("maintenance", None, MAC)
    assert not run("netboot_machine", **given)["changed"]


def test_new_machine_with_a_status(run: Run, live: Any) -> None:
    given = {"name": "ws2", "mac_address": MAC, "status": "retired"}
    assert run("netboot_machine", **given)["machine"]["status"] == "retired"
    assert not run("netboot_machine", **given)["changed"]


def test_machine_is_removed_once(run: Run, live: Any, machine: str) -> None:
    gone = {"name": machine, "state": "absent"}
    assert run("netboot_machine", check=True, **gone)["changed"] and live.client.machines()
    assert run("netboot_machine", **gone)["changed"] and not live.client.machines()
    assert not run("netboot_machine", **gone)["changed"]


BMC = {"bmc_url": "https://10.0.0.5/redfish/v1/Systems/1/", "bmc_username": "admin", "bmc_password": "hush-hush"}


def test_machine_with_a_bmc(run: Run, live: Any, machine: str) -> None:
    assert run("netboot_machine", check=True, name=machine, **BMC)["changed"]
    assert not live.client.machine(machine)["bmc_password_set"]
    made = run("netboot_machine", name=machine, **BMC)
    assert made["changed"] and made["machine"]["bmc_password_set"] and "hush" not in json.dumps(made)
    for check in (False, True):
        assert not run("netboot_machine", check=check, name=machine, **BMC)["changed"]
    assert run("netboot_machine", name=machine, **BMC | {"bmc_password": "another"})["changed"]
    assert not run("netboot_machine", name=machine, **BMC | {"bmc_password": "another"})["changed"]
    assert failed(run("netboot_machine", name=machine, bmc_url="https://10.0.0.6"), "bmc_password: give it again")
    assert run("netboot_machine", name=machine, bmc_url="")["machine"]["bmc_username"] is None


def test_new_machine_with_a_bmc(run: Run, live: Any) -> None:
    given = {"name": "ws2", "mac_address": MAC, "bmc_verify_tls": False} | BMC
    made = run("netboot_machine", **given)
    assert made["machine"]["bmc_password_set"] and not made["machine"]["bmc_verify_tls"]
    assert "hush" not in json.dumps(made)
    assert not run("netboot_machine", **given)["changed"]


def test_machine_errors_are_plain(run: Run, live: Any, machine: str) -> None:
    assert failed(run("netboot_machine", name="new"), "give its mac_address")
    assert failed(run("netboot_machine", name="new", mac_address="12"), "mac_address: must be 12 hex digits")
    assert failed(run("netboot_machine", name="new", mac_address=MAC), "MAC")
    assert failed(run("netboot_machine", name="new", url="http://127.0.0.1:1"), "make lab")
    assert failed(run("netboot_machine", name="new", password="wrong-Password-1"), "refuses user admin")


def test_viewer_is_told_which_role_it_takes(run: Run, make_user: Callable[[str], tuple[str, str]]) -> None:
    user, password = make_user("viewer")
    answer = run("netboot_machine", name="new", mac_address=MAC, username=user, password=password)
    assert failed(answer, "Operator privileges required; give the username and password")


def test_one_login_serves_many_tasks(run: Run, live: Any, machine: str, tmp_path: Path) -> None:
    """The service takes 20 logins in 5 minutes; the commands' token file is the modules', too."""
    for _ in range(25):
        assert not run("netboot_machine", name=machine)["changed"]
    (kept,) = (tmp_path / "cache/labyard").glob("netboot-*.json")
    assert kept.stat().st_mode & 0o777 == 0o600 and kept.parent.stat().st_mode & 0o777 == 0o700
    kept.write_text(json.dumps({"token": "x.y.z", "until": 2**40}))  # revoked since
    assert not run("netboot_machine", name=machine)["changed"]


# -- netboot_image ---------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    file = tmp_path / "disk.raw"
    file.write_bytes(DISK)
    return file


def test_image_is_uploaded_once(run: Run, live: Any, disk: Path) -> None:
    given = {"name": "debian", "src": str(disk), "description": "The lab's"}
    assert run("netboot_image", check=True, **given)["changed"] and live.client.images() == []
    made = run("netboot_image", **given)
    assert made["changed"] and made["image"]["status"] == "ready"
    assert made["diff"]["after"]["checksum_sha256"] == made["image"]["checksum_sha256"]
    assert not run("netboot_image", **given)["changed"]
    assert not run("netboot_image", check=True, **given)["changed"]


def test_image_follows_its_file(run: Run, live: Any, disk: Path) -> None:
    old = run("netboot_image", name="debian", src=str(disk))["image"]
    disk.write_bytes(DISK * 2)
    assert run("netboot_image", check=True, name="debian", src=str(disk))["changed"]
    assert live.client.image("debian")["id"] == old["id"]
    new = run("netboot_image", name="debian", src=str(disk))
    assert new["changed"] and new["image"]["size_bytes"] == 1024 and new["image"]["name"] == "debian"
    assert [image["name"] for image in live.client.images()] == ["debian"]
    assert not run("netboot_image", name="debian", src=str(disk))["changed"]


def test_image_in_use_is_not_replaced(run: Run, live: Any, disk: Path, machine: str) -> None:
    image = run("netboot_image", name="debian", src=str(disk))["image"]
    live.client.start(live.client.machine(machine)["id"], image["id"])
    disk.write_bytes(DISK * 2)
    assert failed(run("netboot_image", name="debian", src=str(disk)), "in use by session 1; stop that first")
    assert live.client.image("debian")["checksum_sha256"] == image["checksum_sha256"]
    assert failed(run("netboot_image", name="debian", state="absent"), "in use")


def test_bad_replacement_leaves_the_old_image(run: Run, live: Any, disk: Path, tmp_path: Path) -> None:
    run("netboot_image", name="debian", src=str(disk))
    broken = tmp_path / "broken.qcow2"
    broken.write_bytes(b"not a qcow2 at all")
    assert run("netboot_image", name="debian", src=str(broken))["failed"]
    assert live.client.image("debian")["status"] == "ready"
    assert not run("netboot_image", name="debian", src=str(disk))["changed"]


def test_image_fields_are_changed(run: Run, live: Any, disk: Path) -> None:
    run("netboot_image", name="debian", src=str(disk))
    given = {"name": "debian", "src": str(disk), "image_type": "template", "description": "x"}
    assert run("netboot_image", check=True, **given)["changed"]
    assert live.client.image("debian")["image_type"] == "system"
    changed = run("netboot_image", **given)
    assert changed["changed"] and changed["diff"]["after"]["image_type"] == "template"
    assert live.client.image("debian")["image_type"] == "template"
    assert not run("netboot_image", **given)["changed"]


def test_image_on_the_server_is_imported(run: Run, live: Any) -> None:
    file = live.settings.images_dir / "there.raw"
    file.write_bytes(DISK)
    given = {"name": "there", "path": str(file)}
    assert run("netboot_image", check=True, **given)["changed"] and live.client.images() == []
    assert run("netboot_image", **given)["image"]["status"] == "ready"
    assert not run("netboot_image", **given)["changed"]
    file.write_bytes(DISK * 2)
    assert run("netboot_image", **given)["changed"]
    assert live.client.image("there")["size_bytes"] == 1024
    assert run("netboot_image", name="there", state="absent")["changed"] and file.exists()
    assert not run("netboot_image", name="there", state="absent")["changed"]
    assert failed(run("netboot_image", name="there", path="/etc/passwd"), "path: must be a file below")


def test_missing_source_is_told(run: Run) -> None:
    assert failed(run("netboot_image", name="debian", src="/nowhere.raw"), "there is no file /nowhere.raw")
    assert failed(run("netboot_image", name="debian"), "src, path")


# -- netboot_session -------------------------------------------------------------------------------------------------


def test_session_is_started_once(run: Run, live: Any, machine: str, image: str) -> None:
    given = {"machine": machine, "image": image}
    checked = run("netboot_session", check=True, **given)
    assert checked["changed"] and live.client.sessions() == []
    made = run("netboot_session", **given)
    assert made["changed"] and made["session"]["status"] == "active"
    assert made["diff"]["after"]["image"] == image and made["diff"]["before"] == {}
    assert "chap" not in json.dumps(made) and "token" not in json.dumps(made)
    again = run("netboot_session", **given)
    assert not again["changed"] and again["session"]["id"] == made["session"]["id"]


def test_session_is_stopped_once(run: Run, live: Any, machine: str, image: str) -> None:
    run("netboot_session", machine=machine, image=image)
    stopped = {"machine": machine, "state": "stopped"}
    assert run("netboot_session", check=True, **stopped)["changed"]
    assert live.client.sessions()[0]["status"] == "active"
    assert run("netboot_session", **stopped)["changed"]
    assert live.client.sessions()[0]["status"] == "stopped" and live.client.reservations() == []
    assert not run("netboot_session", **stopped)["changed"]
    assert not run("netboot_session", machine="nobody", state="stopped")["changed"]


def test_session_switches_its_machine(run: Run, live: Any, machine: str, image: str) -> None:
    started = {"machine": machine, "image": image, "power": "cycle"}
    assert failed(run("netboot_session", **started), "has no bmc_url")
    run("netboot_machine", name=machine, **BMC)
    power, url = live.netboot.provision.adapters.power, BMC["bmc_url"].rstrip("/")
    assert run("netboot_session", check=True, **started)["changed"] and power.calls == []
    assert run("netboot_session", **started)["session"]["power_cycled"] and power.is_on(url)
    assert not run("netboot_session", **started)["changed"]
    assert power.calls == [("cycle", url)]
    stopped = {"machine": machine, "state": "stopped", "power": "off"}
    assert run("netboot_session", **stopped)["changed"] and not power.is_on(url)
    assert not run("netboot_session", **stopped)["changed"]
    assert failed(run("netboot_session", **started | {"power": "off"}), "power: off goes with state: stopped")


def test_bmc_that_fails_at_a_stop_is_told(run: Run, live: Any, machine: str, image: str) -> None:
    run("netboot_machine", name=machine, **BMC)
    run("netboot_session", machine=machine, image=image)
    live.netboot.provision.adapters.power.faults["off"] = Fault.RAISE
    stopped = run("netboot_session", machine=machine, state="stopped", power="off")
    assert stopped["changed"] and "was told to fail" in stopped["power_error"]


def test_other_image_takes_a_restart(run: Run, live: Any, machine: str, image: str, tmp_path: Path) -> None:
    live.image("other", tmp_path)
    first = run("netboot_session", machine=machine, image=image)["session"]
    refused = run("netboot_session", machine=machine, image="other")
    assert failed(refused, "has a session with image debian; restart: true")
    assert live.client.session(first["id"])["status"] == "active"
    again = run("netboot_session", machine=machine, image="other", transport="http", restart=True)
    assert again["changed"] and again["diff"]["before"]["image"] == "debian"
    assert live.client.session(first["id"])["status"] == "stopped"
    assert live.client.session(again["session"]["id"])["transport"] == "http"


def test_session_waits_for_userland(run: Run, live: Any, machine: str, image: str) -> None:
    late = run("netboot_session", machine=machine, image=image, wait_for="booted", timeout=1)
    assert failed(late, "is not in userland (it came as far as: waiting") and late["session"]["status"] == "active"
    live.event(late["session"]["id"], "boot_failed")
    assert failed(run("netboot_session", machine=machine, image=image, wait_for="booted"), "could not boot")
    live.event(late["session"]["id"], "boot_success")
    booted = run("netboot_session", machine=machine, image=image, wait_for="booted")
    assert not booted["changed"] and booted["session"]["ready_time"]


def test_what_is_not_there(run: Run, machine: str, image: str) -> None:
    assert failed(run("netboot_session", machine="nobody", image="nothing"), "no machine nobody and no image nothing")
    assert run("netboot_session", check=True, machine="nobody", image=image)["changed"]  # an earlier task makes it
    assert failed(run("netboot_session", machine=machine), "image")


def test_session_left_half_way_is_cleaned_up_and_started(run: Run, live: Any, machine: str, image: str) -> None:
    first = run("netboot_session", machine=machine, image=image)["session"]
    faults = live.netboot.provision.adapters.iscsi.faults
    faults["remove"] = Fault.RAISE
    assert run("netboot_session", machine=machine, state="stopped")["failed"]
    assert live.client.session(first["id"])["cleanup_pending"]
    faults.clear()
    again = run("netboot_session", machine=machine, image=image)
    assert again["changed"] and again["session"]["id"] != first["id"] and again["session"]["status"] == "active"
