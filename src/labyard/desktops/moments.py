"""Times as texts, the same everywhere: RFC 3339 in UTC with microseconds and `Z`."""

from __future__ import annotations

from datetime import UTC, datetime

from labyard.core.clock import now


def as_text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def now_text() -> str:
    return as_text(now())


def from_text(text: str) -> datetime:
    """ValueError when it is no time."""
    return datetime.fromisoformat(text)
