"""Redis: what may be lost (contract section 10). Every key has a TTL and begins with `ly:desktops:<env>:`.

Nothing here raises when Redis is away: the answer is None or False, and the caller does without. After a failure Redis
is left alone for a moment, so that no request waits for it again and again. Redis must keep nothing over a restart:
then it comes back without the key `loaded:revocations`, and PostgreSQL is asked which tokens are revoked.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import redis
import redis.asyncio
import structlog
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

log = structlog.get_logger(__name__)

TIMEOUT = 0.25  # seconds that anybody waits for Redis
PAUSE = 1.0  # seconds without Redis before it is tried again
LOADED = 3600  # seconds after which revocations are loaded anew

T = TypeVar("T")

# A token bucket: the time is Redis's, so that all processes count alike. Answers {allowed, tokens left * 1000}.
BUCKET = """
local rate, capacity = tonumber(ARGV[1]), tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local kept = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = math.min(capacity, (tonumber(kept[1]) or capacity) + (now - (tonumber(kept[2]) or now)) * rate)
local allowed = 0
if tokens >= 1 then tokens = tokens - 1; allowed = 1 end
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at', string.format('%.6f', now))
redis.call('EXPIRE', KEYS[1], math.ceil(capacity / rate) + 60)
return {allowed, math.floor(tokens * 1000)}
"""


@dataclass(frozen=True)
class Admission:
    """`revoked` None: Redis does not hold the revocations now, PostgreSQL must be asked."""

    revoked: bool | None
    allowed: bool
    tokens: float


class Live:
    """`url` is Redis's, `env` the environment that keys are kept apart by."""

    def __init__(self, url: str, env: str) -> None:
        self._prefix = f"ly:desktops:{env}:"
        options: dict[str, Any] = {
            "socket_timeout": TIMEOUT,
            "socket_connect_timeout": TIMEOUT,
            "decode_responses": True,
            "max_connections": 256,
        }
        # One retry: a connection of before Redis's restart is found dead only when it is used.
        self._redis = redis.Redis.from_url(url, retry=Retry(NoBackoff(), 1), **options)
        self._async = redis.asyncio.Redis.from_url(url, retry=AsyncRetry(NoBackoff(), 1), **options)
        self._bucket = hashlib.sha1(BUCKET.encode(), usedforsecurity=False).hexdigest()
        self._away_until = 0.0
        self._away = False
        # How many revocations did not get here, and how many of them were loaded since.
        self.missed = self._made_good = 0

    def key(self, kind: str, *names: str) -> str:
        return self._prefix + ":".join((kind, *names))

    # For routes, before they run

    async def admit(
        self, jtis: Sequence[str], subject: str, rate_class: str, rate: float, capacity: int
    ) -> Admission | None:
        """Count one request of `subject`, and look whether a token is revoked, in one round trip.

        `rate` is per second. None: Redis is away.
        """
        if self._resting():
            return None
        asked = [self.key("revoked", jti) for jti in jtis]
        bucket = self.key("rl", subject, rate_class)

        async def ask() -> Any:
            pipe = self._async.pipeline(transaction=False)
            pipe.exists(self.key("loaded", "revocations"))
            if asked:
                pipe.exists(*asked)
            pipe.evalsha(self._bucket, 1, bucket, str(rate), str(capacity))
            return await pipe.execute()

        try:
            try:
                loaded, *revoked, (allowed, tokens) = await ask()
            except NoScriptError:  # Redis was started again
                await self._async.script_load(BUCKET)
                loaded, *revoked, (allowed, tokens) = await ask()
        except (redis.RedisError, OSError) as error:
            self._lost(error)
            return None
        self._found()
        gone = bool(revoked and revoked[0])
        sure = gone or (loaded and self.missed == self._made_good)
        return Admission(gone if sure else None, bool(allowed), tokens / 1000)

    # For everything else

    def revoke(self, jti: str, seconds: float) -> bool:
        return self._do(lambda: self._redis.set(self.key("revoked", jti), "1", ex=max(1, int(seconds) + 1))) is not None

    def load_revocations(self, left: Mapping[str, float], missed: int) -> bool:
        """Take all revocations that still matter, by the seconds that they do. `missed` is as it was before they were
        read: one that came after is not among them."""

        def load() -> bool:
            with self._redis.pipeline() as pipe:
                for jti, seconds in left.items():
                    pipe.set(self.key("revoked", jti), "1", ex=max(1, int(seconds) + 1))
                pipe.set(self.key("loaded", "revocations"), "1", ex=LOADED)
                pipe.execute()
            return True

        loaded = bool(self._do(load))
        if loaded:
            self._made_good = max(self._made_good, missed)
        return loaded

    def forget_loaded(self) -> None:
        """A revocation did not get here: until all are loaded again, `admit` does not say which tokens are revoked."""
        self.missed += 1

    def put(self, kind: str, name: str, value: Mapping[str, Any], seconds: int) -> bool:
        """Keep what is measured now. `kind` is `hb` for heartbeats, or `live:<kind>`."""
        return self._do(lambda: self._redis.set(self.key(kind, name), json.dumps(value), ex=seconds)) is not None

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        text: Any = self._do(lambda: self._redis.get(self.key(kind, name)))
        return json.loads(text) if text else None

    def push(self, kind: str, names: Iterable[str], value: Mapping[str, Any], keep: int, seconds: int) -> bool:
        """Add to lists of the `keep` newest, each of which goes after `seconds` without another."""

        def add() -> Any:
            text = json.dumps(value)
            with self._redis.pipeline() as pipe:
                for key in (self.key(kind, name) for name in names):
                    pipe.lpush(key, text)
                    pipe.ltrim(key, 0, keep - 1)
                    pipe.expire(key, seconds)
                return pipe.execute()

        return self._do(add) is not None

    def newest(self, kind: str, name: str, count: int) -> list[dict[str, Any]] | None:
        """Newest first. None when Redis is away."""
        texts: Any = self._do(lambda: self._redis.lrange(self.key(kind, name), 0, count - 1))
        return None if texts is None else [json.loads(text) for text in texts]

    def drop(self, kind: str, name: str) -> None:
        self._do(lambda: self._redis.delete(self.key(kind, name)))

    def clear(self) -> None:
        """Take away every key of this environment."""

        def all_of_them() -> None:
            for key in self._redis.scan_iter(f"{self._prefix}*", count=500):
                self._redis.delete(key)

        self._do(all_of_them)

    def ping(self) -> bool:
        try:
            return bool(self._redis.ping())
        except (redis.RedisError, OSError):
            return False

    def close(self) -> None:
        self._redis.close()

    async def close_async(self) -> None:
        await self._async.aclose()

    def _do(self, work: Callable[[], T]) -> T | None:
        if self._resting():
            return None
        try:
            done = work()
        except (redis.RedisError, OSError) as error:
            self._lost(error)
            return None
        self._found()
        return done

    def _resting(self) -> bool:
        return time.monotonic() < self._away_until

    def _lost(self, error: Exception) -> None:
        self._away_until = time.monotonic() + PAUSE
        if not self._away:
            log.warning("Redis is away; this process goes on without it", error=str(error) or type(error).__name__)
        self._away = True

    def _found(self) -> None:
        if self._away:
            log.info("Redis is back")
        self._away = False
