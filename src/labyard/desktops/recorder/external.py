"""The desktop of somebody else's RDP server: a FreeRDP client in an X server of its own, which has no screen.

Both are children of the recorder: they end with it, however it ends, and come back with it when it is started again.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from Xlib import X, display
from Xlib.error import DisplayError, XError

from labyard.desktops.agent.rdp.negotiate import NegotiationError, negotiate
from labyard.desktops.recorder.errors import NoPicture

log = structlog.get_logger(__name__)

ANSWER = 3.0  # seconds that the server gets for X.224 (contract 5.3)
PICTURE = 15.0  # seconds until the client shows the desktop
END = 5.0  # seconds that a child gets to end
POLL = 0.05
LOGGED = 500  # characters of what the client said
# Also when the recorder is killed before anybody is told that it runs. Whose recorder has ended before this is asked
# for ends by itself: nobody reads the number that the X server writes, and the client has no display.
WITH_US = ("setpriv", "--pdeathsig=KILL", "--")


@dataclass(frozen=True)
class External:
    """The display that shows it."""

    display: int
    client: subprocess.Popen[bytes]

    def when_lost(self, call: Callable[[], object]) -> None:
        """Call this once the connection has ended by itself."""

        def watch() -> None:
            self.client.wait()
            call()

        threading.Thread(target=watch, name="client", daemon=True).start()


@contextmanager
def external_desktop(target: Mapping[str, Any], size: tuple[int, int], folder: Path) -> Iterator[External]:
    """`folder` is for cookies and what the client keeps. NoPicture when there is none."""
    try:
        negotiate(target["host"], target["port"], bool(target["use_tls"]), ANSWER)
    except NegotiationError as error:
        raise NoPicture(f"{target['host']}:{target['port']}: {error}") from None
    cookie = folder / "external-cookie"
    with _x_server(size, cookie) as number:
        environment = {**os.environ, "DISPLAY": f":{number}", "XAUTHORITY": str(cookie), "HOME": str(folder)}
        os.environ["XAUTHORITY"] = str(cookie)
        with _client(target, size, environment, folder / "external.log") as client:
            _await_picture(number, client, folder / "external.log")
            yield External(number, client)


@contextmanager
def _x_server(size: tuple[int, int], cookie: Path) -> Iterator[int]:
    key = secrets.token_bytes(16)
    # For whatever number it takes: it reads its own file without looking at the number.
    cookie.write_bytes(_xauthority(0, key))
    cookie.chmod(0o600)
    readable, writable = os.pipe()
    command = [*WITH_US, "Xvfb", "-displayfd", str(writable), "-screen", "0", f"{size[0]}x{size[1]}x24"]
    options = ["-auth", str(cookie), "-nolisten", "tcp", "-noreset", "-nolock"]
    try:
        server = subprocess.Popen([*command, *options], pass_fds=[writable], stderr=subprocess.DEVNULL)
    except OSError as error:
        raise NoPicture(f"{error.filename} cannot be run: {error.strerror}") from None
    finally:
        os.close(writable)
    try:
        with os.fdopen(readable) as told:
            answer = told.readline().strip()
        if not answer:
            raise NoPicture("Xvfb did not start, or is not installed")
        cookie.write_bytes(_xauthority(int(answer), key))
        yield int(answer)
    finally:
        _end(server)


@contextmanager
def _client(
    target: Mapping[str, Any], size: tuple[int, int], environment: Mapping[str, str], log_file: Path
) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        *WITH_US,
        "xfreerdp",
        f"/v:{target['host']}:{target['port']}",
        f"/u:{target['username']}",
        *([f"/d:{target['domain']}"] if target.get("domain") else []),
        f"/size:{size[0]}x{size[1]}",
        _certificate(target),
        "/sec:tls" if target["use_tls"] else "/sec:rdp",
        "/from-stdin:force",
        "-decorations",
        "-clipboard",
        "/log-level:WARN",
    ]
    with log_file.open("wb") as out:
        try:
            client = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=out, stderr=out)
        except OSError as error:
            raise NoPicture(f"{error.filename} cannot be run: {error.strerror}") from None
    try:
        assert client.stdin
        client.stdin.write(f"{target['password']}\n".encode())
        client.stdin.close()
        yield client
    except BrokenPipeError:
        raise NoPicture(f"the RDP client ended: {_said(log_file)}") from None
    finally:
        _end(client)


def _certificate(target: Mapping[str, Any]) -> str:
    """Which one the client takes: any, the one of this fingerprint, or one that this machine trusts."""
    if target["ignore_cert"]:
        return "/cert:ignore"
    digest = target.get("certificate_sha256")
    if not digest:
        return "/cert:deny"
    return "/cert:fingerprint:sha256:" + ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))


def _await_picture(number: int, client: subprocess.Popen[bytes], log_file: Path) -> None:
    """Until the client's window is there: it opens it when it is logged in."""
    deadline = time.monotonic() + PICTURE
    while time.monotonic() < deadline:
        if client.poll() is not None:
            raise NoPicture(f"the RDP client ended: {_said(log_file)}")
        if _has_window(number):
            return
        time.sleep(POLL)
    raise NoPicture(f"the RDP client shows nothing: {_said(log_file)}")


def _has_window(number: int) -> bool:
    try:
        connection = display.Display(f":{number}")
        try:
            windows = connection.screen().root.query_tree().children
            return any(window.get_attributes().map_state == X.IsViewable for window in windows)
        finally:
            connection.close()
    except (DisplayError, XError, OSError):
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _said(log_file: Path) -> str:
    """The last of what the client said. It is not told its password on the command line, and does not say it."""
    return log_file.read_text(errors="replace").strip()[-LOGGED:].replace("\n", "; ") or "without a word"


def _xauthority(number: int, key: bytes) -> bytes:
    """One entry of an Xauthority file, for connections of this host."""
    name = b"MIT-MAGIC-COOKIE-1"
    fields = (socket.gethostname().encode(), str(number).encode(), name, key)
    local = 256  # the family of local connections
    return local.to_bytes(2, "big") + b"".join(len(field).to_bytes(2, "big") + field for field in fields)
