"""Passwords and sessions: contract 4."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from integration.evse.gateway.conftest import GatewayProcess, Start
from labyard.testing.waiting import PATIENCE

BASIC = ("openevseadmin", "s3cret")
APP = {"X-Requested-With": "OpenEVSE"}


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    process = GatewayProcess(tmp_path_factory.mktemp("locked"))
    assert process.http.post("/config", json={"www_password": "s3cret"}).status_code == 200
    yield process
    process.stop()


def log_in(gateway: GatewayProcess, **content: object) -> httpx.Response:
    return httpx.post(
        f"{gateway.url}/login", json={"user": "openevseadmin", "pass": "s3cret"} | content, timeout=PATIENCE
    )


@pytest.mark.parametrize("path", ["/config", "/status", "/metrics", "/nope", "/loadsharing/peers"])
def test_nothing_is_open(locked: GatewayProcess, path: str) -> None:
    answer = locked.http.get(path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Basic realm="OpenEVSE"'
    assert answer.json()["msg"]
    answer = locked.http.get(path, headers=APP)
    assert (answer.status_code, answer.json()) == (401, {"msg": "auth"})
    assert "www-authenticate" not in answer.headers


@pytest.mark.parametrize("auth", [("openevseadmin", ""), ("", "s3cret"), ("openevseadmin", "s3cret2")])
def test_wrong_credentials(locked: GatewayProcess, auth: tuple[str, str]) -> None:
    assert locked.http.get("/config", auth=auth).status_code == 401


@pytest.mark.parametrize("header", ["Basic", "Basic %%%", "Basic /////w==", "Bearer x", "Basic b3BlbmV2c2U="])
def test_nonsense_credentials(locked: GatewayProcess, header: str) -> None:
    assert locked.http.get("/config", headers={"Authorization": header}).status_code == 401


def test_basic_opens_all(locked: GatewayProcess) -> None:
    assert locked.http.get("/config", auth=BASIC).json()["www_password"] == "_DUMMY_PASSWORD"
    assert locked.http.post("/status", json={"voltage": 230}, auth=BASIC).status_code == 200
    assert locked.http.get("/metrics", auth=BASIC).status_code == 200


def test_a_session_opens_all_but_changes_only_from_the_app(locked: GatewayProcess) -> None:
    answer = log_in(locked)
    assert answer.json() == {"msg": "ok"}
    answer_cookie = answer.cookies["oevse_session"]
    with httpx.Client(base_url=locked.url, cookies=answer.cookies, timeout=PATIENCE) as http:
        assert http.get("/config").status_code == 200
        answer = http.post("/status", json={"voltage": 230})
        assert (answer.status_code, answer.json()) == (403, {"msg": "csrf"})
        assert http.post("/status", json={"voltage": 230}, headers=APP).status_code == 200
    cookie = f'other={{"a": 1}}; oevse_session={answer_cookie}'
    assert httpx.get(f"{locked.url}/config", headers={"Cookie": cookie}, timeout=PATIENCE).status_code == 200
    assert (
        httpx.get(f"{locked.url}/config", cookies={"oevse_session": "made.up.one"}, timeout=PATIENCE).status_code == 401
    )


def test_the_socket_is_gated_too(locked: GatewayProcess) -> None:
    url = f"ws://127.0.0.1:{locked.port}/ws"
    with pytest.raises(InvalidStatus) as refusal:
        connect(url, open_timeout=PATIENCE)
    assert refusal.value.response.status_code == 401
    cookie = f"oevse_session={log_in(locked).cookies['oevse_session']}"
    with connect(url, additional_headers={"Cookie": cookie}, open_timeout=PATIENCE) as socket:
        assert "state" in socket.recv(PATIENCE)
    url = f"ws://openevseadmin:s3cret@127.0.0.1:{locked.port}/ws"
    with connect(url, open_timeout=PATIENCE) as socket:
        assert "state" in socket.recv(PATIENCE)


def test_a_password_that_is_no_text(locked: GatewayProcess) -> None:
    answer = httpx.post(f"{locked.url}/login", content=rb'{"user": "\ud800", "pass": "\ud800"}', timeout=PATIENCE)
    assert answer.status_code == 401


def test_too_many_failures_stop_guessing_but_not_who_knows(start_gateway: Start) -> None:
    gateway = start_gateway()
    gateway.http.post("/config", json={"www_password": "s3cret"})
    codes = [log_in(gateway, **{"pass": "wrong"}).status_code for _ in range(12)]
    assert codes == [401] * 10 + [429] * 2
    assert log_in(gateway).status_code == 200


def test_another_password_ends_all_sessions(start_gateway: Start) -> None:
    gateway = start_gateway()
    gateway.http.post("/config", json={"www_password": "s3cret"})
    cookies = log_in(gateway, remember=True).cookies
    assert httpx.get(f"{gateway.url}/config", cookies=cookies, timeout=PATIENCE).status_code == 200
    gateway.http.post("/config", json={"www_password": "other"}, auth=BASIC)
    assert httpx.get(f"{gateway.url}/config", cookies=cookies, timeout=PATIENCE).status_code == 401
    gateway.http.post("/config", json={"www_password": ""}, auth=("openevseadmin", "other"))
    assert gateway.http.get("/config").status_code == 200
