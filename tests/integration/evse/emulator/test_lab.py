"""Faults on the line, the virtual clock and the web socket of the real process."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from ports import free_port
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_socket

from integration.evse.emulator.conftest import Start
from integration.evse.emulator.harness import EmulatorProcess, Rapi
from labyard.testing.waiting import PATIENCE, wait_until

Connect = Callable[[], Rapi]

COMMANDS = ["GV", "GS", "GC", "SC 10 V", "GE", "SC 32 V", "GG", "GU"] * 8
# $G0 and its reply pass: they tell that all is done.
PASSES = r"^\$(?!G0\^|OK 0\^)"
RULES = [
    {"kind": "drop", "direction": "rx", "probability": 0.2, "match": PASSES},
    {"kind": "corrupt", "direction": "rx", "probability": 0.2, "match": PASSES},
    {"kind": "truncate", "direction": "rx", "probability": 0.1, "match": PASSES},
    {"kind": "duplicate", "direction": "tx", "probability": 0.2, "match": PASSES},
    {"kind": "delay", "direction": "tx", "probability": 0.3, "match": PASSES, "delay_ms": [1, 5]},
]


def injected(emulator: EmulatorProcess, connect: Connect, seed: int) -> list[dict[str, Any]]:
    """The log of the same commands to a fresh client, without what differs by nature."""
    client = connect()
    emulator.post("/api/link/faults", seed=seed, rules=RULES)
    for command in COMMANDS:
        client.send(command)
    client.send("G0")
    client.wait_for("$OK 0")
    client.close()
    assert emulator.http.get("/api/link/faults").json()["seed"] == seed
    assert emulator.http.delete("/api/link/faults").json() == {"success": True}
    entries: list[dict[str, Any]] = emulator.http.get("/api/link/log").json()
    return [{key: value for key, value in entry.items() if key not in ("time_s", "client")} for entry in entries]


def test_the_same_seed_and_frames_have_the_same_faults(start: Start, connect: Connect, rapi_port: int) -> None:
    logs = []
    for seed in (5, 5, 6):
        emulator = start("--serial-mode", "tcp", "--serial-tcp-port", str(rapi_port))
        logs.append(injected(emulator, connect, seed))
        emulator.stop()
    assert logs[0] == logs[1] != logs[2]
    assert {entry["kind"] for entry in logs[0]} == {"drop", "corrupt", "truncate", "duplicate", "delay"}


def test_faults_come_and_go(emulator: EmulatorProcess, connect: Connect) -> None:
    client = connect()
    emulator.post("/api/link/faults", seed=1, rules=[{"kind": "drop", "direction": "tx"}])
    client.send("GV")
    assert client.is_silent()
    wait_until(lambda: len(emulator.http.get("/api/link/log").json()) == 1, "the fault is in the log")
    emulator.http.delete("/api/link/faults")
    assert emulator.http.get("/api/link/faults").json() == {"seed": 0, "rules": []}
    assert client.ask("GV") == "$OK 8.2.1 5.0.1"
    assert 'labyard_link_faults_total{kind="drop"} 1.0' in emulator.http.get("/metrics").text


def test_disconnect_throws_one_client_off(emulator: EmulatorProcess, connect: Connect) -> None:
    one, two = connect(), connect()
    emulator.post("/api/link/faults", rules=[{"kind": "disconnect", "direction": "rx", "match": "GS", "count": 1}])
    one.send("GS")
    with pytest.raises(EOFError):
        one.line()
    assert two.ask("GS") == "$OK 01 0 01 0000"
    assert connect().ask("GS") == "$OK 01 0 01 0000"


def test_a_reboot_loses_the_command_under_way(emulator: EmulatorProcess, connect: Connect) -> None:
    client = connect()
    emulator.post("/api/link/faults", rules=[{"kind": "reboot", "direction": "rx", "match": "^.SC", "count": 1}])
    client.send("SC 10")
    client.wait_for("$AB 00 8.2.1")
    client.wait_for("$AT 01 01 32 0000")
    assert client.ask("GC") == "$OK 6 80 32 32"


def test_a_corrupted_command_is_refused(emulator: EmulatorProcess, connect: Connect) -> None:
    client = connect()
    emulator.post("/api/link/faults", rules=[{"kind": "corrupt", "direction": "rx", "count": 20}])
    for _ in range(20):
        client.send("FS")
        assert client.line() == "$NK"
    assert client.ask("GS") == "$OK 01 0 01 0000"


def charge(emulator: EmulatorProcess) -> None:
    emulator.post("/api/ev/connect")
    emulator.post("/api/ev/request_charge")


def test_a_manual_clock(emulator: EmulatorProcess, connect: Connect) -> None:
    client = connect()
    emulator.post("/api/clock", mode="manual", now_s=1000)
    charge(emulator)
    assert client.ask("GG") == "$OK 0 240000"
    emulator.post("/api/clock/advance", seconds=3601)
    assert emulator.http.get("/api/clock").json() == {"mode": "manual", "scale": 1.0, "now_s": 4601.0}
    status = emulator.http.get("/api/status").json()
    assert (status["evse"]["session_time"], status["evse"]["actual_current"]) == (3601, 30)
    assert 7200 <= status["evse"]["session_energy_wh"] <= 7202
    assert client.ask("FR") == "$OK"
    assert client.is_silent()
    emulator.post("/api/clock/advance", seconds=0.5)
    client.wait_for("$AT 00 02 32 0100")
    emulator.post("/api/clock/advance", seconds=1)
    client.wait_for("$AT 03 03 32 0140")
    emulator.post("/api/clock", mode="real")
    assert emulator.http.post("/api/clock/advance", json={"seconds": 1}).status_code == 400


def test_time_may_run_faster(start: Start) -> None:
    emulator = start("--serial-mode", "tcp", "--serial-tcp-port", str(free_port()), "--time-scale", "120")
    assert emulator.http.get("/api/clock").json()["scale"] == 120
    charge(emulator)
    wait_until(lambda: emulator.http.get("/api/evse/status").json()["session_time"] >= 120, "two minutes of charging")
    emulator.post("/api/clock", mode="scaled", scale=2)
    assert emulator.http.get("/api/clock").json()["mode"] == "scaled"


def frames(socket: ClientConnection, kind: str) -> dict[str, Any]:
    """The data of the next frame of that kind."""
    while True:
        frame: dict[str, Any] = json.loads(socket.recv(PATIENCE))
        assert set(frame) == {"type", "data"}
        if frame["type"] == kind:
            data: dict[str, Any] = frame["data"]
            return data


def test_the_web_socket(emulator: EmulatorProcess) -> None:
    with open_socket(emulator.url.replace("http", "ws") + "/ws", open_timeout=PATIENCE) as socket:
        first = json.loads(socket.recv(PATIENCE))
        assert first["type"] == "status_update" and set(first["data"]) == {"evse", "ev"}
        socket.send("what is this?")
        emulator.post("/api/ev/connect")
        assert frames(socket, "state_change") == {"state": 2, "state_name": "connected"}
        emulator.post("/api/errors/trigger", error="gfci")
        assert frames(socket, "state_change") == {"state": 6, "state_name": "gfci"}
        assert frames(socket, "error")["error"] == "gfci"
        assert frames(socket, "status_update")["evse"]["state"] == 6
        assert socket.ping().wait(PATIENCE)
        assert emulator.stop() == 0
    assert "Traceback" not in emulator.log()
