"""Sessions over HTTP: real displays, real recorders, a real PostgreSQL and Redis; the verifier reads what comes out."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import av
import pytest
from fastapi.testclient import TestClient

from labyard.desktops.evidence.verify import main as verify
from labyard.desktops.models import DataKey, Node, NodeStatus, RdpStatus
from labyard.desktops.roles import Role
from labyard.desktops.service import Desktops
from labyard.testing.waiting import wait_until

from .conftest import Caller
from .display import Display, display, needs_display
from .media import colours, is_colour, without_stalls
from .node import NODE, Desk, OneNode, RecordingAgent, add_desk, add_node, recording_agent

pytestmark = needs_display

SAMPLE: dict[str, Any] = {
    "name": "Test Session",
    "description": "Test session description",
    "rdp_config": {
        "host": "192.168.1.100",
        "port": 3389,
        "username": "testuser",
        "domain": "TESTDOMAIN",
        "use_tls": True,
        "ignore_cert": False,
    },
    "recording_config": {
        "frame_rate": 5,
        "resolution": "1920x1080",
        "quality": "high",
        "compression": "zstd",
        "audio_enabled": True,
        "cursor_enabled": True,
    },
    "storage_config": {
        "retention_days": 30,
        "max_size_gb": 10,
        "encryption_enabled": True,
        "compression_enabled": True,
        "backup_enabled": False,
        "archive_enabled": False,
    },
    "metadata": {
        "project": "labyard",
        "environment": "test",
        "tags": ["test", "automated"],
        "owner": "test-user-123",
        "priority": "normal",
    },
}


def sample(**changes: dict[str, Any] | Any) -> dict[str, Any]:
    """The sample with other values: `rdp_config={"port": 1}` changes the port only."""
    body: dict[str, Any] = json.loads(json.dumps(SAMPLE))
    for name, value in changes.items():
        body[name] = body[name] | value if isinstance(value, dict) else value
    return body


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[RecordingAgent]:
    with recording_agent(tmp_path / "node") as agent:
        yield agent


@pytest.fixture
def agents(agent: RecordingAgent) -> OneNode:
    return OneNode(agent)


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[Display]:
    (tmp_path / "x").mkdir()
    with display(tmp_path / "x") as running:
        running.paint("#203040")
        yield running


@pytest.fixture
def desk(service: Desktops, agent: RecordingAgent, screen: Display) -> Desk:
    add_node(service.database)
    return add_desk(service.database, agent, screen, "operator")


def created(who: Caller, **changes: Any) -> str:
    answer = who.post("/sessions", json=sample(**changes))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["session_id"])


def started(who: Caller, **changes: Any) -> str:
    session_id = created(who, **changes)
    answer = who.post(f"/sessions/{session_id}/start")
    assert answer.status_code == 200, answer.text
    return session_id


def chunks(who: Caller, session_id: str, least: int = 1) -> list[dict[str, Any]]:
    def look() -> Any:
        answer = who.get(f"/sessions/{session_id}/chunks?limit=100")
        assert answer.status_code == 200, answer.text
        found = answer.json()["chunks"]
        return found if len(found) >= least else None

    found: list[dict[str, Any]] = wait_until(look, f"{least} chunks of {session_id}")
    return found


def frames(chunks: list[dict[str, Any]]) -> int:
    return sum(chunk["frame_count"] for chunk in chunks)


def stopped(who: Caller, session_id: str) -> dict[str, Any]:
    answer = who.post(f"/sessions/{session_id}/stop")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def verified(who: Caller, session_id: str, folder: Path) -> int:
    """What the verifier says of the session, given only what anybody may download."""
    objects = folder / "objects"
    objects.mkdir(exist_ok=True)
    bundle = who.get(f"/sessions/{session_id}/proof").json()
    (folder / "bundle.json").write_text(json.dumps(bundle, indent=2))
    (folder / "key.pem").write_text(who.get("/ledger/key").json()["public_key"])
    for chunk in bundle["manifest"]["chunks"]:
        data = who.get(f"/sessions/{session_id}/chunks/{chunk['chunk_id']}/object").content
        (objects / f"{chunk['chunk_id']}.lyck").write_bytes(data)
    return verify(["session", "--key", str(folder / "key.pem"), str(folder / "bundle.json"), str(objects)])


class TestCreate:
    def test_the_sample_is_accepted_and_echoed(self, operator: Caller) -> None:
        answer = operator.post("/sessions", json=SAMPLE)
        body = answer.json()
        assert answer.status_code == 201
        assert body["status"] == "created"
        assert body["provisioning"] == {"policy": "attach", "state": "pending", "server_id": None}
        assert {name: body[name] for name in SAMPLE} == SAMPLE
        assert (body["poot_references"], body["poot_id"], body["binding"]) == ([], None, None)
        assert operator.get(f"/sessions/{body['session_id']}").json() == body

    def test_a_password_is_never_shown(self, operator: Caller, service: Desktops) -> None:
        answer = operator.post("/sessions", json=sample(rdp_config={"password": "Tr0ub4dor"}))
        assert answer.status_code == 201
        assert "Tr0ub4dor" not in answer.text
        assert "password" not in answer.json()["rdp_config"]

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"name": "   "}, "name"),
            ({"name": "x" * 256}, "name"),
            ({"description": "x" * 501}, "description"),
            ({"rdp_config": {"host": "bad_host"}}, "rdp_config.host"),
            ({"rdp_config": {"port": 0}}, "rdp_config.port"),
            ({"rdp_config": {"port": "3389"}}, "rdp_config.port"),
            ({"rdp_config": {"username": ""}}, "rdp_config.username"),
            ({"rdp_config": {"provisioning": "maybe"}}, "rdp_config.provisioning"),
            ({"recording_config": {"frame_rate": 121}}, "recording_config.frame_rate"),
            ({"recording_config": {"resolution": "319x240"}}, "recording_config.resolution"),
            ({"recording_config": {"resolution": "1920*1080"}}, "recording_config.resolution"),
            ({"recording_config": {"quality": "best"}}, "recording_config.quality"),
            ({"recording_config": {"compression": "xz"}}, "recording_config.compression"),
            ({"recording_config": {"bitrate": 999}}, "recording_config.bitrate"),
            ({"storage_config": {"retention_days": 366}}, "storage_config.retention_days"),
            ({"storage_config": {"backup_enabled": True}}, "storage_config.backup_enabled"),
            ({"storage_config": {"archive_enabled": True}}, "storage_config.archive_enabled"),
            ({"metadata": {"tags": ["x"] * 11}}, "metadata.tags"),
            ({"metadata": {"priority": "urgent"}}, "metadata.priority"),
            ({"metadata": {f"own{n}": "x" for n in range(21)}}, "metadata"),
            ({"metadata": {"own": 1}}, "metadata"),
        ],
    )
    def test_bad_input(self, operator: Caller, changes: dict[str, Any], field: str) -> None:
        answer = operator.post("/sessions", json=sample(**changes))
        assert answer.status_code == 400
        assert answer.json()["error"]["details"][0]["field"].startswith(field)
        assert operator.get("/sessions").json()["total"] == 0

    def test_a_session_of_another_is_not_there(self, operator: Caller, caller: Callable[..., Caller]) -> None:
        mine = created(caller("alice", Role.SESSION_OPERATOR))
        bob = caller("bob", Role.SESSION_OPERATOR)
        for path in ("", "/chunks", "/statistics", "/pipeline", "/errors", "/metadata", "/anchoring"):
            assert bob.get(f"/sessions/{mine}{path}").status_code == 404
        assert bob.post(f"/sessions/{mine}/start").status_code == 404
        assert bob.get("/sessions").json()["total"] == 0
        assert operator.get(f"/sessions/{mine}").status_code == 200
        assert caller("eve", Role.AUDITOR).get("/sessions").json()["total"] == 1

    def test_metadata_is_merged_and_stays(self, operator: Caller) -> None:
        session_id = created(operator)
        answer = operator.put(f"/sessions/{session_id}/metadata", json={"priority": "high", "ticket": "LAB-7"})
        wanted = SAMPLE["metadata"] | {"priority": "high", "ticket": "LAB-7"}
        assert answer.json() == operator.get(f"/sessions/{session_id}/metadata").json() == wanted
        for change in ({"priority": "urgent"}, {"priority": None}, {"tags": None}):
            assert operator.put(f"/sessions/{session_id}/metadata", json=change).status_code == 400
        assert operator.get(f"/sessions/{session_id}/metadata").json() == wanted

    def test_lists_are_filtered(self, operator: Caller) -> None:
        one = created(operator, metadata={"project": "one"})
        created(operator, metadata={"project": "two"})
        found = operator.get("/sessions", params={"project": "one", "status": "created"}).json()
        assert [each["session_id"] for each in found["sessions"]] == [one]
        assert (found["total"], found["has_next"]) == (1, False)
        created(operator, metadata={"owner": "alice"})
        for owner, total in (("operator", 3), ("test-user-123", 2), ("alice", 1), ("nobody", 0)):
            assert operator.get("/sessions", params={"owner": owner}).json()["total"] == total

    def test_before_the_start(self, operator: Caller) -> None:
        session_id = created(operator)
        pipeline = operator.get(f"/sessions/{session_id}/pipeline").json()
        assert pipeline["pipeline_status"] == "inactive"
        names = [stage["stage_name"] for stage in pipeline["stages"]]
        assert names == ["recording", "processing", "storage", "anchoring"]
        assert operator.get(f"/sessions/{session_id}/pipeline/stages/storage").json() == pipeline["stages"][2]
        assert operator.get(f"/sessions/{session_id}/pipeline/stages/baking").status_code == 404
        assert operator.get(f"/sessions/{session_id}/chunks").json()["chunks"] == []
        assert operator.get(f"/sessions/{session_id}/chunks/{session_id}-c000001").status_code == 404
        assert operator.get(f"/sessions/{session_id}/anchoring").json()["transaction_hash"] is None
        assert operator.get(f"/sessions/{session_id}/statistics").json()["recording_stats"]["total_frames"] == 0
        for verb in ("stop", "pause", "resume"):
            assert operator.post(f"/sessions/{session_id}/{verb}").status_code == 409
        assert operator.get(f"/sessions/{session_id}/proof").status_code == 409


class TestRecord:
    def test_the_whole_way(self, operator: Caller, desk: Desk, service: Desktops, tmp_path: Path) -> None:
        desk.display.paint("#d02040")
        session_id = created(operator)
        asked = time.monotonic()
        answer = operator.post(f"/sessions/{session_id}/start")
        begun = time.monotonic()
        assert answer.status_code == 200, answer.text
        binding = answer.json()["binding"]
        assert answer.json()["status"] == "recording"
        assert binding == {
            "kind": "owner",
            "server_id": desk.server_id,
            "host": "127.0.0.1",
            "port": 33890,
            "display": f":{desk.display.number}",
        }
        assert operator.get(f"/sessions/{session_id}").json()["binding"] == binding
        assert operator.post(f"/sessions/{session_id}/start").status_code == 409
        assert operator.delete(f"/sessions/{session_id}").status_code == 409
        pipeline = operator.get(f"/sessions/{session_id}/pipeline").json()
        assert (pipeline["pipeline_status"], len(pipeline["stages"])) == ("active", 4)

        first = chunks(operator, session_id)[0]
        assert first["status"] in ("processed", "stored")
        assert len(first["merkle_hash"]) == 64
        assert first["encryption_key_id"].startswith("dk-")
        assert first == operator.get(f"/sessions/{session_id}/chunks/{first['chunk_id']}").json()
        time.sleep(max(0.0, begun + 5 - time.monotonic()))  # what a caller waits, who then asks for 5 s
        wait_until(lambda: frames(chunks(operator, session_id, 4)) > 10, "as much as is asked for below")
        body = stopped(operator, session_id)
        lasted = time.monotonic() - asked
        assert operator.post(f"/sessions/{session_id}/stop").status_code == 409

        statistics = operator.get(f"/sessions/{session_id}/statistics").json()
        assert statistics == body["final_statistics"]
        assert statistics["recording_stats"]["total_duration_seconds"] >= 5
        assert statistics["recording_stats"]["total_frames"] > 10
        found = chunks(operator, session_id)
        assert statistics["storage_stats"]["chunks_count"] == len(found) > 3
        assert statistics["storage_stats"]["total_size_bytes"] == sum(chunk["size_bytes"] for chunk in found) > 0
        assert frames(found) == statistics["recording_stats"]["total_frames"]
        assert statistics["performance_stats"]["error_rate"] == 0
        assert statistics["rdp_resource_usage"]["server_id"] == desk.server_id
        assert statistics["rdp_resource_usage"]["cpu_percent_avg"] == 40
        assert statistics["node_performance"]["load_average"] == [0.5, 0.4, 0.3]
        anchoring = operator.get(f"/sessions/{session_id}/anchoring").json()
        assert anchoring == body["anchoring"]
        assert (anchoring["status"], anchoring["block_height"], anchoring["chunk_count"]) == ("anchored", 1, len(found))
        pipeline = operator.get(f"/sessions/{session_id}/pipeline").json()
        assert pipeline["pipeline_status"] == "stopped"
        assert {stage["status"] for stage in pipeline["stages"]} == {"stopped"}
        assert all(stage["metrics"]["items_processed"] > 0 for stage in pipeline["stages"])
        after = operator.get(f"/sessions/{session_id}").json()
        assert (after["status"], after["stop_reason"]) == ("stopped", "requested")
        assert after["audio"] == {"requested": True, "captured": False, "reason": "the desktop has no audio source"}

        assert verified(operator, session_id, tmp_path) == 0
        content = operator.get(f"/sessions/{session_id}/chunks/{first['chunk_id']}/content")
        assert is_colour(colours(content.content)[0], "#d02040")
        assert content.content[4:60] not in b"".join(p.read_bytes() for p in service.settings.chunks.rglob("*.lyck"))
        export = operator.get(f"/sessions/{session_id}/export")
        with av.open(io.BytesIO(export.content)) as video:
            shown = list(video.decode(video=0))
        assert len(shown) == statistics["recording_stats"]["total_frames"]
        assert 2.5 <= float(shown[-1].pts * shown[-1].time_base) <= lasted + 2.5
        assert operator.post("/ledger/verify").json()["valid"] is True

    def test_pause_and_resume(self, operator: Caller, desk: Desk) -> None:
        session_id = started(operator)
        chunks(operator, session_id)
        assert operator.post(f"/sessions/{session_id}/resume").status_code == 409
        assert operator.post(f"/sessions/{session_id}/pause").json()["status"] == "paused"
        assert operator.get(f"/sessions/{session_id}/pipeline").json()["pipeline_status"] == "paused"
        time.sleep(1)  # which must not be counted
        assert operator.post(f"/sessions/{session_id}/pause").status_code == 409
        assert operator.post(f"/sessions/{session_id}/resume").json()["status"] == "recording"
        stats = stopped(operator, session_id)["final_statistics"]["recording_stats"]
        assert stats["paused_duration_seconds"] >= 1
        assert stats["active_duration_seconds"] <= stats["total_duration_seconds"] - 1

    def test_without_encryption_and_compression(self, operator: Caller, desk: Desk, tmp_path: Path) -> None:
        session_id = started(operator, storage_config={"encryption_enabled": False, "compression_enabled": False})
        chunk = chunks(operator, session_id)[0]
        stopped(operator, session_id)
        assert chunk["encryption_key_id"] is None
        assert chunk["compression_ratio"] == 1
        assert verified(operator, session_id, tmp_path) == 0

    def test_three_at_once_are_still_recorded_later(self, operator: Caller, desk: Desk) -> None:
        sessions = [created(operator) for _ in range(3)]
        with ThreadPoolExecutor() as pool:
            answers = list(pool.map(lambda each: operator.post(f"/sessions/{each}/start").status_code, sessions))
        assert answers == [200, 200, 200]
        for session_id in sessions:
            chunks(operator, session_id, 3)
            assert operator.get(f"/sessions/{session_id}").json()["status"] == "recording"
        with ThreadPoolExecutor() as pool:
            heights = list(pool.map(lambda each: stopped(operator, each)["anchoring"]["block_height"], sessions))
        assert sorted(heights) == [1, 2, 3]

    def test_two_starts_at_once(self, operator: Caller, desk: Desk, agent: RecordingAgent) -> None:
        session_id = created(operator)
        with ThreadPoolExecutor() as pool:
            answers = pool.map(lambda _: operator.post(f"/sessions/{session_id}/start").status_code, range(4))
        assert sorted(answers) == [200, 409, 409, 409]
        assert len(agent.units.processes) == 1
        with ThreadPoolExecutor() as pool:
            answers = pool.map(lambda _: operator.post(f"/sessions/{session_id}/stop").status_code, range(4))
        assert sorted(answers) == [200, 409, 409, 409]
        assert operator.get("/ledger/entries").json()["total"] == 2

    def test_deleted_and_its_key_with_it(self, operator: Caller, desk: Desk, service: Desktops) -> None:
        session_id = started(operator)
        chunks(operator, session_id)
        stopped(operator, session_id)
        assert operator.delete(f"/sessions/{session_id}").status_code == 204
        assert operator.get(f"/sessions/{session_id}").status_code == 404
        assert list(service.settings.chunks.rglob("*.lyck")) == []
        with service.database.read() as session:
            assert session.query(DataKey).one().wrapped is None
        assert operator.post("/ledger/verify").json()["valid"] is True


class TestBinding:
    def test_nothing_to_record(self, operator: Caller) -> None:
        session_id = created(operator)
        answer = operator.post(f"/sessions/{session_id}/start")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "SES_NO_RDP_TARGET")
        assert operator.get(f"/sessions/{session_id}").json()["status"] == "created"
        (error,) = operator.get(f"/sessions/{session_id}/errors").json()["errors"]
        assert (error["code"], error["stage"], error["recovered"]) == ("SES_NO_RDP_TARGET", "recording", False)

    def test_exact(self, operator: Caller, desk: Desk) -> None:
        answer = operator.post("/sessions", json=sample(rdp_config={"host": "localhost", "port": desk.port}))
        session_id = answer.json()["session_id"]
        assert answer.json()["provisioning"]["server_id"] == desk.server_id
        assert operator.post(f"/sessions/{session_id}/start").json()["binding"]["kind"] == "exact"
        stopped(operator, session_id)

    def test_exact_and_stopped_is_no_target(self, operator: Caller, desk: Desk, agent: RecordingAgent) -> None:
        add_desk(desk.database, agent, desk.display, "operator", port=33891)
        desk.change(status=RdpStatus.STOPPED)
        session_id = created(operator, rdp_config={"host": "127.0.0.1", "port": desk.port})
        answer = operator.post(f"/sessions/{session_id}/start")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "SES_NO_RDP_TARGET")

    def test_another_owners_server_is_not_taken(self, desk: Desk, caller: Callable[..., Caller]) -> None:
        alice = caller("alice", Role.SESSION_OPERATOR)
        for config in ({}, {"host": "127.0.0.1", "port": desk.port}):
            answer = alice.post(f"/sessions/{created(alice, rdp_config=config)}/start")
            assert answer.status_code == 400

    def test_a_server_made_for_the_caller_is_its_own(self, desk: Desk, caller: Callable[..., Caller]) -> None:
        desk.change(user_id="alice")
        alice = caller("alice", Role.SESSION_OPERATOR)
        for config, kind in (({}, "owner"), ({"host": "127.0.0.1", "port": desk.port}, "exact")):
            session_id = created(alice, rdp_config=config)
            assert alice.post(f"/sessions/{session_id}/start").json()["binding"]["kind"] == kind
            stopped(alice, session_id)

    def test_none_never_takes_a_server(self, operator: Caller, desk: Desk) -> None:
        session_id = created(operator, rdp_config={"provisioning": "none"})
        assert operator.post(f"/sessions/{session_id}/start").status_code == 400

    def test_auto_without_a_provisioner(self, operator: Caller) -> None:
        answer = operator.post("/sessions", json=sample(rdp_config={"provisioning": "auto"}))
        assert (answer.status_code, answer.json()["provisioning"]["state"]) == (201, "failed")
        session_id = answer.json()["session_id"]
        assert operator.get(f"/sessions/{session_id}/errors").json()["errors"]
        assert operator.post(f"/sessions/{session_id}/start").status_code == 400

    def test_no_slot_left_on_the_node(self, operator: Caller, service: Desktops, agent: Any, screen: Display) -> None:
        add_node(service.database, max_sessions=1)
        add_desk(service.database, agent, screen, "operator")
        first = started(operator)
        second = created(operator)
        answer = operator.post(f"/sessions/{second}/start")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "CAPACITY_EXHAUSTED")
        stopped(operator, first)
        assert operator.post(f"/sessions/{second}/start").status_code == 200
        stopped(operator, second)

    def test_a_display_that_is_not_there(self, operator: Caller, desk: Desk) -> None:
        desk.display.kill()
        session_id = created(operator)
        answer = operator.post(f"/sessions/{session_id}/start")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "SES_NO_RDP_TARGET")
        assert operator.get(f"/sessions/{session_id}").json()["status"] == "created"


class TestTampering:
    def test_an_altered_file_is_found_and_on_record(
        self, operator: Caller, admin: Caller, desk: Desk, service: Desktops, tmp_path: Path
    ) -> None:
        session_id = started(operator)
        chunk = chunks(operator, session_id)[0]
        stopped(operator, session_id)
        path = next(service.settings.chunks.rglob(f"{chunk['chunk_id']}.lyck"))
        data = bytearray(path.read_bytes())
        data[-20] ^= 1
        path.write_bytes(data)
        for what in ("content", "object"):
            answer = operator.get(f"/sessions/{session_id}/chunks/{chunk['chunk_id']}/{what}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (500, "INTERNAL")
        assert operator.get(f"/sessions/{session_id}/export").status_code == 500
        path.unlink()
        assert operator.get(f"/sessions/{session_id}/chunks/{chunk['chunk_id']}/content").status_code == 500
        found = admin.get("/audit", params={"event_type": "integrity"}).json()
        assert found["total"] == 4

    def test_chunk_proof(self, operator: Caller, desk: Desk, tmp_path: Path) -> None:
        session_id = started(operator)
        chunk_id = chunks(operator, session_id, 2)[1]["chunk_id"]
        stopped(operator, session_id)
        assert verified(operator, session_id, tmp_path) == 0
        proof = operator.get(f"/sessions/{session_id}/chunks/{chunk_id}/proof").json()
        (tmp_path / "proof.json").write_text(json.dumps(proof))
        object_file = tmp_path / "objects" / f"{chunk_id}.lyck"
        check = ["chunk", "--key", str(tmp_path / "key.pem"), str(object_file), str(tmp_path / "proof.json")]
        assert verify(check) == 0
        assert proof["merkle_hash"] == hashlib.sha256(b"\0" + object_file.read_bytes()).hexdigest()
        object_file.write_bytes(object_file.read_bytes()[:-1])
        assert verify(check) == 1


class TestStorage:
    def test_no_start_below_the_reserve(
        self, operator: Caller, desk: Desk, make_http: Callable[..., TestClient]
    ) -> None:
        again = Caller(make_http(session_storage_reserve=2**60), operator.token)
        session_id = created(again)
        answer = again.post(f"/sessions/{session_id}/start")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "STORAGE_FULL")
        assert again.get(f"/sessions/{session_id}").json()["status"] == "created"

    def test_a_disk_that_fills_ends_the_recording_in_order(
        self, operator: Caller, desk: Desk, service: Desktops, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        session_id = started(operator)
        chunks(operator, session_id)
        monkeypatch.setattr(service.sessions.store, "free_bytes", lambda: 0)
        wait_until(lambda: operator.get(f"/sessions/{session_id}").json()["status"] == "stopped", "it is stopped")
        after = operator.get(f"/sessions/{session_id}").json()
        assert (after["stop_reason"], without_stalls(after["gaps"])) == ("storage_full", [])
        assert verified(operator, session_id, tmp_path) == 0


class TestFaults:
    def test_a_pause_that_was_cut_off_has_not_happened(
        self, operator: Caller, desk: Desk, agent: RecordingAgent
    ) -> None:
        session_id = started(operator)
        agent.recorders.pause(session_id)  # as if the database had not heard of it
        wait_until(lambda: agent.record_status(session_id).state == "recording", "it records again")
        stopped(operator, session_id)

    def test_a_recorder_that_nobody_wants_ends(
        self, operator: Caller, desk: Desk, agent: RecordingAgent, service: Desktops, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service.watch.stop()  # which looks for such, too
        session_id = started(operator)
        chunks(operator, session_id)
        monkeypatch.setattr(agent, "segments_ack", lambda *_: None)  # as if the node were away right after
        stopped(operator, session_id)
        monkeypatch.undo()
        monkeypatch.setattr(OneNode, "hosts", lambda *_: True)
        assert agent.record_list() == (session_id,)
        service.sessions.recordings.reconcile()
        assert agent.record_list() == ()

    def test_a_killed_recorder(self, operator: Caller, desk: Desk, agent: RecordingAgent, tmp_path: Path) -> None:
        session_id = started(operator)
        chunks(operator, session_id, 2)
        agent.kill_recorder(session_id)
        # One more may be of before.
        chunks(operator, session_id, len(chunks(operator, session_id)) + 3)
        stopped(operator, session_id)
        (gap,) = without_stalls(operator.get(f"/sessions/{session_id}").json()["gaps"])
        assert gap["reason"] == "recorder_restarted"
        assert verified(operator, session_id, tmp_path) == 0

    def test_a_restarted_service_goes_on(
        self, operator: Caller, desk: Desk, make_http: Callable[..., TestClient], tmp_path: Path
    ) -> None:
        session_id = started(operator)
        before = chunks(operator, session_id, 2)
        again = Caller(make_http(), operator.token)
        after = chunks(again, session_id, len(before) + 2)
        assert after[: len(before)] == before
        assert again.get(f"/sessions/{session_id}").json()["status"] == "recording"
        stopped(again, session_id)
        numbers = [chunk["sequence_number"] for chunk in chunks(again, session_id)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert verified(again, session_id, tmp_path) == 0

    def test_a_recorder_that_is_gone_after_a_restart(
        self, operator: Caller, desk: Desk, agent: RecordingAgent, make_http: Callable[..., TestClient], tmp_path: Path
    ) -> None:
        session_id = started(operator)
        chunks(operator, session_id)
        operator.http.__exit__(None, None, None)
        agent.units.close()
        agent.recorders.acknowledge(session_id, 10**6)
        again = Caller(make_http(), operator.token)
        wait_until(lambda: again.get(f"/sessions/{session_id}").json()["status"] == "stopped", "it is stopped")
        assert again.get(f"/sessions/{session_id}").json()["stop_reason"] == "crash_recovered"
        assert verified(again, session_id, tmp_path) == 0

    def test_a_node_that_is_away_for_a_while(self, operator: Caller, desk: Desk, agent: RecordingAgent) -> None:
        session_id = started(operator)
        chunks(operator, session_id)
        agent.away = True
        wait_until(lambda: operator.get(f"/sessions/{session_id}").json()["degraded"], "it is told as degraded")
        answer = operator.post(f"/sessions/{session_id}/stop")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "SEAL_INCOMPLETE")
        agent.away = False
        wait_until(lambda: operator.get(f"/sessions/{session_id}").json()["status"] == "stopped", "it is stopped")
        assert operator.get(f"/sessions/{session_id}/anchoring").json()["status"] == "anchored"

    @pytest.fixture
    def impatient(self, make_http: Callable[..., TestClient], agent: RecordingAgent, screen: Display) -> Caller:
        """Of a service that waits a second for what is gone."""
        http = make_http(rdp_grace=1)
        service: Desktops = http.app.state.desktops  # type: ignore[attr-defined]
        add_node(service.database)
        add_desk(service.database, agent, screen, "operator")
        roles = [Role.SESSION_MANAGER, Role.NODE_OPERATOR]
        return Caller(http, service.auth.issue("operator", roles, timedelta(hours=1)))

    def test_a_node_that_is_stopped(self, impatient: Caller) -> None:
        service: Desktops = impatient.http.app.state.desktops  # type: ignore[attr-defined]
        session_id = started(impatient)
        chunks(impatient, session_id)
        with service.database.transaction() as session:
            session.get_one(Node, NODE).status = NodeStatus.INACTIVE
        wait_until(lambda: impatient.get(f"/sessions/{session_id}").json()["status"] == "stopped", "it is stopped")
        after = impatient.get(f"/sessions/{session_id}").json()
        assert (after["stop_reason"], after["degraded"]) == ("node_stopped", True)
        (error,) = impatient.get(f"/sessions/{session_id}/errors").json()["errors"]
        assert (error["code"], error["recovered"]) == ("NODE_STATE", False)
        assert impatient.get(f"/sessions/{session_id}/anchoring").json()["status"] == "anchored"

    def test_a_server_that_does_not_come_back(self, impatient: Caller, screen: Display, tmp_path: Path) -> None:
        operator = impatient
        session_id = started(operator)
        chunks(operator, session_id)
        screen.kill()
        wait_until(lambda: operator.get(f"/sessions/{session_id}").json()["status"] == "stopped", "it is stopped")
        after = operator.get(f"/sessions/{session_id}").json()
        assert after["stop_reason"] == "rdp_server_lost"
        assert [gap["reason"] for gap in without_stalls(after["gaps"])] == ["display_lost"]
        assert verified(operator, session_id, tmp_path) == 0
