"""The modules vm_template, vm and vm_disk against a fake service that speaks the contract."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from .fake_service import FakeServer, Service

TOKEN = "a-token-of-the-lab"

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def service(fake: FakeServer) -> Service:
    fake.service.token = TOKEN
    return fake.service


@pytest.fixture
def run(
    fake: FakeServer,
    service: Service,
    collection: None,
    load_module: Any,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Run:
    """Run a module as Ansible does: arguments in, one JSON object out. Check mode must only read."""

    def call(module: str, /, *, check: bool = False, **given: Any) -> dict[str, Any]:
        arguments = {"url": fake.url, "token": TOKEN} | given
        options = {"_ansible_check_mode": check, "_ansible_diff": True, "_ansible_remote_tmp": str(tmp_path)}
        capsys.readouterr()
        service.asked.clear()
        with patch_module_args(arguments | options), pytest.raises(SystemExit):
            load_module(module).main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert TOKEN not in json.dumps(answer)
        assert not check or all(target.startswith("GET ") for target in service.asked)
        return answer

    return call


def failed(answer: dict[str, Any], text: str) -> bool:
    assert answer.get("failed"), answer
    assert text in answer["msg"], answer["msg"]
    return True


@pytest.fixture
def small(service: Service) -> str:
    service.post_templates({"name": "small", "cpu_count": 1, "ram_amount": 512})
    return "small"


@pytest.fixture
def web(service: Service, small: str) -> str:
    """A VM that runs."""
    service.post_vms({"name": "web-1", "template_name": small})
    service.start("web-1")
    return "web-1"


# -- vm_template -----------------------------------------------------------------------------------------------------


def test_template_is_made_once(run: Run, service: Service) -> None:
    given = {"name": "my small", "cpu_count": 1, "ram_amount": 512}
    assert run("vm_template", check=True, **given)["changed"] and service.templates == {}
    made = run("vm_template", **given)
    assert made["changed"] and made["template"] == given
    assert made["diff"]["before"] == {} and made["diff"]["after"] == {"cpu_count": 1, "ram_amount": 512}
    again = run("vm_template", **given)
    assert not again["changed"] and again["template"] == given
    assert not run("vm_template", name="my small")["changed"]


def test_template_never_changes(run: Run, small: str, service: Service) -> None:
    for check in (True, False):
        answer = run("vm_template", check=check, name=small, cpu_count=2, ram_amount=512)
        assert failed(answer, "template small has cpu_count 1, not 2; a template never changes: give the other one")
    assert service.templates[small]["cpu_count"] == 1


def test_template_is_removed_once(run: Run, small: str, service: Service) -> None:
    gone = {"name": small, "state": "absent"}
    assert run("vm_template", check=True, **gone)["changed"] and service.templates
    assert run("vm_template", **gone)["changed"] and not service.templates
    assert not run("vm_template", **gone)["changed"]


def test_template_errors_are_plain(run: Run, web: str) -> None:
    assert failed(run("vm_template", name="new", cpu_count=1), "template new is new: give its ram_amount")
    assert failed(run("vm_template", name="new", cpu_count=999, ram_amount=1), "cpu_count: Input should be less")
    assert failed(run("vm_template", name="small", state="absent"), "is in use; remove the VMs")
    assert failed(run("vm_template", name="small", token="wrong"), "Not authenticated; give the service's token")
    assert failed(run("vm_template", name="small", url="http://127.0.0.1:1"), "make lab")


# -- vm --------------------------------------------------------------------------------------------------------------


def test_vm_is_made_and_started_once(run: Run, service: Service, small: str) -> None:
    told = {"hostname": "web.lab", "user_data": "#cloud-config\nsecret", "ssh_keys": ["ssh-ed25519 A a", "ssh-rsa B b"]}
    given = {"name": "web-1", "template": small, "state": "running"} | told
    assert run("vm", check=True, **given)["changed"] and service.vms == {}
    made = run("vm", **given)
    assert made["changed"] and made["vm"]["state"] == "running" and made["vm"]["local_ip"]
    assert service.metadata["web-1"]["ssh_keys"] == "ssh-ed25519 A a\nssh-rsa B b"
    assert made["diff"]["before"] == {} and made["diff"]["after"]["template"] == small
    assert "secret" not in json.dumps(made)
    assert [target for target in service.asked if not target.startswith("GET")] == [
        "POST /vms",
        "PUT /vms/web-1/metadata",
        "POST /vms/web-1/actions/start",
    ]
    again = run("vm", **given)
    assert not again["changed"] and all(target.startswith("GET ") for target in service.asked)
    assert not run("vm", check=True, **given)["changed"]
    service.metadata["web-1"]["ssh_keys"] += "\n"
    assert not run("vm", **given)["changed"]


def test_new_vm_stays_off(run: Run, service: Service, small: str) -> None:
    assert run("vm", name="web-1", template=small)["vm"]["state"] == "stopped"
    assert not run("vm", name="web-1", state="stopped")["changed"]
    assert run("vm", name="web-2", template=small, state="stopped")["vm"]["state"] == "stopped"
    assert "POST /vms/web-2/actions/stop" not in service.asked


def test_present_leaves_it_running(run: Run, service: Service, web: str) -> None:
    answer = run("vm", name=web, template="small")
    assert not answer["changed"] and answer["vm"]["state"] == "running"


def test_vm_is_stopped_once(run: Run, service: Service, web: str) -> None:
    stopped = {"name": web, "state": "stopped", "force": True}
    checked = run("vm", check=True, **stopped)
    assert checked["changed"] and checked["diff"]["after"]["state"] == "stopped"
    assert service.vms[web]["state"] == "running"
    answer = run("vm", **stopped)
    assert answer["changed"] and answer["vm"]["state"] == "stopped"
    assert "POST /vms/web-1/actions/stop?force=true" in service.asked
    assert not run("vm", **stopped)["changed"]


def test_vm_in_error_is_off_and_can_be_started(run: Run, service: Service, web: str) -> None:
    service.vms[web] |= {"state": "error", "local_ip": None}
    assert not run("vm", check=True, name=web, state="stopped")["changed"]
    assert not run("vm", name=web, state="stopped")["changed"]
    started = run("vm", name=web, state="running")
    assert started["changed"] and started["diff"]["before"]["state"] == "error"
    assert service.vms[web]["state"] == "running"


def test_vm_that_somebody_started_meanwhile_is_as_good(run: Run, service: Service, web: str, fake: FakeServer) -> None:
    service.vms[web]["state"] = "stopped"

    def start_first(target: str) -> None:
        if target.endswith("/actions/start"):
            service.vms[web]["state"] = "running"

    fake.on_request = start_first
    assert run("vm", name=web, state="running")["vm"]["state"] == "running"


def test_vm_is_restarted_each_time(run: Run, service: Service, web: str, small: str) -> None:
    assert run("vm", check=True, name=web, state="restarted")["changed"]
    for _ in range(2):
        assert run("vm", name=web, state="restarted")["changed"]
        assert "POST /vms/web-1/actions/restart" in service.asked
    assert run("vm", name="web-2", template=small, state="restarted")["vm"]["state"] == "running"


def test_metadata_is_changed_where_it_is_different(run: Run, service: Service, web: str) -> None:
    service.put_metadata(web, {"hostname": "old", "user_data": "old secret", "ssh_keys": "ssh-rsa A a"})
    given = {"name": web, "hostname": "new", "user_data": "", "ssh_keys": ["ssh-rsa A a"]}
    checked = run("vm", check=True, **given)
    assert checked["changed"] and service.metadata[web]["hostname"] == "old"
    changed = run("vm", **given)
    assert changed["changed"] and service.metadata[web]["hostname"] == "new"
    assert service.metadata[web]["user_data"] is None
    assert changed["diff"]["before"]["hostname"] == "old" and "ssh_keys" not in changed["diff"]["before"]
    assert changed["diff"]["before"]["user_data"].startswith("SHA-256 ") and "old secret" not in json.dumps(changed)
    assert service.vms[web]["state"] == "running" and "POST /vms/web-1/actions/restart" not in service.asked
    assert not run("vm", **given)["changed"]
    assert run("vm", name=web, ssh_keys=[])["changed"] and service.metadata[web]["ssh_keys"] is None


def test_vm_is_removed_once(run: Run, service: Service, web: str) -> None:
    gone = {"name": web, "state": "absent"}
    assert run("vm", check=True, **gone)["changed"] and web in service.vms
    assert run("vm", **gone)["changed"] and service.vms == {}
    assert not run("vm", **gone)["changed"]


def test_vm_keeps_its_template(run: Run, service: Service, web: str) -> None:
    answer = run("vm", check=True, name=web, template="medium")
    assert failed(answer, "VM web-1 was made from template small, not from medium; a VM keeps its template")
    service.templates.clear()
    assert failed(run("vm", name=web, template="small"), "from a template that is gone")
    assert not run("vm", name=web)["changed"]


def test_vm_errors_are_plain(run: Run, service: Service, small: str) -> None:
    assert failed(run("vm", name="web-1"), "VM web-1 is new: give its template")
    assert failed(run("vm", name="web-1", template="none"), "there is no template none; make it first")
    # An earlier task makes it.
    assert run("vm", check=True, name="web-1", template="none")["changed"]
    assert run("vm", check=True, name="web-1", state="running")["changed"]
    assert failed(run("vm", name="../x", template=small), "name: String should match pattern")
    assert not run("vm", name="..", state="absent")["changed"]


# -- vm_disk ---------------------------------------------------------------------------------------------------------


def test_disk_is_made_and_plugged_in_once(run: Run, service: Service, web: str) -> None:
    given = {"name": "data", "size": 5, "vm": web}
    assert run("vm_disk", check=True, **given)["changed"] and service.disks == {}
    made = run("vm_disk", **given)
    assert made["changed"] and made["disk"]["vm_id"] == web and made["disk"]["mount_point"] == "data"
    assert made["diff"]["before"] == {} and made["diff"]["after"] == {"size": 5, "vm": web}
    assert not run("vm_disk", **given)["changed"]
    assert not run("vm_disk", check=True, **given)["changed"]
    service.stop(web)
    assert not run("vm_disk", name="data")["changed"] and len(service.disks) == 1


def test_disk_is_made_free_and_plugged_in_later(run: Run, service: Service, web: str) -> None:
    assert run("vm_disk", name="data", size=5, vm="")["disk"]["state"] == "available"
    assert not run("vm_disk", name="data", size=5, vm="")["changed"]
    plugged = run("vm_disk", name="data", vm=web)
    assert plugged["changed"] and plugged["diff"]["before"]["vm"] == "" and plugged["disk"]["state"] == "attached"


def test_disk_whose_vm_does_not_run_is_found_again(run: Run, service: Service, web: str) -> None:
    service.stop(web)
    given = {"name": "data", "size": 5, "vm": web}
    assert failed(run("vm_disk", **given), "labyard.lab.vm with state: running")
    service.start(web)
    assert run("vm_disk", **given)["changed"] and len(service.disks) == 1
    assert failed(run("vm_disk", name="other", size=1, vm="nobody"), "disk other and VM nobody: VM not found")


def test_by_name_a_disk_is_neither_unplugged_nor_moved(run: Run, service: Service, web: str, small: str) -> None:
    disk = run("vm_disk", name="data", size=5, vm=web)["disk"]
    service.post_vms({"name": "web-2", "template_name": small})
    for vm in ("", "web-2"):
        assert failed(run("vm_disk", check=True, name="data", vm=vm), f"do it by id: {disk['id']}")
        assert failed(run("vm_disk", name="data", vm=vm), "is plugged into web-1; unplugged it would lose its label")
    assert service.disks[disk["id"]]["vm_id"] == web


def test_by_id_a_disk_is_moved_and_unplugged_once(run: Run, service: Service, web: str, small: str) -> None:
    disk = run("vm_disk", name="data", size=5, vm=web)["disk"]["id"]
    service.post_vms({"name": "web-2", "template_name": small})
    service.start("web-2")
    assert run("vm_disk", check=True, id=disk, vm="web-2")["changed"] and service.disks[disk]["vm_id"] == web
    assert run("vm_disk", id=disk, vm="web-2")["disk"]["vm_id"] == "web-2"
    assert not run("vm_disk", id=disk, vm="web-2")["changed"]
    unplugged = run("vm_disk", id=disk, vm="")
    assert unplugged["changed"] and unplugged["disk"]["state"] == "available"
    assert not run("vm_disk", id=disk, vm="")["changed"]


def test_disk_is_removed_once_also_from_a_running_vm(run: Run, service: Service, web: str) -> None:
    run("vm_disk", name="data", size=5, vm=web)
    gone = {"name": "data", "state": "absent"}
    assert run("vm_disk", check=True, **gone)["changed"] and service.disks
    assert run("vm_disk", **gone)["changed"] and service.disks == {}
    assert not run("vm_disk", **gone)["changed"]
    free = service.post_disks({"size": 1})[1]["id"]
    assert run("vm_disk", id=free, state="absent")["changed"] and service.disks == {}
    assert not run("vm_disk", id=free, state="absent")["changed"]


def test_disk_keeps_its_size(run: Run, service: Service) -> None:
    run("vm_disk", name="data", size=5)
    assert failed(run("vm_disk", check=True, name="data", size=6), "disk data has 5 GiB, not 6; a disk keeps its size")


def test_disk_errors_are_plain(run: Run, service: Service) -> None:
    assert failed(run("vm_disk", name="data"), "disk data is new: give its size")
    assert run("vm_disk", check=True, name="data", vm="web-1")["changed"]  # an earlier task makes it
    assert failed(run("vm_disk", name="data", size=99999), "size: Input should be less")
    assert failed(run("vm_disk", name="/dev/sda", size=1), "must not begin with /dev/")
    assert failed(run("vm_disk", name="", size=1), "name: must not be empty")
    assert failed(run("vm_disk", size=1), "name, id")
    assert failed(run("vm_disk", id="7", size=1), "there is no disk 7; ids are the service's")
    for size in (1, 2):
        service.post_disks({"size": size, "mount_point": "twice"})
    assert failed(run("vm_disk", name="twice"), "2 disks have the label twice; say which by its id")
