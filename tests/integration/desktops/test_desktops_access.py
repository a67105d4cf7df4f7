"""Tokens, roles, limits, idempotency keys and the audit log (contract sections 3 and 4)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi.testclient import TestClient
from sqlalchemy import text

from integration import redis_server
from labyard.core.clock import now
from labyard.desktops import audit
from labyard.desktops.api.gate import Gate, Rate
from labyard.desktops.models import AuditEntry
from labyard.desktops.roles import Role
from labyard.desktops.service import Desktops
from labyard.desktops.service.tokens import Tokens
from labyard.testing.waiting import wait_until

from .conftest import Caller
from .test_desktops_nodes import node_like
from .test_desktops_poot import load, poot_like

PASSWORD = "correct horse battery"
ROLES = [Role.NODE_VIEWER]


def code(answer: Any) -> str:
    found = answer.json()["error"]
    assert set(found) == {"code", "message", "details", "request_id", "timestamp"}
    assert answer.headers["x-request-id"] == found["request_id"]
    return str(found["code"])


@pytest.fixture
def user(service: Desktops) -> str:
    service.users.create("alice", PASSWORD, ROLES)
    return "alice"


def login(http: TestClient, password: str = PASSWORD) -> Any:
    return http.post("/api/v1/auth/token", json={"username": "alice", "password": password})


class TestLogin:
    def test_gives_tokens_that_are_good(self, http: TestClient, user: str) -> None:
        answer = login(http)
        assert answer.status_code == 200, answer.text
        assert answer.json()["expires_in"] == 900 and answer.json()["token_type"] == "Bearer"
        claims = jwt.decode(answer.json()["access_token"], options={"verify_signature": False})
        assert claims["sub"] == "alice" and claims["roles"] == ["node_viewer"] and claims["type"] == "access"
        assert set(claims) == {"iss", "aud", "sub", "roles", "type", "iat", "nbf", "exp", "jti"}
        assert jwt.get_unverified_header(answer.json()["access_token"])["alg"] == "EdDSA"
        assert Caller(http, answer.json()["access_token"]).get("/audit").status_code == 403

    @pytest.mark.parametrize(
        "body", [{"username": "alice", "password": "wrong"}, {"username": "nobody", "password": PASSWORD}]
    )
    def test_refuses_the_wrong_ones_alike(self, http: TestClient, user: str, body: dict[str, str]) -> None:
        answer = http.post("/api/v1/auth/token", json=body)
        assert answer.status_code == 401 and code(answer) == "AUTH_INVALID"
        assert answer.headers["www-authenticate"].startswith("Bearer")

    def test_a_refresh_token_counts_once_and_its_reuse_ends_the_login(self, http: TestClient, user: str) -> None:
        first = login(http).json()
        second = http.post("/api/v1/auth/refresh", json={"refresh_token": first["refresh_token"]})
        assert second.status_code == 200, second.text
        reused = http.post("/api/v1/auth/refresh", json={"refresh_token": first["refresh_token"]})
        assert reused.status_code == 401 and code(reused) == "AUTH_REVOKED"
        last = http.post("/api/v1/auth/refresh", json={"refresh_token": second.json()["refresh_token"]})
        assert last.status_code == 401
        assert code(Caller(http, second.json()["access_token"]).get("/audit")) == "AUTH_REVOKED"

    def test_five_logins_at_a_time(self, http: TestClient, user: str) -> None:
        tokens = [login(http).json()["access_token"] for _ in range(6)]
        answers = [Caller(http, token).get("/audit").status_code for token in tokens]
        assert answers == [401] + [403] * 5

    def test_an_access_token_is_no_refresh_token(self, http: TestClient, user: str) -> None:
        tokens = login(http).json()
        answer = http.post("/api/v1/auth/refresh", json={"refresh_token": tokens["access_token"]})
        assert answer.status_code == 401 and code(answer) == "AUTH_INVALID"
        assert code(Caller(http, tokens["refresh_token"]).get("/audit")) == "AUTH_INVALID"


class TestRevocation:
    @pytest.fixture
    def doomed(self, caller: Callable[..., Caller]) -> Caller:
        return caller("bob", Role.AUDITOR)

    def test_counts_at_once(self, doomed: Caller) -> None:
        assert doomed.get("/audit").status_code == 200
        assert doomed.post("/auth/revoke").status_code == 204
        assert code(doomed.get("/audit")) == "AUTH_REVOKED"

    def test_of_anothers_token_is_for_admins(self, doomed: Caller, operator: Caller, admin: Caller) -> None:
        assert operator.post("/auth/revoke", json={"token": doomed.token}).status_code == 403
        assert doomed.get("/audit").status_code == 200
        assert admin.post("/auth/revoke", json={"token": doomed.token}).status_code == 204
        assert doomed.get("/audit").status_code == 401

    def test_holds_when_redis_has_forgotten_it(self, doomed: Caller, service: Desktops) -> None:
        doomed.post("/auth/revoke")
        service.live.clear()
        assert code(doomed.get("/audit")) == "AUTH_REVOKED"

    def test_holds_after_a_restart(self, doomed: Caller, make_http: Callable[..., TestClient]) -> None:
        doomed.post("/auth/revoke")
        assert Caller(make_http(), doomed.token).get("/audit").status_code == 401

    def test_a_changed_user_is_logged_out(self, http: TestClient, user: str, admin: Caller) -> None:
        token = login(http).json()["access_token"]
        assert admin.put("/users/alice", json={"is_active": False}).status_code == 200
        assert Caller(http, token).get("/audit").status_code == 401
        assert login(http).status_code == 401


class TestWithoutRedis:
    @pytest.fixture
    def redis(self) -> Iterator[redis_server.Server]:
        with redis_server.server() as running:
            yield running

    def test_revoked_tokens_and_limits_hold_and_it_recovers(
        self, redis: redis_server.Server, caller: Callable[..., Caller], http: TestClient
    ) -> None:
        early, late, good = (caller(name, Role.AUDITOR) for name in ("a", "b", "c"))
        early.post("/auth/revoke")
        redis.kill()
        assert good.get("/audit").status_code == 200
        assert "x-ratelimit-remaining" in good.get("/audit").headers
        assert early.get("/audit").status_code == 401
        assert late.post("/auth/revoke").status_code == 204
        assert late.get("/audit").status_code == 401
        assert http.get("/ready").json()["status"] == "degraded"
        redis.start()
        for revoked in (early, late):
            assert revoked.get("/audit").status_code == 401
        service: Desktops = http.app.state.desktops  # type: ignore[attr-defined]
        wait_until(lambda: service.live.put("live:test", "x", {}, 60), "Redis is found again")
        for _ in range(2):  # the first asks PostgreSQL and fills Redis, the second asks Redis
            assert [revoked.get("/audit").status_code for revoked in (early, late)] == [401, 401]
        assert good.get("/audit").status_code == 200


class TestTokens:
    """Every 401 of contract 4.1."""

    @pytest.fixture
    def http(self, steady: Caller) -> TestClient:
        return steady.http

    @pytest.fixture
    def forge(self, http: TestClient) -> Callable[..., str]:
        tokens: Tokens = http.app.state.desktops.auth.tokens  # type: ignore[attr-defined]

        def make(key: Any = None, algorithm: str = "EdDSA", kid: str | None = None, **changes: Any) -> str:
            moment = int(now().timestamp())
            claims: dict[str, Any] = {
                "iss": "labyard-desktops", "aud": "labyard-desktops", "sub": "mallory", "roles": ["admin"],
                "type": "access", "iat": moment, "nbf": moment, "exp": moment + 600, "jti": "x.y",
            }  # fmt: skip
            claims = {name: value for name, value in (claims | changes).items() if value is not None}
            signing = tokens._keys.signing if key is None else key
            return jwt.encode(claims, signing, algorithm, headers={"kid": kid or tokens._keys.current})

        return make

    def get(self, http: TestClient, token: str | None) -> Any:
        return Caller(http, token).get("/audit")

    def test_the_forger_can_make_a_good_one(self, http: TestClient, forge: Callable[..., str]) -> None:
        assert self.get(http, forge()).status_code == 200

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"exp": 1}, "AUTH_EXPIRED"),
            ({"nbf": 4_000_000_000}, "AUTH_INVALID"),
            ({"aud": "another"}, "AUTH_INVALID"),
            ({"iss": "another"}, "AUTH_INVALID"),
            ({"type": "refresh"}, "AUTH_INVALID"),
            ({"exp": "never"}, "AUTH_INVALID"),
            ({"exp": None}, "AUTH_INVALID"),
            ({"jti": None}, "AUTH_INVALID"),
            ({"roles": None}, "AUTH_INVALID"),
            ({"roles": "admin"}, "AUTH_INVALID"),
            ({"roles": [["admin"]]}, "AUTH_INVALID"),
        ],
    )
    def test_wrong_claims(
        self, http: TestClient, forge: Callable[..., str], changes: dict[str, Any], expected: str
    ) -> None:
        answer = self.get(http, forge(**changes))
        assert answer.status_code == 401 and code(answer) == expected
        assert "invalid_token" in answer.headers["www-authenticate"]

    def test_wrong_signatures(self, http: TestClient, forge: Callable[..., str]) -> None:
        tokens: Tokens = http.app.state.desktops.auth.tokens  # type: ignore[attr-defined]
        public = tokens._keys.signing.public_key().public_bytes_raw()
        for token in (
            forge(key=Ed25519PrivateKey.generate()),
            forge(kid="unknown"),
            forge(key=public.hex(), algorithm="HS256"),
            forge(key="", algorithm="none"),
            forge()[:-6] + "AAAAAA",
            "not.a.token",
            "x",
            "é",
        ):
            answer = http.get("/api/v1/audit", headers={"Authorization": f"Bearer {token}".encode()})
            assert answer.status_code == 401 and code(answer) == "AUTH_INVALID", token

    def test_no_token(self, http: TestClient) -> None:
        for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": "Basic YTpi"}):
            answer = http.get("/api/v1/audit", headers=headers)
            assert answer.status_code == 401 and code(answer) == "AUTH_MISSING"

    def test_headers_of_identity_grant_nothing(self, http: TestClient, operator: Caller) -> None:
        claimed = {"X-User-ID": "root", "X-User-Roles": "admin"}
        assert http.get("/api/v1/audit", headers=claimed).status_code == 401
        assert operator.get("/audit", headers=claimed).status_code == 403

    def test_an_agents_role_is_not_of_tokens(self, http: TestClient, forge: Callable[..., str]) -> None:
        assert self.get(http, forge(roles=["agent"])).status_code == 403


class TestConventions:
    def test_unknown_routes_and_verbs(self, admin: Caller) -> None:
        assert code(admin.get("/nothing")) == "NOT_FOUND"
        wrong = admin.delete("/audit")
        assert wrong.status_code == 405 and code(wrong) == "METHOD_NOT_ALLOWED"

    def test_bodies_are_judged_last(self, http: TestClient, admin: Caller, operator: Caller) -> None:
        broken = {"content": b"{nonsense", "headers": {"Content-Type": "application/json"}}
        assert http.post("/api/v1/users", **broken).status_code == 401
        assert operator.post("/users", **broken).status_code == 403
        answer = admin.post("/users", **broken)
        assert answer.status_code == 400 and code(answer) == "VALIDATION_FAILED"
        assert answer.json()["error"]["details"] == [{"field": "body", "problem": "is not valid JSON"}]

    @pytest.mark.parametrize(
        "text_",
        [
            "", "[]", "null", "1", '"x"', '{"username": NaN}', '{"username": 1e999, "password": 1, "roles": []}',
            '{"username": "a\\u0000b", "password": "correct horse battery", "roles": []}',
            '{"username": "\\ud800", "password": "correct horse battery", "roles": []}',
            '{"username": "a", "password": "correct horse battery", "roles": ["king"]}',
            '{"username": "a", "password": "short", "roles": []}',
            '{"username": 5, "password": "correct horse battery", "roles": []}',
            "[" * 100_000, '{"a":' * 40 + "1" + "}" * 40, "9" * 5000,
        ],
    )  # fmt: skip
    def test_bad_bodies(self, steady: Caller, text_: str) -> None:
        answer = steady.post("/users", content=text_, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400 and code(answer) == "VALIDATION_FAILED", answer.text

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("POST", "/poot/batch/validate", {"poot_ids": ["a\0"]}),
            ("POST", "/poot/batch/payout", {"poot_ids": ["a\0"], "wallet_address": "W"}),
            ("PUT", "/nodes/{node}/pool", {"pool_id": "a\0"}),
            ("POST", "/nodes", node_like(initial_pool_id="a\0")),
            ("POST", "/poot/submit", poot_like(session_id="a\0")),
        ],
    )
    def test_an_id_that_no_database_takes(self, operator: Caller, method: str, path: str, body: dict[str, Any]) -> None:
        node = operator.post("/nodes", json=node_like()).json()["node_id"]
        answer = operator.request(method, path.format(node=node), json=body)
        assert answer.status_code == 400 and code(answer) == "VALIDATION_FAILED", answer.text

    def test_a_body_needs_no_content_type_but_no_other(self, admin: Caller) -> None:
        body = json.dumps({"username": "a", "password": PASSWORD, "roles": []})
        assert admin.post("/users", content=body).status_code == 201
        answer = admin.post("/users", content=body, headers={"Content-Type": "text/plain"})
        assert answer.status_code == 400 and "Content-Type" in answer.json()["error"]["message"]

    @pytest.mark.parametrize("path", ["/sessions", "/rdp/servers", "/nodes"])
    def test_a_state_that_there_is_not(self, steady: Caller, path: str) -> None:
        assert steady.get(f"{path}?status=bogus").status_code == 400

    def test_a_secret_is_not_repeated(self, admin: Caller) -> None:
        answer = admin.post("/users", json={"username": "a", "password": "hush", "roles": []})
        assert answer.status_code == 400 and "hush" not in answer.text

    def test_large_bodies(self, admin: Caller) -> None:
        answer = admin.post("/users", content=b"x" * (2 * 1024 * 1024 + 1))
        assert answer.status_code == 413 and code(answer) == "BODY_TOO_LARGE"

    @pytest.mark.parametrize("query", ["limit=0", "limit=101", "offset=-1", "limit=x", "since=yesterday"])
    def test_bad_queries(self, steady: Caller, query: str) -> None:
        assert steady.get(f"/audit?{query}").status_code == 400

    def test_every_answer_has_an_id_and_safe_headers(self, admin: Caller) -> None:
        answer = admin.get("/audit", headers={"X-Request-ID": "mine"})
        assert answer.headers["x-request-id"] == "mine" and answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in admin.get("/audit", headers={"Origin": "http://a.test"}).headers

    def test_health_and_metrics(self, http: TestClient) -> None:
        assert http.get("/health").status_code == 200
        ready = http.get("/ready")
        assert ready.status_code == 200 and ready.json()["status"] == "ready"
        assert all("latency_ms" in check for check in ready.json()["checks"].values())
        assert set(ready.json()["checks"]) == {"postgresql", "redis", "key_file", "ledger", "agent"}
        shown = http.get("/metrics").text
        assert "labyard_desktops_http_requests_total" in shown and "labyard_desktops_ledger_entries 1.0" in shown

    def test_metrics_are_for_this_host_and_auditors(
        self, make_http: Callable[..., TestClient], caller: Callable[..., Caller]
    ) -> None:
        auditor, viewer = caller("a", Role.AUDITOR), caller("v", Role.NODE_VIEWER)
        http = make_http(trusted_proxies="127.0.0.1")
        far = {"X-Forwarded-For": "192.0.2.1"}
        assert http.get("/metrics").status_code == 200
        assert http.get("/metrics", headers=far).status_code == 401
        assert http.get("/metrics", headers=far | viewer.headers).status_code == 403
        assert http.get("/metrics", headers=far | auditor.headers).status_code == 200


class TestLimits:
    def test_logins_of_one_address(self, http: TestClient, user: str) -> None:
        gate: Gate = http.app.state.gate  # type: ignore[attr-defined]
        assert gate.login == Rate("login", a_minute=10, burst=10)
        gate.login = replace(gate.login, a_minute=1)  # so that none flows in meanwhile
        codes = [login(http, "wrong").status_code for _ in range(11)]
        assert codes == [401] * 10 + [429]
        answer = login(http)
        assert code(answer) == "RATE_LIMITED" and int(answer.headers["retry-after"]) >= 1

    def test_of_one_caller(self, make_http: Callable[..., TestClient], caller: Callable[..., Caller]) -> None:
        one, other = caller("a", Role.AUDITOR), caller("b", Role.AUDITOR)
        http = make_http(rate_authenticated=5, rate_burst=5)  # one in 12 s flows in
        answers = [Caller(http, one.token).get("/audit") for _ in range(12)]
        assert answers[0].status_code == 200 and answers[-1].status_code == 429
        assert answers[0].headers["x-ratelimit-limit"] == "5"
        assert Caller(http, other.token).get("/audit").status_code == 200


class TestIdempotency:
    def body(self, name: str = "carol") -> dict[str, Any]:
        return {"username": name, "password": PASSWORD, "roles": []}

    def test_the_first_answer_comes_again(self, admin: Caller) -> None:
        key = {"Idempotency-Key": "k1"}
        first = admin.post("/users", json=self.body(), headers=key)
        again = admin.post("/users", json=self.body(), headers=key)
        assert first.status_code == again.status_code == 201 and first.json() == again.json()
        assert admin.post("/users", json=self.body()).status_code == 409

    def test_another_body_is_refused(self, admin: Caller) -> None:
        key = {"Idempotency-Key": "k1"}
        admin.post("/users", json=self.body(), headers=key)
        answer = admin.post("/users", json=self.body("dave"), headers=key)
        assert answer.status_code == 409 and code(answer) == "IDEMPOTENCY_MISMATCH"

    def test_callers_and_routes_have_their_own(self, admin: Caller, caller: Callable[..., Caller]) -> None:
        key = {"Idempotency-Key": "k1"}
        assert admin.post("/users", json=self.body(), headers=key).status_code == 201
        other = caller("root2", Role.ADMIN)
        assert other.post("/users", json=self.body(), headers=key).status_code == 409

    def test_at_once_the_work_is_done_once(self, admin: Caller) -> None:
        with ThreadPoolExecutor(6) as pool:
            answers = list(
                pool.map(lambda _: admin.post("/users", json=self.body(), headers={"Idempotency-Key": "k"}), range(6))
            )
        assert [answer.status_code for answer in answers] == [201] * 6
        assert len({answer.text for answer in answers}) == 1

    @pytest.mark.parametrize("key", ["", "x" * 129, "a\tb"])
    def test_bad_keys(self, steady: Caller, key: str) -> None:
        assert steady.post("/users", json=self.body(), headers={"Idempotency-Key": key}).status_code == 400


class TestAudit:
    def test_what_is_done_and_refused_is_on_it(self, http: TestClient, user: str, admin: Caller) -> None:
        login(http), login(http, "wrong")
        Caller(http, "nonsense").get("/audit")
        Caller(http, login(http).json()["access_token"]).get("/audit")
        rows = admin.get("/audit?limit=100").json()["entries"]
        seen = {(row["event_type"], row["result"]) for row in rows}
        assert {("login", "success"), ("login", "refused"), ("authentication", "refused")} <= seen
        assert ("authorisation", "forbidden") in seen and ("token", "success") in seen
        assert PASSWORD not in json.dumps(rows)
        entry = next(row for row in rows if row["result"] == "forbidden")
        assert entry["actor"]["sub"] == "alice" and entry["actor"]["ip"] and entry["request_id"]
        assert admin.get("/audit?result=forbidden").json()["total"] == 1

    def test_every_kind_of_change_is_on_it(
        self, operator: Caller, admin: Caller, caller: Callable[..., Caller]
    ) -> None:
        """Of RDP servers and recordings: test_desktops_rdp.py, and the lab's tests/flows/test_desktops_flow.py."""

        def good(who: Caller, method: str, path: str, body: Any = None) -> Any:
            answer = who.request(method, path, json=body)
            assert answer.is_success, answer.text
            return answer.json() if answer.content else None

        node = good(operator, "POST", "/nodes", node_like())["node_id"]
        load(admin, node)
        poots = [good(operator, "POST", "/poot/submit", poot_like(node_id=node))["poot_id"] for _ in range(2)]
        good(operator, "POST", "/poot/batch/validate", {"poot_ids": poots})
        good(operator, "POST", "/poot/batch/payout", {"poot_ids": poots, "wallet_address": "W"})
        good(caller("officer", Role.PAYOUT_OFFICER), "POST", "/payouts/withdrawals", {"wallet_address": "W"})
        for verb in ("start", "maintenance", "stop"):
            good(operator, "POST", f"/nodes/{node}/{verb}")
        good(admin, "POST", "/nodes/pools", {"pool_id": "pool_x", "name": "X", "max_nodes": 5})
        good(admin, "PUT", "/nodes/pools/pool_x", {"name": "Y"})
        good(operator, "PUT", f"/nodes/{node}/pool", {"pool_id": "pool_x"})
        good(operator, "DELETE", f"/nodes/{node}")
        good(admin, "DELETE", "/nodes/pools/pool_x")
        target = {"host": "a.test", "username": "u", "password": PASSWORD, "provisioning": "none"}
        made = good(operator, "POST", "/sessions", {"name": "s", "rdp_config": target})["session_id"]
        good(operator, "PUT", f"/sessions/{made}/metadata", {"priority": "high"})
        good(operator, "DELETE", f"/sessions/{made}")
        good(admin, "POST", "/users", {"username": "carol", "password": PASSWORD, "roles": ["auditor"]})
        good(admin, "PUT", "/users/carol", {"roles": []})
        good(admin, "DELETE", "/users/carol")

        entries = good(admin, "GET", "/audit?limit=100&result=success")["entries"]
        done = {f"{entry['event_type']} {entry['action']}" for entry in entries}
        assert done >= {
            "node create", "node start", "node maintenance", "node stop", "node move", "node delete", "pool create",
            "pool update", "pool delete", "operational_record import", "poot submit", "poot validate", "payout pay",
            "withdrawal create", "session create", "session metadata", "session delete", "user create", "user update",
            "user delete",
        }  # fmt: skip
        assert PASSWORD not in json.dumps(entries)
        assert good(admin, "GET", "/audit/verify")["valid"]

    def test_the_chain_holds_and_a_change_is_found(self, service: Desktops, admin: Caller) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: audit.note(service.database, "test", f"n{n}"), range(40)))
        assert admin.get("/audit/verify").json() == {"valid": True, "entries": 41, "first_bad": None}
        with service.database.engine.begin() as connection:
            connection.execute(text("ALTER TABLE audit_log DISABLE TRIGGER append_only"))
            connection.execute(text("GRANT UPDATE ON audit_log TO CURRENT_USER"))
            connection.execute(text("UPDATE audit_log SET action = 'nothing' WHERE sequence = 7"))
        assert audit.verify(service.database)["first_bad"] == 7

    def test_the_chain_holds_over_any_number(self, service: Desktops) -> None:
        """PostgreSQL's JSON has no -0.0, and writes 1e+22 out."""
        numbers = [-0.0, 5.0, 0.1, 1e22, 1e-7, -2.5e300, 2**70]
        audit.note(service.database, "test", "numbers", details={"plain": -0.0, "deep": {"list": numbers}})
        assert audit.verify(service.database)["valid"]

    def test_is_committed_with_its_change_or_not_at_all(self, service: Desktops) -> None:
        before = audit.verify(service.database)["entries"]
        with pytest.raises(RuntimeError), service.database.transaction() as session:
            audit.record(session, "test", "fails")
            raise RuntimeError
        with service.database.transaction() as session:
            session.get(AuditEntry, 0)
        assert audit.verify(service.database)["entries"] == before
