"""The daemon's own answers on functions' connections: sent, half-closed, and read away (contract section 9).

A connection closed with unread bytes is reset, and a reset destroys the answer that the client has not read yet.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time

SECONDS = 1.0
MOST = 65536


class Lingering:
    """One thread for all connections that have their answer and whose clients have not closed yet."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._lock = threading.Lock()
        self._open: dict[int, tuple[socket.socket, float, int]] = {}  # until when, and how many bytes have come
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="lingering", daemon=True)
        self._thread.start()

    def answer(self, connection: socket.socket, answer: bytes) -> None:
        """Send without waiting, and own the connection from here on. Never raises."""
        try:
            connection.setblocking(False)
            connection.send(answer)  # it is short, and nothing was sent before: the kernel takes it whole
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            connection.close()
            return
        with self._lock:
            if self._stopped:
                connection.close()
                return
            self._open[connection.fileno()] = (connection, time.monotonic() + SECONDS, 0)
            self._epoll.register(connection.fileno(), select.EPOLLIN)
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Close all that is open still, and end."""
        with self._lock:
            self._stopped = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        for connection, _, _ in self._open.values():
            connection.close()
        self._epoll.close()
        os.close(self._wake)

    def _run(self) -> None:
        while not self._stopped:
            with self._lock:
                first = min((until for _, until, _ in self._open.values()), default=None)
            for descriptor, _ in self._epoll.poll(None if first is None else max(0, first - time.monotonic())):
                if descriptor == self._wake:
                    os.eventfd_read(self._wake)
                else:
                    self._read(descriptor)
            with self._lock:
                now = time.monotonic()
                for descriptor in [number for number, (_, until, _) in self._open.items() if until <= now]:
                    self._drop(descriptor)

    def _read(self, descriptor: int) -> None:
        with self._lock:
            connection, until, count = self._open[descriptor]
            try:
                data = connection.recv(MOST)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data or count + len(data) >= MOST:
                self._drop(descriptor)
            else:
                self._open[descriptor] = (connection, until, count + len(data))

    def _drop(self, descriptor: int) -> None:
        self._epoll.unregister(descriptor)
        self._open.pop(descriptor)[0].close()
