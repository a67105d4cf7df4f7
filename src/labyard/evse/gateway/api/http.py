"""What all routes share: bodies, forms, errors, methods: contract section 4."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

MAX_BODY = 64 * 1024
NO_CACHE = {"Cache-Control": "no-cache"}

Handler = Callable[[Request], Awaitable[Response]]


class ApiError(Exception):
    """An answer of 400 or above: `{"msg": message}`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def reply(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    text = json.dumps(content, separators=(",", ":"))
    return Response(text, status, NO_CACHE | (headers or {}), "application/json")


def text_reply(text: str, status: int = 200, media_type: str = "text/plain") -> Response:
    return Response(text, status, NO_CACHE, media_type)


def message(text: str, status: int = 200) -> Response:
    return reply({"msg": text}, status)


def route(path: str, handlers: dict[str, Handler], wrong_method: Response | None = None) -> Route:
    """One path with a handler for each method; any other method is 405, and HEAD is GET without the body."""

    async def endpoint(request: Request) -> Response:
        handler = handlers.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            return wrong_method or message("Method not allowed", 405)
        try:
            return await handler(request)
        except ApiError as error:
            return message(error.message, error.status)

    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    return Route(path, endpoint, methods=methods)


async def body(request: Request) -> bytes:
    """ApiError 413: longer than 64 KiB; it is read no further."""
    parts, length = [], 0
    async for part in request.stream():
        length += len(part)
        if length > MAX_BODY:
            raise ApiError(413, f"The body must not be longer than {MAX_BODY} bytes")
        parts.append(part)
    return b"".join(parts)


async def json_body(request: Request, refusal: str) -> Any:
    """The body as JSON, whatever its Content-Type. ApiError 400 with `refusal`: it is none."""
    content = await body(request)
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise ApiError(400, refusal) from None


async def json_object(request: Request, refusal: str, may_be_empty: bool = False) -> dict[str, Any]:
    """`may_be_empty`: no body at all is an empty object."""
    if may_be_empty and request.headers.get("content-length", "0") == "0":
        return {}
    content = await json_body(request, refusal)
    if not isinstance(content, dict):
        raise ApiError(400, refusal)
    return content


async def parameters(request: Request) -> dict[str, str]:
    """From the query and the form in the body, whatever its Content-Type; latin-1 bytes stay what they are."""
    pairs = parse_qsl(request.url.query, keep_blank_values=True, encoding="latin-1", max_num_fields=64)
    if request.method not in ("GET", "HEAD"):
        form = (await body(request)).decode("latin-1").strip()
        try:
            pairs += parse_qsl(form, keep_blank_values=True, encoding="latin-1", max_num_fields=64)
        except ValueError:
            raise ApiError(400, "Too many form fields") from None
    return dict(pairs)


def refuse_foreign(request: Request) -> None:
    """ApiError 403: a page of another origin makes this browser change something with a plain link or picture."""
    site = request.headers.get("sec-fetch-site", "")
    origin = request.headers.get("origin", "")
    other = origin and urlsplit(origin).netloc != request.headers.get("host", "")
    if site in ("cross-site", "same-site") or other:
        raise ApiError(403, "Refused: the request comes from another origin")
