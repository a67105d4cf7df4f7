"""The program itself: configuration, ports, signals."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from ports import free_port

from integration.evse.emulator.conftest import Start
from integration.evse.emulator.harness import EmulatorProcess, Rapi
from labyard.testing.waiting import PATIENCE

PROGRAM = Path(sys.executable).with_name("labyard-evse-emulator")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *arguments], cwd=folder, capture_output=True, text=True, timeout=PATIENCE)


@pytest.mark.parametrize(
    ("content", "key"),
    [({"serial": {"tcp_port": 0}}, "serial.tcp_port"), ({"serial": {"tcp_prot": 1}}, "serial.tcp_prot")],
)
def test_a_wrong_file_names_the_key_and_ends_with_2(tmp_path: Path, content: object, key: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    ended = run(tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"labyard-evse-emulator: config.json: {key}: ")
    assert "Traceback" not in ended.stderr


def test_a_wrong_flag_names_itself_and_ends_with_2(tmp_path: Path) -> None:
    ended = run(tmp_path, "--web-port", "99999")
    assert ended.returncode == 2
    assert ended.stderr == ("labyard-evse-emulator: --web-port: must be a whole number from 1 to 65535, not '99999'\n")
    ended = run(tmp_path, "--webport", "1")
    assert ended.returncode == 2 and "--webport" in ended.stderr
    assert run(tmp_path, "--help").returncode == 0


@pytest.mark.parametrize(
    ("flag", "key"),
    [
        ("--web-port", "web.port"),
        ("--serial-tcp-port", "serial.tcp_port"),
        ("--serial-observer-port", "serial.observer_port"),
    ],
)
def test_a_port_that_is_taken_is_named(tmp_path: Path, flag: str, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ports = {"--web-port": str(free_port()), "--serial-tcp-port": str(free_port())} | {flag: port}
        ended = run(tmp_path, "--serial-mode", "tcp", *(word for pair in ports.items() for word in pair))
    assert ended.returncode == 2
    assert ended.stderr == (
        f"labyard-evse-emulator: {key}: cannot listen on 127.0.0.1 port {port}: Address already in use. "
        "Give another port, or end what has it.\n"
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "host.invalid"])
def test_an_address_of_another_machine_is_named(tmp_path: Path, host: str) -> None:
    ended = run(tmp_path, "--web-host", host, "--web-port", str(free_port()))
    assert ended.returncode == 2
    assert ended.stderr == f"labyard-evse-emulator: web.host: {host} is no address of this machine\n"


def test_a_wrong_environment_variable_is_only_a_warning(start: Start) -> None:
    rapi_port = free_port()
    emulator = start(env={"SERIAL_MODE": "tcp", "SERIAL_TCP_PORT": str(rapi_port), "LABYARD_TIME_SCALE": "fast"})
    assert "ignored: LABYARD_TIME_SCALE: must be a number from 1 to 120" in emulator.log()
    assert Rapi.tcp(rapi_port).ask("GV") == "$OK 8.2.1 5.0.1"


def test_every_layer_reaches_the_charger(start: Start, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"evse": {"default_current": 20, "service_level": "L1"}, "ev": {"battery_capacity_kwh": 40}}),
        encoding="utf-8",
    )
    status = (
        start("--evse-default-current", "16", "--evse-firmware-version", "7.1.3", "--ev-max-charge-rate-kw", "11")
        .http.get("/api/status")
        .json()
    )
    evse, car = status["evse"], status["ev"]
    assert (evse["current_capacity"], evse["service_level"], evse["voltage"]) == (16, "L1", 120000)
    assert (evse["firmware_version"], car["battery_capacity_kwh"], car["max_charge_rate_kw"]) == ("7.1.3", 40, 11)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_well_with_clients_on_the_line(start: Start, number: int) -> None:
    rapi_port = free_port()
    emulator = start("--serial-mode", "tcp", "--serial-tcp-port", str(rapi_port))
    client = Rapi.tcp(rapi_port)
    client.wait_for("$AB 00 8.2.1")
    assert emulator.stop(number) == 0
    with pytest.raises(EOFError):
        client.line()
    assert "Traceback" not in emulator.log() and '"stopped"' in emulator.log()


def test_two_of_them_need_only_other_ports(start: Start) -> None:
    ids = set()
    for port in (free_port(), free_port()):
        start("--serial-mode", "tcp", "--serial-tcp-port", str(port))
        ids.add(Rapi.tcp(port).ask("GI"))
    assert len(ids) == 2


def test_its_ports_are_free_again_at_once(tmp_path: Path) -> None:
    arguments = ("--serial-mode", "tcp", "--serial-tcp-port", str(free_port()))
    with EmulatorProcess(tmp_path, *arguments).wait_ready() as emulator:
        client = Rapi.tcp(int(arguments[-1]))
        client.wait_for("$AB 00 8.2.1")
        assert emulator.stop() == 0
    with EmulatorProcess(tmp_path, *arguments).wait_ready():
        assert Rapi.tcp(int(arguments[-1])).ask("GV") == "$OK 8.2.1 5.0.1"
