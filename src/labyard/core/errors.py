"""Errors that a service answers with. One shape for all: `{"error", "detail", "timestamp", "request_id"}`."""

from __future__ import annotations

from typing import Any


class ServiceError(Exception):
    """An expected failure: HTTP status, a code that programs read, and a text that people read."""

    def __init__(
        self, status: int, code: str, detail: str | list[dict[str, Any]], headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail if isinstance(detail, str) else code)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers or {}


def unauthenticated(detail: str = "Authentication failed") -> ServiceError:
    return ServiceError(401, "authentication_error", detail, {"WWW-Authenticate": "Bearer"})


def forbidden(role: str) -> ServiceError:
    """403; `role` is the least role that may."""
    return ServiceError(403, "authorization_error", f"{role.capitalize()} privileges required")


def not_found(detail: str) -> ServiceError:
    return ServiceError(404, "not_found", detail)


def conflict(detail: str) -> ServiceError:
    return ServiceError(409, "conflict_error", detail)


def invalid(field: str, message: str, value: Any = None) -> ServiceError:
    """422 for one field of the body, shaped as FastAPI's own field errors are."""
    return ServiceError(
        422, "validation_error", [{"type": "value_error", "loc": ["body", field], "msg": message, "input": value}]
    )
