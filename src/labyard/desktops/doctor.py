"""`labyard-desktops doctor`: what /ready says, and whether tokens, limits, certificate and ports are in order."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from alembic.migration import MigrationContext
from cryptography import x509

from labyard.core.clock import now
from labyard.core.database import Database
from labyard.desktops.adapters.agent_http import HttpAgent
from labyard.desktops.adapters.live import Live
from labyard.desktops.keyring import Keyring
from labyard.desktops.names import LOCAL_NODE
from labyard.desktops.service.tokens import ACCESS, Tokens
from labyard.desktops.settings import Settings

SOON = timedelta(days=14)
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
RESERVED = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")


class Problem(Exception):
    """What is wrong, and what to do."""


@dataclass(frozen=True)
class Found:
    """`required`: without it the service does not work."""

    name: str
    good: bool
    detail: str
    milliseconds: float
    required: bool


def examine(settings: Settings, database: Database, live: Live) -> Iterator[Found]:
    """One after the other; none raises."""
    for name, required, look in (
        ("postgresql", True, lambda: _postgresql(database)),
        ("redis", False, lambda: _redis(live)),
        ("key file", True, lambda: _key_file(settings)),
        ("token", True, lambda: _token(settings)),
        ("limits", False, lambda: _limits(settings)),
        ("certificate", True, lambda: _certificate(settings)),
        ("agent", False, lambda: _agent(settings)),
        ("port", True, lambda: _port(settings)),
        ("RDP ports", False, lambda: _rdp_ports(settings)),
        ("storage", True, lambda: _storage(settings)),
    ):
        yield _one(name, required, look)


def _one(name: str, required: bool, look: Callable[[], str]) -> Found:
    began = time.perf_counter()
    try:
        good, detail = True, look()
    except Problem as problem:
        good, detail = False, str(problem)
    except Exception as error:
        good, detail = False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return Found(name, good, detail, round((time.perf_counter() - began) * 1000, 1), required)


def _postgresql(database: Database) -> str:
    with database.engine.connect() as connection:
        revision = MigrationContext.configure(connection).get_current_revision()
    if revision is None:
        raise Problem("answers, but has no tables: labyard-desktops db migrate")
    return f"answers; tables of revision {revision}"


def _redis(live: Live) -> str:
    if not live.ping():
        raise Problem("does not answer: the service goes on without it, and counts limits in each process")
    return "answers"


def _key_file(settings: Settings) -> str:
    return f"newest key {Keyring(settings.keys / 'key-encryption.json').current}"


def _token(settings: Settings) -> str:
    tokens = Tokens(settings)
    token, _ = tokens.issue("doctor", [], ACCESS, timedelta(minutes=1), "doctor")
    tokens.read(token, ACCESS)
    return f"signed and read; access {settings.access_token_minutes} min, refresh {settings.refresh_token_days} d"


def _limits(settings: Settings) -> str:
    names = ("login", "public", "authenticated", "admin", "poot", "create")
    return ", ".join(f"{name} {getattr(settings, f'rate_{name}')}/min" for name in names)


def _certificate(settings: Settings) -> str:
    if not settings.tls_host or settings.tls_certificate is None:
        return "none needed: HTTP on loopback only"
    certificate = x509.load_pem_x509_certificate(settings.tls_certificate.read_bytes())
    until = certificate.not_valid_after_utc
    if until - now() < SOON:
        raise Problem(f"{settings.tls_certificate} ends {until:%Y-%m-%d}: put a new one in its place")
    return f"good until {until:%Y-%m-%d}"


def _agent(settings: Settings) -> str:
    if settings.agent_socket is None:
        return "none on this host"
    agent = HttpAgent(LOCAL_NODE, f"unix://{settings.agent_socket}", deadline=5)
    try:
        return f"answers; version {agent.ping().get('version')}"
    finally:
        agent.close()


def _port(settings: Settings) -> str:
    address = f"{settings.bind_host} port {settings.bind_port}"
    try:
        socket.create_connection((settings.bind_host, settings.bind_port), 2).close()
    except OSError as error:
        raise Problem(f"nothing answers at {address} ({error.strerror}): systemctl status labyard-desktops") from None
    return f"the service listens at {address}"


def _rdp_ports(settings: Settings) -> str:
    first, last = settings.rdp_first_port, settings.rdp_last_port
    low, high = map(int, EPHEMERAL.read_text().split())
    reserved = RESERVED.read_text().strip()
    if low <= last and first <= high and f"{first}-{last}" not in reserved:
        raise Problem(f"the kernel may give {first}-{last} to others: add them to net.ipv4.ip_local_reserved_ports")
    return f"{first}-{last} are kept for RDP servers"


def _storage(settings: Settings) -> str:
    folder = settings.chunks if settings.chunks.exists() else settings.state_dir
    if not folder.is_dir():
        raise Problem(f"{folder} is not there")
    probe = folder / ".doctor"
    probe.write_bytes(b"")
    probe.unlink()
    return f"{folder} can be written"
