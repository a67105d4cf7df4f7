"""The simulator's day, whole: seconds of work on end, too long for a unit test."""

from __future__ import annotations

from labyard.evse.simulator.__main__ import DAY
from labyard.evse.simulator.run import Simulation
from labyard.evse.simulator.scenario import load

HOUR = 3600


def test_a_day_of_four_with_faults_keeps_the_budget() -> None:
    result = Simulation(load(DAY)).run()
    assert result["duration_s"] == 24 * HOUR
    assert (result["over_budget_ampere_seconds"], result["violations"]) == (0, 0)
    assert all(energy > 10_000 for energy in result["energy_wh"].values())
    assert result["config_issues"] == []


def test_without_the_two_phases_it_does_not() -> None:
    made = load(DAY)
    made.group.two_phase = False
    result = Simulation(made).run()
    assert result["over_budget_ampere_seconds"] > 10 and result["violations"] > 0
