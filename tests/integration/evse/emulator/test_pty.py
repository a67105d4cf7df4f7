"""RAPI over a PTY of the emulator's own."""

from __future__ import annotations

import json
import subprocess
import termios
from pathlib import Path

import pytest
from ports import free_port

from integration.evse.emulator.conftest import Start
from integration.evse.emulator.harness import EmulatorProcess, Rapi
from labyard.testing.waiting import wait_until

GREETING = "$AB 00 8.2.1"


@pytest.fixture
def link(tmp_path: Path) -> Path:
    return tmp_path / "rapi_pty_0"


def begin(start: Start, link: Path, *more: str) -> EmulatorProcess:
    return start("--serial-mode", "pty", "--serial-pty-path", str(link), *more)


def test_each_who_opens_it_is_greeted_and_reads_nothing_old(start: Start, link: Path) -> None:
    emulator = begin(start, link)
    for _ in range(3):
        with Rapi.pty(link) as gateway:
            assert gateway.line() == GREETING
            assert gateway.ask("GV") == "$OK 8.2.1 5.0.1"
        emulator.post("/api/ev/connect")
        emulator.post("/api/ev/disconnect")
    with Rapi.pty(link) as gateway:
        assert gateway.line() == GREETING
        with Rapi.pty(link):
            assert gateway.line() == GREETING
        emulator.post("/api/evse/reset")
        gateway.wait_for(GREETING)
        gateway.wait_for("$AT 01 01 32 0000")


def test_a_command_of_one_who_does_not_wait_is_executed(start: Start, link: Path) -> None:
    emulator = begin(start, link)
    link.write_bytes(b"$FS^31\r")
    wait_until(lambda: emulator.http.get("/api/evse/status").json()["state"] == 254, "it sleeps")


def test_it_is_raw_and_has_the_speed_that_was_asked_for(start: Start, link: Path) -> None:
    begin(start, link, "--serial-baudrate", "9600")
    with link.open("rb") as slave:
        iflag, oflag, cflag, lflag, speed, _, _ = termios.tcgetattr(slave)
    assert not iflag & (termios.ICRNL | termios.INLCR | termios.IGNCR | termios.IXON | termios.IXOFF | termios.ISTRIP)
    assert not oflag & termios.OPOST
    assert not cflag & termios.CRTSCTS and cflag & termios.CS8
    assert not lflag & (termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN)
    assert speed == termios.B9600


def test_the_link_goes_with_it(start: Start, link: Path) -> None:
    emulator = begin(start, link)
    assert str(link.readlink()).startswith("/dev/pts/")
    with Rapi.pty(link) as gateway:
        assert gateway.line() == GREETING
        assert emulator.stop() == 0
        with pytest.raises(EOFError):
            gateway.line()
    assert not link.is_symlink()


def test_a_stale_link_is_replaced(start: Start, link: Path) -> None:
    link.symlink_to("/dev/pts/999999")
    begin(start, link)
    with Rapi.pty(link) as gateway:
        assert gateway.ask("GV") == "$OK 8.2.1 5.0.1"


def test_a_real_file_is_left_alone(start: Start, link: Path) -> None:
    link.write_text("mine")
    emulator = begin(start, link)
    assert "not a link, so left alone" in emulator.log()
    path = emulator.log().partition('"pty": "')[2].partition('"')[0]
    with Rapi.pty(Path(path)) as gateway:
        assert gateway.ask("GV") == "$OK 8.2.1 5.0.1"
    emulator.stop()
    assert link.read_text() == "mine"


def test_a_link_that_cannot_be_made_is_told_of(start: Start, tmp_path: Path) -> None:
    emulator = begin(start, tmp_path / ("n" * 300))
    [told] = [json.loads(line) for line in emulator.log().splitlines() if "cannot make the link" in line]
    with Rapi.pty(Path(told["pty"])) as gateway:
        assert gateway.line() == GREETING


def test_a_link_that_vanished_is_made_again(start: Start, link: Path) -> None:
    begin(start, link, "--serial-reconnect-backoff", "50")
    link.unlink()
    wait_until(link.is_symlink, "the link is there again")
    with Rapi.pty(link) as gateway:
        assert gateway.ask("GV") == "$OK 8.2.1 5.0.1"


def test_it_gives_a_link_up_that_cannot_be_made(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    emulator = begin(start, folder / "rapi", "--serial-reconnect-backoff", "50", "--serial-reconnect-timeout", "0")
    folder.rename(tmp_path / "elsewhere")  # at once: it makes a link that vanished again
    wait_until(lambda: "given up" in emulator.log(), "it gives up")


def test_another_s_link_is_neither_fought_for_nor_removed(start: Start, link: Path) -> None:
    first = begin(start, link, "--serial-reconnect-backoff", "50")
    begin(start, link)
    wait_until(lambda: "another has taken the link" in first.log(), "it sees the other")
    others = link.readlink()
    first.post("/api/link/faults", rules=[{"kind": "disconnect", "direction": "tx"}])
    [of_first] = {json.loads(line)["pty"] for line in first.log().splitlines() if '"RAPI is ready"' in line}
    with Rapi.pty(Path(of_first)) as gateway, pytest.raises(EOFError):
        gateway.line()
    wait_until(lambda: first.log().count("RAPI is ready") == 2, "it has a new PTY")
    assert link.readlink() == others
    first.stop()
    with Rapi.pty(link) as gateway:
        assert gateway.ask("GV") == "$OK 8.2.1 5.0.1"


def test_a_disconnect_gives_it_a_new_pty(start: Start, link: Path) -> None:
    emulator = begin(start, link)
    with Rapi.pty(link) as gateway:
        assert gateway.line() == GREETING
        emulator.post("/api/link/faults", rules=[{"kind": "disconnect", "direction": "rx", "match": "GS"}])
        gateway.send("GS")
        with pytest.raises(EOFError):
            gateway.line()
    with Rapi.pty(link) as gateway:
        assert gateway.line() == GREETING
        assert gateway.ask("GV") == "$OK 8.2.1 5.0.1"


def test_socat_may_stand_behind_it(start: Start, link: Path) -> None:
    emulator = begin(start, link)
    for state in ("FE", "01"):
        port = free_port()
        with subprocess.Popen(["socat", f"TCP-LISTEN:{port}", f"{link},rawer"]) as socat:
            try:
                with _dial(port) as client:
                    assert client.ask("GV") == "$OK 8.2.1 5.0.1"
                    emulator.post("/api/evse/disable" if state == "FE" else "/api/evse/enable")
                    client.wait_for(f"$AT {state} 01 32 0000")
            finally:
                socat.terminate()


def _dial(port: int) -> Rapi:
    clients: list[Rapi] = []

    def has_answered() -> bool:
        try:
            clients.append(Rapi.tcp(port))
        except ConnectionRefusedError:
            return False
        return True

    wait_until(has_answered, f"socat at port {port}")
    return clients[0]
