"""Sessions: made, recorded, processed, anchored; their states, errors and figures."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from labyard.desktops.models import LedgerEntry, SessionChunk

pytestmark = [pytest.mark.phase3_integration, pytest.mark.session_lifecycle]

STAGES = ["recording", "processing", "storage", "anchoring"]
Make = Callable[..., dict[str, Any]]


def start(client: httpx.Client, session_id: str) -> None:
    answer = client.post(f"/{session_id}/start")
    assert answer.status_code == 200 and answer.json()["status"] == "recording", answer.text


class TestWorkflow:
    def test_create_record_process_anchor(
        self, session_client: httpx.Client, make_server: Make, make_session: Make, test_db: Session
    ) -> None:
        server = make_server()
        session = make_session(server)
        path = f"/{session['session_id']}"
        assert session["status"] == "created" and session["provisioning"]["policy"] == "attach"
        start(session_client, session["session_id"])
        pipeline = session_client.get(f"{path}/pipeline").json()
        assert pipeline["pipeline_status"] == "active"
        assert [stage["stage_name"] for stage in pipeline["stages"]] == STAGES
        time.sleep(5)  # what the requirement waits for
        chunks = session_client.get(f"{path}/chunks").json()["chunks"]
        assert chunks and all(chunk["status"] in ("processed", "stored") for chunk in chunks)
        one = session_client.get(f"{path}/chunks/{chunks[0]['chunk_id']}").json()
        assert len(one["merkle_hash"]) == 64 and one["encryption_key_id"]
        stopped = session_client.post(f"{path}/stop")
        assert stopped.status_code == 200 and stopped.json()["status"] == "stopped"
        figures = session_client.get(f"{path}/statistics").json()
        assert figures["recording_stats"]["total_duration_seconds"] >= 5
        assert figures["storage_stats"]["chunks_count"] > 0 and figures["storage_stats"]["total_size_bytes"] > 0
        assert figures["rdp_resource_usage"]["server_id"] == server["server_id"]
        anchoring = session_client.get(f"{path}/anchoring").json()
        assert anchoring["status"] == "anchored" and anchoring["transaction_hash"] and anchoring["merkle_root"]
        entry = test_db.get_one(LedgerEntry, anchoring["block_height"])
        assert entry.subject_id == session["session_id"] and entry.merkle_root == anchoring["merkle_root"]
        stored = select(func.count()).where(SessionChunk.session_id == session["session_id"])
        assert test_db.scalar(stored) == entry.chunk_count == figures["storage_stats"]["chunks_count"]

    def test_three_at_once(self, session_client: httpx.Client, make_server: Make, make_session: Make) -> None:
        server = make_server()
        sessions = [make_session(server, name=f"Session {number}")["session_id"] for number in range(3)]
        for session_id in sessions:
            start(session_client, session_id)
        time.sleep(10)  # what the requirement waits for
        for session_id in sessions:
            assert session_client.get(f"/{session_id}").json()["status"] == "recording"
            assert session_client.get(f"/{session_id}/chunks").json()["chunks"]


class TestStates:
    def test_wrong_ones_are_refused(self, session_client: httpx.Client, make_server: Make, make_session: Make) -> None:
        session_id = make_session(make_server())["session_id"]
        assert session_client.post(f"/{session_id}/stop").status_code == 409
        start(session_client, session_id)
        assert session_client.post(f"/{session_id}/start").status_code == 409
        assert session_client.delete(f"/{session_id}").status_code == 409
        assert session_client.post(f"/{session_id}/stop").status_code == 200
        for verb in ("start", "stop"):
            answer = session_client.post(f"/{session_id}/{verb}")
            assert answer.status_code == 409 and answer.json()["error"]["code"] == "SES_STATE"

    def test_before_the_start(self, session_client: httpx.Client, make_session: Make) -> None:
        path = f"/{make_session()['session_id']}"
        assert session_client.get(f"{path}/pipeline").json()["pipeline_status"] == "inactive"
        for stage in STAGES:
            found = session_client.get(f"{path}/pipeline/stages/{stage}").json()
            assert found["stage_name"] == stage and found["metrics"]["items_processed"] == 0
        assert session_client.get(f"{path}/pipeline/stages/magic").status_code == 404
        assert session_client.get(f"{path}/chunks").json()["chunks"] == []
        assert session_client.get(f"{path}/anchoring").json()["transaction_hash"] is None

    def test_a_server_that_is_recorded_stays(
        self, session_client: httpx.Client, rdp_client: httpx.Client, make_server: Make, make_session: Make
    ) -> None:
        server = make_server()
        path = f"/servers/{server['server_id']}"
        session_id = make_session(server)["session_id"]
        start(session_client, session_id)
        assert session_id in [row["session_id"] for row in rdp_client.get(f"{path}/sessions").json()["active_sessions"]]
        assert rdp_client.post(f"{path}/stop").status_code == 409
        assert rdp_client.delete(path).status_code == 409
        session_client.post(f"/{session_id}/stop")
        assert rdp_client.get(f"{path}/sessions").json()["active_sessions"] == []


class TestErrors:
    def test_bad_host(self, session_client: httpx.Client, sample_session_data: dict[str, Any]) -> None:
        sample_session_data["rdp_config"]["host"] = "invalid_host"
        assert session_client.post("", json=sample_session_data).status_code == 400

    def test_nothing_to_record(self, session_client: httpx.Client, make_session: Make) -> None:
        config = {"host": "192.0.2.1", "port": 3389, "username": "nobody", "provisioning": "none"}
        session_id = make_session(rdp_config=config)["session_id"]
        answer = session_client.post(f"/{session_id}/start")
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "SES_NO_RDP_TARGET"
        errors = session_client.get(f"/{session_id}/errors").json()["errors"]
        assert errors and errors[0]["code"] == "SES_NO_RDP_TARGET"
        assert session_client.get(f"/{session_id}").json()["status"] == "created"

    def test_unknown_session(self, session_client: httpx.Client) -> None:
        for method, path in (
            ("GET", ""), ("POST", "/start"), ("POST", "/stop"), ("GET", "/pipeline"), ("GET", "/chunks"),
            ("GET", "/chunks/x"), ("GET", "/statistics"), ("GET", "/anchoring"), ("GET", "/errors"),
            ("GET", "/metadata"), ("PUT", "/metadata"), ("GET", "/pipeline/stages/recording"),
        ):  # fmt: skip
            answer = session_client.request(method, f"/unknown{path}")
            assert answer.status_code == 404 and answer.json()["error"]["code"] == "SES_NOT_FOUND", path


class TestMetadata:
    def test_merge_persists(self, session_client: httpx.Client, make_session: Make) -> None:
        path = f"/{make_session()['session_id']}/metadata"
        assert session_client.get(path).json()["owner"] == "test-user-123"
        changed = session_client.put(path, json={"priority": "high"})
        assert changed.status_code == 200
        found = session_client.get(path).json()
        assert (found["priority"], found["project"], found["owner"]) == ("high", "labyard", "test-user-123")
