"""The agent of a node. Its settings are DESKTOP_AGENT_* variables.

python -m labyard.desktops.agent                             run it
python -m labyard.desktops.agent enrol SERVICE [AUTHORITY]   get its certificate; the token on standard input
python -m labyard.desktops.agent purge                       take away all that it made on this node
python -m labyard.desktops.agent --help                      this, and the settings
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from labyard.core import logging
from labyard.core.adapter import AdapterError
from labyard.core.serve import describe, problems
from labyard.desktops.agent.enrol import enrol
from labyard.desktops.agent.factory import make_recorder, make_servers, purge
from labyard.desktops.agent.listen import Listening, say_ready, serve_until, tls, unix_socket
from labyard.desktops.agent.node import NodeFacts
from labyard.desktops.agent.rdp.timeouts import Timeouts
from labyard.desktops.agent.settings import Settings
from labyard.desktops.agent.verbs import Verbs
from labyard.desktops.keyring import KeyFileError


def main() -> None:
    arguments = sys.argv[1:]
    if arguments in (["--help"], ["-h"]):
        print(__doc__, describe(Settings), sep="\n")
        return
    try:
        settings = Settings()
    except ValidationError as error:
        _stop("The settings are wrong:", *problems(Settings, error), "All settings: --help")
    logging.configure(settings.log_level)
    if not arguments:
        _run(settings)
    elif arguments == ["purge"]:
        _do(lambda: purge(settings))
    elif arguments[0] == "enrol" and len(arguments) in (2, 3):
        authority = Path(arguments[2]) if len(arguments) == 3 else None
        token = sys.stdin.readline().strip()
        _do(lambda: print(f"Enrolled as {enrol(settings, arguments[1], token, authority)}; restart the agent"))
    else:
        _stop(f"What is {' '.join(arguments)}? --help lists what there is")


def _run(settings: Settings) -> NoReturn:
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    servers = make_servers(settings)
    try:
        node = NodeFacts(settings.node_id, settings.state_dir)
        servers.start_up()
        recorder = make_recorder(settings, servers)
        listening: list[Listening] = [(unix_socket(settings.socket, settings.socket_group), None)]
        if settings.tls_host:
            listening.append((socket.create_server((settings.tls_host, settings.tls_port)), tls(settings)))
    except (OSError, ssl.SSLError, KeyError, KeyFileError, AdapterError) as error:
        _stop(f"The agent cannot start: {error}")
    Timeouts(servers.running, settings.rdp_session_timeout).start()
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())
    say_ready()  # who calls from now on is heard a moment later
    asyncio.run(serve_until(Verbs(node, servers, recorder), listening, end))
    sys.stdout.flush()
    os._exit(0)  # not sys.exit: that waits for threads, and one may hang in a daemon that does not answer


def _do(work: Callable[[], object]) -> None:
    try:
        work()
    except (AdapterError, OSError) as error:
        _stop(str(error))


def _stop(*lines: str) -> NoReturn:
    print(*lines, sep="\n", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
