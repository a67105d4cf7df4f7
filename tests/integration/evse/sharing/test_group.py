"""Real pairs on one host share a budget, and the monitor finds no violation whatever happens to them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from integration.evse.sharing.conftest import Pairs
from integration.evse.sharing.pairs import GROUP, Gateway, Pair
from labyard.testing.waiting import PATIENCE, wait_until

TIMEOUT = 5  # s, the shortest that a heartbeat may have


@contextmanager
def watched(controller: Pair, pairs: list[Pair], folder: Path, *flags: str) -> Iterator[None]:
    """The monitor runs while something happens, and must not see a violation."""
    output = folder / "monitor.jsonl"
    words = ["--emulators", *(f"http://127.0.0.1:{pair.web_port}" for pair in pairs)]
    words += ["--controller", controller.url, "--interval", "0.25", "--output", str(output), *flags]
    monitor = subprocess.Popen([sys.executable, "-m", "labyard.evse.monitor", *words], stdout=subprocess.PIPE)
    try:
        wait_until(lambda: output.exists() and output.stat().st_size > 0, "the monitor watches")
        yield
        before = output.stat().st_size
        wait_until(lambda: output.stat().st_size > before, "the monitor sees how it ends")
    finally:
        monitor.send_signal(signal.SIGTERM)
        summary, _ = monitor.communicate(timeout=PATIENCE)
        lines = [json.loads(line) for line in output.read_text().splitlines()]
    over = [line for line in lines if line["violation"]]
    assert not over, over
    assert monitor.returncode == 0, summary
    assert len(lines) > 1


def group(pairs: list[Pair], **options: Any) -> Pair:
    """The first is the controller of all."""
    controller = pairs[0]
    controller.configure(**{key.removeprefix("loadsharing_"): value for key, value in GROUP.items()} | options)
    for pair in pairs[1:]:
        assert controller.add(f"127.0.0.1:{pair.port}").json() == {"msg": "done"}
    wait_until(lambda: controller.group["online_count"] == len(pairs), "all members online")
    return controller


def shares(pairs: list[Pair]) -> list[float]:
    return [pair.amps for pair in pairs]


def share(controller: Pair, host: str) -> tuple[float, str, float]:
    """What a member is to have, why, and what it is counted with."""
    (entry,) = [entry for entry in controller.group["allocations"] if entry["id"] == host]
    return entry["target_current"], entry["reason"], entry["committed_current"]


@pytest.fixture
def three(pairs: Pairs) -> list[Pair]:
    return pairs(3)


def test_a_group_shares_follows_its_supply_and_lets_go(three: list[Pair], tmp_path: Path) -> None:
    controller = group(three, failsafe_safe_current=6)
    for pair in three[1:]:
        wait_until(lambda pair=pair: pair.status["loadsharing_state"].startswith("member"), "a member obeys")
        config = pair.http.get("/config").json()
        assert config["loadsharing_controller_host"] == f"{controller.hostname}.local:{controller.port}"
        assert config["loadsharing_group_id"] == "test" and config["loadsharing_enabled"] is True
    with watched(controller, three, tmp_path):
        for pair in three:
            pair.charge()
        wait_until(lambda: shares(three) == [10, 10, 10], "32 A for three")
        reasons = ["group_cap", "allocation", "allocation"]
        wait_until(lambda: [pair.status["limit_reason"] for pair in three] == reasons, "they say why")
        controller.configure(group_max_current=24)
        wait_until(lambda: shares(three) == [8, 8, 8], "24 A for three")
        controller.configure(group_max_current=16)
        wait_until(lambda: sorted(shares(three)) == [0, 6, 6], "16 A are not enough for three")
        controller.configure(group_max_current=40)
        wait_until(lambda: shares(three) == [13, 13, 13], "40 A for three")
        three[1].do("ev/disconnect")
        wait_until(lambda: shares(three) == [20, 0, 20], "one has gone")
    # No local write raises what a member may draw.
    member = three[2]
    member.http.post("/override", json={"state": "active", "charge_current": 32, "max_current": 32})
    refused = member.http.post("/config", json={"loadsharing_group_max_current": 99})
    assert (refused.status_code, refused.json()["msg"]) == (403, "Load sharing configuration is read-only on members")
    assert member.add("10.1.2.3").status_code == 403
    time.sleep(1.5)
    assert member.offer == 20
    status = controller.group
    assert status["committed_total"] <= status["budget"] == 40
    assert {entry["reason"] for entry in status["allocations"]} == {"equal_share", "idle"}
    # A peer that is removed is free again.
    assert controller.http.delete(f"/loadsharing/peers/127.0.0.1%3A{member.port}").json() == {"msg": "done"}
    wait_until(lambda: member.status["loadsharing_state"] == "off" and member.offer == 32, "it is free")


def test_the_controller_is_killed_and_comes_back(three: list[Pair], tmp_path: Path) -> None:
    controller = group(three, heartbeat_timeout=TIMEOUT, failsafe_safe_current=7)
    for pair in three:
        pair.charge()
    wait_until(lambda: shares(three) == [10, 10, 10], "they share")
    with watched(controller, three, tmp_path):
        controller.stop(signal.SIGKILL)
        wait_until(lambda: shares(three[1:]) == [7, 7], "members fall back")
        assert [pair.status["loadsharing_state"] for pair in three[1:]] == ["failsafe"] * 2
        assert [pair.status["limit_reason"] for pair in three[1:]] == ["controller_lost"] * 2
        controller.start()
        controller.ready()
        wait_until(lambda: shares(three) == [10, 10, 10], "they share again")
    wait_until(lambda: controller.group["failsafe_active"] is False, "nobody is missed")


def test_a_member_restarts_and_one_is_cut_off(three: list[Pair], tmp_path: Path) -> None:
    controller = group(three, heartbeat_timeout=TIMEOUT, group_max_current=18)
    for pair in three:
        pair.charge()
    wait_until(lambda: shares(three) == [6, 6, 6], "they share")
    with watched(controller, three, tmp_path):
        three[1].stop(signal.SIGKILL)
        three[1].start()
        three[1].ready()
        assert three[1].http.get("/config").json()["loadsharing_role"] == "member"
        wait_until(lambda: three[1].status["loadsharing_state"] in ("member", "member_limited"), "it is back")
        host = f"127.0.0.1:{three[2].port}"
        rules = {"seed": 1, "rules": [{"kind": "partition", "host": host}]}
        assert controller.http.post("/labyard/faults", json=rules).status_code == 200
        wait_until(lambda: three[2].status["loadsharing_state"] == "failsafe", "it is cut off")
        wait_until(lambda: share(controller, host) == (0, "offline", 6), "the controller knows, and counts it with 6 A")
        wait_until(lambda: controller.group["offline_count"] == 1, "it misses nobody else")
        assert controller.group["failsafe_active"] is True
        controller.http.delete("/labyard/faults")
        wait_until(lambda: three[2].status["loadsharing_state"] == "member_limited", "it is back")
        wait_until(lambda: controller.group["offline_count"] == 0, "the controller knows")


def test_a_member_whose_evse_comes_late_gets_its_share(pairs: Pairs, tmp_path: Path) -> None:
    two = pairs(2)
    controller, member = group(two, heartbeat_timeout=TIMEOUT), two[1]
    member.unplug()
    member.stop()
    member.start()
    Gateway.ready(member)
    wait_until(lambda: member.status["loadsharing_state"] == "member", "it hears its controller")
    assert member.status["loadsharing_ready"] == 0
    member.plug()
    wait_until(lambda: member.status["loadsharing_ready"] == 1, "its EVSE is there")
    with watched(controller, two, tmp_path):
        for pair in two:
            pair.charge()
        wait_until(lambda: shares(two) == [16, 16], "both have their share")


@pytest.mark.parametrize("scale", [20])
def test_a_hundred_minutes_in_a_few(pairs: Pairs, scale: int, tmp_path: Path) -> None:
    """On a clock that runs faster all of it does: heartbeats, rotation, cars. A gateway that stands still does so for
    longer, too: the timeout is the longest that there is, half a minute of ours."""
    two = pairs(2, LABYARD_TIME_SCALE=str(scale))
    controller = group(two, group_max_current=10, rotation_interval=60, heartbeat_timeout=600)
    for pair in two:
        pair.charge()
    wait_until(lambda: sorted(shares(two)) == [0, 6], "one of them charges")
    seen: set[tuple[float, ...]] = set()

    def both_had_their_turn() -> bool:
        seen.add(tuple(shares(two)))
        return {(6, 0), (0, 6)} <= seen

    with watched(controller, two, tmp_path, "--time-scale", str(scale)):
        wait_until(both_had_their_turn, "the 6 A change sides")
    assert controller.group["failsafe_active"] is False
