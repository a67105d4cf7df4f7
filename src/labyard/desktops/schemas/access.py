"""Requests and answers of /auth, /users and /audit."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from labyard.desktops.fields import Answer, Body, Line, Moment
from labyard.desktops.roles import GIVEN


class Detail(Answer):
    field: str
    problem: str


class Failure(Answer):
    code: str
    message: str
    details: list[Detail]
    request_id: str
    timestamp: Moment


class ErrorOut(Answer):
    error: Failure


class LoginIn(Body):
    username: Line = Field(min_length=1, max_length=255)
    password: str = Field(min_length=1, max_length=1024)


class RefreshIn(Body):
    refresh_token: str = Field(min_length=1, max_length=4096)


class RevokeIn(Body):
    token: str | None = Field(default=None, min_length=1, max_length=4096)


class TokensOut(Answer):
    access_token: str
    refresh_token: str
    token_type: str
    expires_in: int


def _roles(values: list[str]) -> list[str]:
    for value in values:
        if value not in GIVEN:
            raise ValueError(f"{value[:50]!r} is no role")
    return values


class UserIn(Body):
    username: Line = Field(min_length=1, max_length=255)
    password: str = Field(min_length=12, max_length=256)
    roles: list[str] = Field(max_length=20)

    check = field_validator("roles")(_roles)


class UserChangeIn(Body):
    password: str | None = Field(default=None, min_length=12, max_length=256)
    roles: list[str] | None = Field(default=None, max_length=20)
    is_active: bool | None = None

    @field_validator("roles")
    @classmethod
    def check(cls, values: list[str] | None) -> list[str] | None:
        return values if values is None else _roles(values)


class UserOut(Answer):
    username: str
    roles: list[str]
    is_active: bool
    created_at: Moment
    last_login: Moment | None


class UsersOut(Answer):
    users: list[UserOut]


class AuditOut(Answer):
    sequence: int
    at: Moment
    event_type: str
    actor: dict[str, Any]
    resource_type: str | None
    resource_id: str | None
    action: str
    result: str
    request_id: str
    details: dict[str, Any]
    previous_hash: str
    hash: str


class AuditPage(Answer):
    entries: list[AuditOut]
    total: int
    limit: int
    offset: int
    has_next: bool
    has_previous: bool


class ChainOut(Answer):
    valid: bool
    entries: int
    first_bad: int | None
