"""Who may do what, and what was done (contract section 4)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, LargeBinary, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from labyard.core.clock import now
from labyard.desktops.models.base import Base, Key, Versioned


class User(Versioned, Base):
    __tablename__ = "users"

    username: Mapped[Key]
    password_hash: Mapped[str]
    roles: Mapped[list[str]]
    is_active: Mapped[bool] = mapped_column(default=True)
    last_login: Mapped[datetime | None]


class RefreshFamily(Base):
    """One login and the refresh tokens that came from it. `current_jti` is the only one that is still good."""

    __tablename__ = "refresh_families"

    family_id: Mapped[Key]
    username: Mapped[str] = mapped_column(ForeignKey("users.username", ondelete="CASCADE"), index=True)
    current_jti: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class TokenRevocation(Base):
    """A token, or with its family's id all tokens of a family, that no longer counts. Kept until they expire."""

    __tablename__ = "token_revocations"

    jti: Mapped[Key]
    subject: Mapped[str] = mapped_column(default="")
    reason: Mapped[str] = mapped_column(default="")
    revoked_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime] = mapped_column(index=True)


class IdempotencyKey(Base):
    """The first answer to a POST with this key. `status` is null while the first call is still at work."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (UniqueConstraint("subject", "route", "key"),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    subject: Mapped[str]
    route: Mapped[str]
    key: Mapped[str]
    body_sha256: Mapped[str]
    status: Mapped[int | None]
    headers: Mapped[dict[str, Any] | None]
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(default=now, index=True)


class AuditEntry(Base):
    """One audited event, committed with the change it describes; append-only, each with the hash of the one before.

    Never holds a secret or a token.
    """

    __tablename__ = "audit_log"

    sequence: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(index=True)
    event_type: Mapped[str] = mapped_column(index=True)
    actor: Mapped[dict[str, Any]]
    resource_type: Mapped[str | None]
    resource_id: Mapped[str | None] = mapped_column(index=True)
    action: Mapped[str]
    result: Mapped[str]
    request_id: Mapped[str]
    details: Mapped[dict[str, Any]]
    previous_hash: Mapped[str]
    hash: Mapped[str]
