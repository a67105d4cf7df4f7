"""Fields that more than one service's requests have."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from labyard.core.passwords import RULE, follows_rule

_EMAIL = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)*")


def fold(value: Any) -> Any:
    """For enums, which are read in any case (contract section 1.2): `BeforeValidator(fold)`."""
    return value.strip().lower() if isinstance(value, str) else value


def _no_nul(value: str | None) -> str | None:
    if value and "\0" in value:
        raise ValueError("must not hold a NUL character")
    return value


def _email(value: str | None) -> str | None:
    text = (value or "").strip().lower()
    if not text:
        return None
    if len(text) > 255 or not text.isprintable() or not _EMAIL.fullmatch(text):
        raise ValueError("must look like name@example.org")
    return text


def _password(value: str) -> str:
    if not follows_rule(value):
        raise ValueError(RULE)
    return value


Email = Annotated[str | None, AfterValidator(_email)]
NewPassword = Annotated[str, Field(max_length=256), AfterValidator(_password)]
Fold = BeforeValidator(fold)
# SQLite ends a search pattern at a NUL, and PostgreSQL takes it in no text.
NoNul = AfterValidator(_no_nul)
