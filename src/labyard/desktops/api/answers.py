"""The one body of all errors (contract 4.3), and how each kind of exception becomes it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError, ResponseValidationError
from fastapi.responses import Response
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm.exc import StaleDataError
from starlette.exceptions import HTTPException

from labyard.core.context import caller
from labyard.core.errors import ServiceError
from labyard.core.logging import is_secret
from labyard.desktops.adapters.agent import AgentError
from labyard.desktops.api.json_body import MALFORMED
from labyard.desktops.errors import STATUS, Refusal
from labyard.desktops.moments import now_text

log = structlog.get_logger(__name__)

# Of SQLSTATE: no connection, not enough resources, the server is going down or coming up, a lock was not to be had.
AWAY = ("08", "53", "57", "55P03", "40")
NO_PATH = "There is nothing at this path; /docs lists what there is"
CODES = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 413: "BODY_TOO_LARGE", 429: "RATE_LIMITED", 500: "INTERNAL"}
MAX_PROBLEMS = 20


def error_answer(
    status: int,
    code: str,
    message: str,
    headers: Mapping[str, str] | None = None,
    problems: Iterable[tuple[str, str]] = (),
) -> Response:
    body = {
        "error": {
            "code": code,
            "message": message,
            "details": [{"field": field, "problem": problem} for field, problem in problems],
            "request_id": caller().request_id,
            "timestamp": now_text(),
        }
    }
    # ASCII: what a client sent may not be valid Unicode.
    return Response(json.dumps(body), status, dict(headers or {}), media_type="application/json")


def plain_error(status: int, _: str, message: str, headers: Mapping[str, str]) -> Response:
    """For the middleware, which knows the status and not our codes."""
    return error_answer(status, CODES.get(status, "VALIDATION_FAILED"), message, headers)


def crash() -> Response:
    """500 that tells nothing of the inside. The log has the rest, under the same request id."""
    return error_answer(500, "INTERNAL", "Something went wrong here; the service's log tells it under the request id")


def from_error(error: Exception) -> Response | None:
    """The answer to an expected failure; None for what nobody expected."""
    if isinstance(error, Refusal):
        return error_answer(error.status, error.code, error.message, error.headers, error.problems)
    if isinstance(error, AgentError):
        status = STATUS.get(error.code, 500)
        log.warning("agent failed", code=error.code, error=str(error))
        headers = {"Retry-After": "5"} if status == 503 else {}
        return error_answer(status, error.code if error.code in STATUS else "INTERNAL", str(error), headers)
    if isinstance(error, ServiceError):
        return error_answer(error.status, error.code, str(error), error.headers)
    if isinstance(error, RequestValidationError):
        return _validation(error)
    if isinstance(error, StaleDataError):
        return error_answer(409, "VERSION_CONFLICT", "It was changed by somebody else meanwhile; read it again")
    if isinstance(error, SQLAlchemyError) and database_away(error):
        log.error("the database is not there", error=type(error).__name__)
        return error_answer(503, "DB_UNAVAILABLE", "The database does not answer; try again", {"Retry-After": "2"})
    return None


def database_away(error: SQLAlchemyError) -> bool:
    if isinstance(error, (PoolTimeout, InterfaceError)):
        return True
    if isinstance(error, DBAPIError):
        state = getattr(error.orig, "sqlstate", None)
        return state.startswith(AWAY) if state else isinstance(error, OperationalError)
    return False


def handle_errors(app: FastAPI) -> None:
    for kind in (ServiceError, AgentError, RequestValidationError, StaleDataError, SQLAlchemyError):
        app.add_exception_handler(kind, _expected)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ResponseValidationError, _our_fault)


async def _expected(request: Request, error: Exception) -> Response:
    answer = from_error(error)
    if answer is None:
        raise error
    return answer


async def _our_fault(request: Request, error: Exception) -> Response:
    raise error


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = str(error.detail)
    if error.status_code == 404:
        message = NO_PATH
    elif error.status_code == 405:
        message = f"This path does not take {request.method}; /docs lists what it takes"
    return plain_error(error.status_code, "", message, error.headers or {})


def _validation(error: RequestValidationError) -> Response:
    problems: list[tuple[str, str]] = []
    for item in error.errors()[:MAX_PROBLEMS]:
        loc = [str(part) for part in item["loc"]]
        if item.get("input") is MALFORMED:
            problems = [("body", "is not valid JSON")]
            break
        if isinstance(item.get("input"), bytes):
            problems = [("body", "must be JSON, and the Content-Type application/json")]
            break
        field = ".".join(loc[1:]) or loc[0]
        problem = str(item["msg"]).removeprefix("Value error, ")
        if any(is_secret(part) for part in loc):
            problem = "is not valid"
        problems.append((field[:100], _shown(problem)))
    field, problem = problems[0]
    return error_answer(400, "VALIDATION_FAILED", f"{field}: {problem}", problems=problems)


def _shown(text: Any) -> str:
    return str(text)[:200]
