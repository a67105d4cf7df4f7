"""HTTP/1.1 as the daemon speaks it: one request on a connection, and the connection is closed after the answer.

Own code, because http.server and what it imports take most of a start in an emulated guest (contract section 21).
"""

from __future__ import annotations

import json
import re
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from labyard.faas.errors import BadRequest, FaasError

HEAD = 20.0  # s for the whole of a request's head
MAX_HEAD = 65536
HEAD_ENDS = re.compile(rb"\r?\n\r?\n")
MAX_LINE = 4096
CHUNK = 1 << 18
REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 502: "Bad Gateway", 503: "Service Unavailable"}


@dataclass
class Request:
    """A request's head, and its body as it comes in."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]  # names in lower case
    _sock: socket.socket = field(repr=False)
    _buffer: bytes = field(repr=False)

    def body(self, limit: int) -> Iterator[bytes]:
        """The body in pieces. FaasError: 411 without a length, 413 over `limit` bytes, 408 when nothing comes."""
        try:
            if "chunked" in self.headers.get("transfer-encoding", "").lower():
                yield from self._chunked(limit)
            else:
                yield from self._counted(self._length(limit))
        except TimeoutError:
            raise FaasError("the upload stood still for too long", 408) from None

    def _length(self, limit: int) -> int:
        text = self.headers.get("content-length")
        if text is None:
            raise FaasError("Content-Length or Transfer-Encoding: chunked is needed", 411)
        if not text.isascii() or not text.isdigit():
            raise BadRequest(f"Content-Length {text[:20]!r} is not a number")
        if len(text) > 18 or int(text) > limit:
            raise FaasError(f"the body is over {limit} bytes", 413)
        return int(text)

    def go_on(self) -> None:
        """Tell a client that waits for it that its body is wanted."""
        if self.headers.get("expect", "").lower() == "100-continue":
            self._sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _counted(self, left: int) -> Iterator[bytes]:
        while left:
            piece = self._take(min(left, CHUNK))
            left -= len(piece)
            yield piece

    def _chunked(self, limit: int) -> Iterator[bytes]:
        total = 0
        while True:
            line = self._line().split(b";")[0].strip()
            try:
                size = int(line, 16)
            except ValueError:
                raise BadRequest("a chunk's size is not a hexadecimal number") from None
            total += size
            if size < 0 or total > limit:
                raise FaasError(f"the body is over {limit} bytes", 413)
            if size == 0:
                while self._line().strip():
                    pass
                return
            yield from self._counted(size)
            self._line()

    def _take(self, most: int) -> bytes:
        if not self._buffer:
            self._fill()
        piece, self._buffer = self._buffer[:most], self._buffer[most:]
        return piece

    def _line(self) -> bytes:
        while b"\n" not in self._buffer[:MAX_LINE]:
            if len(self._buffer) >= MAX_LINE:
                raise BadRequest("a chunk's head is too long")
            self._fill()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _fill(self) -> None:
        piece = self._sock.recv(CHUNK)
        if not piece:
            raise BadRequest("the connection ended before the body did")
        self._buffer += piece


def read_request(sock: socket.socket, seconds: float = HEAD) -> Request | None:
    """The head of the request; None when the client closed without one.

    FaasError when it is none of HTTP/1. TimeoutError when it is not there within `seconds`, however it trickles in;
    the socket's time limit is the caller's to set anew.
    """
    head = b""
    deadline = time.monotonic() + seconds
    while not (end := HEAD_ENDS.search(head)):
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        piece = sock.recv(8192)
        if not piece:
            if head:
                raise BadRequest("the connection ended within the request's head")
            return None
        head += piece
        if len(head) > MAX_HEAD:
            raise FaasError("the request's head is too long", 431)
    text, rest = head[: end.start()], head[end.end() :]
    first, *lines = text.decode("latin-1").replace("\r\n", "\n").split("\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise BadRequest("this is not an HTTP/1.1 request")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadRequest("a header line is malformed")
        headers[name.lower()] = value.strip()
    path, _, query = words[1].partition("?")
    if "%" in path:
        from urllib.parse import unquote  # hardly ever needed, and long to import

        path = unquote(path)
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    return Request(words[0], path, {name: value for name, _, value in pairs}, headers, sock, rest)


def reply(
    status: int, body: bytes, content_type: str, reason: str = "", headers: dict[str, str] | None = None
) -> bytes:
    """A whole answer. The reason phrase carries an error's text: one line, Latin-1, 200 characters at most."""
    phrase = " ".join((reason or REASONS.get(status, "Error")).split())[:200]
    phrase = "".join(letter if letter.isprintable() else "?" for letter in phrase)
    lines = [
        f"HTTP/1.1 {status} {phrase}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body


def json_reply(status: int, value: Any, reason: str = "", headers: dict[str, str] | None = None) -> bytes:
    return reply(status, json.dumps(value, indent=2).encode() + b"\n", "application/json", reason, headers)


def send_and_linger(sock: socket.socket, answer: bytes, most: int = 65536, seconds: float = 1.0) -> None:
    """Send, half-close, and read away what the client still sends: a reset would destroy what it has not read yet.

    Does not close. Never raises: a client that is gone needs no answer.
    """
    deadline = time.monotonic() + seconds
    try:
        sock.settimeout(seconds)
        sock.sendall(answer)
        sock.shutdown(socket.SHUT_WR)
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        while most > 0 and (left := deadline - time.monotonic()) > 0 and poll.poll(left * 1000):
            piece = sock.recv(min(most, CHUNK))
            if not piece:
                return
            most -= len(piece)
    except OSError:
        return
