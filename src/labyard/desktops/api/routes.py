"""Routers: `guarded` for callers with a token, `open_to_all` for the few routes without."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from labyard.core.errors import ServiceError
from labyard.core.together import Together
from labyard.desktops.api.answers import from_error
from labyard.desktops.api.gate import Gate
from labyard.desktops.api.json_body import LateJson
from labyard.desktops.errors import invalid
from labyard.desktops.roles import Principal, Roles
from labyard.desktops.schemas.access import ErrorOut
from labyard.desktops.service.idempotency import Idempotency, Stored

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
SHARED = "shared_by"
MAX_KEY = 128
# Answers that are kept for an Idempotency-Key. Others are asked for anew.
KEPT = {200, 201, 202, 204, 400, 404, 409}

# What any route may answer besides its own: in the OpenAPI document.
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorOut, "description": text}
    for status, text in (
        (400, "Body or query are wrong; `details` names the fields"),
        (401, "No token, or not a good one"),
        (403, "Not with these roles"),
        (404, "There is no such thing, or it is another's"),
        (409, "Not in this state"),
        (413, "The body is too large"),
        (429, "Too many requests, or beyond a quota"),
        (500, "Our fault"),
        (502, "A node's agent answered nonsense"),
        (503, "Not now"),
        (504, "A node's agent did not answer in time"),
    )
}

_bearer = HTTPBearer(auto_error=False, bearerFormat="JWT", description="The access_token of POST /auth/token.")


def shared(roles: Roles) -> Callable[[Endpoint], Endpoint]:
    """Marks what reads only, and answers all callers with one of these roles alike: those who ask for the same at the
    same time share an answer."""

    def mark(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, SHARED, roles)
        return endpoint

    return mark


class Guarded(APIRoute):
    """Admits the caller before FastAPI looks at anything else, and keeps first answers."""

    def get_route_handler(self) -> Handler:
        handler: Handler = super().get_route_handler()
        sharers: Roles = getattr(self.endpoint, SHARED, frozenset())
        together: Together[Response] = Together()

        async def guarded(request: Request) -> Response:
            gate: Gate = request.app.state.gate
            request = LateJson(request.scope, request.receive)
            request.state.principal = await gate.admit(request)
            if request.state.principal.may(sharers):
                asked = (request.url.path, request.scope["query_string"])
                answer = await together(asked, lambda: handler(request))
                # Its headers are the caller's own.
                return Response(answer.body, answer.status_code, media_type=answer.media_type)
            key = request.headers.get("idempotency-key")
            if key is None or request.method != "POST":
                return await handler(request)
            return await _once(request, key, handler)

        return guarded


class Open(APIRoute):
    def get_route_handler(self) -> Handler:
        handler: Handler = super().get_route_handler()

        async def counted(request: Request) -> Response:
            gate: Gate = request.app.state.gate
            request = LateJson(request.scope, request.receive)
            await gate.count(request, gate.login if request.url.path.endswith("/auth/token") else gate.public)
            return await handler(request)

        return counted


def guarded(prefix: str, tag: str) -> APIRouter:
    return APIRouter(prefix=prefix, tags=[tag], route_class=Guarded, dependencies=[Depends(_bearer)], responses=ERRORS)


def open_to_all(prefix: str, tag: str) -> APIRouter:
    return APIRouter(prefix=prefix, tags=[tag], route_class=Open, responses=ERRORS)


async def _once(request: Request, key: str, handler: Handler) -> Response:
    """The first answer to this key, or ours, which is the first then."""
    if not (1 <= len(key) <= MAX_KEY and key.isprintable()):
        raise invalid("Idempotency-Key", f"must have 1 to {MAX_KEY} printable characters")
    store: Idempotency = request.app.state.idempotency
    who: Principal = request.state.principal
    query = f"?{request.url.query}" if request.url.query else ""
    digest = hashlib.sha256(query.encode() + b"\n" + await request.body()).hexdigest()
    begun = await run_in_threadpool(store.begin, who.subject, f"POST {request.url.path}"[:500], key, digest)
    if isinstance(begun, Stored):
        return Response(begun.body, begun.status, {**begun.headers, "Idempotency-Replayed": "true"})
    try:
        answer = await _answer(request, handler)
        keep = answer.status_code in KEPT and "no-store" not in answer.headers.get("cache-control", "")
    except BaseException:
        await run_in_threadpool(store.forget, begun)
        raise
    if keep:
        headers: dict[str, Any] = {name: value for name, value in answer.headers.items() if name == "content-type"}
        await run_in_threadpool(store.finish, begun, Stored(answer.status_code, headers, bytes(answer.body)))
    else:
        await run_in_threadpool(store.forget, begun)
    return answer


async def _answer(request: Request, handler: Handler) -> Response:
    try:
        return await handler(request)
    except (ServiceError, RequestValidationError) as error:
        answer = from_error(error)
        if answer is None:
            raise
        return answer
