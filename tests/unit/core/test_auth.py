"""/auth: logging in and out, tokens, the lock (contract sections 4 and 5.1)."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import jwt
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from labyard.core import auth as auth_module
from labyard.core.auth import Auth
from labyard.core.context import Caller, set_caller
from labyard.core.database import Database
from labyard.core.errors import ServiceError
from labyard.core.models import AuditLog, LoginFailure, Token, User
from labyard.core.passwords import hash_password
from labyard.core.settings import ServiceSettings
from labyard.testing.waiting import PATIENCE, wait_until

from .conftest import ADMIN, GOOD_PASSWORD, Clock, Login

FAILED = "Authentication failed"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def post_login(client: TestClient, username: str = "admin", password: str = "admin123", **headers: str):
    return client.post("/auth/login", json={"username": username, "password": password}, headers=headers)


class TestLogin:
    def test_answers_tokens_with_the_claims_of_the_contract(self, client: TestClient, clock: Clock) -> None:
        body = post_login(client).json()
        assert set(body) == {"access_token", "refresh_token", "token_type", "expires_in"}
        assert (body["token_type"], body["expires_in"]) == ("bearer", 3600)
        for name, lifetime in (("access", 3600), ("refresh", 7 * 24 * 3600)):
            claims = jwt.decode(body[f"{name}_token"], "k" * 40, ["HS256"], issuer="labyard-netboot")
            assert set(claims) == {"sub", "username", "exp", "iat", "iss", "jti", "type"}
            assert (claims["sub"], claims["username"], claims["type"]) == ("1", "admin", name)
            assert claims["exp"] - claims["iat"] == lifetime
            assert claims["iat"] == int(clock().timestamp())

    @pytest.mark.parametrize(
        ("username", "password"),
        [
            ("admin", "wrong"),
            ("admin", ""),
            ("", "admin123"),
            ("", ""),
            ("nobody", "admin123"),
            ("admin\0", "admin123"),
            ("ADMIN", "admin123"),
            ("a" * 5000, "b" * 5000),
            ("' or 1=1 --", "x"),
        ],
    )
    def test_refuses_with_one_answer(self, client: TestClient, username: str, password: str) -> None:
        answer = post_login(client, username, password)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert (answer.json()["error"], answer.json()["detail"]) == ("authentication_error", FAILED)

    @pytest.mark.parametrize("missing", ["username", "password"])
    def test_a_missing_field_is_422_and_the_password_is_not_echoed(self, client: TestClient, missing: str) -> None:
        body = {"username": "admin", "password": "swordfish"}
        del body[missing]
        answer = client.post("/auth/login", json=body)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", missing]
        assert "swordfish" not in answer.text

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b'"swordfish"',
            b'{"username": {"password": "swordfish"}, "password": ["swordfish"]}',
            b'{"username": "\\ud800", "password": "swordfish"}',
            b'{"username": NaN, "password": "swordfish"}',
            b'{"username": "admin", "password": ' + b"9" * 5000 + b"}",
            b"[" * 100_000,
            b"\xff\xfe",
        ],
    )
    def test_an_unreadable_body_is_422(self, client: TestClient, body: bytes) -> None:
        answer = client.post("/auth/login", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, answer.text
        assert answer.json()["error"] == "validation_error"
        assert set(answer.json()["detail"][0]) == {"type", "loc", "msg", "input"}
        assert "swordfish" not in answer.text

    def test_a_form_is_422_and_is_not_echoed(self, client: TestClient) -> None:
        answer = client.post("/auth/login", data={"username": "admin", "password": "swordfish"})
        assert answer.status_code == 422
        assert "application/json" in answer.json()["detail"][0]["msg"]
        assert "swordfish" not in answer.text

    def test_an_inactive_user_gets_the_same_answer(self, client: TestClient, user, login: Login) -> None:
        user("viewer")
        client.put("/auth/users/2", json={"is_active": False}, headers=login())
        answer = post_login(client, "a-viewer", GOOD_PASSWORD)
        assert (answer.status_code, answer.json()["detail"]) == (401, FAILED)

    @pytest.mark.costly_hashes
    def test_an_unknown_name_takes_as_long_as_a_known_one(self, auth: Auth) -> None:
        auth.ensure_admin()

        def seconds(name: str) -> float:
            set_caller(Caller(address=f"10.0.0.{name}"))
            began = time.process_time()  # what others do on the machine meanwhile does not count
            with pytest.raises(ServiceError):
                auth.login(name, "wrong")
            return time.process_time() - began

        known = min(seconds("admin") for _ in range(4))
        unknown = min(seconds(f"nobody{i}") for i in range(4))
        assert unknown > known / 2

    def test_sets_last_login_and_is_on_record(self, client: TestClient, login: Login, clock: Clock, audit_log) -> None:
        headers = {**login(), "X-Request-ID": "mine-1"}
        assert client.get("/auth/me", headers=headers).json()["last_login"] == clock().isoformat().replace(
            "+00:00", "Z"
        )
        row = audit_log()[-1]
        assert (row.action, row.username, row.ip_address, row.status_code) == ("login", "admin", "testclient", 200)


class TestTokens:
    @pytest.mark.parametrize(
        ("headers", "detail"),
        [
            ({}, "No authentication token provided"),
            ({"Authorization": "Basic YWRtaW46YWRtaW4xMjM="}, "No authentication token provided"),
            ({"Authorization": "Bearer"}, "No authentication token provided"),
            ({"Authorization": "Bearer x"}, FAILED),
            ({"Authorization": "Bearer a.b.c"}, FAILED),
            ({"Authorization": "Bearer " + "x" * 5000}, FAILED),
        ],
    )
    def test_no_token_and_a_bad_token(self, client: TestClient, headers: dict[str, str], detail: str) -> None:
        answer = client.get("/auth/me", headers=headers)
        assert (answer.status_code, answer.json()["detail"]) == (401, detail)
        assert answer.headers["WWW-Authenticate"] == "Bearer"

    def test_a_forged_token(self, client: TestClient, login: Login) -> None:
        token = login()["Authorization"].removeprefix("Bearer ")
        claims = jwt.decode(token, options={"verify_signature": False})
        nothing = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
        forged = [
            jwt.encode(claims, "other" * 10, "HS256"),
            jwt.encode({**claims, "iss": "labyard-vms"}, "k" * 40, "HS256"),
            jwt.encode({**claims, "jti": "unknown"}, "k" * 40, "HS256"),
            jwt.encode({k: v for k, v in claims.items() if k != "exp"}, "k" * 40, "HS256"),
            jwt.encode({**claims, "exp": "later"}, "k" * 40, "HS256"),
            f"eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{nothing}.",
        ]
        assert [client.get("/auth/me", headers=bearer(token)).status_code for token in forged] == [401] * len(forged)

    def test_a_refresh_token_opens_nothing_and_an_access_token_does_not_refresh(self, client: TestClient) -> None:
        tokens = post_login(client).json()
        assert client.get("/auth/me", headers=bearer(tokens["refresh_token"])).status_code == 401
        answer = client.post("/auth/refresh", json={"refresh_token": tokens["access_token"]})
        assert (answer.status_code, answer.json()["detail"]) == (401, FAILED)

    def test_expires_to_the_second(self, client: TestClient, login: Login, clock: Clock) -> None:
        headers = login()
        clock.advance(minutes=59, seconds=58)
        assert client.get("/auth/me", headers=headers).status_code == 200
        clock.advance(seconds=2)
        assert client.get("/auth/me", headers=headers).status_code == 401

    @pytest.mark.parametrize("zone", ["America/Los_Angeles", "Asia/Tokyo", "UTC"])
    def test_expiry_is_the_same_east_and_west(
        self, client: TestClient, login: Login, clock: Clock, zone: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        try:
            headers = login()
            clock.advance(minutes=59)
            assert client.get("/auth/me", headers=headers).status_code == 200
            clock.advance(minutes=2)
            assert client.get("/auth/me", headers=headers).status_code == 401
        finally:
            monkeypatch.undo()
            time.tzset()

    def test_another_process_knows_the_token_and_its_end(
        self, client: TestClient, login: Login, database: Database, settings: ServiceSettings, clock: Clock
    ) -> None:
        headers = login()
        other = Auth(database, settings, "labyard-netboot", clock)
        token = headers["Authorization"].removeprefix("Bearer ")
        assert other.verify(token).username == "admin"
        client.post("/auth/logout", headers=headers)
        with pytest.raises(ServiceError):
            other.verify(token)

    def test_expired_rows_are_removed(self, client: TestClient, login: Login, clock: Clock, database: Database) -> None:
        for _ in range(3):
            login()
        clock.advance(days=8)
        login()
        with database.read() as session:
            assert session.scalar(select(func.count()).select_from(Token)) == 2


class TestRefresh:
    def test_gives_a_new_access_token_and_keeps_the_end_of_the_refresh_token(
        self, client: TestClient, clock: Clock
    ) -> None:
        tokens = post_login(client).json()
        clock.advance(hours=2)
        assert client.get("/auth/me", headers=bearer(tokens["access_token"])).status_code == 401
        fresh = client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]}).json()
        assert set(fresh) == set(tokens)
        assert client.get("/auth/me", headers=bearer(fresh["access_token"])).status_code == 200
        clock.advance(days=6, hours=21)
        again = client.post("/auth/refresh", json={"refresh_token": fresh["refresh_token"]})
        assert again.status_code == 200
        clock.advance(hours=2)
        assert client.post("/auth/refresh", json={"refresh_token": fresh["refresh_token"]}).status_code == 401

    @pytest.mark.parametrize("token", ["", "x", "a.b.c", "é", "\0"])
    def test_bad_tokens(self, client: TestClient, token: str) -> None:
        answer = client.post("/auth/refresh", json={"refresh_token": token})
        assert (answer.status_code, answer.json()["detail"]) == (401, FAILED)

    def test_a_missing_or_odd_token_is_422_and_not_echoed(self, client: TestClient) -> None:
        answer = client.post("/auth/refresh", json={"refresh_token": ["swordfish"]})
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["input"] == "********"
        assert client.post("/auth/refresh", json={}).status_code == 422


class TestLogout:
    def test_ends_the_session_at_once_and_no_other(self, client: TestClient, audit_log) -> None:
        first, second = post_login(client).json(), post_login(client).json()
        fresh = client.post("/auth/refresh", json={"refresh_token": first["refresh_token"]}).json()
        answer = client.post("/auth/logout", headers=bearer(first["access_token"]))
        assert (answer.status_code, set(answer.json())) == (200, {"message"})
        for token in (first["access_token"], fresh["access_token"]):
            assert client.get("/auth/me", headers=bearer(token)).status_code == 401
        assert client.post("/auth/refresh", json={"refresh_token": first["refresh_token"]}).status_code == 401
        assert client.get("/auth/me", headers=bearer(second["access_token"])).status_code == 200
        assert client.post("/auth/logout", headers=bearer(first["access_token"])).status_code == 401
        assert [row.action for row in audit_log()].count("logout") == 1

    def test_needs_a_token(self, client: TestClient) -> None:
        assert client.post("/auth/logout").status_code == 401


class TestLock:
    def fail(self, auth: Auth, times: int, name: str = "admin", address: str = "10.0.0.1") -> None:
        set_caller(Caller(address=address))
        for _ in range(times):
            with pytest.raises(ServiceError) as caught:
                auth.login(name, "wrong")
            assert caught.value.status == 401

    def test_five_wrong_passwords_lock_for_thirty_minutes(self, client: TestClient, clock: Clock, audit_log) -> None:
        for _ in range(5):
            assert post_login(client, password="wrong").status_code == 401
        locked = post_login(client)
        assert (locked.status_code, locked.json()["detail"]) == (401, FAILED)
        clock.advance(minutes=29, seconds=59)
        assert post_login(client).status_code == 401
        clock.advance(seconds=1)
        assert post_login(client).status_code == 200
        actions = [row.action for row in audit_log()]
        assert (actions.count("login_failed"), actions.count("login")) == (7, 1)

    def test_four_do_not_and_a_right_one_starts_anew(self, auth: Auth) -> None:
        auth.ensure_admin()
        for _ in range(2):
            self.fail(auth, 4)
            auth.login(**ADMIN)

    def test_holds_for_that_client_only(self, auth: Auth) -> None:
        auth.ensure_admin()
        self.fail(auth, 5)
        set_caller(Caller(address="10.0.0.2"))
        auth.login(**ADMIN)

    def test_survives_a_restart(self, auth: Auth, database: Database, settings: ServiceSettings, clock: Clock) -> None:
        auth.ensure_admin()
        self.fail(auth, 5)
        with pytest.raises(ServiceError):
            Auth(database, settings, "labyard-netboot", clock).login(**ADMIN)

    def test_is_counted_right_when_they_come_at_once(self, auth: Auth, database: Database) -> None:
        auth.ensure_admin()
        threads = [threading.Thread(target=self.fail, args=(auth, 1)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with database.read() as session:
            assert session.get_one(LoginFailure, ("admin", "10.0.0.1")).count == 5
        set_caller(Caller(address="10.0.0.1"))
        with pytest.raises(ServiceError):
            auth.login(**ADMIN)

    def test_the_table_is_bounded_and_locks_outlive_the_others(
        self, auth: Auth, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(auth_module, "MAX_FAILURE_ROWS", 20)
        monkeypatch.setattr(auth_module, "password_matches", lambda stored, password: False)
        auth.ensure_admin()
        self.fail(auth, 5)
        for number in range(200):
            self.fail(auth, 1, f"nobody{number}")
        with database.read() as session:
            assert session.scalar(select(func.count()).select_from(LoginFailure)) <= 20
            assert session.get_one(LoginFailure, ("admin", "10.0.0.1")).locked_until
        for number in range(60):
            self.fail(auth, 5, f"locked{number}")
        with database.read() as session:
            assert session.scalar(select(func.count()).select_from(LoginFailure)) <= 20

    def test_wrong_logins_do_not_hold_up_other_requests(
        self, client: TestClient, login: Login, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        headers = login()
        compared: list[str] = []
        go_on = threading.Event()

        def compare(stored: str | None, password: str) -> bool:
            compared.append(password)
            go_on.wait(PATIENCE)
            return False

        monkeypatch.setattr(auth_module, "password_matches", compare)
        threads = [
            threading.Thread(target=post_login, args=(client, f"nobody{i}"), kwargs={"password": "x"})
            for i in range(15)
        ]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: compared, "passwords are compared")
            assert client.get("/things", headers=headers).status_code == 200
            assert all(thread.is_alive() for thread in threads), "it waited for logins"
        finally:
            go_on.set()
            for thread in threads:
                thread.join()
        assert len(compared) == 15


class TestMe:
    def test_shows_and_changes_the_email(self, client: TestClient, user) -> None:
        headers = user("viewer")
        me = client.get("/api/v1/auth/me/", headers=headers).json()
        assert set(me) == {"id", "username", "email", "role", "status", "is_active", "created_at", "last_login"}
        assert (me["username"], me["email"], me["role"], me["status"], me["is_active"]) == (
            "a-viewer", None, "viewer", "active", True,
        )  # fmt: skip
        assert me["created_at"].endswith("Z")
        changed = client.put("/auth/me", json={"email": " Me@Example.org "}, headers=headers)
        assert (changed.status_code, changed.json()["email"]) == (200, "me@example.org")
        assert client.put("/auth/me", json={}, headers=headers).json()["email"] == "me@example.org"
        assert client.put("/auth/me", json={"email": None}, headers=headers).json()["email"] is None

    def test_cannot_raise_its_own_role(self, client: TestClient, user) -> None:
        answer = client.put("/auth/me", json={"role": "admin"}, headers=user("viewer"))
        assert answer.json()["role"] == "viewer"

    @pytest.mark.parametrize("email", ["x", "@", "a b@c.d", "a@b@c", "a@" + "b" * 300, 7])
    def test_a_bad_email_is_422(self, client: TestClient, login: Login, email: object) -> None:
        answer = client.put("/auth/me", json={"email": email}, headers=login())
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", "email"]

    def test_a_taken_email_is_422(self, client: TestClient, user, login: Login) -> None:
        client.put("/auth/me", json={"email": "a@b.c"}, headers=login())
        assert client.put("/auth/me", json={"email": "A@b.c"}, headers=user("viewer")).status_code == 422
        assert client.put("/auth/me", json={"email": "a@b.c"}, headers=login()).status_code == 200


class TestChangePassword:
    def change(self, client: TestClient, headers: dict[str, str], current: str, new: str):
        body = {"current_password": current, "new_password": new}
        return client.post("/auth/change-password", json=body, headers=headers)

    def test_changes_it_and_ends_the_other_sessions(self, client: TestClient, login: Login, audit_log) -> None:
        mine, other = login(), login()
        answer = self.change(client, mine, "admin123", GOOD_PASSWORD)
        assert (answer.status_code, set(answer.json())) == (200, {"message"})
        assert post_login(client).status_code == 401
        assert post_login(client, password=GOOD_PASSWORD).status_code == 200
        assert client.get("/auth/me", headers=mine).status_code == 200
        assert client.get("/auth/me", headers=other).status_code == 401
        assert [row.action for row in audit_log()].count("password_changed") == 1

    def test_a_wrong_current_password_is_422_and_not_echoed(self, client: TestClient, login: Login) -> None:
        answer = self.change(client, login(), "swordfish", GOOD_PASSWORD)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", "current_password"]
        assert "swordfish" not in answer.text and GOOD_PASSWORD not in answer.text

    def test_guessing_with_a_stolen_token_is_locked_too(self, client: TestClient, login: Login) -> None:
        headers = login()
        for _ in range(5):
            self.change(client, headers, "wrong", GOOD_PASSWORD)
        assert self.change(client, headers, "admin123", GOOD_PASSWORD).status_code == 422

    @pytest.mark.parametrize(
        "new", ["", "Aa1!", "alllower1", "ALLUPPER!", "12345678", "abcdefgh", "Abcdefgh", "x" * 300 + "A1"]
    )
    def test_the_rule_of_passwords(self, client: TestClient, login: Login, new: str) -> None:
        answer = self.change(client, login(), "admin123", new)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", "new_password"]
        assert not new or new not in answer.text
        assert post_login(client).status_code == 200

    @pytest.mark.parametrize("new", ["Abcdefg1", "abcdef1!", "ABCDEF1!", "Abcdefg!", "Äöü12345"])
    def test_three_kinds_of_four_do(self, client: TestClient, login: Login, new: str) -> None:
        assert self.change(client, login(), "admin123", new).status_code == 200


class TestFirstAdmin:
    def test_is_made_once_with_the_password_of_the_settings(self, auth: Auth, database: Database) -> None:
        threads = [threading.Thread(target=auth.ensure_admin) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with database.read() as session:
            users = session.scalars(select(User)).all()
        assert [(user.username, user.role) for user in users] == [("admin", "admin")]
        assert users[0].password_hash.startswith("$argon2id$")

    def test_takes_a_new_password_from_the_settings_but_keeps_one_set_over_the_api(
        self, auth: Auth, database: Database, tmp_path: Path
    ) -> None:
        auth.ensure_admin()
        with database.write() as session:
            session.scalars(select(User)).one().password_hash = hash_password("Over-the-api-1")
        auth.ensure_admin()
        auth.login("admin", "Over-the-api-1")
        other = ServiceSettings(state_dir=tmp_path, secret_key="k" * 40, admin_password="Another-one-1")
        Auth(database, other, "labyard-netboot").ensure_admin()
        auth.login("admin", "Another-one-1")
        with database.read() as session:
            assert len(session.scalars(select(User)).all()) == 1


def test_no_secret_reaches_the_audit_log(
    client: TestClient, login: Login, user: Callable[[str], dict[str, str]], audit_log: Callable[[], list[AuditLog]]
) -> None:
    headers = user("operator")
    post_login(client, "a-operator", "swordfish")
    client.post(
        "/auth/change-password", json={"current_password": "swordfish", "new_password": "Sword-fish-2"}, headers=headers
    )
    client.delete("/things/1", headers=headers)
    client.post("/auth/logout", headers=headers)
    rows = audit_log()
    columns = [column.name for column in AuditLog.__table__.columns]
    text = json.dumps([{name: str(getattr(row, name)) for name in columns} for row in rows])
    for secret in ("swordfish", "Sword-fish", GOOD_PASSWORD, "admin123", "eyJ", "argon2", "Bearer"):
        assert secret not in text
    assert {row.action for row in rows} == {"user_created", "login", "login_failed", "permission_denied", "logout"}
    assert all(row.request_id for row in rows[1:])


def test_verifying_a_token_is_quick(auth: Auth) -> None:
    auth.ensure_admin()
    token = auth.login(**ADMIN).access_token
    began = time.thread_time()  # what others do on the machine meanwhile does not count
    for _ in range(200):
        auth.verify(token)
    assert time.thread_time() - began < 200 * timedelta(milliseconds=3).total_seconds()
