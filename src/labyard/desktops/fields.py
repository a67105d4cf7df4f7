"""Kinds of fields that requests and answers share. Bodies are strict: no number from a text, no NaN."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import Query
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from labyard.core.clock import as_text

_DURATION = re.compile(r"([1-9][0-9]{0,8})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST = timedelta(days=30)


class Body(BaseModel):
    """A request's body. Unknown fields are ignored and not stored."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True)


def is_text(value: str) -> bool:
    """Whether a database and a log take it: no control characters, no half of a surrogate pair."""
    return not any(ord(char) < 32 or 127 <= ord(char) < 160 or 0xD800 <= ord(char) < 0xE000 for char in value)


def _line(value: str) -> str:
    if not is_text(value):
        raise ValueError("must not hold control characters")
    return value


def _prose(value: str) -> str:
    if not is_text(value.translate({9: None, 10: None, 13: None})):
        raise ValueError("must not hold control characters")
    return value


def _trimmed(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def parse_time(value: Any) -> datetime:
    """RFC 3339 or ISO 8601; without a zone it is UTC. ValueError."""
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or len(value) > 64:
        raise ValueError("must be a time such as 2026-01-31T12:00:00Z")
    try:
        moment = datetime.fromisoformat(value.strip())
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be a time such as 2026-01-31T12:00:00Z") from None


def _parse_duration(value: Any) -> timedelta:
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("must be a number and s, m, h or d, such as 1h")
    seconds = int(found[1]) * _UNITS[found[2]]
    if seconds > LONGEST.total_seconds():
        raise ValueError("must be at most 30d")
    return timedelta(seconds=seconds)


def _microseconds(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


# One line of text, and several.
Line = Annotated[str, AfterValidator(_line)]
Prose = Annotated[str, AfterValidator(_prose)]
Name = Annotated[str, BeforeValidator(_trimmed), AfterValidator(_line)]
# In answers: RFC 3339 in UTC, with microseconds and Z.
Moment = Annotated[
    datetime, PlainSerializer(_microseconds, when_used="json"), Field(json_schema_extra={"format": "date-time"})
]
# In requests.
TimeIn = Annotated[datetime, BeforeValidator(parse_time)]
Duration = Annotated[
    timedelta,
    BeforeValidator(_parse_duration),
    Query(json_schema_extra={"type": "string", "pattern": "^[1-9][0-9]*[smhd]$"}),
]

__all__ = [
    "Answer",
    "Body",
    "Duration",
    "Line",
    "Moment",
    "Name",
    "Prose",
    "TimeIn",
    "as_text",
    "is_text",
    "parse_time",
]
