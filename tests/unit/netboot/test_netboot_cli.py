"""`labyard netboot …` and its client against the real service over HTTP."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from labyard.cli import app
from labyard.client import commands
from labyard.client.http import ClientError
from labyard.netboot import cli_types, cli_where, models
from labyard.netboot.adapters.fake import Fault
from labyard.netboot.client import Client
from labyard.netboot.client_http import token_file
from labyard.testing.waiting import PATIENCE, wait_until

MAC = "52:54:00:00:00:01"
DISK = b"\0" * 510 + b"\x55\xaa"  # a disk with a boot sector

Run = Callable[..., Result]


@pytest.fixture
def run(live: Any, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command as a shell does, with the service named by the environment."""
    monkeypatch.setenv("LABYARD_NETBOOT_URL", live.url)
    monkeypatch.setenv("LABYARD_NETBOOT_PASSWORD", live.password)
    monkeypatch.setattr(commands.console, "_width", 160)

    def call(*words: str, expect: int = 0) -> Result:
        result = CliRunner().invoke(app, ["netboot", *words])
        assert result.exit_code == expect, f"{words}: {result.output} {result.exception!r}"
        return result

    return call


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    file = tmp_path / "debian.raw"
    file.write_bytes(DISK)
    return file


@pytest.fixture
def ready(live: Any, tmp_path: Path) -> None:
    """Machine `ws 1` and image `debian`."""
    live.client.add_machine(name="ws 1", mac_address=MAC, ip_address="192.168.1.101")
    live.image("debian", tmp_path)


def parsed(result: Result) -> Any:
    return json.loads(result.stdout)


# -- machines --------------------------------------------------------------------------------------------------------


def test_machines_are_added_changed_shown_and_removed(run: Run, live: Any) -> None:
    assert "machines add NAME --mac" in run("machines").stdout
    run("machines", "add", "ws 1", "--mac", "52-54-00-00-00-01", "--address", "192.168.1.101", "--firmware", "bios")
    (machine,) = parsed(run("machines", "--json"))
    assert (machine["mac_address"], machine["boot_mode"]) == (MAC, "legacy")
    run("machines", "set", "ws 1", "--room", "Lab 2", "--address", "", "--status", "maintenance")
    changed = live.client.machine(str(machine["id"]))
    assert (changed["room"], changed["ip_address"], changed["status"]) == ("Lab 2", None, "maintenance")
    shown = run("machines").stdout
    assert "ws 1" in shown and MAC in shown and "from the pool" in shown
    assert "No machine has that in it" in run("machines", "--search", "nothing").stdout
    run("machines", "rm", "ws 1")
    assert live.client.machines() == []


def test_usage_errors_exit_with_2(run: Run, ready: None) -> None:
    run("machines", "add", "ws2", expect=2)
    run("machines", "set", "ws 1", expect=2)
    run("start", "ws 1", expect=2)
    run("start", "ws 1", "debian", "--method", "floppy", expect=2)
    run("images", "add", "/nowhere.raw", expect=2)


# -- images ----------------------------------------------------------------------------------------------------------


def test_images_are_added_converted_shown_and_removed(run: Run, live: Any, disk: Path) -> None:
    assert "debian is ready: raw, 512 B" in run("images", "add", str(disk)).stdout
    added = parsed(run("images", "add", str(disk), "--name", "other", "--type", "template", "--json"))
    assert added["status"] == "ready" and added["image_type"] == "template"
    assert "debian" in run("images").stdout
    assert "qcow2" in run("images", "convert", "other", "--to", "qcow2").stdout
    run("images", "rm", "other")
    there = live.settings.images_dir / "there.raw"
    there.write_bytes(DISK)
    assert "there is ready" in run("images", "import", str(there)).stdout
    assert {image["name"] for image in parsed(run("images", "--json"))} == {"debian", "there"}


