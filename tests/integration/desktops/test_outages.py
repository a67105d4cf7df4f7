"""PostgreSQL and Redis go away while a session is recorded: nothing is lost, and nobody has to help."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from integration import postgresql as pg
from integration import redis_server
from labyard.desktops.app import build
from labyard.desktops.roles import Role
from labyard.desktops.service import Desktops
from labyard.desktops.settings import Settings
from labyard.testing.waiting import wait_until

from .conftest import OPERATORS, Caller
from .display import display, needs_display
from .media import without_stalls
from .node import OneNode, RecordingAgent, add_desk, add_node, recording_agent
from .test_sessions import chunks, started, stopped, verified

pytestmark = needs_display


class World:
    def __init__(self, postgresql: pg.Server, redis: redis_server.Server, agent: RecordingAgent, http: TestClient):
        self.postgresql = postgresql
        self.redis = redis
        self.agent = agent
        service: Desktops = http.app.state.desktops  # type: ignore[attr-defined]
        self.operator = Caller(http, service.auth.issue("operator", [*OPERATORS, Role.ADMIN], timedelta(hours=1)))

    def segments(self, session_id: str) -> int:
        return self.agent.record_status(session_id).segments


@pytest.fixture
def world(tmp_path: Path, quick_hashes: None) -> Iterator[World]:
    (tmp_path / "x").mkdir()
    # What is committed is in the log before the answer, as it is where a server is not a test's.
    with (
        pg.server(synchronous_commit="on") as postgresql,
        redis_server.server() as redis,
        postgresql.database() as url,
        display(tmp_path / "x") as screen,
        recording_agent(tmp_path / "node") as agent,
    ):
        settings = Settings(
            env=f"test-{secrets.token_hex(4)}", database_url=url, redis_url=redis.url, state_dir=tmp_path / "state"
        )
        app = build(settings, OneNode(agent))
        with TestClient(app, raise_server_exceptions=False, client=("127.0.0.1", 50000)) as http:
            add_node(app.state.desktops.database)
            add_desk(app.state.desktops.database, agent, screen, "operator")
            yield World(postgresql, redis, agent, http)


def test_nothing_is_lost(world: World, tmp_path: Path) -> None:
    operator = world.operator
    session_id = started(operator)
    before = chunks(operator, session_id, 2)

    world.redis.kill()
    chunks(operator, session_id, len(before) + 1)
    world.postgresql.crash()
    there = world.segments(session_id)
    begun = time.monotonic()
    answer = operator.get(f"/sessions/{session_id}/chunks")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "DB_UNAVAILABLE")
    assert time.monotonic() - begun < 30  # it does not wait for the database
    assert operator.post(f"/sessions/{session_id}/stop").status_code == 503
    # It is recorded all the while.
    wait_until(lambda: world.segments(session_id) >= there + 3, "three more segments")
    missed = world.segments(session_id)
    world.postgresql.start()
    world.redis.start()

    after = chunks(operator, session_id, missed)
    assert [chunk["sequence_number"] for chunk in after] == list(range(1, len(after) + 1))
    assert after[: len(before)] == before
    body = operator.get(f"/sessions/{session_id}").json()
    assert (body["status"], without_stalls(body["gaps"])) == ("recording", [])
    assert stopped(operator, session_id)["anchoring"]["status"] == "anchored"
    assert verified(operator, session_id, tmp_path) == 0


def test_a_stop_that_finds_no_database_is_made_good(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = world.operator
    session_id = started(operator)
    chunks(operator, session_id)
    stop = world.agent.record_stop

    def crash_within(*given: str) -> object:
        status = stop(*given)  # type: ignore[arg-type]
        monkeypatch.undo()
        world.postgresql.crash()
        return status

    monkeypatch.setattr(world.agent, "record_stop", crash_within)
    answer = operator.post(f"/sessions/{session_id}/stop")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "SEAL_INCOMPLETE")
    world.postgresql.start()
    wait_until(lambda: operator.get(f"/sessions/{session_id}").json()["status"] == "stopped", "it is stopped")
    assert operator.get("/ledger/entries").json()["total"] == 2
    assert verified(operator, session_id, tmp_path) == 0
