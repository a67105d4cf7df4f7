"""Reads a request's JSON body and its fields. BadRequest becomes an answer with an `error` text."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from starlette.requests import Request

LARGEST = 64 * 1024

Body = dict[str, Any]


class BadRequest(Exception):
    def __init__(self, text: str, status: int = 400, **more: Any) -> None:
        super().__init__(text)
        self.status = status
        self.answer = more | {"error": text}


async def read(request: Request) -> Body:
    """The object in the body. BadRequest: 415, 413, or 400 when it is none."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise BadRequest(f"Content-Type must be application/json, not {kind or 'missing'}", 415)
    data = b""
    async for piece in request.stream():
        data += piece
        if len(data) > LARGEST:
            raise BadRequest(f"the body must have at most {LARGEST} bytes", 413)
    try:
        body = json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON") from None
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    return body


def number(body: Body, key: str, low: float, high: float | None = None) -> float:
    value = body.get(key)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= (high or 1e9):
        return float(value)
    raise BadRequest(f"{key} must be a number " + (f"from {low:g} to {high:g}" if high else f"of {low:g} or more"))


def whole(body: Body, key: str, low: int, high: int) -> int:
    value = body.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return value
    raise BadRequest(f"{key} must be a whole number from {low} to {high}")


def boolean(body: Body, key: str) -> bool:
    value = body.get(key)
    if isinstance(value, bool):
        return value
    raise BadRequest(f"{key} must be true or false")


def choice(body: Body, key: str, *choices: str) -> str:
    value = body.get(key)
    if isinstance(value, str) and value in choices:
        return value
    raise BadRequest(f"{key} must be one of {', '.join(choices)}")


def text(body: Body, key: str) -> str | None:
    """None: it is not there."""
    value = body.get(key)
    if value is None or isinstance(value, str):
        return value
    raise BadRequest(f"{key} must be a text")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
