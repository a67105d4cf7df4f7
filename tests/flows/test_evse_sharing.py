"""The lab's charger group: its gateways find each other across hosts, and share a supply that is never exceeded."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labyard.testing.charger_group import EvseGroup, EvsePair, wait_for_pairs

ROOT = Path(__file__).parents[2]


@pytest.fixture
def group(evse_group: EvseGroup) -> Iterator[EvseGroup]:
    """Whole, also after tests that restart pairs. Without cars before and after."""
    wait_for_pairs(lambda: evse_group.is_whole, "all are online and hear their controller")
    yield evse_group
    for pair in evse_group.pairs:
        pair.car("disconnect")


def test_each_gateway_finds_all_others_on_both_hosts(group: EvseGroup) -> None:
    assert len({pair.host.name for pair in group.pairs}) > 1, "one host proves nothing about the network"
    ids = {pair.id for pair in group.pairs}
    for pair in group.pairs:
        assert pair.post("/loadsharing/discover", {}) == {"msg": "done"}
    for pair in group.pairs:

        def others(pair: EvsePair = pair) -> set[str]:
            return ids & {id for id, entry in pair.peers.items() if entry["online"]}

        wait_for_pairs(lambda others=others, pair=pair: others() == ids - {pair.id}, f"{pair.name} finds all others")


def test_avahi_browse_shows_every_gateway_on_every_host(group: EvseGroup) -> None:
    wanted = {(pair.get("/config")["hostname"], pair.url.rpartition(":")[2]) for pair in group.pairs}
    for host in {pair.host.name: pair.host for pair in group.pairs}.values():

        def shown(host: Any = host) -> set[tuple[str, str]]:
            lines = host.check("avahi-browse --all --resolve --parsable --terminate").splitlines()
            resolved = [line.split(";") for line in lines if line.startswith("=")]
            return {(fields[3], fields[8]) for fields in resolved if fields[4] == "_openevse._tcp"}

        wait_for_pairs(lambda shown=shown: shown() >= wanted, f"avahi-browse on {host.name} shows {wanted}")


def test_cars_share_a_supply_that_changes_and_members_that_leave(group: EvseGroup, tmp_path: Path) -> None:
    pairs, leaver = group.pairs, group.members[-1]
    budget = {"loadsharing_group_max_current": group.entry["budget_amps"]}
    fair = int(group.budget / len(pairs) + 1e-6)
    assert fair >= 6, "the lab's budget is meant to be enough for all"
    with group.watched(tmp_path):
        try:
            for pair in pairs:
                pair.charge()
            wait_for_pairs(lambda: group.draws() == [fair] * len(pairs), f"{fair} A for each")
            wait_for_pairs(lambda: reasons(group.status) == {"equal_share"}, "for that reason")
            status = group.status
            assert sum(entry["target_current"] for entry in status["allocations"]) <= group.budget + 0.01
            assert status["committed_total"] <= status["budget"] == group.budget

            # Not enough for all of them: some wait.
            less = 6.0 * (len(pairs) - 2)
            group.controller.post("/config", {"loadsharing_group_max_current": less})
            shares = [0.0, 0.0] + [6.0] * (len(pairs) - 2)
            wait_for_pairs(lambda: sorted(group.draws()) == shares, f"{less} A for {len(pairs)} cars")
            group.controller.post("/config", budget)
            wait_for_pairs(lambda: group.draws() == [fair] * len(pairs), "the supply is back")

            # What one leaves the others get.
            leaver.car("disconnect")
            answer = group.controller.gateway.delete(f"/loadsharing/peers/{leaver.peer}")
            assert answer.json() == {"msg": "done"}
            more = int(group.budget / (len(pairs) - 1) + 1e-6)
            wait_for_pairs(lambda: group.draws() == [more] * (len(pairs) - 1) + [0], f"{more} A for each that is left")
            wait_for_pairs(lambda: leaver.sharing == "off", "it is free")
            assert leaver.id in group.controller.peers and not group.controller.peers[leaver.id]["joined"]
        finally:
            group.controller.post("/config", budget)
            if not group.controller.peers.get(leaver.id, {}).get("joined"):
                group.controller.post("/loadsharing/peers", {"host": leaver.peer})
        wait_for_pairs(lambda: group.is_whole, "it is a member again")
        leaver.charge()
        wait_for_pairs(lambda: group.draws() == [fair] * len(pairs), f"{fair} A for each again")


def test_a_member_takes_no_orders_from_elsewhere(group: EvseGroup) -> None:
    member = group.members[-1]
    refused = member.gateway.post("/config", json={"loadsharing_group_max_current": 99})
    assert (refused.status_code, refused.json()["msg"]) == (
        403,
        "Load sharing configuration is read-only on members",
    )
    assert member.gateway.post("/loadsharing/peers", json={"host": "10.1.2.3"}).status_code == 403


def reasons(status: dict[str, Any]) -> set[str]:
    """Why each has what it has."""
    return {entry["reason"] for entry in status["allocations"]}


def before_failsafe(group: EvseGroup) -> int:
    """How long a member waits for its controller, s."""
    return int(group.controller.get("/config")["loadsharing_heartbeat_timeout"])


def state_of(pair: EvsePair) -> tuple[Any, ...]:
    config = pair.get("/config")
    car = pair.emulator.get("/ev/status").json()
    kept = sorted((key, value) for key, value in config.items() if key.startswith("loadsharing_"))
    return kept, car["connected"], car["requesting_charge"]


def test_chaos_run_leaves_the_group_as_it_was(group: EvseGroup, pytestconfig: pytest.Config) -> None:
    """Its worst fault: the controller is killed, and stays away until all have fallen back."""
    before = [state_of(pair) for pair in group.pairs]
    # What a member that stands still for a while needs besides.
    hold = before_failsafe(group) + 10
    done = subprocess.run(
        [
            *("scripts/with-mitogen", os.environ.get("LABYARD_MITOGEN", "1"), "ansible-playbook"),
            *("-i", str(pytestconfig.getoption("--lab")), "playbooks/flows/evse_chaos.yml"),
            *("-e", f"group={group.entry['id']}", "-e", "faults=controller-killed", "-e", f"hold={hold}"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    report = json.loads((ROOT / "build/evse-chaos.json").read_text())
    (fault,) = report["faults"]
    assert (fault["name"], report["violations"]) == ("controller-killed", 0)
    assert fault["failsafe_s"] > 0 and fault["recovery_s"] >= 0 and report["passes"] > 10
    assert "controller-killed" in done.stdout and "failsafe s" in done.stdout
    assert [state_of(pair) for pair in group.pairs] == before
    assert group.controller.host.run("systemctl is-active labyard-evse-chaos").stdout.strip() == "inactive"
    assert group.controller.host.check("find /tmp -maxdepth 1 -name 'labyard-evse-chaos*'") == ""
