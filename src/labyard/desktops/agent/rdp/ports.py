"""Who listens on a port of this node."""

from __future__ import annotations

import errno
import socket

LOOPBACK = "127.0.0.1"


def listens(port: int) -> bool:
    """On loopback. sesman binds to ::1 where it is told 127.0.0.1."""
    for family, address in ((socket.AF_INET6, "::1"), (socket.AF_INET, LOOPBACK)):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            if probe.connect_ex((address, port)) == 0:
                return True
    return False


def is_free(port: int) -> bool:
    """Whether a server could listen there, on every address."""
    for family, address in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return False
    return True
