"""/auth/users: accounts, for administrators (contract section 5.1)."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from .conftest import GOOD_PASSWORD, Login

FIELDS = {"id", "username", "email", "role", "status", "is_active", "created_at", "last_login"}


def make(client: TestClient, headers: dict[str, str], **changes: object):
    body = {"username": "eve", "password": GOOD_PASSWORD, **changes}
    return client.post("/auth/users", json=body, headers=headers)


class TestCreate:
    def test_with_the_defaults(self, client: TestClient, login: Login, audit_log) -> None:
        answer = make(client, login())
        assert answer.status_code == 201
        body = answer.json()
        assert set(body) == FIELDS
        assert (body["role"], body["status"], body["is_active"], body["email"]) == ("viewer", "active", True, None)
        row = audit_log()[-1]
        assert (row.action, row.username, row.resource_id) == ("user_created", "admin", str(body["id"]))
        assert "password" not in row.new_values

    def test_reads_a_role_in_any_case(self, client: TestClient, login: Login) -> None:
        assert make(client, login(), role="OPERATOR").json()["role"] == "operator"

    def test_inactive_from_the_start(self, client: TestClient, login: Login) -> None:
        body = make(client, login(), is_active=False).json()
        assert (body["is_active"], body["status"]) == (False, "inactive")
        answer = client.post("/auth/login", json={"username": "eve", "password": GOOD_PASSWORD})
        assert answer.status_code == 401

    @pytest.mark.parametrize(("field", "value"), [("username", "eve"), ("email", "EVE@b.c")])
    def test_a_duplicate_is_422(self, client: TestClient, login: Login, field: str, value: str) -> None:
        assert make(client, login(), email="eve@b.c").status_code == 201
        answer = make(client, login(), **{"username": "mallory", "email": "m@b.c", field: value})
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", field]

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("username", ""),
            ("username", " "),
            ("username", "a b"),
            ("username", "x\n"),
            ("username", "a" * 101),
            ("username", None),
            ("password", "swordfish"),
            ("password", None),
            ("role", "root"),
            ("role", None),
            ("is_active", "perhaps"),
            ("email", "nonsense"),
        ],
    )
    def test_bad_input_is_422(self, client: TestClient, login: Login, field: str, value: object) -> None:
        answer = make(client, login(), **{field: value})
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"][:2] == ["body", field]
        assert "swordfish" not in answer.text


class TestList:
    def test_newest_first_and_paged(self, client: TestClient, login: Login) -> None:
        headers = login()
        for number in range(3):
            make(client, headers, username=f"user{number}")
        answer = client.get("/auth/users", params={"limit": 2}, headers=headers)
        assert [user["username"] for user in answer.json()] == ["user2", "user1"]
        assert answer.headers["X-Total-Count"] == "4"
        rest = client.get("/auth/users/", params={"skip": 2}, headers=headers).json()
        assert [user["username"] for user in rest] == ["user0", "admin"]
        assert set(rest[0]) == FIELDS

    @pytest.mark.parametrize("query", ["limit=0", "limit=1001", "skip=-1", "skip=99999999999999999999", "limit=x"])
    def test_a_bad_page_is_422(self, client: TestClient, login: Login, query: str) -> None:
        assert client.get(f"/auth/users?{query}", headers=login()).status_code == 422


class TestOne:
    def test_shows_wrong_logins_and_the_lock(self, client: TestClient, login: Login, clock) -> None:
        headers = login()
        make(client, headers)
        for _ in range(5):
            client.post("/auth/login", json={"username": "eve", "password": "wrong"})
        body = client.get("/auth/users/2", headers=headers).json()
        assert set(body) == {*FIELDS, "failed_login_attempts", "locked_until"}
        assert body["failed_login_attempts"] == 5
        assert body["locked_until"].endswith("Z")
        clock.advance(minutes=31)
        body = client.get("/auth/users/2", headers=login()).json()
        assert (body["failed_login_attempts"], body["locked_until"]) == (0, None)

    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
    def test_unknown_is_404(self, client: TestClient, login: Login, method: str) -> None:
        answer = client.request(method, "/auth/users/77", json={}, headers=login())
        assert (answer.status_code, answer.json()["error"]) == (404, "not_found")
        assert answer.json()["detail"] == "User with ID 77 not found"

    @pytest.mark.parametrize("number", ["0", "-1", "2147483648", "99999999999999999999"])
    def test_a_number_that_no_user_can_have_is_404(self, client: TestClient, login: Login, number: str) -> None:
        for method in ("GET", "PUT", "DELETE"):
            answer = client.request(method, f"/auth/users/{number}", json={}, headers=login())
            assert (answer.status_code, answer.json()["detail"]) == (404, f"User with ID {number} not found")

    @pytest.mark.parametrize("number", ["x", "1.5"])
    def test_a_bad_id_is_422(self, client: TestClient, login: Login, number: str) -> None:
        assert client.get(f"/auth/users/{number}", headers=login()).status_code == 422


class TestUpdate:
    def test_changes_what_is_given_and_keeps_the_rest(self, client: TestClient, login: Login, audit_log) -> None:
        headers = login()
        make(client, headers, email="eve@b.c")
        answer = client.put("/auth/users/2", json={"role": "operator"}, headers=headers)
        assert answer.status_code == 200
        assert (answer.json()["role"], answer.json()["email"]) == ("operator", "eve@b.c")
        row = audit_log()[-1]
        assert (row.action, row.old_values, row.new_values) == (
            "user_updated",
            {"role": "viewer"},
            {"role": "operator"},
        )
        assert client.put("/auth/users/2", json={"email": None}, headers=headers).json()["email"] is None

    def test_a_role_counts_at_once(self, client: TestClient, user, login: Login) -> None:
        theirs = user("viewer")
        assert client.post("/things", json={"name": "x"}, headers=theirs).status_code == 403
        client.put("/auth/users/2", json={"role": "operator"}, headers=login())
        assert client.post("/things", json={"name": "x"}, headers=theirs).status_code == 201

    def test_deactivating_ends_access_at_once_and_for_good(self, client: TestClient, user, login: Login) -> None:
        theirs = user("viewer")
        tokens = client.post("/auth/login", json={"username": "a-viewer", "password": GOOD_PASSWORD}).json()
        answer = client.put("/auth/users/2", json={"is_active": False}, headers=login())
        assert answer.json()["status"] == "inactive"
        assert client.get("/things", headers=theirs).status_code == 401
        assert client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]}).status_code == 401
        client.put("/auth/users/2", json={"is_active": True}, headers=login())
        assert client.get("/things", headers=theirs).status_code == 401
        login("a-viewer", GOOD_PASSWORD)

    @pytest.mark.parametrize("body", [{"role": None}, {"is_active": None}, {"role": "root"}, {"email": "x"}])
    def test_bad_input_is_422(self, client: TestClient, user, login: Login, body: dict[str, object]) -> None:
        user("viewer")
        assert client.put("/auth/users/2", json=body, headers=login()).status_code == 422

    @pytest.mark.parametrize("body", [{"role": "viewer"}, {"is_active": False}])
    def test_the_last_administrator_stays(self, client: TestClient, login: Login, body: dict[str, object]) -> None:
        headers = login()
        assert client.put("/auth/users/1", json=body, headers=headers).status_code == 422
        assert client.get("/auth/users", headers=headers).status_code == 200


class TestDelete:
    def test_ends_access_at_once(self, client: TestClient, user, login: Login, audit_log) -> None:
        theirs = user("viewer")
        answer = client.delete("/auth/users/2", headers=login())
        assert (answer.status_code, set(answer.json())) == (200, {"message"})
        assert client.get("/things", headers=theirs).status_code == 401
        assert client.get("/auth/users/2", headers=login()).status_code == 404
        assert "user_deleted" in [row.action for row in audit_log()]

    def test_oneself_is_422(self, client: TestClient, login: Login) -> None:
        headers = login()
        assert client.delete("/auth/users/1", headers=headers).status_code == 422
        assert client.get("/auth/me", headers=headers).status_code == 200


@pytest.mark.parametrize("role", ["viewer", "operator"])
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("POST", ""), ("GET", "/1"), ("PUT", "/1"), ("DELETE", "/1")],
)
def test_are_for_administrators_only(client: TestClient, user, audit_log, role: str, method: str, path: str) -> None:
    headers = user(role)
    answer = client.request(method, f"/auth/users{path}", json={}, headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (403, "authorization_error")
    assert answer.json()["detail"] == "Admin privileges required"
    assert audit_log()[-1].action == "permission_denied"
    assert client.request(method, f"/auth/users{path}", json={}).status_code == 401
