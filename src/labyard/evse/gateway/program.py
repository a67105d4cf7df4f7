"""`labyard-evse-gateway`: one gateway, until SIGTERM: contract 1.2 and 4."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import structlog
import uvicorn
import uvloop

from labyard.evse.clock import MAX_SCALE, Clock
from labyard.evse.gateway import api, identity
from labyard.evse.gateway.app import Gateway
from labyard.evse.gateway.options import TABLE, BadOption, Options
from labyard.evse.gateway.protocol import BoundedProtocol
from labyard.evse.gateway.storage import Storage

log = structlog.get_logger(__name__)

DEFAULT_RAPI = "/tmp/rapi_pty"
KEEP_ALIVE = 75  # seconds; shorter ones end just when a client that polls asks again
GRACE = 1  # seconds that open connections get at the end


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(1, f"{self.prog}: {message}\n")


def arguments(words: list[str]) -> argparse.Namespace:
    """Ends the process with 1, usage on standard error, when they are wrong."""
    parser = _Parser(
        prog="labyard-evse-gateway",
        description="The gateway of a charger. It keeps its files in the working directory.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--rapi-serial",
        "--rapi",
        metavar="PATH",
        default=os.environ.get("RAPI_SERIAL_PORT") or DEFAULT_RAPI,
        help="terminal that leads to the EVSE (RAPI_SERIAL_PORT) [%(default)s]",
    )
    parser.add_argument(
        "--set-config", metavar="NAME=VALUE", action="append", default=[], type=_pair, help="set an option; repeatable"
    )
    parser.add_argument(
        "--time-scale",
        metavar="F",
        type=_scale,
        default=os.environ.get("LABYARD_TIME_SCALE") or "1",
        help=f"how fast the charger's time goes, 1 to {MAX_SCALE:g} (LABYARD_TIME_SCALE) [%(default)s]",
    )
    return parser.parse_args([word for word in words if word != "--"])


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"NAME=VALUE was expected, not {text!r}")
    return name, value


def _scale(text: str) -> float:
    try:
        scale = float(text)
    except ValueError:
        scale = 0.0
    if not 1 <= scale <= MAX_SCALE:
        raise argparse.ArgumentTypeError(f"a number from 1 to {MAX_SCALE:g} was expected, not {text!r}")
    return scale


def set_options(options: Options, pairs: list[tuple[str, str]]) -> None:
    """What the command line sets; what it cannot set is a warning, and the gateway starts all the same."""
    for name, value in pairs:
        if name not in TABLE:
            log.warning("--set-config: there is no such option", option=name)
            continue
        try:
            if not options.update({name: value}):
                log.warning("--set-config: the option is unchanged", option=name)
        except BadOption as problem:
            log.warning("--set-config: the value does not fit", option=name, problem=str(problem))
    options.version = 1


def log_level() -> str:
    """LOG_LEVEL, if it is one."""
    level = os.environ.get("LOG_LEVEL", "info").lower()
    return level if level in ("debug", "info", "warning", "error", "critical") else "info"


def build(words: list[str]) -> Gateway:
    given = arguments(words)
    storage = Storage(Path.cwd())
    options = Options(storage)
    compat = os.environ.get("LABYARD_LOADSHARING_COMPAT", "")
    if compat:
        try:
            options.default("loadsharing_compat", TABLE["loadsharing_compat"].parse(compat))
        except BadOption as problem:
            stop(f"LABYARD_LOADSHARING_COMPAT: {problem}")
    set_options(options, given.set_config)
    try:
        who = identity.load(storage, options["www_http_port"], os.environ.get("OPENEVSE_CHIP_ID", ""))
    except ValueError as problem:
        stop(str(problem))
    options.default("hostname", who.default_hostname)
    return Gateway(options, storage, who, Clock(given.time_scale), given.rapi_serial)


def listen(port: int) -> socket.socket:
    """Ends the process when the port is taken."""
    try:
        listening = socket.create_server(("0.0.0.0", port), backlog=128)
    except OSError as problem:
        reason = os.strerror(problem.errno or 0)
        stop(f"Cannot listen on port {port}: {reason}. Set another: --set-config www_http_port=…")
    return listening


def stop(text: str) -> NoReturn:
    print(f"labyard-evse-gateway: {text}", file=sys.stderr)
    sys.exit(1)


class Server(uvicorn.Server):
    """Leaves it to `serve` what a signal means; uvicorn would send it again at its end, which is death."""

    def __init__(self, config: uvicorn.Config, on_signal: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_signal = on_signal

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        yield


async def serve(gateway: Gateway, listening: socket.socket) -> bool:
    """Until SIGTERM or SIGINT, or a restart is asked for. True: start again."""
    again = False
    config = uvicorn.Config(
        api.build(gateway),
        http=BoundedProtocol,
        ws="websockets-sansio",
        ws_max_size=64 * 1024,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
    )

    def end(restart: bool = False) -> None:
        nonlocal again
        again = again or restart
        server.should_exit = True
        gateway.hub.close()
        work.cancel()

    server = Server(config, end)
    gateway.stop = end
    work = asyncio.create_task(gateway.run())
    work.add_done_callback(lambda _: end())  # it never ends by itself but by a defect
    log.info("gateway serves", port=gateway.port, id=gateway.identity.device_id, host=gateway.hostname)
    await server.serve(sockets=[listening])
    await asyncio.wait([work])
    if not work.cancelled() and work.exception() is not None:
        log.error("gateway failed", exc_info=work.exception())
        raise SystemExit(3)
    return again


def main() -> None:
    words = sys.argv[1:]
    gateway = build(words)
    again = uvloop.run(serve(gateway, listen(gateway.port)))
    if again:
        log.info("gateway restarts")
        os.execv(sys.executable, [sys.executable, "-P", "-m", "labyard.evse.gateway", *words])
