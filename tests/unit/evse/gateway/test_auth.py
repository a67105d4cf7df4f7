from __future__ import annotations

from pathlib import Path

import pytest

from labyard.evse.gateway import auth as module
from labyard.evse.gateway.auth import Auth
from labyard.evse.gateway.options import Options
from labyard.evse.gateway.storage import Storage


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(Storage(tmp_path))


@pytest.fixture
def auth(options: Options, tmp_path: Path) -> Auth:
    options.update({"www_password": "s3cret"})
    return Auth(options, Storage(tmp_path))


def token(set_cookie: str) -> str:
    return set_cookie.partition("=")[2].partition(";")[0]


def test_a_session_outlives_a_restart_but_not_another_password(auth: Auth, options: Options, tmp_path: Path) -> None:
    cookie = token(auth.new_session(remember=False))
    assert auth.session(cookie)
    assert Auth(options, Storage(tmp_path)).session(cookie)
    options.update({"www_username": "other"})
    assert not auth.session(cookie)


def test_a_session_ends(auth: Auth, monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = auth.new_session(False), auth.new_session(True)
    assert "Max-Age=21600;" in short
    assert "Max-Age=2592000;" in long
    assert short.endswith("HttpOnly; SameSite=Strict")
    now = module.time.time()
    monkeypatch.setattr(module.time, "time", lambda: now + 21601)
    assert not auth.session(token(short))
    assert auth.session(token(long))


@pytest.mark.parametrize("cookie", ["", ".", "x", "9999999999.00.00", "é.ü"])
def test_a_made_up_session_is_none(auth: Auth, cookie: str) -> None:
    assert not auth.session(cookie)


def test_credentials_are_compared_whole(auth: Auth) -> None:
    assert auth.right("openevseadmin", "s3cret")
    for user, password in (("openevseadmin", ""), ("", "s3cret"), ("openevseadmin", "s3cre"), ("é", "s3cret")):
        assert not auth.right(user, password)


def test_ten_failures_are_too_many_for_a_while(auth: Auth, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(10):
        assert not auth.too_many_failures()
        auth.failed()
    assert auth.too_many_failures()
    now = module.time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: now + module.RECENT + 1)
    assert not auth.too_many_failures()
