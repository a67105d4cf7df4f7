"""A node's agent over HTTP: a Unix socket on this host, mutual TLS 1.3 elsewhere."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import httpx

from labyard.desktops.adapters import agent_wire as wire
from labyard.desktops.adapters.agent import (
    AgentBadResponse,
    AgentError,
    AgentRefused,
    AgentTimeout,
    AgentUnreachable,
    RecordSpec,
    RecordStatus,
    Segment,
    ServerSpec,
    ServerStatus,
    Usage,
)

A = TypeVar("A")
R = TypeVar("R")

DEADLINE = 30.0  # seconds
PAUSES = (0.1, 0.4, 1.6)  # seconds before each retry
MAX_ANSWER = 4 * 2**20  # bytes
UNIX = "unix://"


class HttpAgent:
    """`AgentClient` of one node. `address` is unix:///path or https://host:port, which `tls` is for.

    `name` is the node's id, for texts. Every call ends within `deadline` seconds, retries included: each verb can be
    repeated, since those that change something carry a request id.
    """

    def __init__(self, name: str, address: str, tls: ssl.SSLContext | None = None, deadline: float = DEADLINE) -> None:
        self._name = name
        self._deadline = deadline
        if address.startswith(UNIX):
            transport = httpx.HTTPTransport(uds=address.removeprefix(UNIX))
            self._http = httpx.Client(transport=transport, base_url="http://agent")
        elif address.startswith("https://") and tls is not None:
            self._http = httpx.Client(verify=tls, base_url=address, trust_env=False)
        else:
            raise ValueError(f"{address} is neither unix:///path nor https://host:port with certificates")

    def close(self) -> None:
        self._http.close()

    # The node

    def ping(self) -> Mapping[str, Any]:
        return self._call(wire.PING, wire.Nothing())

    def hardware(self) -> Mapping[str, Any]:
        return self._call(wire.HARDWARE, wire.Nothing())

    def metrics(self) -> Usage:
        return self._call(wire.METRICS, wire.Nothing())

    def sign(self, payload: bytes) -> str:
        return self._call(wire.SIGN, wire.Payload(payload)).signature

    # RDP servers

    def server_create(self, spec: ServerSpec, request_id: str) -> ServerStatus:
        return self._call(wire.SERVER_CREATE, wire.ServerCall(spec, request_id))

    def server_start(self, spec: ServerSpec, request_id: str) -> ServerStatus:
        return self._call(wire.SERVER_START, wire.ServerCall(spec, request_id))

    def server_stop(self, server_id: str, request_id: str) -> ServerStatus:
        return self._call(wire.SERVER_STOP, wire.ServerChange(server_id, request_id))

    def server_delete(self, server_id: str, request_id: str) -> None:
        self._call(wire.SERVER_DELETE, wire.ServerChange(server_id, request_id))

    def server_status(self, server_id: str) -> ServerStatus:
        return self._call(wire.SERVER_STATUS, wire.ServerNamed(server_id))

    def server_list(self) -> tuple[str, ...]:
        return self._call(wire.SERVER_LIST, wire.Nothing())

    def server_usage(self, server_id: str) -> Usage:
        return self._call(wire.SERVER_USAGE, wire.ServerNamed(server_id))

    def server_probe(self, server_id: str, username: str | None, password: str | None) -> Mapping[str, Any]:
        return self._call(wire.SERVER_PROBE, wire.ServerProbe(server_id, username, password))

    # Recorders

    def record_start(self, spec: RecordSpec, request_id: str) -> RecordStatus:
        return self._call(wire.RECORD_START, wire.RecordCall(spec, request_id))

    def record_stop(self, session_id: str, request_id: str) -> RecordStatus:
        return self._call(wire.RECORD_STOP, wire.RecordChange(session_id, request_id))

    def record_pause(self, session_id: str, request_id: str) -> RecordStatus:
        return self._call(wire.RECORD_PAUSE, wire.RecordChange(session_id, request_id))

    def record_resume(self, session_id: str, request_id: str) -> RecordStatus:
        return self._call(wire.RECORD_RESUME, wire.RecordChange(session_id, request_id))

    def record_status(self, session_id: str) -> RecordStatus:
        return self._call(wire.RECORD_STATUS, wire.RecordNamed(session_id))

    def record_list(self) -> tuple[str, ...]:
        return self._call(wire.RECORD_LIST, wire.Nothing())

    def segments(self, session_id: str, after: int) -> Iterator[Segment]:
        """Not retried: who asks goes on after the last one that came."""
        verb = wire.SEGMENTS_STREAM
        body = verb.write_request(wire.SegmentsAfter(session_id, after))
        until = time.monotonic() + self._deadline
        try:
            with self._http.stream("POST", f"/verbs/{verb.name}", content=body, timeout=self._deadline) as response:
                if response.status_code != 200:
                    raise self._refusal(verb.name, _read_all(response, until))
                yield from wire.unframe(_pieces(response, until))
        except (httpx.HTTPError, ValueError, _TooLong) as error:
            raise self._failure(verb.name, error) from None

    def segments_ack(self, session_id: str, upto: int) -> None:
        self._call(wire.SEGMENTS_ACK, wire.SegmentsDone(session_id, upto))

    # Inside

    def _call(self, verb: wire.Verb[A, R], request: A) -> R:
        body = verb.write_request(request)
        until = time.monotonic() + self._deadline
        for pause in (*PAUSES, None):
            try:
                return self._once(verb, body, until)
            except AgentUnreachable:
                if pause is None or time.monotonic() + pause >= until:
                    raise
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _once(self, verb: wire.Verb[A, R], body: bytes, until: float) -> R:
        remaining = until - time.monotonic()
        try:
            with self._http.stream("POST", f"/verbs/{verb.name}", content=body, timeout=max(remaining, 0.01)) as answer:
                content = _read_all(answer, until)
                if answer.status_code != 200:
                    raise self._refusal(verb.name, content)
            return verb.read_answer(content)
        except (httpx.HTTPError, ValueError, _TooLong) as error:
            raise self._failure(verb.name, error) from None

    def _failure(self, verb: str, error: Exception) -> AgentError:
        what = f"the agent of node {self._name}, asked for {verb},"
        if isinstance(error, (httpx.TimeoutException, _TooLong)):
            return AgentTimeout(f"{what} gave no answer within {self._deadline:g} s")
        if isinstance(error, (httpx.TransportError, OSError)):
            return AgentUnreachable(f"{what} cannot be reached: {error}")
        return AgentBadResponse(f"{what} gave an answer that is none: {error}")

    def _refusal(self, verb: str, content: bytes) -> AgentError:
        try:
            found = json.loads(content)
            code, message, lines = found["code"], found["message"], found.get("log", [])
        except (ValueError, KeyError, TypeError):
            return AgentBadResponse(f"the agent of node {self._name}, asked for {verb}, gave an answer that is none")
        if not isinstance(code, str) or not isinstance(message, str) or not isinstance(lines, list):
            return AgentBadResponse(f"the agent of node {self._name}, asked for {verb}, gave an answer that is none")
        return AgentRefused(message, code, tuple(str(line) for line in lines))


class _TooLong(Exception):
    """The answer is still coming when the deadline is there."""


def _pieces(response: httpx.Response, until: float) -> Iterator[bytes]:
    for piece in response.iter_raw():
        yield piece
        if time.monotonic() > until:
            raise _TooLong


def _read_all(response: httpx.Response, until: float) -> bytes:
    content = bytearray()
    for piece in _pieces(response, until):
        content.extend(piece)
        if len(content) > MAX_ANSWER:
            raise ValueError(f"it is longer than {MAX_ANSWER} bytes")
    return bytes(content)
