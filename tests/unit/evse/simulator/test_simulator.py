from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from labyard.evse.simulator.__main__ import main
from labyard.evse.simulator.run import Simulation
from labyard.evse.simulator.scenario import Scenario


def scenario(**more: Any) -> Scenario:
    content: dict[str, Any] = {
        "duration_s": 600,
        "supply": [{"at": 0, "amps": 32}],
        "peers": [{"id": id, "events": [{"at": 5, "do": "connect"}]} for id in ("a", "b")],
    }
    return Scenario.model_validate(content | more)


def drawn(made: Scenario, sample_s: float = 1.0) -> dict[int, dict[str, float]]:
    """By second."""
    lines: list[dict[str, Any]] = []
    Simulation(made, lines.append, sample_s).run()
    return {int(line["t"]): {id: one["drawn"] for id, one in line["chargers"].items()} for line in lines}


@pytest.mark.parametrize("lasts", [40.0, 40.1, 40.6])
def test_a_controller_that_is_back_counts_what_its_own_car_goes_on_to_draw(lasts: float) -> None:
    fault = {"at": 100.3, "kind": "restart", "peer": "a", "lasts": lasts}
    made = scenario(group={"heartbeat_timeout": 10}, faults=[fault])
    assert Simulation(made).run()["over_budget_ampere_seconds"] == 0


def test_the_supply_is_followed() -> None:
    supply = [{"at": at, "amps": amps} for at, amps in ((0, 32), (100, 24), (200, 40), (300, 16))]
    seen = drawn(scenario(supply=supply))
    # Offers are whole amperes, and a car of 7.2 kW takes up to 30 A.
    assert [seen[at] for at in (90, 190, 290, 390)] == [{"a": amps, "b": amps} for amps in (16, 12, 20, 8)]


def test_freed_current_reaches_who_waits_within_a_cycle_and_two_seconds() -> None:
    peers = [{"id": id, "events": [{"at": 5, "do": "connect"}]} for id in ("a", "b")]
    peers[0]["events"].append({"at": 100, "do": "disconnect"})
    seen = drawn(scenario(supply=[{"at": 0, "amps": 10}], peers=peers))
    assert seen[90] == {"a": 6, "b": 0}
    assert seen[107] == {"a": 0, "b": 10}


def test_a_member_that_lost_its_controller_takes_its_safe_current() -> None:
    faults = [{"at": 100, "kind": "partition", "peer": "b", "lasts": 200}]
    group = {"heartbeat_timeout": 30, "failsafe_safe_current": 7, "failsafe_peer_assumed_current": 7}
    seen = drawn(scenario(faults=faults, group=group))
    assert seen[95]["b"] == 16 and seen[102 + 30]["b"] == 7
    assert seen[250] == {"a": 25, "b": 7}
    assert seen[330] == {"a": 16, "b": 16}


def test_the_same_seed_gives_the_same_day() -> None:
    assert Simulation(scenario()).run() == Simulation(scenario()).run()


def test_a_liar_gains_nothing_that_is_not_there() -> None:
    faults = [{"at": 50, "kind": "lie", "peer": "b", "measured": 90, "lasts": 300}]
    result = Simulation(scenario(faults=faults)).run()
    assert result["violations"] == 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"peers": []}, "peers"),
        ({"supply": []}, "supply"),
        ({"supply": [{"at": 0, "amps": -1}]}, "supply.0.amps"),
        ({"colour": 1}, "colour"),
        ({"group": {"heartbeat_timeout": 1}}, "group.heartbeat_timeout"),
        ({"peers": [{"id": "a"}, {"id": "a"}]}, "two have the same id"),
        ({"peers": [{"id": "a", "events": [{"at": 0, "do": "soc"}]}]}, "value: soc takes one"),
        ({"faults": [{"at": 0, "kind": "restart", "peer": "z"}]}, "there is no peer 'z'"),
        ({"faults": [{"at": 0, "kind": "partition", "peer": "a"}]}, "has no link"),
    ],
)
def test_a_bad_scenario_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], text: str
) -> None:
    content = {"supply": [{"at": 0, "amps": 32}], "peers": [{"id": "a"}, {"id": "b"}]} | change
    path = tmp_path / "scenario.json"
    path.write_text(json.dumps(content))
    assert main([str(path)]) == 2
    assert text in capsys.readouterr().err


def test_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, series = tmp_path / "scenario.json", tmp_path / "series.jsonl"
    path.write_text(scenario().model_dump_json())
    assert main([str(path), "--series", str(series), "--sample", "60"]) == 0
    assert json.loads(capsys.readouterr().out)["over_budget_ampere_seconds"] == 0
    lines = [json.loads(line) for line in series.read_text().splitlines()]
    assert len(lines) == 10 and lines[-1]["chargers"]["a"] == {
        "offered": 16,
        "drawn": 16,
        "state": 3,
        "failsafe": False,
        "reason": "equal_share",
    }
    assert main([str(tmp_path / "nothing.json")]) == 2
    # More than there is, for two that lost their controller: the budget does not hold, and that is the exit code.
    content = json.loads(scenario(group={"failsafe_safe_current": 20}, duration_s=200).model_dump_json())
    content["faults"] = [{"at": 50, "kind": "restart", "peer": "a", "lasts": 120}]
    content["peers"][0]["heartbeat_current"] = None
    path.write_text(json.dumps(content))
    assert main([str(path)]) == 1
    assert "loadsharing_failsafe_safe_current" in capsys.readouterr().out
