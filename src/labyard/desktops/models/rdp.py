"""RDP servers (contract section 6)."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Numeric
from sqlalchemy.orm import Mapped, mapped_column

from labyard.core.clock import now
from labyard.desktops.models.base import Base, Key, Versioned


class RdpStatus(StrEnum):
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    ERROR = "error"


class RdpServer(Versioned, Base):
    __tablename__ = "rdp_servers"

    server_id: Mapped[Key]
    owner: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    description: Mapped[str] = mapped_column(default="")
    user_id: Mapped[str] = mapped_column(index=True)
    status: Mapped[str] = mapped_column(default=RdpStatus.STOPPED)
    node_id: Mapped[str] = mapped_column(ForeignKey("nodes.node_id"), index=True)
    # Exactly as the client sent it.
    configuration: Mapped[dict[str, Any]]
    # The one that the last start used; None before the first.
    configuration_applied: Mapped[dict[str, Any] | None]
    cpu_limit: Mapped[Decimal] = mapped_column(Numeric(4, 2))
    memory_limit: Mapped[int]  # MiB
    disk_limit: Mapped[int]  # MiB
    network_bandwidth: Mapped[int]  # Mbps
    account: Mapped[str]
    password_sealed: Mapped[str]
    certificate_sha256: Mapped[str | None]
    display: Mapped[int | None]
    desktop_effective: Mapped[str | None]
    enforcement: Mapped[dict[str, Any] | None]
    last_started_at: Mapped[datetime | None]
    last_stopped_at: Mapped[datetime | None]
    last_error: Mapped[str | None]
    # Asked to go, not yet all gone: the reconciler finishes it, and nobody sees the server any more.
    deleted_at: Mapped[datetime | None]


class PortLease(Base):
    """A port belongs to a server from create to delete."""

    __tablename__ = "port_leases"

    port: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    node_id: Mapped[str] = mapped_column(ForeignKey("nodes.node_id"))
    server_id: Mapped[str] = mapped_column(ForeignKey("rdp_servers.server_id", ondelete="CASCADE"), unique=True)
    leased_at: Mapped[datetime] = mapped_column(default=now)


class RdpConnection(Base):
    """One connection of a real RDP client."""

    __tablename__ = "rdp_connections"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    server_id: Mapped[str] = mapped_column(ForeignKey("rdp_servers.server_id", ondelete="CASCADE"), index=True)
    peer: Mapped[str]
    connected_at: Mapped[datetime]
    disconnected_at: Mapped[datetime | None]


class RdpProbe(Base):
    """One probe of a running server, for the quality factor of its node."""

    __tablename__ = "rdp_probes"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    node_id: Mapped[str] = mapped_column(ForeignKey("nodes.node_id", ondelete="CASCADE"), index=True)
    server_id: Mapped[str]
    at: Mapped[datetime] = mapped_column(default=now, index=True)
    answered: Mapped[bool]
    latency_ms: Mapped[float | None]
