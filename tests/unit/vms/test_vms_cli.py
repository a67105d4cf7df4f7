"""`labyard vms …` and its client against a fake service that speaks the contract."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from labyard.cli import app
from labyard.client import commands
from labyard.client.http import ClientError
from labyard.client.picture import drawn
from labyard.testing.waiting import PATIENCE
from labyard.vms import client as vms_client
from labyard.vms.cli_console import Plain
from labyard.vms.cli_where import Where
from labyard.vms.client import Client

from .fake_service import CutOff, FakeServer, Service

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5tYk2uVtUbLtHFTP3yq5xqGmQ1wU0mSXbEwbG7V1Xk me"

Run = Callable[..., Result]


@pytest.fixture
def run(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command as a shell does, with the service named by the environment."""
    monkeypatch.setenv("LABYARD_VMS_URL", fake.url)
    monkeypatch.setattr(commands.console, "_width", 200)

    def call(*words: str, expect: int = 0) -> Result:
        result = CliRunner().invoke(app, ["vms", *words])
        assert result.exit_code == expect, f"{words}: {result.output} {result.exception!r}"
        return result

    return call


@pytest.fixture
def service(fake: FakeServer) -> Service:
    return fake.service


@pytest.fixture
def web(run: Run) -> str:
    """A VM that is stopped, made from template `small`."""
    run("templates", "create", "small")
    run("create", "web-1", "small")
    return "web-1"


def parsed(result: Result) -> Any:
    return json.loads(result.stdout)


# -- templates -------------------------------------------------------------------------------------------------------


def test_templates_are_made_shown_and_deleted(run: Run, service: Service) -> None:
    assert "templates create small" in run("templates").stdout
    assert (
        "medium is made: 2 CPUs, 1024 MiB"
        in run("templates", "create", "medium", "--cpus", "2", "--memory", "1024").stdout
    )
    assert parsed(run("templates", "--json")) == [{"name": "medium", "cpu_count": 2, "ram_amount": 1024}]
    assert "1024 MiB" in run("templates").stdout
    run("templates", "delete", "medium")
    assert service.templates == {}


def test_template_refusals_have_a_way_out(run: Run, web: str) -> None:
    assert "never changes" in run("templates", "create", "small", expect=1).stderr
    assert "labyard vms list" in run("templates", "delete", "small", expect=1).stderr
    assert "there is no template 'big'; there are: small" in run("templates", "delete", "big", expect=1).stderr
    run("templates", "create", "huge", "--cpus", "256", expect=2)


# -- VMs -------------------------------------------------------------------------------------------------------------


def test_vm_is_made_with_what_its_guest_is_told(run: Run, service: Service, tmp_path: Path) -> None:
    run("templates", "create", "small")
    config = tmp_path / "web.yml"
    config.write_text("#cloud-config\n")
    told = ("--hostname", "web.lab", "--ssh-key", KEY, "--ssh-key", KEY + "2", "--user-data", str(config))
    made = parsed(run("create", "web-1", "small", *told, "--start", "--json"))
    assert (made["id"], made["state"], made["vm_template"]["name"]) == ("web-1", "running", "small")
    stored = service.metadata["web-1"]
    assert (stored["hostname"], stored["user_data"]) == ("web.lab", "#cloud-config\n")
    assert stored["ssh_keys"] == f"{KEY}\n{KEY}2"


def test_vm_that_is_made_but_not_told(run: Run, service: Service) -> None:
    run("templates", "create", "small")
    refused = run("create", "web-1", "small", "--hostname", "x" * 254, expect=1).stderr
    assert "web-1 is made, but its metadata is refused: web-1: hostname: String should have at most" in refused
    assert "labyard vms metadata set web-1" in refused and "web-1" in service.vms


def test_vms_are_listed_by_state(run: Run, web: str, service: Service) -> None:
    run("create", "web-2", "small", "--start")
    assert [vm["id"] for vm in parsed(run("list", "--state", "running", "--json"))] == ["web-2"]
    shown = run("list").stdout
    assert "web-1" in shown and "192.168.100.2" in shown and "512 MiB" in shown
    assert "No VM is error." in run("list", "--state", "error").stdout
    service.vms["web-2"] |= {"state": "error", "state_reason": "killed by somebody"}
    service.vms["web-1"]["template_name"] = "gone"
    shown = run("list").stdout
    assert "killed by somebody" in shown and "(deleted)" in shown
    run("list", "--state", "sleeping", expect=2)


def test_no_vm_yet(run: Run) -> None:
    assert "labyard vms create NAME TEMPLATE" in run("list").stdout


