"""Runs a service: settings from the environment, uvicorn, a clean end. Every service's `__main__` calls `serve`."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr, ValidationError

from labyard.core import logging
from labyard.core.settings import Served

S = TypeVar("S", bound=Served)

# Seconds that requests in flight get after SIGTERM; systemd kills after 30. What they leave, the next start undoes.
GRACE = 20


@dataclass(frozen=True)
class Secure:
    """A second place to listen, with TLS. `fields` are the settings that name it; `protocol` is uvicorn's."""

    host: str
    port: int
    fields: tuple[str, str]
    context: ssl.SSLContext
    protocol: type[asyncio.Protocol] | str = "httptools"


def serve(
    settings_class: type[S], build: Callable[[S], FastAPI], secure: Callable[[S], Secure | None] = lambda _: None
) -> NoReturn:
    """Serve what `build` makes of the settings, until SIGTERM or SIGINT. `--help` lists the settings.

    `secure` says where HTTPS is served beside plain HTTP; ValueError or OSError where its files are wrong.

    Ends the process: 0 after a clean end, 2 when the settings or the address are wrong, 3 when the app cannot start.
    """
    arguments = sys.argv[1:]
    if arguments in (["--help"], ["-h"]):
        print(describe(settings_class))
        sys.exit(0)
    if arguments:
        _stop(f"This program takes no arguments but --help; it got: {' '.join(arguments)}")
    try:
        settings = settings_class()
    except ValidationError as error:
        _stop("The settings are wrong:", *problems(settings_class, error), "All settings: --help")
    logging.configure(settings.log_level, handlers=settings.log_handlers())
    try:
        also = secure(settings)
    except (OSError, ValueError) as error:
        _stop(f"Cannot serve HTTPS: {error}")
    host, port = (getattr(settings, name) for name in settings.bind_fields)
    listening = _listen(settings, host, port, settings.bind_fields)
    securely = _listen(settings, also.host, also.port, also.fields) if also else None
    app = build(settings)
    server = _Server(_config(app))
    if also and securely:
        server.follow(_config(app, also), securely)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn has its own handlers while it runs, and sends the signal again at the end: that is not for us.
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listening])
    sys.stdout.flush()
    # Not sys.exit: that waits for all threads, and one may hang in a daemon that does not answer.
    os._exit(0 if server.started else 3)


def problems(settings_class: type[Served], error: ValidationError) -> list[str]:
    """One plain line for each: which environment variable, what is wrong. Values of secrets are not in it."""
    lines = []
    for item in error.errors(include_url=False, include_context=False):
        text = item["msg"].removeprefix("Value error, ")
        if not item["loc"]:  # a check over several settings names them itself
            lines.append(text)
            continue
        name = str(item["loc"][0])
        shown = "" if _is_secret(settings_class, name) else f" is {item['input']!r}"
        lines.append(f"{_variable(settings_class, name)}{shown}: {text}")
    return lines


def describe(settings_class: type[Served]) -> str:
    """Every setting: environment variable, default, what it is."""
    lines = ["Settings, from the environment:", ""]
    for name, field in settings_class.model_fields.items():
        default: Any = field.default
        shown = "" if _is_secret(settings_class, name) or default in ("", None) else f" [{default}]"
        lines.append(f"  {_variable(settings_class, name)}{shown}")
        if field.description:
            lines.append(f"      {field.description}")
    return "\n".join(lines)


def _variable(settings_class: type[Served], name: str) -> str:
    field = settings_class.model_fields.get(name)
    if field and isinstance(field.validation_alias, str):
        return field.validation_alias
    return f"{settings_class.model_config.get('env_prefix', '')}{name}".upper()


def _is_secret(settings_class: type[Served], name: str) -> bool:
    field = settings_class.model_fields.get(name)
    # A Redis or database address may hold a password.
    return field is None or field.annotation is SecretStr or name.endswith("_url") or logging.is_secret(name)


def _config(app: FastAPI, secure: Secure | None = None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=secure.protocol if secure else "httptools",
        loop="uvloop",
        ws="none",
        lifespan="off" if secure else "auto",
        log_config=None,
        access_log=False,  # the app has its own, without tokens
        proxy_headers=False,  # the app knows which proxies to trust
        server_header=False,
        timeout_graceful_shutdown=GRACE,
        ssl_context_factory=(lambda *_: secure.context) if secure else None,
    )


class _Second(uvicorn.Server):
    """One beside the first, which takes the signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Server(uvicorn.Server):
    """Serves a second place as long as it serves the first, with the same app."""

    _second: _Second | None = None
    _task: asyncio.Task[None] | None = None

    def follow(self, config: uvicorn.Config, listening: socket.socket) -> None:
        self._second, self._listening = _Second(config), listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._second and not self.should_exit:
            self._task = asyncio.create_task(self._second.serve([self._listening]))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._second and self._task:
            self._second.should_exit = True
            await self._task
        await super().shutdown(sockets)


def _listen(settings: Served, host: str, port: int, fields: tuple[str, str]) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        names = [_variable(type(settings), name) for name in fields]
        reason = os.strerror(error.errno) if error.errno else str(error)
        _stop(
            f"Cannot listen on {host} port {port}: {reason}. Set {' and '.join(names)} to a free address of this host."
        )
    listening.set_inheritable(True)
    return listening


def _stop(*lines: str) -> NoReturn:
    print(*lines, sep="\n", file=sys.stderr)
    sys.exit(2)
