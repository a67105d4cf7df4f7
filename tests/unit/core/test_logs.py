"""Logs: one JSON object a line, with the request's id, without secrets."""

from __future__ import annotations

import asyncio
import io
import json
import logging as stdlib
import sys
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import pytest
import structlog
from fastapi.testclient import TestClient

from labyard.core import logging
from labyard.core.context import Caller, set_caller
from labyard.core.database import Database

from .conftest import Login, MakeApp

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    root = stdlib.getLogger()
    before, level = root.handlers[:], root.level
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    logging.configure("info", as_json=True)
    monkeypatch.undo()
    set_caller(Caller())
    yield lambda: [json.loads(line) for line in out.getvalue().splitlines()]
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


class TestRedact:
    @pytest.mark.parametrize(
        "name",
        ["password", "new_password", "PASSWD", "chap_secret", "boot_token", "Authorization", "api_key", "set-cookie"],
    )
    def test_by_name(self, name: str) -> None:
        assert logging.redact({name: "swordfish"}) == {name: "********"}

    def test_at_any_depth(self) -> None:
        value = {"list": [{"password": "a", "user": "b"}, ("c", {"token": {"deep": 1}})]}
        expected = {"list": [{"password": "********", "user": "b"}, ["c", {"token": "********"}]]}
        assert logging.redact(value) == expected

    @pytest.mark.parametrize("text", [f"Bearer {TOKEN}", f"header authorization: bearer {TOKEN}.", f"got {TOKEN}"])
    def test_tokens_in_texts(self, text: str) -> None:
        assert TOKEN not in logging.redact(text)
        assert "********" in logging.redact(text)

    def test_leaves_the_rest_alone(self) -> None:
        value = {"user": "admin", "count": 3, "none": None, "password": None, "text": "Basic plan of 5 bearers"}
        assert logging.redact(value) == value


class TestLines:
    def test_structlog_and_the_standard_library_look_alike(self, lines: Lines) -> None:
        set_caller(Caller(request_id="req-7"))
        structlog.get_logger("a").info("event one", machine=4, password="swordfish")
        stdlib.getLogger("b").warning("event %s", "two")
        one, two = lines()
        assert (one["event"], one["level"], one["logger"], one["machine"]) == ("event one", "info", "a", 4)
        assert (two["event"], two["level"], two["logger"]) == ("event two", "warning", "b")
        assert one["request_id"] == two["request_id"] == "req-7"
        assert one["timestamp"].endswith("Z")
        assert one["password"] == "********"

    def test_the_level_counts(self, lines: Lines) -> None:
        structlog.get_logger("a").debug("no")
        assert lines() == []

    def test_an_exception_is_text_without_local_variables(self, lines: Lines) -> None:
        secret = "swordfish"
        try:
            len(3 if secret else "")  # type: ignore[arg-type]
        except TypeError:
            structlog.get_logger("a").exception("broken")
        (line,) = lines()
        assert "TypeError" in line["exception"]
        assert "swordfish" not in line["exception"]


class TestRequests:
    def test_are_logged_with_user_and_without_tokens(self, make_app: MakeApp, lines: Lines) -> None:
        boot_token = "Zm9v" * 10
        with TestClient(make_app()) as client:
            body = {"username": "admin", "password": "admin123"}
            tokens = client.post("/auth/login?token=swordfish", json=body).json()
            headers = {"Authorization": f"Bearer {tokens['access_token']}", "X-Request-ID": "req-9"}
            client.get("/things?password=swordfish", headers=headers)
            client.get(f"/api/v1/ipxe/script/{boot_token}")
        logged = [line for line in lines() if line["event"] == "request"]
        text = json.dumps(logged)
        for secret in ("swordfish", "admin123", boot_token, tokens["access_token"], tokens["refresh_token"]):
            assert secret not in text
        line = logged[1]
        assert (line["method"], line["path"], line["status"], line["user"], line["request_id"]) == (
            "GET", "/api/v1/things", 200, "admin", "req-9",
        )  # fmt: skip
        assert line["milliseconds"] > 0

    def test_an_unexpected_error_is_logged_under_the_request_s_id(self, make_app: MakeApp, lines: Lines) -> None:
        with TestClient(make_app()) as client:
            answer = client.get("/things/1/broken")
        (line,) = [line for line in lines() if line["event"] == "unexpected error"]
        assert line["request_id"] == answer.json()["request_id"]
        assert "RuntimeError" in line["exception"]

    @pytest.mark.parametrize("path", ["/things/stream", "/auth/login"])
    def test_a_client_that_goes_away_is_no_error(self, make_app: MakeApp, lines: Lines, path: str) -> None:
        sent: list[MutableMapping[str, Any]] = []
        coming = iter([{"type": "http.request", "body": b"{", "more_body": True}])

        async def receive() -> MutableMapping[str, Any]:
            return next(coming, {"type": "http.disconnect"})

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        headers = [(b"content-type", b"application/json")]
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": headers,
            "query_string": b"",
            "client": None,
        }
        asyncio.run(make_app()(scope, receive, send))
        logged = lines()
        assert "error" not in [line["level"] for line in logged]
        assert not [message for message in sent if message.get("status", 0) >= 500]
        assert logged[-1]["event"] == "request"

    def test_probes_are_not_logged(self, client: TestClient, lines: Lines) -> None:
        client.get("/health")
        client.get("/health/nothing")
        assert [line["path"] for line in lines() if line["event"] == "request"] == ["/api/v1/health/nothing"]

    def test_a_database_error_does_not_log_the_values(
        self, make_app: MakeApp, login: Login, lines: Lines, database: Database
    ) -> None:
        headers = login()
        with database.engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE audit_log")
        with TestClient(make_app()) as client:
            body = {"username": "eve", "password": "Sword-fish-2"}
            assert client.post("/auth/users", json=body, headers=headers).status_code == 500
        text = json.dumps(lines())
        assert "audit_log" in text
        assert "Sword-fish-2" not in text and "argon2id" not in text


def test_a_terminal_gets_key_and_value(capsys: pytest.CaptureFixture[str]) -> None:
    root = stdlib.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logging.configure("info", as_json=False)
        structlog.get_logger("a").info("started", port=8000, secret_key="swordfish")
        out = capsys.readouterr().out
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        structlog.reset_defaults()
    assert "event='started'" in out and "port=8000" in out and "swordfish" not in out