def test_vm_is_started_restarted_stopped(run: Run, web: str, service: Service) -> None:
    assert "web-1 is running at 192.168.100.2; its console: labyard vms console web-1" in run("start", web).stdout
    assert "web-1: VM is already running; to have it begin anew: labyard vms restart web-1" in (
        run("start", web, expect=1).stderr
    )
    assert "is running at" in run("restart", web).stdout
    run("stop", web, "--force")
    assert service.vms[web]["state"] == "stopped"
    assert service.asked[-1] == "POST /vms/web-1/actions/stop?force=true"
    assert "not running (current state: stopped)" in run("stop", web, expect=1).stderr
    assert "there is no VM 'nobody'; there are: web-1" in run("start", "nobody", expect=1).stderr


def test_several_at_once(run: Run, web: str, service: Service) -> None:
    run("create", "web-2", "small")
    run("start", "web-1", "web-2")
    assert {vm["state"] for vm in service.vms.values()} == {"running"}
    run("delete", "web-1", "web-2")
    assert service.vms == {}


def test_vm_without_a_lab_address(run: Run, web: str, fake: FakeServer) -> None:
    def no_address(target: str) -> None:
        if target == "GET /vms/web-1":
            fake.service.vms["web-1"]["local_ip"] = None

    fake.on_request = no_address
    assert "without an address of the lab" in run("start", web).stdout


def test_show_tells_all_of_one(run: Run, web: str) -> None:
    run("metadata", "set", web, "--hostname", "web.lab")
    run("start", web)
    run("disks", "create", "5", "--label", "data", "--attach", web)
    shown = run("show", web).stdout
    assert "52:54:00:00:00:01" in shown and "hostname" in shown and "data, 5 GiB" in shown and "disk sda" in shown
    assert parsed(run("show", web, "--json"))["disks"][0]["mount_point"] == "data"


def test_create_refusals_have_a_way_out(run: Run, web: str) -> None:
    assert "labyard vms templates" in run("create", "web-2", "none", expect=1).stderr
    assert "labyard vms start web-1" in run("create", web, "small", expect=1).stderr
    assert "../x: name: String should match pattern" in run("create", "../x", "small", expect=1).stderr
    assert "neither a public key" in run("create", "web-2", "small", "--ssh-key", "x", expect=1).stderr


def test_delete_says_which_disks_are_free(run: Run, web: str, service: Service) -> None:
    run("start", web)
    run("disks", "create", "5", "--attach", web)
    (disk,) = service.disks
    assert f"Its disks are free: {disk}" in run("delete", web).stdout


# -- disks -----------------------------------------------------------------------------------------------------------


def test_disk_is_made_plugged_in_unplugged_deleted(run: Run, web: str, service: Service) -> None:
    assert "disks create 5" in run("disks").stdout
    assert "is made with the label data" in run("disks", "create", "5", "--label", "data").stdout
    (disk,) = service.disks
    refused = run("disks", "attach", "data", web, expect=1).stderr
    assert "VM must be running to attach disk; start it first: labyard vms start web-1" in refused
    run("start", web)
    assert f"/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_{disk}" in run("disks", "attach", disk[:8], web).stdout
    assert "already attached" in run("disks", "attach", "data", web, expect=1).stderr
    shown = run("disks").stdout
    assert "attached" in shown and "5 GiB" in shown and "sda" in shown
    assert f"labyard vms disks detach {disk}" in run("disks", "delete", "data", expect=1).stderr
    assert "no label any more" in run("disks", "detach", "data").stdout
    assert "there is no disk 'data'" in run("disks", "detach", "data", expect=1).stderr
    run("disks", "delete", disk)
    assert service.disks == {}


def test_disk_for_a_vm_that_is_not_there(run: Run, web: str, service: Service) -> None:
    refused = run("disks", "create", "5", "--attach", "nobody", expect=1).stderr
    (disk,) = service.disks
    assert f"there is no VM 'nobody'; there are: web-1. The disk is made: {disk}" in refused


def test_disks_of_one_label_are_told_apart_by_id(run: Run, service: Service) -> None:
    run("disks", "create", "1", "--label", "data")
    made = parsed(run("disks", "create", "2", "--label", "data", "--json"))
    refused = run("disks", "delete", "data", expect=1).stderr
    assert "2 disks are 'data'" in refused and all(disk in refused for disk in service.disks)
    run("disks", "delete", made["id"])
    assert [disk["size"] for disk in parsed(run("disks", "--json"))] == [1]
    run("disks", "create", "0", expect=2)


# -- console and metadata --------------------------------------------------------------------------------------------


