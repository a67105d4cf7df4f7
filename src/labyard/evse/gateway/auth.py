"""Who may in: HTTP Basic or a session cookie, once a password is set: contract section 4."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import time
from collections import deque

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Receive, Scope, Send

from labyard.evse.gateway.options import Options
from labyard.evse.gateway.storage import Storage

COOKIE = "oevse_session"
FILE = "session.json"
SHORT, LONG = 6 * 3600, 30 * 86400  # seconds that a session lasts
MAX_FAILURES = 10
RECENT = 300.0  # seconds
_HEADER = "OpenEVSE"


class Auth:
    """Sessions are signed with the credentials: another password, and they are worth nothing. Their time is the
    host's, not the charger's."""

    def __init__(self, options: Options, storage: Storage) -> None:
        self._options = options
        self._failures: deque[float] = deque(maxlen=MAX_FAILURES)
        kept = storage.read(FILE)
        if isinstance(kept, dict) and isinstance(kept.get("key"), str):
            self._key = kept["key"]
        else:
            self._key = secrets.token_hex(32)
            storage.write(FILE, {"key": self._key})

    @property
    def enabled(self) -> bool:
        return bool(self._options["www_password"])

    def right(self, user: str, password: str) -> bool:
        same_user = _same(user, self._options["www_username"])
        return _same(password, self._options["www_password"]) and same_user

    def failed(self) -> None:
        self._failures.append(time.monotonic())

    def too_many_failures(self) -> bool:
        return len(self._failures) == MAX_FAILURES and time.monotonic() - self._failures[0] < RECENT

    def new_session(self, remember: bool) -> str:
        """The value of Set-Cookie."""
        seconds = LONG if remember else SHORT
        text = f"{int(time.time()) + seconds}.{secrets.token_hex(8)}"
        return f"{COOKIE}={text}.{self._sign(text)}; Max-Age={seconds}; Path=/; HttpOnly; SameSite=Strict"

    def session(self, cookie: str) -> bool:
        text, _, signature = cookie.rpartition(".")
        if not text or not hmac.compare_digest(signature.encode(), self._sign(text).encode()):
            return False
        return int(text.partition(".")[0]) > time.time()

    def _sign(self, text: str) -> str:
        key = json.dumps([self._key, self._options["www_username"], self._options["www_password"]])
        return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()


class Gate:
    """Lets through who may in. `/login` is open."""

    def __init__(self, app: ASGIApp, auth: Auth) -> None:
        self._app = app
        self._auth = auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or not self._auth.enabled or scope["path"] == "/login":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        from_app = headers.get("x-requested-with") == _HEADER
        if self._basic(headers.get("authorization", "")):
            await self._app(scope, receive, send)
        elif self._auth.session(cookie_parser(headers.get("cookie", "")).get(COOKIE, "")):
            if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD") and not from_app:
                await _refuse(scope, send, 403, "csrf")
            else:
                await self._app(scope, receive, send)
        else:
            await _refuse(
                scope, send, 401, "auth", [] if from_app else [(b"www-authenticate", b'Basic realm="OpenEVSE"')]
            )

    def _basic(self, header: str) -> bool:
        scheme, _, encoded = header.partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        return self._auth.right(user, password)


def _same(given: str, right: str) -> bool:
    # JSON can name characters that UTF-8 has not.
    return hmac.compare_digest(given.encode(errors="surrogatepass"), right.encode())


async def _refuse(
    scope: Scope, send: Send, status: int, text: str, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    start = "http.response"
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008})
            return
        start = "websocket.http.response"
    common = [(b"content-type", b"application/json"), (b"cache-control", b"no-cache")]
    await send({"type": f"{start}.start", "status": status, "headers": common + (headers or [])})
    await send({"type": f"{start}.body", "body": json.dumps({"msg": text}).encode()})
