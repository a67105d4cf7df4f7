#!/usr/bin/env python3
"""The daemon's public face: `faasd`. Contract sections 2 and 11.

The API's port is bound before anything slow is imported or done: callers wait in its backlog, not for its birth.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
from typing import IO, TYPE_CHECKING, NoReturn

from labyard.faas.errors import SettingsError
from labyard.faas.settings import Settings, read_settings
from labyard.faas.version import VERSION

if TYPE_CHECKING:
    from labyard.faas.registry import Registry

USAGE = """Usage: faasd [--version | --help]

Runs functions made from container images: one address each, one container per request.
Settings are environment variables with the prefix LABYARD_FAAS_; docs/faas.md lists them."""
API_BACKLOG = 256

__all__ = ["Registry", "extract_docker_image", "get_image_entrypoint", "main"]


def extract_docker_image(fileobj: IO[bytes], rootfs_path: str) -> None:
    """Unpack an image archive to a directory, which is replaced. ImageError; then what was there is untouched."""
    from labyard.faas.image import unpack

    unpack.extract_docker_image(fileobj, rootfs_path)


def get_image_entrypoint(fileobj: IO[bytes]) -> list[str]:
    """The command of an image archive: Entrypoint and Cmd, or `/bin/sh`. ImageError."""
    from labyard.faas.image import unpack

    return unpack.get_image_entrypoint(fileobj)


def __getattr__(name: str) -> object:
    if name == "Registry":
        from labyard.faas.registry import Registry

        return Registry
    raise AttributeError(name)


def main() -> None:
    """Run the daemon until a signal. Exits with 0 after a signal, with 1 when it cannot start."""
    words = sys.argv[1:]
    if words in (["--version"], ["-V"]):
        print(f"faasd {VERSION}")
        return
    if words:
        print(USAGE)
        sys.exit(0 if words in (["--help"], ["-h"]) else 1)
    if os.geteuid() != 0:
        _fail("faasd must be run as root")
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    try:
        settings = read_settings()
        settings.token()
    except SettingsError as error:
        _fail(str(error))
    signals = _catch_signals()
    lock = _lock(settings)
    sockets = _bind(settings)

    from labyard.faas.daemon import run

    code = run(settings, sockets, signals)
    lock.close()
    sys.stdout.flush()
    # Not sys.exit: a thread that writes to the log while Python takes itself apart would abort the process.
    os._exit(code)


def _fail(reason: str) -> NoReturn:
    print(f"ERROR: {reason}", flush=True)
    sys.exit(1)


def _catch_signals() -> socket.socket:
    """Their numbers come out of it, one byte each. From the first moment, so that a stop is orderly whenever it comes.

    A handler would do only when this thread is awake: the kernel may give a signal to any thread, and a thread that
    waits for a lock does not hear of it.
    """
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(writing.detach(), warn_on_full_buffer=False)
    return reading


def _lock(settings: Settings) -> IO[str]:
    try:
        settings.root.mkdir(parents=True, exist_ok=True)
        lock = (settings.root / ".lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _fail(f"another faasd uses {settings.root}")
    except OSError as error:
        _fail(f"{settings.root}: {error.strerror}")
    return lock


def _bind(settings: Settings) -> list[socket.socket]:
    sockets = []
    for address in settings.api_bind:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, settings.api_port))
            listener.listen(API_BACKLOG)
        except OSError as error:
            _fail(f"cannot listen on {address}:{settings.api_port}: {error.strerror}")
        sockets.append(listener)
    return sockets


if __name__ == "__main__":
    main()
