"""Where the agent listens: a Unix socket for the service on this host, mutual TLS 1.3 for one elsewhere."""

from __future__ import annotations

import asyncio
import grp
import os
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from labyard.desktops.agent.app import build
from labyard.desktops.agent.settings import Settings
from labyard.desktops.agent.verbs import Verbs
from labyard.desktops.authority import NAME
from labyard.desktops.https import PeerProtocol

GRACE = 20  # seconds for calls in flight; systemd kills after 30
LOOK = 0.2  # seconds between two looks for the end

Listening = tuple[socket.socket, ssl.SSLContext | None]


async def serve_until(verbs: Verbs, listening: Sequence[Listening], end: threading.Event) -> None:
    """Answer on all of these until `end` is set and calls in flight are done. Over TLS only the service is answered:
    the authority signs other agents' certificates too."""
    servers = []
    for _, context in listening:
        config = uvicorn.Config(
            build(verbs, NAME if context else None), http=PeerProtocol if context else "httptools", ws="none",
            lifespan="off", log_config=None, access_log=False, proxy_headers=False, server_header=False,
            timeout_graceful_shutdown=GRACE,
        )  # fmt: skip
        config.load()
        config.ssl = context
        servers.append(_Server(config))

    async def watch() -> None:
        while not end.is_set():
            await asyncio.sleep(LOOK)
        for server in servers:
            server.should_exit = True

    serving = [server.serve(sockets=[taken]) for server, (taken, _) in zip(servers, listening, strict=True)]
    await asyncio.gather(watch(), *serving)


class _Server(uvicorn.Server):
    """Two of them share a process: its signals are ours."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def unix_socket(path: Path, group: str) -> socket.socket:
    """Listens there, for root and a group. OSError, KeyError when there is no such group."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listening.bind(str(path))
    finally:
        os.umask(before)
    if group:
        os.chown(path, 0, grp.getgrnam(group).gr_gid)
        path.chmod(0o660)
    listening.listen(256)
    return listening


def say_ready() -> None:
    """To systemd, if it is what waits for this: a unit that is started, or started anew, can be called."""
    # Not for the programs that are run from here.
    address = os.environ.pop("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
        link.sendall(b"READY=1")


def tls(settings: Settings) -> ssl.SSLContext:
    """Who calls must show a certificate of the authority. OSError, ssl.SSLError."""
    assert settings.certificate and settings.key and settings.authority
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(settings.certificate, settings.key)
    context.load_verify_locations(settings.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    return context
