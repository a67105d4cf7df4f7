"""The one body of all errors (contract section 4), and how each kind of exception becomes it."""

from __future__ import annotations

import http
import json
import math
import time
from collections.abc import Mapping
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from labyard.core.context import caller
from labyard.core.errors import ServiceError
from labyard.core.logging import HIDDEN, is_secret, redact

log = structlog.get_logger(__name__)

_CODES = {401: "authentication_error", 403: "authorization_error", 404: "not_found", 409: "conflict_error"}
NO_PATH = "There is nothing at this path; /docs lists what there is"
_MAX_INPUT = 200  # characters of a refused value that the answer repeats


def error_answer(
    status: int, code: str, detail: str | list[dict[str, Any]], headers: Mapping[str, str] | None = None
) -> Response:
    body = {"error": code, "detail": detail, "timestamp": time.time(), "request_id": caller().request_id}
    return Response(json.dumps(body), status, {**(headers or {})}, media_type="application/json")


def internal_error() -> Response:
    """500 that tells nothing of the inside. The log has the rest, under the same request id."""
    return error_answer(
        500,
        "internal_error",
        f"Something went wrong here; the service's log tells it under request id {caller().request_id}",
    )


def handle_errors(app: FastAPI) -> None:
    """Expected failures, bad input, and paths or methods that do not exist. The rest is for the middleware."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _bad_input)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(UnicodeEncodeError, _not_text)


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    if error.status >= 500:
        log.error("request failed", error=error.code, detail=error.detail)
    detail = error.detail if isinstance(error.detail, str) else [field_error(item) for item in error.detail]
    return error_answer(error.status, error.code, detail, error.headers)


async def _bad_input(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_answer(422, "validation_error", [field_error(item) for item in error.errors()])


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    if error.status_code == 400:
        # Services raise ServiceError; this one comes from the framework, for a body that it cannot read.
        item = {"type": "body_invalid", "loc": ["body"], "msg": detail, "input": None}
        return error_answer(422, "validation_error", [item])
    if error.status_code == 404:
        detail = NO_PATH
    elif error.status_code == 405:
        detail = f"This path does not take {request.method}; /docs lists what it takes"
    code = _CODES.get(error.status_code) or http.HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    return error_answer(error.status_code, code, detail, error.headers)


async def _not_text(request: Request, error: Exception) -> Response:
    """JSON can carry half a surrogate pair (RFC 8259 section 8.2), which no database takes."""
    assert isinstance(error, UnicodeEncodeError)
    if "surrogates" not in error.reason:
        raise error
    item = {"type": "string_unicode", "loc": ["body"], "msg": "a text in the body is not valid Unicode", "input": None}
    return error_answer(422, "validation_error", [item])


def field_error(item: Mapping[str, Any]) -> dict[str, Any]:
    """One of pydantic's errors as an answer may carry it: no secrets, nothing that JSON cannot hold."""
    loc = list(item["loc"])
    value = item.get("input")
    if any(is_secret(str(part)) for part in loc):
        value = HIDDEN if value is not None else None
    elif loc == ["body"] and not isinstance(value, dict):
        value = None  # a body that is no object: nobody knows what is in it
        if item["type"] == "model_attributes_type":
            item = {**item, "msg": "the body must be a JSON object, sent with Content-Type: application/json"}
    return {
        "type": item["type"],
        "loc": [_plain(part) for part in loc],
        "msg": _plain(str(item["msg"]).removeprefix("Value error, ")),
        "input": _plain(redact(value)),
    }


def _plain(value: Any) -> Any:
    """What JSON and UTF-8 can carry: a client may send NaN, half a surrogate pair, or a megabyte."""
    if isinstance(value, dict):
        return {str(_plain(str(key))): _plain(item) for key, item in list(value.items())[:50]}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value[:50]]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text[:_MAX_INPUT].encode("utf-8", "replace").decode()
