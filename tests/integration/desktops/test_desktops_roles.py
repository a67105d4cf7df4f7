"""Every operation: mounted, closed without a token, and open to the roles that the contract names and to no other."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from labyard.desktops import roles
from labyard.desktops.roles import Role, Roles

from .conftest import API, OPERATORS, Caller

S, R, N, P = "/sessions", "/rdp/servers", "/nodes", "/poot"
# Method, path, who may: the 51 operations of contract sections 5 to 8.
OPERATIONS: list[tuple[str, str, Roles]] = [
    ("POST", S, roles.SESSION_OPERATE),
    ("GET", f"{S}/x", roles.SESSION_READ),
    ("POST", f"{S}/x/start", roles.SESSION_OPERATE),
    ("POST", f"{S}/x/stop", roles.SESSION_OPERATE),
    ("GET", f"{S}/x/pipeline", roles.SESSION_READ),
    ("GET", f"{S}/x/pipeline/stages/recording", roles.SESSION_READ),
    ("GET", f"{S}/x/chunks", roles.SESSION_READ),
    ("GET", f"{S}/x/chunks/x", roles.SESSION_READ),
    ("GET", f"{S}/x/statistics", roles.SESSION_READ),
    ("GET", f"{S}/x/anchoring", roles.SESSION_READ),
    ("GET", f"{S}/x/errors", roles.SESSION_READ),
    ("GET", f"{S}/x/metadata", roles.SESSION_READ),
    ("PUT", f"{S}/x/metadata", roles.SESSION_OPERATE),
    ("POST", R, roles.RDP_USE),
    ("GET", f"{R}/x", roles.RDP_READ),
    ("DELETE", f"{R}/x", roles.RDP_USE),
    ("POST", f"{R}/x/start", roles.RDP_USE),
    ("POST", f"{R}/x/stop", roles.RDP_USE),
    ("GET", f"{R}/x/service-status", roles.RDP_READ),
    ("GET", f"{R}/x/resources", roles.RDP_READ),
    ("POST", f"{R}/x/test-connection", roles.RDP_USE),
    ("GET", f"{R}/x/usage", roles.RDP_READ),
    ("GET", f"{R}/x/usage/history", roles.RDP_READ),
    ("GET", f"{R}/x/alerts", roles.RDP_READ),
    ("GET", f"{R}/x/sessions", roles.RDP_READ),
    ("GET", f"{R}/x/configuration", roles.RDP_READ),
    ("PUT", f"{R}/x/configuration", roles.RDP_USE),
    ("POST", N, roles.NODE_OPERATE),
    ("GET", N, roles.NODE_READ),
    ("GET", f"{N}/x", roles.NODE_READ),
    ("DELETE", f"{N}/x", roles.NODE_OPERATE),
    ("POST", f"{N}/x/start", roles.NODE_OPERATE),
    ("POST", f"{N}/x/stop", roles.NODE_OPERATE),
    ("POST", f"{N}/x/heartbeat", roles.NODE_OPERATE),
    ("GET", f"{N}/x/pool", roles.NODE_READ),
    ("PUT", f"{N}/x/pool", roles.NODE_OPERATE),
    ("GET", f"{N}/x/usage", roles.NODE_READ),
    ("GET", f"{N}/x/usage/history", roles.NODE_READ),
    ("GET", f"{N}/x/alerts", roles.NODE_READ),
    ("GET", f"{N}/pools/x/statistics", roles.NODE_READ),
    ("GET", f"{N}/statistics", roles.NODE_READ),
    ("POST", f"{P}/submit", roles.NODE_OPERATE),
    ("POST", f"{P}/x/validate", roles.NODE_OPERATE),
    ("GET", f"{P}/x", roles.NODE_READ),
    ("POST", f"{P}/x/payout", roles.NODE_OPERATE),
    ("GET", f"{P}/x/payout", roles.NODE_READ),
    ("POST", f"{P}/batch/validate", roles.NODE_OPERATE),
    ("POST", f"{P}/batch/payout", roles.NODE_OPERATE),
    ("GET", f"{P}/statistics", roles.NODE_READ),
    ("GET", f"{P}/history", roles.NODE_READ),
    ("GET", f"{P}/nodes/x/statistics", roles.NODE_READ),
]
FURTHER: list[tuple[str, str, Roles]] = [
    ("GET", S, roles.SESSION_READ),
    ("DELETE", f"{S}/x", roles.SESSION_MANAGE),
    ("POST", f"{S}/x/pause", roles.SESSION_OPERATE),
    ("POST", f"{S}/x/resume", roles.SESSION_OPERATE),
    ("GET", f"{S}/x/proof", roles.SESSION_READ),
    ("GET", f"{S}/x/export", roles.SESSION_MANAGE),
    ("GET", f"{S}/x/chunks/x/proof", roles.SESSION_READ),
    ("GET", f"{S}/x/chunks/x/object", roles.SESSION_READ),
    ("GET", f"{S}/x/chunks/x/content", roles.SESSION_MANAGE),
    ("GET", "/ledger/head", roles.SESSION_SEE_ALL),
    ("GET", "/ledger/key", roles.SESSION_SEE_ALL),
    ("GET", "/ledger/entries", roles.SESSION_SEE_ALL),
    ("GET", "/ledger/proof/0", roles.SESSION_SEE_ALL),
    ("GET", "/ledger/consistency?from=1&to=1", roles.SESSION_SEE_ALL),
    ("POST", "/ledger/verify", roles.SESSION_SEE_ALL),
    ("GET", f"{N}/pools", roles.NODE_READ),
    ("GET", f"{N}/pools/x", roles.NODE_READ),
    ("POST", f"{N}/pools", roles.ADMIN),
    ("PUT", f"{N}/pools/x", roles.ADMIN),
    ("DELETE", f"{N}/pools/x", roles.ADMIN),
    ("POST", f"{N}/x/maintenance", roles.NODE_OPERATE),
    ("POST", f"{N}/x/enrolment", roles.NODE_OPERATE),
    ("PUT", f"{P}/nodes/x/operational-record", roles.ADMIN),
    ("GET", "/payouts", roles.PAYOUT_READ),
    ("GET", "/payouts/withdrawals", roles.WITHDRAWAL_READ),
    ("POST", "/payouts/withdrawals", roles.WITHDRAW),
    ("GET", "/audit", roles.AUDIT),
    ("GET", "/audit/verify", roles.AUDIT),
    ("GET", "/users", roles.ADMIN),
    ("POST", "/users", roles.ADMIN),
    ("PUT", "/users/x", roles.ADMIN),
    ("DELETE", "/users/x", roles.ADMIN),
    ("POST", "/admin/reset", roles.ADMIN),
]
OPEN = {("POST", f"{API}/auth/token"), ("POST", f"{API}/auth/refresh"), ("POST", f"{API}/agents/enrol")}


@pytest.fixture
def http(steady: Caller) -> TestClient:
    """Nothing that is asked here changes anything."""
    return steady.http


def mounted(http: TestClient) -> set[tuple[str, str]]:
    paths: dict[str, Any] = http.get("/openapi.json").json()["paths"]
    return {(method.upper(), path) for path, found in paths.items() for method in found if path.startswith(API)}


def test_there_are_51() -> None:
    assert len(OPERATIONS) == len({(method, path) for method, path, _ in OPERATIONS}) == 51


def test_each_is_in_the_openapi_document(http: TestClient) -> None:
    there = {(method, re.sub(r"/\{[^}]+\}", "/x", path)) for method, path in mounted(http)}
    for method, path, _ in OPERATIONS + FURTHER:
        path = re.sub("/(recording|0)$", "/x", path.partition("?")[0])  # what stands for an id
        assert (method, f"{API}{path}") in there, (method, path)


def test_none_is_shadowed(admin: Caller) -> None:
    for method, path, _ in OPERATIONS + FURTHER:
        answer = admin.request(method, path)
        assert answer.status_code != 405, (method, path)
        if answer.status_code == 404 and path != "/admin/reset":
            assert "/x" in path, (method, path)
            assert answer.json()["error"]["code"] != "NOT_FOUND" or path.startswith("/users"), (method, path)


def test_none_is_open(http: TestClient) -> None:
    for method, path in mounted(http) - OPEN:
        answer = http.request(method, path.replace("{", "").replace("}", ""))
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "AUTH_MISSING"), (method, path)


def test_roles(caller: Callable[..., Caller]) -> None:
    for role in Role:
        if role == Role.AGENT:
            continue
        asking = caller(f"with-{role}", role)
        for method, path, allowed in OPERATIONS + FURTHER:
            forbidden = asking.request(method, path).status_code == 403
            assert forbidden == (role not in allowed), (role, method, path)


def test_three_roles_do_for_all_51(operator: Caller) -> None:
    assert all(allowed & set(OPERATORS) for _, _, allowed in OPERATIONS)
    for method, path, _ in OPERATIONS:
        assert operator.request(method, path).status_code not in (401, 403), (method, path)


def test_an_unknown_id_comes_before_a_bad_body(operator: Caller) -> None:
    for method, path, _ in [item for item in OPERATIONS if "/x" in item[1]]:
        broken = {"content": b"{no json", "headers": {"Content-Type": "application/json"}}
        answer = operator.request(method, path, **(broken if method in ("POST", "PUT") else {}))
        assert answer.status_code == 404 and answer.json()["error"]["code"].endswith("_NOT_FOUND"), (method, path)