def test_console_is_printed_plain(run: Run, web: str, service: Service) -> None:
    assert "may not have started yet" in run("console", web).stderr
    service.consoles[web] = b"\x1bc\x1b[2J\x1b[1mSeaBIOS\x1b[0m\r\nboot\r\n\xe2\x82\xac"
    assert run("console", web).stdout == "SeaBIOS\nboot\n€\n"
    assert run("console", web, "--raw").stdout.startswith("\x1bc\x1b[2J")
    assert parsed(run("console", web, "--json"))["file_size"] == len(service.consoles[web])
    run("console", web, "--follow", "--json", expect=2)
    assert "there is no VM 'nobody'" in run("console", "nobody", "--follow", expect=1).stderr


def test_screenshot_is_written_to_a_file(run: Run, web: str, service: Service, tmp_path: Path) -> None:
    file = tmp_path / "web.png"
    assert "not running" in run("screenshot", web, "-o", str(file), expect=1).stderr
    assert "there is no VM 'nobody'" in run("screenshot", "nobody", "-o", str(file), expect=1).stderr
    assert not file.exists()
    run("start", web)
    service.screens[web] = b"\x89PNG picture"
    assert "has the screen of web-1" in run("screenshot", web, "-o", str(file)).stdout
    assert file.read_bytes() == b"\x89PNG picture"
    assert "cannot be written: " in run("screenshot", web, "-o", str(tmp_path / "no" / "web.png"), expect=1).stderr
    assert "needs a terminal" in run("screenshot", web, expect=2).stderr


def test_screenshot_is_drawn_two_pixels_in_a_character() -> None:
    picture = Image.new("RGB", (4, 4), "black")
    picture.paste("white", (0, 0, 2, 2))  # the upper left quarter
    written = io.BytesIO()
    picture.save(written, "PNG")
    whole = drawn(written.getvalue(), 80)
    assert whole.plain == "▀▀▀▀\n▀▀▀▀"
    small = drawn(written.getvalue(), 2)
    assert small.plain == "▀▀"
    colours = [(span.style.color.name, span.style.bgcolor.name) for span in small.spans]
    assert colours == [("#ffffff", "#000000"), ("#000000", "#000000")]


