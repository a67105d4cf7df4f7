"""Nodes, pools, agents and what is measured of them (contract section 7)."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Numeric, text
from sqlalchemy.orm import Mapped, mapped_column

from labyard.core.clock import now
from labyard.desktops.models.base import Base, Key, Versioned


class NodeStatus(StrEnum):
    INACTIVE = "inactive"
    STARTING = "starting"
    ACTIVE = "active"
    STOPPING = "stopping"
    UNREACHABLE = "unreachable"
    MAINTENANCE = "maintenance"
    ERROR = "error"


class Pool(Versioned, Base):
    __tablename__ = "pools"

    pool_id: Mapped[Key]
    name: Mapped[str]
    description: Mapped[str] = mapped_column(default="")
    max_nodes: Mapped[int] = mapped_column(default=100)
    resource_limits: Mapped[dict[str, Any] | None]


class Node(Versioned, Base):
    __tablename__ = "nodes"

    node_id: Mapped[Key]
    name: Mapped[str] = mapped_column(unique=True)
    node_type: Mapped[str]
    status: Mapped[str] = mapped_column(default=NodeStatus.INACTIVE)
    pool_id: Mapped[str] = mapped_column(ForeignKey("pools.pool_id"), index=True)
    pool_assigned_at: Mapped[datetime] = mapped_column(default=now)
    hardware_info: Mapped[dict[str, Any]]
    hardware_observed: Mapped[dict[str, Any] | None]
    location: Mapped[dict[str, Any] | None]
    configuration: Mapped[dict[str, Any]]
    # cpu, memory, disk: how much of each may be reserved, as a multiple of what the node has.
    overcommit: Mapped[dict[str, Any]]
    operator: Mapped[str]
    last_heartbeat: Mapped[datetime | None]
    clock_skew_seconds: Mapped[float | None]
    started_at: Mapped[datetime | None]
    stopped_at: Mapped[datetime | None]
    # The newest validated score, and the average that the reputation is made of; None before the first.
    poot_score: Mapped[Decimal | None] = mapped_column(Numeric(7, 4))
    score_average: Mapped[Decimal | None] = mapped_column(Numeric(10, 6))
    penalty: Mapped[Decimal] = mapped_column(Numeric(10, 6), default=Decimal(0))
    penalty_at: Mapped[datetime | None]


class PoolAssignment(Base):
    """Which node was in which pool, and when. The one that is open is the node's pool."""

    __tablename__ = "pool_assignments"
    __table_args__ = (
        Index("uq_pool_assignments_open", "node_id", unique=True, postgresql_where=text("released_at IS NULL")),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    # No foreign keys: history is kept when the node or the pool goes.
    node_id: Mapped[str]
    pool_id: Mapped[str]
    assigned_at: Mapped[datetime] = mapped_column(default=now)
    released_at: Mapped[datetime | None]


class Agent(Base):
    """The agent of a node: where it listens, and what it proves itself with."""

    __tablename__ = "agents"

    node_id: Mapped[str] = mapped_column(ForeignKey("nodes.node_id", ondelete="CASCADE"), primary_key=True)
    # unix:///path or https://host:port
    address: Mapped[str]
    version: Mapped[str | None]
    # Ed25519, base64: what PoOT submissions are signed with.
    public_key: Mapped[str | None]
    certificate_sha256: Mapped[str | None] = mapped_column(unique=True)
    enrolment_sha256: Mapped[str | None]
    enrolment_expires_at: Mapped[datetime | None]
    enrolled_at: Mapped[datetime | None]
    last_seen: Mapped[datetime | None]


class Heartbeat(Base):
    """One slot of 30 s in which a heartbeat came: `slot` is the Unix time divided by 30."""

    __tablename__ = "heartbeats"

    node_id: Mapped[str] = mapped_column(ForeignKey("nodes.node_id", ondelete="CASCADE"), primary_key=True)
    slot: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    received_at: Mapped[datetime]


class UsageSample(Base):
    """What was measured of a node or of an RDP server; partitioned by month. `kind` is `node` or `rdp`."""

    __tablename__ = "usage_samples"
    __table_args__ = ({"postgresql_partition_by": "RANGE (at)"},)

    kind: Mapped[Key]
    subject_id: Mapped[Key]
    at: Mapped[datetime] = mapped_column(primary_key=True)
    cpu_percent: Mapped[float | None]
    memory_percent: Mapped[float | None]
    disk_percent: Mapped[float | None]
    # Bytes per second over the last interval.
    network_in: Mapped[float | None]
    network_out: Mapped[float | None]
    source: Mapped[str]
    detail: Mapped[dict[str, Any]]


class Alert(Base):
    """`resource_type` is cpu, memory, disk or network; `kind` and `subject_id` are as in usage_samples."""

    __tablename__ = "alerts"
    __table_args__ = (
        Index(
            "uq_alerts_open",
            "kind",
            "subject_id",
            "resource_type",
            unique=True,
            postgresql_where=text("resolved_at IS NULL"),
        ),
    )

    alert_id: Mapped[Key]
    kind: Mapped[str]
    subject_id: Mapped[str]
    severity: Mapped[str]
    resource_type: Mapped[str]
    threshold: Mapped[float]
    current_value: Mapped[float]
    message: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=now)
    resolved_at: Mapped[datetime | None]
