"""Time, as the services keep it: aware datetimes in UTC."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    return datetime.now(UTC)


def as_text(moment: datetime) -> str:
    """ISO 8601 in UTC with `Z`, as every answer carries it."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
