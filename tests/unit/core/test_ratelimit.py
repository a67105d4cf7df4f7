"""Rate limits (contract section 4)."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from ports import free_port

from labyard.core import ratelimit
from labyard.core.ratelimit import OTHERS, RateLimiter, Rule
from labyard.testing.waiting import PATIENCE, wait_until

from .conftest import Login, MakeApp

WRONG = {"username": "x", "password": "y"}
RULES = [Rule("*", "/api/v1/ipxe/script/{token}", 3, 60, "token"), Rule("POST", "/api/v1/images/upload", 5, 60)]


class TestHttp:
    def test_login_takes_twenty_in_all_its_forms(self, client: TestClient) -> None:
        forms = ["/auth/login", "/auth/login/", "/api/v1/auth/login", "/api/v1/auth/login/"]
        answers = [client.post(forms[i % 4], json=WRONG) for i in range(21)]
        assert [answer.status_code for answer in answers] == [401] * 20 + [429]
        assert [int(answer.headers["X-RateLimit-Remaining"]) for answer in answers] == [*range(19, -1, -1), 0]
        refused = answers[-1]
        body = refused.json()
        assert body["error"] == "rate_limit_exceeded"
        assert body["request_id"] == refused.headers["X-Request-ID"]
        assert 0 < int(refused.headers["Retry-After"]) <= 300
        assert refused.headers["Retry-After"] in body["detail"]
        assert (refused.headers["X-RateLimit-Limit"], refused.headers["X-RateLimit-Window"]) == ("20", "300")
        assert time.time() < int(refused.headers["X-RateLimit-Reset"]) <= time.time() + 302
        # what is limited is the login, not the client
        assert client.get("/things").status_code == 401

    def test_refresh_takes_thirty(self, client: TestClient) -> None:
        codes = [client.post("/auth/refresh", json={"refresh_token": "x"}).status_code for _ in range(31)]
        assert codes == [401] * 30 + [429]

    def test_a_public_route_is_counted_by_token(self, client: TestClient) -> None:
        codes = [client.get("/api/v1/ipxe/script/one").status_code for _ in range(61)]
        assert codes == [200] * 60 + [429]
        assert client.get("/api/v1/ipxe/script/two").status_code == 200

    def test_health_is_not_counted(self, client: TestClient) -> None:
        for path in ("/health", "/api/v1/health/live", "/health/ready/"):
            assert not [name for name in client.get(path).headers if name.startswith("x-ratelimit")]

    @pytest.mark.parametrize("path", ["/things", "/nothing", "/things/1/broken", "/docs"])
    def test_all_else_is_counted_together_and_says_so(self, client: TestClient, path: str) -> None:
        first, second = client.get(path).headers, client.get("/metrics").headers
        assert (first["X-RateLimit-Limit"], first["X-RateLimit-Window"]) == ("6000", "60")
        assert int(second["X-RateLimit-Remaining"]) == int(first["X-RateLimit-Remaining"]) - 1

    def test_ten_requests_a_second_pass(self, client: TestClient, login: Login) -> None:
        headers = login()
        assert {client.get("/things", headers=headers).status_code for _ in range(600)} == {200}


class TestRules:
    async def test_each_client_has_its_own_bucket(self) -> None:
        limiter = RateLimiter(RULES)
        for client in ("10.0.0.1", "10.0.0.2"):
            verdicts = [await limiter.hit("POST", "/api/v1/images/upload", client) for _ in range(6)]
            assert [verdict and verdict.allowed for verdict in verdicts] == [True] * 5 + [False]

    async def test_the_method_counts(self) -> None:
        limiter = RateLimiter(RULES)
        for _ in range(10):
            verdict = await limiter.hit("GET", "/api/v1/images/upload", "c")
            assert verdict and verdict.limit == OTHERS.limit

    async def test_what_is_below_a_path_shares_its_bucket(self) -> None:
        limiter = RateLimiter(RULES)
        paths = ["/api/v1/ipxe/script/t", "/api/v1/ipxe/script/t/events/ipxe_load"] * 2
        verdicts = [await limiter.hit("GET", path, "c") for path in paths]
        assert [verdict and verdict.allowed for verdict in verdicts] == [True, True, True, False]
        other = await limiter.hit("GET", "/api/v1/ipxe/scripts", "c")
        assert other and other.limit == OTHERS.limit

    async def test_trying_many_tokens_is_limited_by_client(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ratelimit, "OTHERS", Rule("*", "", 10, 60))
        limiter = RateLimiter(RULES)
        verdicts = [await limiter.hit("GET", f"/api/v1/ipxe/script/{i}", "c") for i in range(11)]
        assert [verdict and verdict.allowed for verdict in verdicts] == [True] * 10 + [False]

    async def test_nobody_waits_longer_than_the_window(self) -> None:
        limiter = RateLimiter([Rule("GET", "/x", 1, 60)])
        verdicts = [await limiter.hit("GET", "/x", "c") for _ in range(2)]
        assert verdicts[1] and not verdicts[1].allowed and 30 <= verdicts[1].wait <= 60

    async def test_a_window_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        limiter = RateLimiter([Rule("GET", "/x", 1, 600)])
        assert [(await limiter.hit("GET", "/x", "c")).allowed for _ in range(2)] == [True, False]  # type: ignore[union-attr]
        later = time.time() + 600
        monkeypatch.setattr(time, "time", lambda: later)
        verdict = await limiter.hit("GET", "/x", "c")
        assert verdict and verdict.allowed


class TestWithoutRedis:
    def test_requests_go_on_and_health_says_so(
        self, make_app: MakeApp, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = f"redis://127.0.0.1:{free_port()}/0"
        with TestClient(make_app(redis_url=url)) as client:
            codes = [client.post("/auth/login", json=WRONG).status_code for _ in range(21)]
            assert codes == [401] * 20 + [429]
            body = client.get("/health/detailed").json()
            assert (body["status"], body["checks"]["redis"]["status"]) == ("degraded", "degraded")
            assert client.get("/health/ready").status_code == 200

    def test_is_disabled_when_none_is_configured(self, client: TestClient) -> None:
        assert client.get("/health/detailed").json()["checks"]["redis"] == {"status": "disabled"}


# The server under another name: redis-tools carries it, and unlike redis-server starts no service when installed.
REDIS = shutil.which("redis-check-rdb") or pytest.fail("apt-get install redis-tools", pytrace=False)


class TestWithRedis:
    @pytest.fixture(autouse=True)
    def patient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a busy machine Redis may take longer than a request of a service would wait for it."""
        monkeypatch.setattr(ratelimit, "REDIS_TIMEOUT", PATIENCE)

    @pytest.fixture
    def port(self) -> int:
        return free_port()

    @pytest.fixture
    def redis(self, tmp_path: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
        process = self.start(tmp_path, port)
        yield process
        process.kill()
        process.wait()
        assert not list(tmp_path.glob("*.rdb")), "redis-server saved its data"

    @staticmethod
    def start(folder: Path, port: int) -> subprocess.Popen[bytes]:
        """A server that keeps nothing. It runs in `folder`, too, so that nothing of it is ever in the checkout."""
        arguments = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
        arguments += ["--save", "", "--appendonly", "no"]
        process = subprocess.Popen(
            ["redis-server", *arguments], executable=REDIS, cwd=folder, stdout=subprocess.DEVNULL
        )

        def answers() -> bool:
            assert process.poll() is None, "redis-server has ended"
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_until(answers, "redis-server listens")
        return process

    async def test_two_processes_share_a_bucket(self, redis: object, port: int) -> None:
        limiters = [RateLimiter(RULES, f"redis://127.0.0.1:{port}/0") for _ in range(2)]
        verdicts = [await limiters[i % 2].hit("POST", "/api/v1/images/upload", "c") for i in range(6)]
        assert [verdict and verdict.allowed for verdict in verdicts] == [True] * 5 + [False]
        assert await limiters[0].health() == {"status": "healthy"}

    async def test_goes_on_while_redis_is_away_and_comes_back_to_it(
        self, redis: subprocess.Popen[bytes], port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ratelimit, "REDIS_PAUSE", 0.2)
        limiter = RateLimiter(RULES, f"redis://127.0.0.1:{port}/0")
        other = RateLimiter(RULES, f"redis://127.0.0.1:{port}/0")
        assert await limiter.hit("GET", "/x", "c")
        redis.kill()
        redis.wait()
        began = time.perf_counter()
        for _ in range(20):
            assert await limiter.hit("GET", "/x", "c")
        assert time.perf_counter() - began < PATIENCE / 2  # none of them waits for Redis
        assert (await limiter.health())["status"] == "degraded"
        again = self.start(tmp_path, port)
        try:
            await asyncio.sleep(0.3)
            verdicts = [await limiter.hit("POST", "/api/v1/images/upload", "c") for _ in range(5)]
            assert all(verdict and verdict.allowed for verdict in verdicts)
            shared = await other.hit("POST", "/api/v1/images/upload", "c")
            assert shared and not shared.allowed, json.dumps(shared.headers())
        finally:
            again.kill()
            again.wait()
