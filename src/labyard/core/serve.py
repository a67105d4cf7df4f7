"""Runs a service: settings from the environment, uvicorn, a clean end. Every service's `__main__` calls `serve`."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr, ValidationError

from labyard.core import logging
from labyard.core.settings import Served

S = TypeVar("S", bound=Served)

# Seconds that requests in flight get after SIGTERM; systemd kills after 30. What they leave, the next start undoes.
GRACE = 20


def serve(settings_class: type[S], build: Callable[[S], FastAPI]) -> NoReturn:
    """Serve what `build` makes of the settings, until SIGTERM or SIGINT. `--help` lists the settings.

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
    listening = _listen(settings)
    config = uvicorn.Config(
        build(settings),
        http="httptools",
        loop="uvloop",
        ws="none",
        log_config=None,
        access_log=False,  # the app has its own, without tokens
        proxy_headers=False,  # the app knows which proxies to trust
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )
    server = uvicorn.Server(config)
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


def _listen(settings: Served) -> socket.socket:
    host, port = (getattr(settings, name) for name in settings.bind_fields)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        names = [_variable(type(settings), name) for name in settings.bind_fields]
        reason = os.strerror(error.errno) if error.errno else str(error)
        _stop(
            f"Cannot listen on {host} port {port}: {reason}. Set {' and '.join(names)} to a free address of this host."
        )
    listening.set_inheritable(True)
    return listening


def _stop(*lines: str) -> NoReturn:
    print(*lines, sep="\n", file=sys.stderr)
    sys.exit(2)
