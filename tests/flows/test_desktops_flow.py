"""A desktop in the lab: made, reached over the segment, looked at, recorded, proven from outside; and nodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import av
import pytest
from desks import Desk, Thing
from integration.desktops.media import colours, is_colour
from integration.phase3.conftest import NODE
from PIL import Image

from labyard.lab import Lab
from labyard.testing.waiting import wait_until

COLOUR = "#c02040"
# What the client saw first, for people.
PICTURE = Path(__file__).parents[2] / "build/desktops/client.png"


@dataclass
class Story:
    """What each part said while a desktop was looked at and recorded."""

    server: Thing
    fingerprint: str  # shown to the probe host
    first: Image.Image  # what the client saw first
    painted: Image.Image  # and after the desktop was painted
    connections: list[Thing]
    session_id: str
    during: Thing  # the session while it was recorded
    pipeline: Thing
    recorded_by: list[Thing]
    media: bytes  # of a chunk that began after the painting
    stopped: Thing


@pytest.fixture(scope="module")
def desk(lab: Lab) -> Desk:
    return Desk(lab)


@pytest.fixture(scope="module")
def story(desk: Desk) -> Iterator[Story]:
    with desk.server() as server, desk.client(server) as look:
        fingerprint = desk.negotiated_from_the_probe(server)
        wait_until(lambda: has_content(look()), "the client sees a desktop")
        first = look()
        users = f"/rdp/servers/{server['server_id']}/sessions"
        with desk.session(server) as session_id:
            desk.more_chunks(session_id, 1)
            desk.paint(server, COLOUR)
            wait_until(lambda: is_colour(corner(look()), COLOUR), "the client sees the colour")
            chunk = desk.new_chunk(session_id)

            def one_connection() -> list[Thing] | None:
                found: list[Thing] = desk.good("GET", users)["connections"]
                return found if len(found) == 1 else None

            # The probe's has ended, but is counted until the service looks again.
            connections = wait_until(one_connection, "the client is the only one")
            path = f"/sessions/{session_id}"
            yield Story(
                server=server,
                fingerprint=fingerprint,
                first=first or pytest.fail("there was a picture a moment ago"),
                painted=look() or pytest.fail("there was a picture a moment ago"),
                connections=connections,
                session_id=session_id,
                during=desk.good("GET", path),
                pipeline=desk.good("GET", f"{path}/pipeline"),
                recorded_by=desk.good("GET", users)["active_sessions"],
                media=desk.media(chunk),
                stopped=desk.good("POST", f"{path}/stop"),
            )


def has_content(picture: Image.Image | None) -> bool:
    """More than one colour: a client that waits shows black."""
    return picture is not None and picture.getcolors(1) is None


def corner(picture: Image.Image | None) -> tuple[int, ...]:
    """A pixel near the lower right corner; black where there is no picture."""
    if picture is None:
        return (0, 0, 0)
    found: Any = picture.getpixel((picture.width - 20, picture.height - 20))
    return tuple(found)


class TestTheDesktop:
    def test_is_reached_over_the_segment_with_its_own_certificate(self, desk: Desk, story: Story) -> None:
        assert story.server["host"] == desk.host.address
        access = desk.good("GET", f"/rdp/servers/{story.server['server_id']}/credentials")
        assert story.fingerprint == access["certificate_sha256"]

    def test_shows_itself_to_a_client_that_logs_in(self, story: Story) -> None:
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        story.first.save(PICTURE)
        assert story.first.size == story.painted.size == (1280, 720)
        assert len(story.connections) == 1

    def test_is_held_to_its_limits(self, story: Story) -> None:
        enforced = story.server["enforcement"]
        wanted = {"cpu": "cgroup", "memory": "cgroup", "disk": "filesystem", "network": "nftables"}
        assert {what: enforced[what] for what in wanted} == wanted, enforced


class TestTheRecording:
    def test_is_of_that_desktop(self, story: Story) -> None:
        binding = story.during["binding"]
        assert (story.during["status"], binding["kind"], binding["server_id"]) == (
            "recording", "exact", story.server["server_id"],
        )  # fmt: skip
        assert [one["session_id"] for one in story.recorded_by] == [story.session_id]
        stages = [stage["stage_name"] for stage in story.pipeline["stages"]]
        assert (story.pipeline["pipeline_status"], stages) == (
            "active", ["recording", "processing", "storage", "anchoring"],
        )  # fmt: skip

    def test_shows_the_colour_that_was_painted(self, story: Story) -> None:
        seen = colours(story.media)
        assert seen and all(is_colour(pixel, COLOUR) for pixel in seen), seen

    def test_is_on_the_disk_as_chunks_that_nobody_can_look_at(self, desk: Desk, story: Story) -> None:
        folder = f"{desk.host.value('desktops_state_dir')}/chunks/{story.session_id}"
        count = story.stopped["anchoring"]["chunk_count"]
        assert len(desk.host.check(f"grep --files-with-matches '^LYCK' {folder}/*.lyck").split()) == count
        # Every MP4 file has these boxes.
        for folder_of in (folder, desk.host.value("desktop_node_state_dir"), "/run/labyard-desktop-agent"):
            assert (
                desk.host.run(f"grep --recursive --files-with-matches -e ftypisom -e moovmvhd {folder_of}").stdout == ""
            )

    def test_is_sealed_and_proven_from_outside(self, desk: Desk, story: Story) -> None:
        anchored, statistics = story.stopped["anchoring"], story.stopped["final_statistics"]
        assert (story.stopped["status"], anchored["status"]) == ("stopped", "anchored")
        assert anchored["transaction_hash"] and anchored["merkle_root"] and anchored["block_height"] >= 1
        chunks = desk.chunks(story.session_id)
        assert [chunk["sequence_number"] for chunk in chunks] == list(range(1, anchored["chunk_count"] + 1))
        assert all(chunk["merkle_hash"] and chunk["encryption_key_id"] for chunk in chunks)
        assert statistics["storage_stats"]["chunks_count"] == len(chunks)
        assert statistics["rdp_resource_usage"]["server_id"] == story.server["server_id"]
        assert statistics["node_performance"]["load_average"]
        assert f"{len(chunks)} chunks" in desk.command("verify", story.session_id)

    def test_plays(self, desk: Desk, story: Story, tmp_path: Path) -> None:
        desk.command("export", story.session_id, "-o", str(tmp_path / "all.mp4"))
        with av.open(str(tmp_path / "all.mp4")) as video:
            frames = [frame.to_image().getpixel((320, 180)) for frame in video.decode(video=0)]
        assert len(frames) == story.stopped["final_statistics"]["recording_stats"]["total_frames"]
        assert is_colour(frames[-1], COLOUR) and not is_colour(frames[0], COLOUR)

    def test_is_paid_for_once(self, desk: Desk, story: Story) -> None:
        own = desk.good("GET", f"/sessions/{story.session_id}")["poot_references"]
        assert [desk.good("GET", f"/poot/{poot}")["node_id"] for poot in own] == ["node_local"]
        poot = json.loads(desk.command("poot", "submit", "node_local", "--session", story.session_id, "--json"))[
            "poot_id"
        ]
        (scored,) = json.loads(desk.command("poot", "validate", poot, "--json"))
        assert scored["is_valid"] and scored["factors"] and scored["metrics_source"]
        assert desk.good("GET", f"/poot/{poot}")["score"] == scored["score"]
        paid = json.loads(desk.command("poot", "pay", poot, "--wallet", "W-check", "--json"))
        assert paid["amount"] > 0 and paid["status"] == "processed"
        assert desk.good("GET", f"/poot/{poot}/payout") == paid
        assert desk.ask("POST", f"/poot/{poot}/payout", wallet_address="W-check").status_code == 409
        assert poot in desk.good("GET", f"/sessions/{story.session_id}")["poot_references"]

    def test_is_on_the_audit_log(self, desk: Desk, story: Story) -> None:
        """What was done with it, and by whom, in a chain that holds."""
        chunk = desk.chunks(story.session_id)[-1]
        desk.media(chunk)
        done = set()
        for one in (story.server["server_id"], story.session_id, chunk["chunk_id"]):
            for entry in desk.good("GET", f"/audit?resource_id={one}&result=success")["entries"]:
                done.add((entry["event_type"], entry["action"], entry["actor"]["sub"]))
        assert done >= {
            ("rdp", "create", "check"), ("rdp", "start", "check"), ("rdp", "credential_read", "check"),
            ("session", "create", "check"), ("session", "start", "check"), ("session", "stop", "check"),
            ("session", "content", "check"),
        }  # fmt: skip
        chain = desk.good("GET", "/audit/verify")
        assert (chain["valid"], chain["first_bad"]) == (True, None) and chain["entries"] >= len(done)


def test_a_session_has_a_desktop_made_for_it(desk: Desk) -> None:
    """By the creation of the session; it cannot be stopped while it is recorded, and goes when the session stops."""
    target = {"host": "own", "username": "check", "provisioning": "auto"}
    made = desk.good("POST", "/sessions", name="own", rdp_config=target, recording_config={"frame_rate": 5})
    session, server_id = f"/sessions/{made['session_id']}", made["provisioning"]["server_id"]
    try:
        assert made["provisioning"]["state"] == "provisioned", desk.good("GET", f"{session}/errors")
        server = desk.good("GET", f"/rdp/servers/{server_id}")
        assert (server["status"], server["node_id"]) == ("running", "node_local")
        binding = desk.good("POST", f"{session}/start")["binding"]
        assert (binding["kind"], binding["server_id"]) == ("auto", server_id)
        desk.more_chunks(made["session_id"], 1)
        refused = desk.ask("POST", f"/rdp/servers/{server_id}/stop")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "RDP_HAS_SESSIONS")
        assert desk.good("POST", f"{session}/stop")["anchoring"]["status"] == "anchored"
        assert desk.ask("GET", f"/rdp/servers/{server_id}").status_code == 404
        assert desk.left_of(server) == ""
    finally:
        desk.ask("POST", f"{session}/stop")
        assert desk.ask("DELETE", session).status_code == 204


def test_a_server_by_hand_from_create_to_delete(desk: Desk) -> None:
    made = json.loads(
        desk.command(
            "servers", "create", "by-hand", "--desktop", "icewm", "--memory", "512", "--disk", "1024", "--json"
        )
    )
    name = made["server_id"]
    try:
        assert (made["status"], 33890 <= made["port"] <= 33999) == ("stopped", True)
        desk.command("servers", "start", name)
        assert json.loads(desk.command("servers", "test", name, "--json"))["login"]["succeeded"]
        wrong = desk.good("POST", f"/rdp/servers/{name}/test-connection", username=name, password="wrong")
        assert (wrong["connection_available"], wrong["login"]["succeeded"]) == (True, False)
        assert 0 < json.loads(desk.command("servers", "usage", name, "--json"))["memory_percent"] <= 100
        desk.command("servers", "stop", name)
        stopped = json.loads(desk.command("servers", "test", name, "--json", status=1))
        assert not stopped["connection_available"]
        shown = json.loads(desk.command("servers", "show", name, "--json"))["service_status"]
        assert (shown["xrdp_status"], shown["xrdp_sesman_status"]) == ("inactive", "inactive")
    finally:
        desk.command("servers", "delete", name)
    assert desk.left_of(made) == ""
    assert desk.ask("GET", f"/rdp/servers/{name}").status_code == 404


def test_a_token_is_good_until_it_is_revoked_and_for_its_roles_only(desk: Desk) -> None:
    assert desk.refused_with("") == "AUTH_MISSING"
    assert desk.refused_with("nonsense") == "AUTH_INVALID"
    assert desk.refused_with(desk.token("auditor") + "x") == "AUTH_INVALID"
    assert desk.refused_with(desk.revoked_token()) == "AUTH_REVOKED"
    forbidden = desk.ask_with(desk.token("node_viewer"), "POST", "/nodes")
    assert (forbidden.status_code, forbidden.json()["error"]["code"]) == (403, "AUTH_FORBIDDEN")
    last = desk.good("GET", "/audit?result=forbidden&limit=1")["entries"][0]
    assert (last["actor"]["sub"], last["action"]) == ("check", "POST /api/v1/nodes")


def test_the_hosts_own_node_is_known_by_its_agent(desk: Desk) -> None:
    node = desk.good("GET", "/nodes/node_local")
    assert (node["status"], node["pool_id"], node["hardware_mismatch"]) == ("active", "pool_local", False)
    memory = int(desk.host.check("awk '/MemTotal/ {print $2}' /proc/meminfo")) * 1024
    assert node["hardware_observed"]["memory"]["total_bytes"] == memory
    usage = desk.good("GET", "/nodes/node_local/usage")
    assert usage["source"] == "agent"
    available = int(desk.host.check("awk '/MemAvailable/ {print $2}' /proc/meminfo")) * 1024
    # Other tests take and give memory between the two looks.
    assert usage["memory_percent"] == pytest.approx(100 * (1 - available / memory), abs=20)
    # The mean of a quarter of an hour hardly moves meanwhile.
    load = float(desk.host.check("cat /proc/loadavg").split()[2])
    assert 0 <= usage["cpu_percent"] <= 100 and usage["detail"]["cpu"]["load"][2] == pytest.approx(load, abs=1)
    received = {name: counted["bytes_recv"] for name, counted in usage["detail"]["network"].items()}
    assert any(received.values())
    for name, count in received.items():
        assert count <= int(desk.host.check(f"cat /sys/class/net/{name}/statistics/rx_bytes"))
    assert desk.good("GET", "/nodes/node_local/usage/history?duration=1h")["usage_history"]
    assert "node_local" in desk.command("nodes", "list", "--json")
    desk.command("status")


def test_a_node_from_registration_to_removal(desk: Desk) -> None:
    wrong = NODE | {"hardware_info": NODE["hardware_info"] | {"cpu": {"cores": 0}}}
    assert desk.ask("POST", "/nodes", **wrong).status_code == 400
    node = desk.good("POST", "/nodes", **NODE | {"name": "check-node"})
    path = f"/nodes/{node['node_id']}"
    try:
        assert (node["status"], node["pool_id"]) == ("inactive", "pool_workers")
        assert desk.good("PUT", f"{path}/pool", pool_id="pool_compute")["node_count"] >= 1
        assert desk.good("GET", "/nodes/pools/pool_compute/statistics")["total_nodes"] >= 1
        assert desk.good("POST", f"{path}/start")["status"] == "active"
        beat = desk.good("POST", f"{path}/heartbeat", timestamp=datetime.now(UTC).isoformat())
        assert beat["last_heartbeat"]
        usage = desk.good("GET", f"{path}/usage")
        assert (usage["source"], usage["shared"]) == ("service-host", True)
        assert desk.good("POST", f"{path}/stop")["status"] == "inactive"
    finally:
        desk.ask("POST", f"{path}/stop")
        assert desk.ask("DELETE", path).status_code == 204
    assert desk.ask("GET", path).status_code == 404