def test_bad_image_is_told(run: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken.qcow2"
    broken.write_bytes(b"not a qcow2 at all")
    assert "image broken:" in run("images", "add", str(broken), expect=1).stderr
    assert "extension" in run("images", "add", __file__, expect=1).stderr


def test_upload_goes_on_where_it_stopped(live: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labyard.netboot.client.PIECE_BYTES", 512)
    file = tmp_path / "big.raw"
    file.write_bytes(DISK * 8)

    def cut(sent: int) -> None:
        if sent >= 1024:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        live.client.upload(file, "big", progress=cut)
    steps: list[int] = []
    image = live.client.ingest(live.client.upload(file, "big", progress=steps.append)["id"])
    assert steps[0] == 1024 and steps[-1] == 4096 and image["size_bytes"] == 4096
    given = {"name": "half", "filename": "half.raw", "size_bytes": 7}
    half = live.client._call(dict, "POST", "/images/uploads", json=given)
    assert half["status"] == "uploading"
    with pytest.raises(ClientError, match="images rm half"):
        live.client.upload(file, "half")


# -- sessions --------------------------------------------------------------------------------------------------------


def test_start_and_stop(run: Run, live: Any, ready: None) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5tYk2uVtUbLtHFTP3yq5xqGmQ1wU0mSXbEwbG7V1Xk me"
    assert "labyard boot 'ws 1'" in run("start", "ws 1", "debian", "--transport", "http", "--ssh-key", key).stdout
    (session,) = parsed(run("sessions", "--json"))
    assert (session["status"], session["transport"]) == ("active", "http")
    shown = run("sessions", "--machine", "ws 1", "--status", "active").stdout
    assert "debian" in shown and "○○○○○ waiting" in shown
    assert "#!ipxe" in run("script", "1").stdout
    assert "ws-1" in run("reservations", "WS 1").stdout
    assert parsed(run("reservations", MAC, "--json"))[0]["ip_address"] == "192.168.1.101"
    assert "already has an active session" in run("start", "ws 1", "debian", expect=1).stderr
    run("stop", "ws 1")
    assert "no reservation is set for ws 1" in run("reservations", "ws 1", expect=1).stderr
    assert "start one: labyard netboot start 'ws 1'" in run("stop", "ws 1", expect=1).stderr
    assert live.client.session(session["id"])["status"] == "stopped"
    assert "Nothing is set" in run("reservations").stdout


def test_start_and_stop_with_power(run: Run, live: Any, ready: None, tmp_path: Path) -> None:
    url = "https://10.0.0.5/redfish/v1/Systems/1"
    secret = tmp_path / "secret"
    secret.write_text("hush-hush\n")
    assert "has no bmc_url" in run("start", "ws 1", "debian", "--power", "cycle", expect=1).output
    run("machines", "set", "ws 1", "--bmc-url", url, "--bmc-username", "admin", "--bmc-password-file", str(secret))
    shown = live.client.machine("ws 1")
    assert (shown["bmc_url"], shown["bmc_password_set"], shown["bmc_verify_tls"]) == (url, True, True)
    run("machines", "set", "ws 1", "--no-bmc-verify-tls")
    assert not live.client.machine("ws 1")["bmc_verify_tls"]
    power = live.netboot.provision.adapters.power
    assert "It was switched on." in run("start", "ws 1", "debian", "--power", "cycle").stdout
    assert power.is_on(url)
    assert "is off and has no disk" in run("stop", "ws 1", "--power", "off").stdout
    assert not power.is_on(url)
    run("start", "ws 1", "debian")
    power.faults["off"] = Fault.RAISE
    failed = run("stop", "ws 1", "--power", "off", expect=1).output
    assert "has no disk any more" in failed and "was not switched off" in failed
    run("machines", "set", "ws 1", "--bmc-url", "")
    assert not live.client.machine("ws 1")["bmc_password_set"]


def test_start_as_json(run: Run, ready: None) -> None:
    started = parsed(run("start", "ws 1", "debian", "--json"))
    assert started["iscsi_details"]["san_uri"].startswith("iscsi:")


def test_start_refuses_what_is_no_key(run: Run, ready: None) -> None:
    assert "neither a public key nor a file" in run("start", "ws 1", "debian", "--ssh-key", "x", expect=1).stderr


def events_of_a_boot(live: Any, *kinds: str) -> threading.Thread:
    """Boot events a moment after the session is there."""

    def boot() -> None:
        found = wait_until(lambda: live.client.sessions(status="active"), "a session")
        for kind in kinds:
            time.sleep(0.1)
            live.event(found[0]["id"], kind)

    thread = threading.Thread(target=boot)
    thread.start()
    return thread


def test_wait_shows_the_evidence_as_it_comes(run: Run, live: Any, ready: None) -> None:
    boot = events_of_a_boot(live, "dhcp_request", "tftp_request", "ipxe_load", "iscsi_connect", "boot_success")
    shown = run("start", "ws 1", "debian", "--wait", "--seconds", str(int(PATIENCE))).stdout
    boot.join()
    evidence = ["leased", "script fetched", "script runs", "disk attached", "userland"]
    assert [word for word in evidence if word in shown] == evidence
    assert [shown.index(word) for word in evidence] == sorted(shown.index(word) for word in evidence)
    assert "●●●●● booted in" in run("sessions").stdout
    assert "userland" in run("events", "ws 1").stdout
    newest = parsed(run("events", "--json", "--last", "2"))
    assert [event["type"] for event in newest] == ["iscsi_connect", "boot_success"]


def test_wait_tells_of_failure(run: Run, live: Any, ready: None) -> None:
    boot = events_of_a_boot(live, "boot_failed")
    assert "could not boot" in run("start", "ws 1", "debian", "--wait", expect=1).stderr
    boot.join()
    assert "✘ failed" in run("sessions").stdout


def test_wait_has_an_end(run: Run, live: Any, ready: None) -> None:
    late = run("start", "ws 1", "debian", "--wait", "--seconds", "0.5", expect=1)
    assert "no userland within 0.5 s; the boot came as far as: waiting" in late.stderr


def test_wait_ends_when_the_session_does(run: Run, live: Any, ready: None) -> None:
    def stop() -> None:
        found = wait_until(lambda: live.client.sessions(status="active"), "a session")
        live.client.stop(found[0]["id"])

    thread = threading.Thread(target=stop)
    thread.start()
    assert "is stopped: somebody ended it" in run("start", "ws 1", "debian", "--wait", expect=1).stderr
    thread.join()


def test_watch_ends_with_control_c(run: Run, ready: None, monkeypatch: pytest.MonkeyPatch) -> None:
    run("start", "ws 1", "debian")
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("labyard.netboot.cli.time", SimpleNamespace(sleep=nap))
    assert "ws 1" in run("sessions", "--watch", expect=130).stdout


def test_events_are_followed_until_control_c(live: Any, ready: None) -> None:
    session = live.client.start(1, 1)["session"]
    live.event(session["id"], "dhcp_request")
    environment = os.environ | {"LABYARD_NETBOOT_URL": live.url, "LABYARD_NETBOOT_PASSWORD": live.password}
    command = [sys.executable, "-m", "labyard.cli", "netboot", "events", "ws 1", "--follow", "--json"]

    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as following:
        try:
            assert following.stdout is not None
            assert json.loads(following.stdout.readline())["type"] == "dhcp_request"
            live.event(session["id"], "ipxe_load")
            assert json.loads(following.stdout.readline())["type"] == "ipxe_load"
            following.send_signal(signal.SIGINT)
            assert following.wait(timeout=PATIENCE) == 130
        finally:
            following.kill()


def test_stream_goes_on_after_a_restart_of_the_service(live: Any, ready: None) -> None:
    session = live.client.start(1, 1)["session"]
    live.event(session["id"], "dhcp_request")
    seen: list[str] = []
    for event in live.client.follow(session["id"], 0, quiet=1, give_up=30):
        if event is None:
            continue
        seen.append(event["type"])
        if len(seen) == 1:
            live.server.stop()
            live.server.start()
            live.event(session["id"], "ipxe_load")
        if len(seen) == 2:
            break
    assert seen == ["dhcp_request", "ipxe_load"]


def test_stream_gives_up_when_nothing_comes_back(live: Any, ready: None) -> None:
    stream = live.client.follow(quiet=1, give_up=1)
    live.server.stop()
    with pytest.raises(ClientError, match="nothing answers"):
        list(stream)
    live.server.start()


# -- daemons and users -----------------------------------------------------------------------------------------------


def test_status_and_check(run: Run, live: Any, ready: None) -> None:
    run("start", "ws 1", "debian")
    shown = run("status").stdout
    assert "labyard-netboot" in shown and "1 reservations" in shown and "1 active" in shown
    assert parsed(run("status", "--json"))["health"]["status"] == "healthy"
    assert "nothing to do" in run("check").stdout
    (script,) = (live.settings.tftp_root / "machines").glob("*.ipxe")
    text = script.read_text()
    script.unlink()
    found = run("check", expect=1)
    assert "missing" in found.stdout and script.name in found.stdout and "check --repair" in found.stdout
    assert "mended" in run("check", "--repair").stdout and script.read_text() == text
    assert parsed(run("check", "--json"))["findings"] == []


def test_password_is_changed(run: Run, live: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = tmp_path / "new"
    new.write_text("short\n")
    assert "new_password" in run("passwd", "--new-password-file", str(new), expect=1).stderr
    new.write_text("Another-horse-8\n")
    assert "Changed" in run("passwd", "--new-password-file", str(new)).stdout
    assert "refuses user admin" in run("machines", expect=1).stderr
    monkeypatch.delenv("LABYARD_NETBOOT_PASSWORD")
    run("--password-file", str(new), "machines")


def test_roles_and_refusals_are_plain(
    run: Run, live: Any, make_user: Callable[[str], tuple[str, str]], monkeypatch: pytest.MonkeyPatch, ready: None
) -> None:
    user, _ = make_user("viewer")
    assert "ws 1" in run("--user", user, "machines").stdout
    refused = run("--user", user, "start", "ws 1", "debian", expect=1)
    assert "Operator privileges required; log in as a user who has that role" in refused.stderr
    assert "there is no machine 'nobody'; there are: ws 1" in run("stop", "nobody", expect=1).stderr
    assert "name: " in run("machines", "add", "x", "--mac", MAC, expect=1).stderr
    assert "make lab" in run("--url", "http://127.0.0.1:1", "machines", expect=1).stderr
    monkeypatch.delenv("LABYARD_NETBOOT_PASSWORD")
    monkeypatch.delenv("LABYARD_NETBOOT_URL")
    assert "no inventory" in run("--inventory", "/nowhere", "machines", expect=1).stderr


def test_service_and_password_come_from_the_inventory(live: Any, tmp_path: Path) -> None:
    port = live.settings.http_port
    host = {"ansible_host": "127.0.0.1", "ansible_connection": "ssh", "netboot_http_port": port}
    host |= {"netboot_admin_password": live.password, "lab_roles": ["netboot"]}
    inventory = {"all": {"children": {"netboot": {"hosts": {"boot1": host}}}}}
    (tmp_path / "hosts.yml").write_text(json.dumps(inventory))
    where = cli_where.Where(tmp_path, "", "admin", "")
    assert where.client.machines() == []
    with pytest.raises(ClientError, match="no password for user carol"):
        _ = cli_where.Where(tmp_path, "", "carol", "").client


# -- the client ------------------------------------------------------------------------------------------------------


def test_token_is_kept_for_the_next_command_only_with_the_same_password(live: Any, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    with Client(live.url, "admin", live.password, cache=folder) as first:
        first.machines()
    (kept,) = folder.iterdir()
    assert kept == token_file(live.url, "admin", live.password, folder)
    assert kept.stat().st_mode & 0o777 == 0o600 and live.password not in kept.read_text()
    with Client(live.url, "admin", live.password, cache=folder) as second:
        assert second._http._token == first._http._token
    with (
        Client(live.url, "admin", "Wrong-horse-7", cache=folder) as wrong,
        pytest.raises(ClientError, match="refuses"),
    ):
        wrong.machines()
    kept.write_text(json.dumps({"token": "x.y.z", "until": 2**40}))  # revoked since
    with Client(live.url, "admin", live.password, cache=folder) as third:
        assert third.machines() == []


def test_modules_name_the_same_token_file(collection: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    modules = importlib.import_module("ansible_collections.labyard.lab.plugins.module_utils.netboot_api")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    given = ("http://boot.example:8000", "admin", "a password")
    assert modules.token_file(*given) == str(token_file(*given, tmp_path / "labyard"))


@pytest.mark.parametrize(
    ("ours", "services"),
    [
        (cli_types.Method, models.BootMethod),
        (cli_types.Transport, models.Transport),
        (cli_types.StartPower, models.StartPower),
        (cli_types.StopPower, models.StopPower),
        (cli_types.MachineStatus, models.MachineStatus),
        (cli_types.ImageType, models.ImageType),
        (cli_types.Format, models.ImageFormat),
    ],
)
def test_choices_are_those_of_the_service(ours: Any, services: Any) -> None:
    assert {str(one) for one in ours} == {str(one) for one in services}
