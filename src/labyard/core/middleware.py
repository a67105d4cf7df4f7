"""What happens around every request: id, caller, path, limits, log, metrics, and the answer when all else fails.

Plain ASGI: Starlette's BaseHTTPMiddleware is slow, and loses what a route puts into the context.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labyard.core.answers import NO_PATH, error_answer, internal_error
from labyard.core.context import Caller, caller, set_caller
from labyard.core.metrics import Metrics
from labyard.core.ratelimit import EXEMPT, RateLimiter
from labyard.core.settings import Network

log = structlog.get_logger("labyard.access")

API = "/api/v1"
# Where a route finds the headers that its answer gets, whatever becomes of it.
HEADERS = "labyard.headers"
MAX_BODY = 1024 * 1024  # bytes, where the service names no other limit

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LONG = re.compile(r"[A-Za-z0-9_-]{32,}")  # a boot token in a path


class Around:
    """`rooted` are the first parts of paths that are served at the root as well as under /api/v1 (contract 1.3).

    `body_limits`: bytes, by the path below which they hold; 0 where the route sees to it.
    `limiter` None: the routes count for themselves. `headers` are in every answer. `answer_error` makes the bodies of
    errors, from status, code, text and headers.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        limiter: RateLimiter | None,
        proxies: Sequence[Network],
        rooted: Collection[str],
        body_limits: Mapping[str, int],
        headers: Mapping[str, str] | None = None,
        quiet: re.Pattern[str] = EXEMPT,
        answer_error: Callable[[int, str, str, Mapping[str, str]], Response] = error_answer,
        answer_crash: Callable[[], Response] = internal_error,
    ) -> None:
        self.app = app
        self._headers = dict(headers or {})
        self._quiet = quiet
        self._answer_error = answer_error
        self._answer_crash = answer_crash
        self._metrics = metrics
        self._limiter = limiter
        self._proxies = proxies
        self._rooted = frozenset(rooted)
        self._body_limits = body_limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = Headers(scope=scope)
        asked_id = headers.get("x-request-id", "")
        request_id = asked_id if _REQUEST_ID.fullmatch(asked_id) else secrets.token_hex(8)
        address = self._client(scope, headers)
        agent = headers.get("user-agent", "")[:200]
        set_caller(Caller(request_id=request_id, address=address, user_agent=agent))
        scope["path"] = self._path(scope["path"])
        extra = scope[HEADERS] = {"X-Request-ID": request_id, **self._headers}
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(extra)
            await send(message)

        try:
            await self._limited(scope, receive, answer, headers, address, extra)
        except ClientDisconnect:
            pass  # nobody is left to answer
        except Exception:
            log.exception("unexpected error", method=scope["method"], path=_shown(scope["path"]))
            if status:
                raise  # the answer has begun: closing the connection is all that is left
            await self._answer_crash()(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - began
            template = _template(scope)
            self._metrics.answered(scope["method"], template, status or 499, seconds)
            # Probes come every few seconds: the journal is for the rest.
            quiet = status < 400 and self._quiet.fullmatch(scope["path"])
            (log.debug if quiet else log.info)(
                "request",
                method=scope["method"],
                path=_shown(scope["path"]),
                status=status or 499,  # 499: the client went away
                milliseconds=round(seconds * 1000, 1),
                client=address,
                user=caller().username,
            )

    async def _limited(
        self, scope: Scope, receive: Receive, answer: Send, headers: Headers, address: str, extra: dict[str, str]
    ) -> None:
        verdict = await self._limiter.hit(scope["method"], scope["path"], address) if self._limiter else None
        if verdict:
            extra.update(verdict.headers())
            if not verdict.allowed:
                response = self._answer_error(
                    429,
                    "rate_limit_exceeded",
                    f"Too many requests: {verdict.limit} per {verdict.window} s; try again in {verdict.wait} s",
                    {"Retry-After": str(verdict.wait)},
                )
                await response(scope, receive, answer)
                return
        if "\0" in scope["path"]:  # what a path holds may go into the database, and PostgreSQL takes no NUL
            await self._answer_error(404, "not_found", NO_PATH, {})(scope, receive, answer)
            return
        limit = self._body_limit(scope["path"])
        length = headers.get("content-length", "")
        if limit and length.isdigit() and int(length) > limit:
            text = f"The body is larger than {limit} bytes"
            await self._answer_error(413, "content_too_large", text, {"Connection": "close"})(scope, receive, answer)
            return
        await self.app(scope, _counted(receive, limit) if limit else receive, answer)

    def _path(self, path: str) -> str:
        """One form for all spellings of a path, so that routes, limits and metrics see one."""
        if len(path) > 1 and path.endswith("/"):
            path = path[:-1]
        return API + path if path[1:].partition("/")[0] in self._rooted else path

    def _body_limit(self, path: str) -> int:
        return next((limit for prefix, limit in self._body_limits.items() if path.startswith(prefix)), MAX_BODY)

    def _client(self, scope: Scope, headers: Headers) -> str:
        """The peer; behind trusted proxies the last address that none of them added to X-Forwarded-For."""
        peer: str = (scope.get("client") or ("", 0))[0]
        if not self._proxies or not self._trusted(peer):
            return peer
        hops = [hop.strip() for line in headers.getlist("x-forwarded-for") for hop in line.split(",")]
        for hop in reversed(hops):
            try:
                peer = str(ipaddress.ip_address(hop))
            except ValueError:
                break
            if not self._trusted(peer):
                break
        return peer

    def _trusted(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._proxies)


def _counted(receive: Receive, limit: int) -> Receive:
    """For bodies without Content-Length: 413 as soon as too much has come."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise HTTPException(413, f"The body is larger than {limit} bytes")
        return message

    return counted


def _shown(path: str) -> str:
    return _LONG.sub("…", path)[:200]


def _template(scope: Scope) -> str:
    """The route's path with its parameters' names: a bounded set, unlike the paths that clients ask for."""
    path = getattr(scope.get("route"), "path", None)
    if path is None:
        return "unmatched"
    return API + path if scope["path"].startswith(API) and not path.startswith(API) else str(path)
