"""The desktop of an RDP server that is not ours, recorded by way of a real RDP client."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
from ports import free_port

from labyard.desktops.adapters.agent import AgentRefused, RecordSpec
from labyard.testing.alive import is_alive
from labyard.testing.waiting import wait_until

from .display import Display, display, needs_display
from .media import colours, is_colour, without_stalls
from .node import RecordingAgent, recording_agent
from .units import RECORDER

missing = [name for name in ("xfreerdp", "freerdp-shadow-cli") if not shutil.which(name)]
pytestmark = [needs_display, pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")]

SESSION = "sess-00000000000000e1"


@contextmanager
def rdp_server(screen: Display, folder: Path, port: int = 0) -> Iterator[int]:
    """Shares the display over RDP, with a certificate of its own making. Asks for no password."""
    port = port or free_port()
    environment = {**os.environ, "DISPLAY": f":{screen.number}", "XAUTHORITY": str(screen.cookie), "HOME": str(folder)}
    command = ["freerdp-shadow-cli", f"/port:{port}", "/bind-address:127.0.0.1", "-auth", "/sec:tls"]
    with (folder / "shadow.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: _listens(port), "it listens")
        yield port
    finally:
        server.kill()
        server.wait()


def _listens(port: int) -> bool:
    listening = Path("/proc/net/tcp").read_text()
    return f":{port:04X} 00000000:0000 0A" in listening


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[Display]:
    (tmp_path / "x").mkdir()
    with display(tmp_path / "x") as running:
        running.paint("#30a060")
        yield running


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[RecordingAgent]:
    with recording_agent(tmp_path / "node") as agent:
        yield agent


def spec(port: int, **more: Any) -> RecordSpec:
    target = {"kind": "external", "host": "127.0.0.1", "port": port, "username": "somebody", "domain": None}
    target |= {"password": "Tr0ub4dor", "use_tls": True, "ignore_cert": True, **more}
    return RecordSpec(SESSION, target, 5, 640, 480, "high", None, False, False, 0.5)


def test_its_desktop_is_recorded(agent: RecordingAgent, screen: Display, tmp_path: Path) -> None:
    with rdp_server(screen, tmp_path) as port:
        started = agent.record_start(spec(port), "r")
        assert (started.width, started.height) == (640, 480)
        wait_until(lambda: agent.record_status(SESSION).segments >= 4, "four segments")
        wait_until(lambda: is_green(seen(agent)[-1]), lambda: f"its colour is recorded: {seen(agent)}")
        assert "Tr0ub4dor" not in command_lines()
        stopped = agent.record_stop(SESSION, "r")
    assert is_green(seen(agent)[-1]), seen(agent)
    assert without_stalls(stopped.gaps) == []


def test_a_connection_that_ends_is_no_black_picture(agent: RecordingAgent, screen: Display, tmp_path: Path) -> None:
    with rdp_server(screen, tmp_path) as port:
        agent.record_start(spec(port), "r")
        wait_until(lambda: agent.record_status(SESSION).segments >= 2, "two segments")
        wait_until(lambda: is_green(seen(agent)[-1]), lambda: f"its colour is recorded: {seen(agent)}")
        children = clients_of(agent.units.processes[SESSION.removeprefix("sess-")].pid)
        assert len(children) == 2
    wait_until(
        lambda: (status := agent.record_status(SESSION)).error and status.state == "starting", "the loss is told"
    )
    wait_until(lambda: not any(map(is_alive, children)), "its display is gone")
    agent.record_stop(SESSION, "r")
    colours_seen = seen(agent)
    # A client's window is black until the desktop comes.
    first = next(number for number, colour in enumerate(colours_seen) if is_green(colour))
    assert all(is_green(colour) for colour in colours_seen[first:]), colours_seen


def test_a_certificate_that_nobody_vouches_for(agent: RecordingAgent, screen: Display, tmp_path: Path) -> None:
    with rdp_server(screen, tmp_path) as port, pytest.raises(AgentRefused, match=r"ended|shows nothing") as refused:
        agent.record_start(spec(port, ignore_cert=False), "r")
    assert refused.value.code == "SES_NO_RDP_TARGET"


def test_nobody_listens(agent: RecordingAgent) -> None:
    began = time.monotonic()
    with pytest.raises(AgentRefused, match="nobody listens"):
        agent.record_start(spec(free_port()), "r")
    assert time.monotonic() - began < 60
    assert agent.record_list() == ()


def test_a_recorder_killed_before_it_shows_anything_leaves_nothing(tmp_path: Path) -> None:
    with rdp_server_that_shows_nothing() as port:
        told = {"spec": asdict(spec(port, use_tls=False)), "display": None, "xauthority": None}
        (tmp_path / "spec.json").write_text(json.dumps(told | {"spool": str(tmp_path / "spool")}))
        recorder = subprocess.Popen([*RECORDER, str(tmp_path)])
        try:
            children = wait_until(
                lambda: both if len(both := clients_of(recorder.pid)) == 2 else None, "X server and client run"
            )
            assert not (tmp_path / "control.sock").exists()
        finally:
            recorder.kill()
            recorder.wait()
        wait_until(lambda: not any(map(is_alive, children)), "both ended with the recorder")


@contextmanager
def rdp_server_that_shows_nothing() -> Iterator[int]:
    """It agrees to a plain connection, and leaves each client waiting from there on."""
    confirmed = bytes.fromhex("03000013 0ed00000123400 0200080000000000")
    clients = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):  # it is over
                while True:
                    client, _ = server.accept()
                    clients.append(client)
                    client.sendall(confirmed)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
    for client in clients:
        client.close()


def clients_of(recorder: int) -> list[psutil.Process]:
    """The X server and the RDP client that it has started."""
    return [child for child in psutil.Process(recorder).children() if child.name() in ("Xvfb", "xfreerdp")]


def seen(agent: RecordingAgent) -> list[tuple[int, int, int]]:
    """What there is of the recording, a colour for each frame."""
    return [colour for segment in agent.segments(SESSION, 0) for colour in colours(segment.data)]


def is_green(colour: tuple[int, ...]) -> bool:
    """As the display that is shared."""
    return is_colour(colour, "#30a060", by=20)


def command_lines() -> str:
    """Of all processes."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):  # it ended while we looked
            found.append((entry / "cmdline").read_text(errors="replace"))
    return "\n".join(found)
