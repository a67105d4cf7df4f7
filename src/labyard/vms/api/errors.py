"""The bodies of errors, `{"detail": …}` (contract section 4.1), and what happens around every request."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Mapping
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labyard.core.answers import field_error
from labyard.core.errors import ServiceError

log = structlog.get_logger(__name__)

MAX_BODY = 4 * 1024 * 1024  # bytes; the largest metadata, with every character escaped, is less than half of it
OPEN = ("/health",)


def handle_errors(app: FastAPI) -> None:
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _bad_input)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(UnicodeEncodeError, _not_text)


def answer(status: int, detail: Any, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"detail": detail}, status, dict(headers or {}))


class Guard:
    """Refuses who has no token, where one is set, and bodies that are too large; answers when all else fails."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if self._token and scope["path"] not in OPEN and not self._may(headers):
            refusal = answer(401, "Missing or wrong bearer token", {"WWW-Authenticate": "Bearer"})
            await refusal(scope, receive, send)
            return
        began = time.perf_counter()
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        asked = {"method": scope["method"], "path": scope["path"][:200]}
        try:
            await self._app(scope, _counted(receive), watched)
        except Exception:
            log.exception("unexpected error", log_id=secrets.token_hex(8), **asked)
            if status:
                raise  # closing the connection is all that is left
            await answer(500, "Internal error")(scope, receive, watched)
        finally:
            # Probes come every few seconds: the log is for the rest.
            quiet = status < 400 and scope["path"] in OPEN
            milliseconds = round((time.perf_counter() - began) * 1000, 1)
            (log.debug if quiet else log.info)("request", **asked, status=status, milliseconds=milliseconds)

    def _may(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token)


def _counted(receive: Receive) -> Receive:
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAX_BODY:
            raise HTTPException(413, f"The body is larger than {MAX_BODY} bytes")
        return message

    return counted


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return answer(error.status, error.detail, error.headers)


async def _bad_input(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return answer(422, [field_error(item) for item in error.errors()])


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 400:
        # Ours are ServiceErrors; this one comes from the framework, for a body that it cannot read.
        item = {"type": "body_invalid", "loc": ["body"], "msg": str(error.detail), "input": None}
        return answer(422, [item])
    return answer(error.status_code, error.detail, error.headers)


async def _not_text(request: Request, error: Exception) -> Response:
    """JSON can carry half a surrogate pair (RFC 8259 section 8.2), which no database takes."""
    assert isinstance(error, UnicodeEncodeError)
    if "surrogates" not in error.reason:
        raise error
    item = {"type": "string_unicode", "loc": ["body"], "msg": "a text in the body is not valid Unicode", "input": None}
    return answer(422, [item])
