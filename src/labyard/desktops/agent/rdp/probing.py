"""What a client of a server meets: the port, the negotiation, and what sesman says to a user name and password."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labyard.core.adapter import AdapterError
from labyard.desktops.agent.rdp.negotiate import Negotiation, NegotiationError, negotiate
from labyard.desktops.agent.rdp.place import Made, Place
from labyard.desktops.agent.rdp.ports import LOOPBACK, listens
from labyard.desktops.agent.rdp.sesman import Answer, ask_for_desktop

ANSWER = 5.0  # seconds that a daemon on this node gets to answer


def probe(place: Place, made: Made | None, username: str | None, password: str | None) -> Mapping[str, Any]:
    """test-connection's answer (contract 6.1)."""
    if made is None or made.display is None:
        return _nothing(False, "the server does not run")
    try:
        found = negotiate(LOOPBACK, made.port, made.use_tls, ANSWER)
    except NegotiationError as error:
        return _nothing(listens(made.port), str(error))
    tls = {
        "version": found.tls_version,
        "cipher": found.cipher,
        "certificate_sha256": found.certificate_sha256,
        "certificate_matches": is_genuine(found, made),
    }
    return {
        "connection_available": is_genuine(found, made),
        "port_open": True,
        "tls": tls if found.tls_version else None,
        "protocol": found.protocol,
        "login": _login(place, made, username, password),
        "latency_ms": found.latency_ms,
    }


def is_genuine(found: Negotiation, made: Made) -> bool:
    """Whether what answered has shown the certificate that was made for the server, where there is TLS."""
    return not made.use_tls or found.certificate_sha256 == made.certificate_sha256


def negotiates(made: Made) -> bool:
    try:
        return is_genuine(negotiate(LOOPBACK, made.port, made.use_tls, ANSWER), made)
    except NegotiationError:
        return False


def ask(place: Place, made: Made, account: str, password: str) -> Answer:
    """sesman, for the server's desktop: the one that is there, or a new one. AdapterError."""
    return ask_for_desktop(place.etc / "sesman.ini", account, password, made.resolution, made.depth, ANSWER)


def _login(place: Place, made: Made, username: str | None, password: str | None) -> dict[str, Any]:
    if username is None or password is None:
        return _attempt(False, False, "no credentials were given")
    if username != place.server_id:
        return _attempt(True, False, "this server lets only its own account in")
    try:
        answer = ask(place, made, username, password)
    except AdapterError as error:
        return _attempt(True, False, str(error))
    return _attempt(True, answer.display is not None, answer.reason)


def _nothing(port_open: bool, reason: str) -> Mapping[str, Any]:
    return {
        "connection_available": False,
        "port_open": port_open,
        "tls": None,
        "protocol": None,
        "login": _attempt(False, False, reason),
        "latency_ms": None,
    }


def _attempt(attempted: bool, succeeded: bool, reason: str | None) -> dict[str, Any]:
    return {"attempted": attempted, "succeeded": succeeded, "reason": reason}
