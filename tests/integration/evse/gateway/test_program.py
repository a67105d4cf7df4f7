"""Command line, identity, storage, start and stop: contract 1.2, 4."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from ports import free_port
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from integration.evse.gateway.conftest import GatewayProcess, Start
from labyard.testing.waiting import PATIENCE


def run(*words: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "labyard.evse.gateway", *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=cwd,
        env=env,
        check=False,
    )


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_no_failure(flag: str) -> None:
    shown = run(flag)
    assert shown.returncode == 0
    assert "--rapi-serial" in shown.stdout


@pytest.mark.parametrize(
    "words", [["--nonsense"], ["--set-config", "lang"], ["--set-config", "=x"], ["stray"], ["--time-scale", "0"]]
)
def test_a_wrong_command_line_shows_usage(words: list[str], tmp_path: Path) -> None:
    shown = run(*words, cwd=tmp_path)
    assert shown.returncode == 1
    assert shown.stderr.startswith("usage:")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_chip_id_is_named(tmp_path: Path) -> None:
    shown = run(env={"OPENEVSE_CHIP_ID": "zz"}, cwd=tmp_path)
    assert shown.returncode == 1
    assert "OPENEVSE_CHIP_ID" in shown.stderr


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        shown = run("--set-config", f"www_http_port={port}", cwd=tmp_path)
    assert shown.returncode == 1
    assert f"port {port}: Address already in use" in shown.stderr


def test_unknown_and_unchanged_options_are_warnings(start_gateway: Start) -> None:
    gateway = start_gateway("--set-config", "nonsense=1", "--set-config", "lang=en", "--set-config", "service=9", "--")
    output = gateway.log.read_text()
    assert "there is no such option" in output
    assert "the option is unchanged" in output
    assert "service must be one of: 1, 2" in output
    assert gateway.http.get("/config").json()["service"] == 2
    assert gateway.status()["config_version"] == 1


def test_options_of_the_command_line_are_typed_by_their_key(start_gateway: Start) -> None:
    gateway = start_gateway(
        "--set-config", "hostname=openevse-native-3",
        "--set-config", "loadsharing_enabled=true",
        "--set-config", "loadsharing_group_max_current=32.5",
        "--set-config", "mqtt_port=1884",
    )  # fmt: skip
    found = gateway.http.get("/config").json()
    assert found["hostname"] == "openevse-native-3"
    assert found["loadsharing_enabled"] is True
    assert found["loadsharing_group_max_current"] == 32.5
    assert found["mqtt_port"] == 1884


def test_each_port_is_somebody_else_and_stays_who_it_is(start_gateway: Start) -> None:
    first, second = start_gateway(name="a"), start_gateway(name="b")
    ids = [gateway.http.get("/config").json()["wifi_serial"] for gateway in (first, second)]
    assert ids[0] != ids[1]
    assert ids[0] == ids[0].upper()
    assert first.http.get("/config").json()["hostname"] == f"openevse-{ids[0][-4:].lower()}"
    first.stop()
    assert start_gateway(name="a", port=free_port()).http.get("/config").json()["wifi_serial"] == ids[0]


def test_environment_gives_id_terminal_and_compatibility(start_gateway: Start, tmp_path: Path) -> None:
    gateway = start_gateway(env={"OPENEVSE_CHIP_ID": "0xAB12", "LABYARD_LOADSHARING_COMPAT": "idempotent"})
    found = gateway.http.get("/config").json()
    assert (found["wifi_serial"], found["hostname"]) == ("AB12", "openevse-ab12")
    assert found["loadsharing_compat"] == "idempotent"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_with_0_and_soon(start_gateway: Start, number: int) -> None:
    gateway = start_gateway()
    with (
        socket.create_connection(("127.0.0.1", gateway.port)),  # somebody who does nothing
        connect(f"ws://127.0.0.1:{gateway.port}/ws", open_timeout=PATIENCE) as client,
    ):
        client.recv(PATIENCE)
        assert gateway.stop(number) == 0
        with pytest.raises(ConnectionClosed):
            client.recv(PATIENCE)


def test_a_stop_while_it_starts_is_no_failure() -> None:
    script = (
        "import os, signal; from labyard.evse.gateway import __main__, program;"
        "program.main = lambda: os.kill(os.getpid(), signal.SIGTERM); __main__.main()"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=PATIENCE, check=False).returncode == 0


def test_what_was_set_is_there_after_a_kill(start_gateway: Start) -> None:
    gateway = start_gateway()
    gateway.http.post("/config", json={"lang": "de", "www_username": "me"})
    event = {"id": 4, "state": "active", "time": "12:00:00", "days": ["monday"]}
    gateway.http.post("/schedule", json=event)
    gateway.http.post("/limit", json={"type": "energy", "value": 5000, "auto_release": False})
    gateway.http.post("/override", json={"charge_current": 10})
    gateway.http.post("/claims/20", json={"state": "active"})
    gateway.stop(signal.SIGKILL)
    gateway = start_gateway()
    found = gateway.http.get("/config").json()
    assert (found["lang"], found["www_username"]) == ("de", "me")
    assert gateway.http.get("/schedule").json() == [event]
    assert gateway.http.get("/limit").json() == {"type": "energy", "value": 5000, "auto_release": False}
    assert gateway.http.get("/override").json() == {}
    assert [claim["client"] for claim in gateway.http.get("/claims").json()] == [65540]


def test_a_kill_leaves_whole_files_and_no_others(start_gateway: Start) -> None:
    def write(gateway: GatewayProcess, number: int) -> None:
        with contextlib.suppress(httpx.TransportError):
            httpx.post(f"{gateway.url}/config", json={"lang": f"{number}" * 50}, timeout=PATIENCE)

    for _ in range(4):
        gateway = start_gateway()
        with ThreadPoolExecutor(4) as pool:
            for number in range(60):
                pool.submit(write, gateway, number)
            time.sleep(0.1)  # somewhere in the middle
            gateway.stop(signal.SIGKILL)
        json.loads((gateway.directory / "options.json").read_text())
    gateway = start_gateway()
    gateway.http.post("/config", json={"lang": "de"})
    assert [path.name for path in gateway.directory.iterdir() if path.name.startswith(".")] == []


def test_spoilt_files_are_no_hindrance(start_gateway: Start, tmp_path: Path) -> None:
    directory = tmp_path / "gateway"
    directory.mkdir()
    for name in ("config", "identity", "energy", "limit", "schedule", "session", "log"):
        (directory / f"{name}.json").write_text('{"min": "x", "total": [], "type')
    (directory / "schedule.json").write_text(json.dumps([{"id": 1}]))
    (directory / "log-0.json").write_text("5")
    gateway = start_gateway()
    assert gateway.http.get("/schedule").json() == []
    assert gateway.http.get("/logs/0").json() == []


def test_restart_keeps_the_process_and_takes_the_stored_port(start_gateway: Start) -> None:
    gateway = start_gateway()
    gateway.http.post("/config", json={"lang": "de"})
    assert gateway.http.post("/restart", json={"device": "gateway"}).json() == {"msg": "restart gateway"}
    gateway.until(lambda: '"gateway restarts"' in gateway.log.read_text())
    gateway.until(gateway.answers)
    assert gateway.http.get("/config").json()["lang"] == "de"
    assert gateway.status()["config_version"] == 1
    assert gateway.stop() == 0


def test_time_runs_faster(start_gateway: Start) -> None:
    gateway = start_gateway("--time-scale", "100")
    assert gateway.http.get("/labyard/clock").json() | {"now_s": 0} == {"mode": "scaled", "scale": 100.0, "now_s": 0}
    before = gateway.status()["uptime"]
    began = time.monotonic()
    gateway.until(lambda: gateway.status()["uptime"] >= before + 30)
    assert time.monotonic() - began < 25  # a clock of the usual pace takes 30
