"""RAPI over TCP against the real process."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest
from ports import free_port

from integration.evse.emulator.conftest import Start
from integration.evse.emulator.harness import EmulatorProcess, Rapi
from labyard.evse.rapi import encode
from labyard.testing.waiting import wait_until

Connect = Callable[[], Rapi]


def test_several_clients_at_once(emulator: EmulatorProcess, connect: Connect) -> None:
    clients = [connect() for _ in range(5)]
    clients[0].send("FS")
    assert [clients[0].line(), clients[0].line()] == ["$OK", "$AT FE 01 32 0000"]
    for client in clients[1:]:
        assert client.line() == "$AT FE 01 32 0000"
    for index, client in enumerate(clients):
        client.send(f"FB {index}")
        client.send("GV")
    assert [(client.line(), client.line()) for client in clients] == [("$OK", "$OK 8.2.1 5.0.1")] * 5
    assert emulator.http.get("/api/evse/lcd/backlight").json() == {"color": 4}, "commands run in arrival order"
    assert all(client.is_silent() for client in clients)


def test_many_commands_of_many_clients_each_get_their_reply(emulator: EmulatorProcess, connect: Connect) -> None:
    wrong: list[str] = []

    def talk(client: Rapi, name: int) -> None:
        for number in range(200):
            sequence = f"{name:X}{number % 15 + 1:X}"
            client.write(encode("GC", sequence=sequence))
            line = client.line()
            if line != f"$OK 6 80 32 32 :{sequence}":
                wrong.append(line)

    threads = [Thread(target=talk, args=(connect(), name)) for name in range(1, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_client_may_come_again_at_once(emulator: EmulatorProcess, connect: Connect) -> None:
    for _ in range(20):
        client = connect()
        assert client.ask("GV") == "$OK 8.2.1 5.0.1"
        client.close()


def test_reconnects_are_counted(emulator: EmulatorProcess, connect: Connect) -> None:
    def metrics() -> list[str]:
        return emulator.http.get("/metrics").text.splitlines()

    assert "labyard_rapi_reconnects_total 0.0" in metrics()
    for _ in range(3):
        connect()
    assert "labyard_rapi_reconnects_total 2.0" in metrics()


def test_one_who_goes_in_mid_line_leaves_nothing_behind(emulator: EmulatorProcess, connect: Connect) -> None:
    connect().write(b"$F")
    client = connect()
    client.write(b"S\r")
    assert client.is_silent()
    assert client.ask("GS") == "$OK 01 0 01 0000"


def test_one_who_does_not_read_is_dropped_and_the_others_are_served(
    emulator: EmulatorProcess, connect: Connect, rapi_port: int
) -> None:
    with socket.socket() as greedy:
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        greedy.connect(("127.0.0.1", rapi_port))
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while True:
                greedy.sendall(b"$GT\r" * 100)
    assert connect().ask("GV") == "$OK 8.2.1 5.0.1"
    assert "it does not read" in emulator.log()


def test_a_charge_is_announced(emulator: EmulatorProcess, connect: Connect) -> None:
    client = connect()
    emulator.post("/api/ev/connect")
    assert client.line() == "$AT 02 02 32 0100"
    emulator.post("/api/ev/request_charge")
    assert client.line() == "$AT 03 03 32 0140"
    wait_until(lambda: client.ask("GG") == "$OK 30000 240000", "the car draws")
    assert client.ask("SC 10 V") == "$OK 10"
    wait_until(lambda: client.ask("GG") == "$OK 10000 240000", "the car follows the pilot")
    emulator.post("/api/errors/trigger", error="gfci")
    assert client.line() == "$AT 06 02 10 0180"
    assert client.ask("GG") == "$OK 0 240000"
    assert client.ask("FE") == "$NK"
    emulator.post("/api/errors/clear")
    assert client.line() == "$AT 03 03 10 0140"
    emulator.post("/api/ev/disconnect")
    assert client.line() == "$AT 01 01 10 0000"
    assert client.ask("GU").startswith("$OK 0 ")


def test_a_reboot_in_mid_command(emulator: EmulatorProcess, connect: Connect) -> None:
    client, other = connect(), connect()
    client.write(encode("SC", 10, "V") + encode("FR") + encode("SC", 12, "V") + b"$S")
    assert [client.line(), client.line()] == ["$OK 10", "$OK"]
    for each in (client, other):
        assert [each.line() for _ in range(3)] == ["$AB 00 8.2.1", "$AT 00 01 32 0000", "$AT 01 01 32 0000"]
    client.write(b"C 13 V\r")
    assert client.is_silent(), "half a line from before the boot"
    assert client.ask("GC") == "$OK 6 80 32 32"


def test_a_reboot_over_http(emulator: EmulatorProcess, connect: Connect) -> None:
    client = connect()
    emulator.post("/api/errors/trigger", error="no_ground")
    emulator.post("/api/clock", mode="manual")  # so that the second one comes during the boot of the first
    emulator.post("/api/evse/reset")
    emulator.post("/api/evse/reset")
    emulator.post("/api/clock/advance", seconds=10)
    client.wait_for("$AB 07 8.2.1")
    assert [client.line(), client.line()] == ["$AT 00 01 32 0020", "$AT 07 01 32 0020"]
    assert client.is_silent(), "it boots once"


def test_observers_only_listen(start: Start, rapi_port: int) -> None:
    observer_port = free_port()
    ports = ("--serial-tcp-port", str(rapi_port), "--serial-observer-port", str(observer_port))
    emulator = start("--serial-mode", "tcp", *ports)
    observer = Rapi.tcp(observer_port)
    client = Rapi.tcp(rapi_port)
    assert (client.line(), observer.line()) == ("$AB 00 8.2.1", "$AB 00 8.2.1")
    observer.send("FS")
    client.send("GS")
    assert client.line() == "$OK 01 0 01 0000"
    assert [observer.line(), observer.line()] == ["$GS", "$OK 01 0 01 0000"]
    emulator.post("/api/evse/disable")
    assert client.line() == observer.line() == "$AT FE 01 32 0000"


@contextmanager
def bridge(link: Path, rapi_port: int, *options: str) -> Iterator[None]:
    """The bridge of the contract: a PTY of the host, and a connection to the emulator."""
    address = ",".join(["PTY", f"link={link}", "rawer", *options])
    with subprocess.Popen(["socat", address, f"TCP:localhost:{rapi_port}"]) as socat:
        try:
            wait_until(link.is_symlink, f"{link} of socat")
            yield
        finally:
            socat.terminate()


def test_behind_a_bridge(emulator: EmulatorProcess, rapi_port: int, tmp_path: Path) -> None:
    link = tmp_path / "rapi_pty"
    with bridge(link, rapi_port):
        wait_until(lambda: "client connected" in emulator.log(), "socat dials at once")
        gateway = Rapi.pty(link)
        assert gateway.ask("GV") == "$OK 8.2.1 5.0.1"
        emulator.post("/api/ev/connect")
        gateway.wait_for("$AT 02 02 32 0100")
        gateway.close()
        again = Rapi.pty(link)
        assert again.ask("GS") == "$OK 02 0 02 0100"
        again.close()


def test_behind_a_bridge_that_waits_for_its_slave(emulator: EmulatorProcess, rapi_port: int, tmp_path: Path) -> None:
    link = tmp_path / "rapi_pty"
    with bridge(link, rapi_port, "wait-slave"):
        assert "client connected" not in emulator.log()
        gateway = Rapi.pty(link)
        gateway.wait_for("$AB 00 8.2.1")
        assert gateway.ask("GC") == "$OK 6 80 32 32"
        emulator.post("/api/evse/reset")
        gateway.wait_for("$AB 00 8.2.1")
        gateway.close()
