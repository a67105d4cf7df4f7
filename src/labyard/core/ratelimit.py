"""Rate limits (contract section 4): fixed windows, counted in Redis for all processes, or in this process.

When Redis is away the counting goes on in this process, the log and the health check say so, and requests go on.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.aio.strategies import FixedWindowRateLimiter

log = structlog.get_logger(__name__)

REDIS_TIMEOUT = 0.25  # seconds that a request waits for Redis
REDIS_PAUSE = 5.0  # seconds without Redis before it is tried again


@dataclass(frozen=True)
class Rule:
    """At most `limit` requests in `window` seconds, for each `key`.

    `pattern` is a full path under /api/v1 with {names}; `method` `*` is any. `key` is `client`, the client's address,
    or a name in the pattern, such as `token`.
    """

    method: str
    pattern: str
    limit: int
    window: int
    key: str = "client"
    regex: re.Pattern[str] = field(init=False, repr=False, compare=False)
    item: RateLimitItemPerSecond = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = re.split(r"\{(\w+)\}", self.pattern)
        text = "".join(f"(?P<{part}>[^/]+)" if i % 2 else re.escape(part) for i, part in enumerate(parts))
        # A rule also holds for what is below its path.
        object.__setattr__(self, "regex", re.compile(rf"{text}(?:/.*)?"))
        object.__setattr__(self, "item", RateLimitItemPerSecond(self.limit, self.window))


AUTH_RULES = (Rule("POST", "/api/v1/auth/login", 20, 300), Rule("POST", "/api/v1/auth/refresh", 30, 60))
OTHERS = Rule("*", "", 6000, 60)
EXEMPT = re.compile(r"/api/v1/health(?:/.*)?")


@dataclass(frozen=True)
class Verdict:
    """`window` and `wait` are seconds; `reset` is the Unix time at which the window ends."""

    allowed: bool
    limit: int
    remaining: int
    reset: int
    window: int

    @property
    def wait(self) -> int:
        return min(self.window, max(1, self.reset - int(time.time())))

    def headers(self) -> dict[str, str]:
        return {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(self.reset),
            "X-RateLimit-Window": str(self.window),
        }


class RateLimiter:
    """The first rule that fits a request counts it; all that fit none share the bucket of `OTHERS`."""

    def __init__(self, rules: Sequence[Rule] = (), redis_url: str = "", name: str = "labyard") -> None:
        self._rules = (*AUTH_RULES, *rules)
        self._memory = FixedWindowRateLimiter(MemoryStorage())
        self._redis: FixedWindowRateLimiter | None = None
        self._storage: Storage | None = None
        self._away_until = 0.0
        self._away = False
        if redis_url:
            self._storage = RedisStorage(
                redis_url,
                implementation="redispy",
                key_prefix=name,
                wrap_exceptions=True,
                socket_timeout=REDIS_TIMEOUT,
                socket_connect_timeout=REDIS_TIMEOUT,
            )
            self._redis = FixedWindowRateLimiter(self._storage)

    async def hit(self, method: str, path: str, client: str) -> Verdict | None:
        """Count one request. None where nothing is counted. Never raises."""
        if EXEMPT.fullmatch(path):
            return None
        for rule in self._rules:
            if rule.method in ("*", method) and (match := rule.regex.fullmatch(path)):
                verdict = await self._count(rule, client if rule.key == "client" else match[rule.key])
                if rule.key != "client" and verdict.allowed:
                    # Who tries many tokens is one client all the same.
                    others = await self._count(OTHERS, client)
                    return verdict if others.allowed else others
                return verdict
        return await self._count(OTHERS, client)

    async def health(self) -> dict[str, str]:
        """For the health check `redis`: disabled when none is configured."""
        if self._storage is None:
            return {"status": "disabled"}
        try:
            healthy = await self._storage.check()
        except Exception:
            healthy = False
        if healthy:
            return {"status": "healthy"}
        return {"status": "degraded", "detail": "Redis does not answer; rate limits are counted in each process"}

    async def _count(self, rule: Rule, who: str) -> Verdict:
        if self._redis and time.monotonic() >= self._away_until:
            try:
                verdict = await _hit(self._redis, rule, who)
            except Exception as error:
                self._away_until = time.monotonic() + REDIS_PAUSE
                if not self._away:
                    log.warning("Redis is away; rate limits are counted in this process", error=str(error))
                self._away = True
            else:
                if self._away:
                    log.info("Redis is back; rate limits are shared again")
                self._away = False
                return verdict
        return await _hit(self._memory, rule, who)


async def _hit(limiter: FixedWindowRateLimiter, rule: Rule, who: str) -> Verdict:
    keys = (rule.method, rule.pattern, who)
    allowed = await limiter.hit(rule.item, *keys)
    reset, remaining = await limiter.get_window_stats(rule.item, *keys)
    return Verdict(allowed, rule.limit, remaining, int(reset) + 1, rule.window)
