"""What a client and a recorder see of a real server's desktop."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from Xlib import X
from Xlib import display as xlib

from integration.desktops.display import Display, display
from integration.desktops.media import colours, is_colour
from integration.desktops.test_rdp_servers import FIRST_DISPLAY, FIRST_PORT, servers, settings, spec
from integration.desktops.test_rdp_servers import pytestmark as needs_xrdp
from integration.desktops.units import ProcessUnits
from labyard.desktops.adapters.agent import RecordSpec
from labyard.desktops.agent.displays import NodeDisplays
from labyard.desktops.agent.rdp.servers import Servers
from labyard.desktops.recorder.recorders import Recorders
from labyard.testing.waiting import wait_until

from .display import needs_display

__all__ = ["servers", "settings"]
pytestmark = [*needs_xrdp, needs_display]

COLOUR = "#c02040"


@pytest.fixture
def painted(servers: Servers) -> Iterator[tuple[str, str, int]]:
    """Id, password and port of a running server, whose desktop is of one colour."""
    wanted = spec(FIRST_PORT)
    servers.start(wanted)
    connection = connect(*servers.display(wanted.server_id))
    screen = connection.screen()
    # Above all others, and larger than any client makes the desktop.
    window = screen.root.create_window(
        0, 0, 4000, 3000, 0, screen.root_depth, background_pixel=int(COLOUR[1:], 16), override_redirect=1
    )
    window.map()
    connection.sync()
    yield wanted.server_id, wanted.password, wanted.port
    connection.close()


def connect(number: int, cookie: Path) -> xlib.Display:
    before, os.environ["XAUTHORITY"] = os.environ.get("XAUTHORITY", ""), str(cookie)
    try:
        return xlib.Display(f":{number}")
    finally:
        os.environ["XAUTHORITY"] = before


def corner(screen: Display) -> tuple[int, int, int]:
    """The colour of a pixel near the lower right corner."""
    connection = connect(screen.number, screen.cookie)
    root = connection.screen().root
    blue, green, red, _ = root.get_image(600, 400, 1, 1, X.ZPixmap, 0xFFFFFFFF).data
    connection.close()
    return red, green, blue


def test_a_client_logs_in_and_sees_the_desktop(servers: Servers, painted: tuple[str, str, int], tmp_path: Path) -> None:
    server_id, password, port = painted
    with display(tmp_path, "640x480") as screen:
        command = [
            "xfreerdp", f"/v:127.0.0.1:{port}", f"/u:{server_id}", "/from-stdin:force", "/cert:ignore", "/sec:tls",
            "/size:640x480", "-decorations", "/log-level:ERROR",
        ]  # fmt: skip
        environment = {**os.environ, "DISPLAY": f":{screen.number}", "XAUTHORITY": str(screen.cookie)}
        client = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            assert client.stdin
            client.stdin.write(f"{password}\n".encode())
            client.stdin.flush()
            wait_until(lambda: is_colour(corner(screen), COLOUR), "the client sees the colour")
            seen = servers.usage(server_id)
            assert len(seen.detail["connections"]) == 1
            status = servers.status(server_id)
            assert (status.xorg, status.display) == ("active", FIRST_DISPLAY)  # the one desktop, not a second one
        finally:
            client.kill()
            client.wait()
    wait_until(lambda: servers.usage(server_id).detail["connections"] == [], "the client is gone")


def test_a_recorder_captures_the_desktop(servers: Servers, painted: tuple[str, str, int], tmp_path: Path) -> None:
    server_id, _, _ = painted
    session_id = f"sess-{secrets.token_hex(8)}"
    units = ProcessUnits(tmp_path / "recorders.log")
    recorders = Recorders(units.runtime, tmp_path / "spool", units, NodeDisplays(servers, tmp_path / "cookies"))
    recorders.start(
        RecordSpec(
            session_id=session_id, target={"kind": "display", "server_id": server_id}, frame_rate=5, width=1920,
            height=1080, quality="high", bitrate=None, cursor=False, audio=False, slice_seconds=0.5,
        )
    )  # fmt: skip
    try:
        wait_until(lambda: len(list(recorders.segments(session_id, 0))) >= 1, "a segment")
        recorders.stop(session_id)
        segment = next(iter(recorders.segments(session_id, 0)))
    finally:
        units.close()
    assert (segment.width, segment.height) == (1280, 720)
    assert is_colour(colours(segment.data)[-1], COLOUR)
    assert not list((tmp_path / "cookies").iterdir())
