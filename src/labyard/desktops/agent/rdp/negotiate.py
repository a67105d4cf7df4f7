"""The first steps of an RDP connection, as a client takes them: TCP, X.224 with RDP's negotiation, TLS."""

from __future__ import annotations

import hashlib
import socket
import ssl
import struct
import time
from dataclasses import dataclass

PROTOCOL_RDP, PROTOCOL_TLS = 0, 1
_NAMES = {PROTOCOL_RDP: "rdp", PROTOCOL_TLS: "tls", 2: "nla", 8: "nla-ex"}
_REQUEST, _RESPONSE, _FAILURE = 1, 2, 3  # of RDP's negotiation
_FAILURES = {1: "TLS is required", 2: "TLS is not allowed", 3: "the server has no usable certificate"}


class NegotiationError(Exception):
    """Nobody listens, or who does speaks no RDP, or refuses. The text says how far it went."""


@dataclass(frozen=True)
class Negotiation:
    """`protocol` is rdp or tls, as the server chose it; what belongs to TLS is None for rdp."""

    protocol: str
    latency_ms: float
    tls_version: str | None = None
    cipher: str | None = None
    certificate_sha256: str | None = None


def negotiate(host: str, port: int, use_tls: bool, seconds: float) -> Negotiation:
    """Connects, asks, and lets go again: no login is tried. NegotiationError."""
    began = time.monotonic()
    try:
        connection = socket.create_connection((host, port), seconds)
    except OSError as error:
        raise NegotiationError(f"nobody listens on port {port}: {error.strerror or error}") from None
    with connection:
        try:
            chosen = _ask(connection, PROTOCOL_TLS if use_tls else PROTOCOL_RDP)
            if chosen != PROTOCOL_TLS:
                return Negotiation(_NAMES.get(chosen, str(chosen)), _since(began))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            # Its certificate is its own; the caller compares the fingerprint with the one that was made.
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            with context.wrap_socket(connection) as secured:
                certificate = secured.getpeercert(binary_form=True) or b""
                cipher = secured.cipher()
                return Negotiation(
                    protocol="tls",
                    latency_ms=_since(began),
                    tls_version=secured.version(),
                    cipher=cipher[0] if cipher else None,
                    certificate_sha256=hashlib.sha256(certificate).hexdigest(),
                )
        except OSError as error:
            raise NegotiationError(f"the server on port {port} broke off: {error}") from None


def _ask(connection: socket.socket, protocols: int) -> int:
    negotiation = struct.pack("<BBHI", _REQUEST, 0, 8, protocols)
    # X.224 connection request: length, code, destination, source, class.
    x224 = struct.pack(">BBHHB", 6 + len(negotiation), 0xE0, 0, 0, 0) + negotiation
    connection.sendall(struct.pack(">BBH", 3, 0, 4 + len(x224)) + x224)
    version, _, length = struct.unpack(">BBH", _read(connection, 4))
    if version != 3 or not 11 <= length <= 512:
        raise NegotiationError("what answers speaks no RDP")
    answer = _read(connection, length - 4)
    if answer[1] & 0xF0 != 0xD0:
        raise NegotiationError("what answers confirms no RDP connection")
    if len(answer) < 15:  # an old server: no negotiation, so no TLS
        return PROTOCOL_RDP
    kind, _, _, value = struct.unpack("<BBHI", answer[7:15])
    if kind == _FAILURE:
        raise NegotiationError(f"the server refuses: {_FAILURES.get(value, f'reason {value}')}")
    if kind != _RESPONSE:
        raise NegotiationError("what answers negotiates no RDP connection")
    return int(value)


def _read(connection: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        piece = connection.recv(count - len(content))
        if not piece:
            raise NegotiationError("the server hung up")
        content += piece
    return content


def _since(began: float) -> float:
    return round(1000 * (time.monotonic() - began), 2)
