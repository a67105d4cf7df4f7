"""PoOT records, payouts and withdrawals (contract section 8)."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Numeric
from sqlalchemy.orm import Mapped, mapped_column

from labyard.core.clock import now
from labyard.desktops.models.base import Base, Key, Versioned


class PootStatus(StrEnum):
    SUBMITTED = "submitted"
    VALIDATED = "validated"
    REJECTED = "rejected"
    EXPIRED = "expired"


class Poot(Versioned, Base):
    """`node_id` is as it was sent; `resolved_node_id` is the registered node that it names, by id or by name."""

    __tablename__ = "poots"
    __table_args__ = (
        Index("ix_poots_subject_validated", "subject_id", "validated_at"),
        Index("ix_poots_newest", "submitted_at", "poot_id"),
    )

    poot_id: Mapped[Key]
    node_id: Mapped[str]
    # The node's id where it is registered, else `node_id`: what history is kept under.
    subject_id: Mapped[str]
    node_registered: Mapped[bool]
    session_id: Mapped[str | None] = mapped_column(index=True)
    timestamp: Mapped[datetime]
    output_hash: Mapped[str] = mapped_column(index=True)
    output_bytes: Mapped[int]
    status: Mapped[str] = mapped_column(default=PootStatus.SUBMITTED, index=True)
    flags: Mapped[list[str]] = mapped_column(default=list)
    submitted_by: Mapped[str]
    submitted_at: Mapped[datetime] = mapped_column(default=now)
    validated_at: Mapped[datetime | None]
    validation_time_ms: Mapped[float | None]
    score: Mapped[Decimal | None] = mapped_column(Numeric(7, 4))
    confidence: Mapped[float | None]
    factors: Mapped[dict[str, Any] | None]
    inputs: Mapped[dict[str, Any] | None]
    weights: Mapped[dict[str, Any] | None]
    metrics_source: Mapped[str | None]
    errors: Mapped[list[Any]] = mapped_column(default=list)


class PootNonce(Base):
    """A node's nonce counts once for at least twice the freshness window. `subject_id`: an id of the node, or its name;
    there is a row for each."""

    __tablename__ = "poot_nonces"

    subject_id: Mapped[Key]
    nonce: Mapped[Key]
    poot_id: Mapped[str]
    expires_at: Mapped[datetime] = mapped_column(index=True)


class OperationalRecord(Base):
    """A node's measured history, as an administrator loaded it."""

    __tablename__ = "operational_records"

    node_id: Mapped[Key]
    window_start: Mapped[datetime]
    window_end: Mapped[datetime]
    session_hours: Mapped[float]
    work_credits: Mapped[float]
    resource_utilization: Mapped[float]
    network_mbps: Mapped[float]
    uptime_percentage: Mapped[float]
    session_quality: Mapped[float]
    trust_score: Mapped[float]
    source: Mapped[str]
    evidence_sha256: Mapped[str | None]
    imported_by: Mapped[str]
    imported_at: Mapped[datetime] = mapped_column(default=now)


class PayoutStatus(StrEnum):
    PENDING = "pending"
    PROCESSED = "processed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Payout(Base):
    """What one PoOT is paid. The unique index is what keeps it from being paid twice."""

    __tablename__ = "payouts"

    payout_id: Mapped[Key]
    poot_id: Mapped[str] = mapped_column(ForeignKey("poots.poot_id"), unique=True)
    batch_id: Mapped[str | None] = mapped_column(index=True)
    wallet_address: Mapped[str] = mapped_column(index=True)
    subject_id: Mapped[str] = mapped_column(index=True)
    node_registered: Mapped[bool]
    amount: Mapped[Decimal]
    currency: Mapped[str] = mapped_column(default="USDT")
    status: Mapped[str] = mapped_column(default=PayoutStatus.PROCESSED)
    transaction_hash: Mapped[str | None]
    withdrawal_id: Mapped[str | None] = mapped_column(
        ForeignKey("withdrawals.withdrawal_id", ondelete="RESTRICT"), index=True
    )
    created_at: Mapped[datetime] = mapped_column(default=now)
    processed_at: Mapped[datetime | None]


class AccountEntry(Base):
    """Half of a double entry: the entries of one `transfer_id` add up to zero, and so do all."""

    __tablename__ = "account_entries"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    transfer_id: Mapped[str] = mapped_column(index=True)
    # payout or withdrawal, and which.
    kind: Mapped[str]
    reference: Mapped[str] = mapped_column(index=True)
    account: Mapped[str] = mapped_column(index=True)
    amount: Mapped[Decimal]
    created_at: Mapped[datetime] = mapped_column(default=now)


class Withdrawal(Versioned, Base):
    """What a wallet is paid out: its booked payouts, less the fee."""

    __tablename__ = "withdrawals"
    __table_args__ = (Index("ix_withdrawals_day", "wallet_address", "created_at"),)

    withdrawal_id: Mapped[Key]
    wallet_address: Mapped[str]
    gross_amount: Mapped[Decimal]
    fee_amount: Mapped[Decimal]
    net_amount: Mapped[Decimal]
    currency: Mapped[str] = mapped_column(default="USDT")
    status: Mapped[str] = mapped_column(default=PayoutStatus.PENDING)
    attempts: Mapped[int] = mapped_column(default=0)
    transaction_hash: Mapped[str | None]
    last_error: Mapped[str | None]
    requested_by: Mapped[str]
    processed_at: Mapped[datetime | None]