def test_console_is_followed_by_offset_over_a_rotation(
    fake: FakeServer, web: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vms_client, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(vms_client, "PIECE_BYTES", 4)
    service.consoles[web] = b"one\n"
    seen = ""
    following = Client(fake.url).follow(web)
    for piece in following:
        seen += piece
        if seen == "one\n":
            service.consoles[web] += b"two, in pieces\n"
        if seen.endswith("pieces\n"):
            service.consoles[web] = b"new\n"
        if seen.endswith("new\n"):
            break
    assert seen == "one\ntwo, in pieces\nnew\n"
    assert "GET /vms/web-1/console?offset=4&limit=4" in service.asked


def test_follow_waits_for_a_service_that_is_away_and_gives_up(
    fake: FakeServer, web: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vms_client, "PAUSE_SECONDS", 0.05)
    service.consoles[web] = b"one\n"
    following = Client(fake.url).follow(web, give_up=PATIENCE)
    assert next(following) == "one\n"
    service.consoles[web] += b"two\n"
    cut = iter([True, True])

    def cut_off(target: str) -> None:
        if next(cut, False):
            raise CutOff

    fake.on_request = cut_off
    assert next(following) == "two\n"
    hasty = Client(fake.url).follow(web, give_up=0.3)
    assert next(hasty) == "one\ntwo\n"
    fake.stop()
    with pytest.raises(ClientError, match="nothing answers"):
        next(hasty)


def test_follow_ends_with_control_c(fake: FakeServer, web: str, service: Service) -> None:
    service.consoles[web] = b"first\n"
    command = [sys.executable, "-m", "labyard.cli", "vms", "console", web, "--follow"]

    with subprocess.Popen(
        command,
        env=os.environ | {"LABYARD_VMS_URL": fake.url},
        stdout=subprocess.PIPE,
        text=True,
    ) as following:
        try:
            assert following.stdout is not None
            assert following.stdout.readline() == "first\n"
            service.consoles[web] += b"second\n"
            assert following.stdout.readline() == "second\n"
            following.send_signal(signal.SIGINT)
            assert following.wait(timeout=PATIENCE) == 130
        finally:
            following.kill()


def test_control_sequences_are_taken_out_where_pieces_meet() -> None:
    text = "a\x1b[31mb\x1b]0;title\x07c\x1bc\x1b(Bd\te\x08\r\nf\x9b"
    for cut in range(len(text) + 1):
        plain = Plain()
        assert plain(text[:cut]) + plain(text[cut:]) == "abcd\te\nf", cut


def test_metadata_is_set_shown_and_cleared(run: Run, web: str, service: Service, tmp_path: Path) -> None:
    assert "labyard vms metadata set web-1" in run("metadata", "show", web).stdout
    key = tmp_path / "id.pub"
    key.write_text(KEY + "\n")
    run("metadata", "set", web, "--hostname", "web.lab", "--ssh-key", str(key))
    assert service.metadata[web]["ssh_keys"] == KEY
    assert "web.lab" in run("metadata", "show", web).stdout
    cleared = parsed(run("metadata", "set", web, "--ssh-key", "", "--user-data", "/dev/null", "--json"))
    assert (cleared["ssh_keys"], cleared["hostname"]) == (None, "web.lab")
    run("metadata", "set", web, expect=2)
    run("metadata", "clear", web)
    assert parsed(run("metadata", "show", web, "--json"))["hostname"] is None


# -- network, observer, health ---------------------------------------------------------------------------------------


def test_network_and_leases(run: Run, web: str, service: Service) -> None:
    assert "each gets one when it starts" in run("network").stdout
    run("start", web)
    shown = run("network").stdout
    assert "1 in use, 252 free" in shown and "not applied" in shown and "192.168.100.2" in shown
    assert parsed(run("network", "--json"))["leases"][0]["vm_id"] == web
    service.network = {"status": "not_configured"}
    assert "no lab network" in run("network").stdout


def test_check(run: Run, service: Service) -> None:
    assert "is what the database says" in run("check").stdout
    service.issues = [{"issue_type": "vm_state_mismatch", "resource_id": "web-1", "details": "process not found"}]
    found = run("check", expect=1).stdout
    assert "process not found" in found and "labyard vms restart web-1" in found
    assert parsed(run("check", "--json", expect=1))["issues_count"] == 1
    assert "mended vm_state_mismatch of web-1" in run("check", "--repair").stdout
    service.observer_error = "libvirt is away"
    assert "the observer could not look: libvirt is away" in run("check", expect=1).stderr


def test_status(run: Run, fake: FakeServer, service: Service) -> None:
    shown = run("status").stdout
    assert f"labyard-vms at {fake.url} is ok" in shown and "found nothing last" in shown
    assert parsed(run("status", "--json"))["health"]["checks"]["libvirt"] == "ok"
    service.checks["libvirt"] = "error: no socket"
    shown = run("status", expect=1).stdout
    assert "error: no socket" in shown and "degraded" in shown
    assert parsed(run("status", "--json", expect=1))["observer"] is None


# -- where the service is, and who calls -----------------------------------------------------------------------------


def test_token_is_asked_for_and_given(run: Run, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.token = "a-token"
    assert "give the service's token with --token or LABYARD_VMS_TOKEN" in run("list", expect=1).stderr
    run("--token", "a-token", "list")
    monkeypatch.setenv("LABYARD_VMS_TOKEN", "a-token")
    run("list")


def test_refusals_are_plain(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "make lab" in run("--url", "http://127.0.0.1:1", "list", expect=1).stderr
    assert "write it as http://HOST:PORT" in run("--url", "vms.example:8000", "list", expect=1).stderr
    monkeypatch.delenv("LABYARD_VMS_URL")
    assert "--url or LABYARD_VMS_URL" in run("--inventory", "/nowhere", "list", expect=1).stderr


def inventory(folder: Path, **variables: Any) -> Path:
    host = {"ansible_host": "127.0.0.1", "ansible_connection": "ssh", "lab_roles": ["vms"]} | variables
    (folder / "hosts.yml").write_text(json.dumps({"all": {"children": {"vm_hosts": {"hosts": {"vmhost1": host}}}}}))
    return folder


def test_service_and_token_come_from_the_inventory(fake: FakeServer, service: Service, tmp_path: Path) -> None:
    service.token = "a-token"
    port = int(fake.url.rpartition(":")[2])
    folder = inventory(tmp_path, vms_http_port=port, vms_http_host="127.0.0.1", vms_api_token="a-token")
    assert Where(folder, "", "").client.vms() == []
    with pytest.raises(ClientError, match="give the service's token"):
        Where(folder, "", "another").client.vms()
    with pytest.raises(ClientError, match="give the service's token"):  # it is for the inventory's service only
        Where(folder, fake.url, "").client.vms()


def test_inventory_without_the_service(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="has vms among its lab_roles"):
        _ = Where(inventory(tmp_path, lab_roles=["vm_host"]), "", "").client


@pytest.mark.parametrize("name", ["..", ".", "a/../b", "a b", "%2e", "ü?x#y"])
def test_any_name_stays_one_segment_of_the_path(fake: FakeServer, service: Service, name: str) -> None:
    service.templates[name] = {"name": name, "cpu_count": 1, "ram_amount": 4}
    Client(fake.url).delete_template(name)
    assert service.templates == {}
