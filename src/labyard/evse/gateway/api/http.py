"""What all routes share: bodies, forms, errors, methods: contract section 4."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

MAX_BODY = 64 * 1024
MAX_FIELDS = 64
NO_CACHE = {"Cache-Control": "no-cache"}
_TOO_LONG = f"The body must not be longer than {MAX_BODY} bytes"

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
        if int(request.headers.get("content-length", 0)) > MAX_BODY:  # also where nobody reads it
            return message(_TOO_LONG, 413)
        handler = handlers.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            return wrong_method or message("Method not allowed", 405)
        try:
            return await handler(request)
        except ApiError as error:
            return message(error.message, error.status)

    made = Route(path, endpoint)
    made.methods = None  # the endpoint itself knows which there are
    return made


async def body(request: Request) -> bytes:
    """ApiError 413: longer than 64 KiB; it is read no further."""
    parts, length = [], 0
    async for part in request.stream():
        length += len(part)
        if length > MAX_BODY:
            raise ApiError(413, _TOO_LONG)
        parts.append(part)
    return b"".join(parts)


async def json_body(request: Request, refusal: str) -> Any:
    """The body as JSON, whatever its Content-Type. ApiError 400 with `refusal`: it is none."""
    return _json(await body(request), refusal)


def _json(text: bytes, refusal: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError):
        raise ApiError(400, refusal) from None


def _no_number(name: str) -> NoReturn:
    """NaN and Infinity, which Python reads and JSON has not."""
    raise ValueError(name)


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


async def json_object(request: Request, refusal: str, may_be_empty: bool = False) -> dict[str, Any]:
    """`may_be_empty`: no body at all is an empty object."""
    text = await body(request)
    if may_be_empty and not text:
        return {}
    content = _json(text, refusal)
    if not isinstance(content, dict):
        raise ApiError(400, refusal)
    return content


async def parameters(request: Request) -> dict[str, str]:
    """From the query and the form in the body, whatever its Content-Type; latin-1 bytes stay what they are."""
    forms = [request.url.query]
    if request.method not in ("GET", "HEAD"):
        forms.append((await body(request)).decode("latin-1").strip())
    found: dict[str, str] = {}
    for form in forms:
        try:
            found |= parse_qsl(form, keep_blank_values=True, encoding="latin-1", max_num_fields=MAX_FIELDS)
        except ValueError:
            raise ApiError(400, f"There must not be more than {MAX_FIELDS} form fields") from None
    return found


def path_number(request: Request, name: str, end: int) -> int:
    """The whole number of that name in the path. ApiError 404: it is none, or not below `end`."""
    text = str(request.path_params[name])
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(end)) and int(text) < end):
        raise ApiError(404, "Not found")
    return int(text)


def refuse_foreign(request: Request) -> None:
    """ApiError 403: a page of another origin makes this browser change something with a plain link or picture."""
    if request.method == "POST":
        return
    site = request.headers.get("sec-fetch-site", "")
    origin = request.headers.get("origin", "")
    other = origin and origin.partition("://")[2] != request.headers.get("host", "")
    if site in ("cross-site", "same-site") or other:
        raise ApiError(403, "Refused: the request comes from another origin")
