"""`python -m labyard.desktops.agent`: the agent. Its settings are DESKTOP_AGENT_* variables (--help lists them)."""

from __future__ import annotations

import asyncio
import grp
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import uvicorn
from pydantic import ValidationError

from labyard.core import logging
from labyard.core.adapter import AdapterError
from labyard.core.serve import describe, problems
from labyard.desktops.agent.app import build
from labyard.desktops.agent.factory import make_recorder, make_servers
from labyard.desktops.agent.node import NodeFacts
from labyard.desktops.agent.settings import Settings
from labyard.desktops.agent.verbs import Verbs
from labyard.desktops.keyring import KeyFileError

GRACE = 20  # seconds for calls in flight; systemd kills after 30
LOOK = 0.2  # seconds between two looks for the end

Listening = tuple[socket.socket, ssl.SSLContext | None]


def main() -> None:
    if sys.argv[1:] in (["--help"], ["-h"]):
        print(describe(Settings))
        return
    try:
        settings = Settings()
    except ValidationError as error:
        _stop("The settings are wrong:", *problems(Settings, error), "All settings: --help")
    logging.configure(settings.log_level)
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    servers = make_servers(settings)
    try:
        node = NodeFacts(settings.node_id, settings.state_dir)
        servers.start_up()
        recorder = make_recorder(settings, servers)
        listening: list[Listening] = [(unix_socket(settings.socket, settings.socket_group), None)]
        if settings.tls_host:
            listening.append((socket.create_server((settings.tls_host, settings.tls_port)), tls(settings)))
    except (OSError, KeyError, KeyFileError, AdapterError) as error:
        _stop(f"The agent cannot start: {error}")
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())
    asyncio.run(serve_until(Verbs(node, servers, recorder), listening, end))
    sys.stdout.flush()
    os._exit(0)  # not sys.exit: that waits for threads, and one may hang in a daemon that does not answer


async def serve_until(verbs: Verbs, listening: Sequence[Listening], end: threading.Event) -> None:
    """Answer on all of these until `end` is set and calls in flight are done."""
    servers = []
    for _, context in listening:
        config = uvicorn.Config(
            build(verbs), http="httptools", ws="none", lifespan="off", log_config=None, access_log=False,
            proxy_headers=False, server_header=False, timeout_graceful_shutdown=GRACE,
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


def tls(settings: Settings) -> ssl.SSLContext:
    """Who calls must show a certificate of the authority. OSError, ssl.SSLError."""
    assert settings.certificate and settings.key and settings.authority
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(settings.certificate, settings.key)
    context.load_verify_locations(settings.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _stop(*lines: str) -> NoReturn:
    print(*lines, sep="\n", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
