"""What comes before every route, in the contract's order: who asks (401), then how often (429).

Roles (403), path ids (404) and bodies (400) follow in the routes themselves, see deps.py.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from dataclasses import dataclass

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from labyard.core.context import caller, set_username
from labyard.core.database import Database
from labyard.core.middleware import HEADERS
from labyard.desktops import audit
from labyard.desktops.adapters.live import Live
from labyard.desktops.errors import Refusal
from labyard.desktops.https import PEER
from labyard.desktops.roles import Principal, Role
from labyard.desktops.service.auth import Auth
from labyard.desktops.service.enrolment import Enrolment
from labyard.desktops.service.tokens import ACCESS, Claims
from labyard.desktops.settings import Settings

MAX_LOCAL = 10_000  # buckets that this process keeps while Redis is away


@dataclass(frozen=True)
class Rate:
    """A token bucket: `a_minute` flow in, at most `burst` are kept."""

    name: str
    a_minute: int
    burst: int

    @property
    def a_second(self) -> float:
        return self.a_minute / 60


class LocalBuckets:
    """Token buckets of this process, for when Redis is away. The longest unused go first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def take(self, subject: str, rate: Rate) -> tuple[bool, float]:
        moment = time.monotonic()
        tokens, at = self._kept.pop((subject, rate.name), (float(rate.burst), moment))
        tokens = min(rate.burst, tokens + (moment - at) * rate.a_second)
        allowed = tokens >= 1
        tokens -= allowed
        self._kept[subject, rate.name] = (tokens, moment)
        if len(self._kept) > MAX_LOCAL:
            self._kept.popitem(last=False)
        return allowed, tokens


class Gate:
    def __init__(self, settings: Settings, live: Live, auth: Auth, enrolment: Enrolment, database: Database) -> None:
        self._live = live
        self._enrolment = enrolment
        self._auth = auth
        self._database = database
        self._local = LocalBuckets()

        def rate(name: str, a_minute: int, burst: int | None = None) -> Rate:
            return Rate(name, a_minute, min(a_minute, burst or settings.rate_burst))

        self.login = rate("login", settings.rate_login)
        self.public = rate("public", settings.rate_public)
        self._authenticated = rate("authenticated", settings.rate_authenticated)
        self._admin = rate("admin", settings.rate_admin, 2 * settings.rate_burst)
        self._poot = rate("poot", settings.rate_poot)
        self._create = rate("create", settings.rate_create)

    async def admit(self, request: Request) -> Principal:
        """The caller. Refusal 401 or 429."""
        principal = await self._agent(request)
        claims: Claims | None = None
        if principal is None:
            try:
                claims = self._claims(request)
            except Refusal as refusal:
                await self._turn_away(request, refusal, refusal.code != "AUTH_MISSING")
                raise
            principal = Principal(claims.subject, claims.roles, claims.jti)
        set_username(principal.subject, tuple(sorted(principal.roles)))
        rate = self._rate_of(request, principal)
        jtis = (claims.jti, claims.family) if claims else ()
        admission = await self._live.admit(jtis, f"user:{principal.subject}", rate.name, rate.a_second, rate.burst)
        if claims:
            revoked = admission.revoked if admission else None
            if revoked is None:
                revoked = await run_in_threadpool(self._auth.is_revoked, claims)
            if revoked:
                late = Refusal("AUTH_REVOKED", "The token was revoked")
                await self._turn_away(request, late, True)
                raise late
        if admission:
            self._judge(request, rate, admission.allowed, admission.tokens)
        else:
            self._judge(request, rate, *self._local.take(f"user:{principal.subject}", rate))
        return principal

    async def _agent(self, request: Request) -> Principal | None:
        """The agent behind a client certificate, which the handshake has checked. 401 when it was replaced."""
        shown: bytes | None = request.scope.get("extensions", {}).get(PEER, {}).get("certificate")
        if shown is None:
            return None
        node_id = await run_in_threadpool(self._enrolment.node_of, shown)
        if node_id is None:
            refusal = Refusal("AUTH_INVALID", "The certificate is no agent's any more")
            await self._turn_away(request, refusal, True)
            raise refusal
        return Principal(f"agent:{node_id}", frozenset({Role.AGENT}), node_id=node_id)

    async def count(self, request: Request, rate: Rate) -> None:
        """One request of an address: for the open routes. Refusal 429."""
        subject = f"ip:{caller().address}"
        admission = await self._live.admit((), subject, rate.name, rate.a_second, rate.burst)
        allowed, tokens = (admission.allowed, admission.tokens) if admission else self._local.take(subject, rate)
        self._judge(request, rate, allowed, tokens)

    def _claims(self, request: Request) -> Claims:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not token.strip() or scheme.lower() != "bearer":
            raise Refusal("AUTH_MISSING", "Send Authorization: Bearer with an access token of POST /api/v1/auth/token")
        return self._auth.tokens.read(token.strip(), ACCESS)

    async def _turn_away(self, request: Request, refusal: Refusal, on_record: bool) -> None:
        # Counted, so that nobody fills the audit log without a token.
        await self.count(request, self.public)
        if on_record:
            await run_in_threadpool(
                audit.note, self._database, "authentication", f"{request.method} {request.url.path}"[:200],
                result="refused", details={"code": refusal.code},
            )  # fmt: skip

    def _rate_of(self, request: Request, principal: Principal) -> Rate:
        if Role.ADMIN in principal.roles:
            return self._admin
        path = request.url.path
        if path.startswith("/api/v1/poot/"):
            return self._poot
        if request.method == "POST" and path in ("/api/v1/sessions", "/api/v1/rdp/servers"):
            return self._create
        return self._authenticated

    def _judge(self, request: Request, rate: Rate, allowed: bool, tokens: float) -> None:
        full = (rate.burst - tokens) / rate.a_second
        headers = {
            "X-RateLimit-Limit": str(rate.a_minute),
            "X-RateLimit-Remaining": str(max(0, int(tokens))),
            "X-RateLimit-Reset": str(math.ceil(time.time() + full)),
        }
        request.scope[HEADERS].update(headers)
        if not allowed:
            wait = max(1, math.ceil((1 - tokens) / rate.a_second))
            raise Refusal(
                "RATE_LIMITED",
                f"Too many requests: {rate.a_minute} a minute; try again in {wait} s",
                headers={"Retry-After": str(wait)},
            )
