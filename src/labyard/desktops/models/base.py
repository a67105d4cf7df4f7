"""What all tables of desktops share. PostgreSQL only (contract D2)."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from sqlalchemy import DateTime, Numeric, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from labyard.core.clock import now

# Money in USDT, to six decimals.
MONEY = Numeric(18, 6)


class Base(DeclarativeBase):
    """Tables of their own: this service shares no users, tokens or audit log with the others."""

    type_annotation_map = {  # noqa: RUF012
        str: Text,
        datetime: DateTime(timezone=True),
        Decimal: MONEY,
        dict[str, Any]: JSONB,
        list[Any]: JSONB,
        list[str]: JSONB,
    }


class Versioned:
    """A row whose changes must not be lost: a change made from an older reading raises StaleDataError (409)."""

    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012


Key = Annotated[str, mapped_column(primary_key=True)]
