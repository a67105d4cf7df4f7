"""Reading a recorded run, and drawing it."""

from __future__ import annotations

import json
from math import isnan, nan
from pathlib import Path
from typing import Any

import pytest

from labyard.evse.monitor.sample import Charger, Group, charger
from labyard.evse.monitor.watch import Watch
from labyard.evse.plot.picture import MOST_POINTS, _steps, save
from labyard.evse.plot.run import RunError, read
from labyard.evse.simulator.run import Simulation
from labyard.evse.simulator.scenario import Scenario


def recorded(path: Path, *samples: dict[str, Charger | None], group: Group | None = None) -> Path:
    """As the monitor writes it, a second apart; `group` is there in the first sample only."""
    watch = Watch(32.0)
    lines = [watch.take(one, float(second), None if second else group) for second, one in enumerate(samples)]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"summary": watch.summary()}]))
    return path


@pytest.fixture
def eventful(tmp_path: Path) -> Path:
    charging, over, fault, lost = Charger(16, 16, 3), Charger(20, 16, 3), charger(6, 32, 0), Charger(6, 6, 3, True)
    samples: list[dict[str, Charger | None]] = [
        {"a": charging, "b": charging},
        {"a": charging, "b": over},
        {"a": charging, "b": fault},
        {"a": lost, "b": None},
        {"a": lost, "b": charging},
    ]
    return recorded(tmp_path / "run.jsonl", *samples, group=Group(32.0, 2, 32.0, failsafe=True))


def test_a_run_of_the_monitor(eventful: Path) -> None:
    run = read(eventful)
    assert run.times == [0, 1, 2, 3, 4] and run.budget == [32] * 5
    assert run.drawn == [32, 36, 16, 6, 22]
    assert run.spans(run.violation) == [(1, 2)]
    assert run.spans(run.failsafe) == [(0, 1)]
    assert run.spans(run.silent) == [(1, 4)], "the controller answered once"
    b = run.chargers["b"]
    assert b.drawn[:3] == [16, 20, 0] and isnan(b.drawn[3])
    assert b.offered[2] == 0, "a fault offers nothing"
    assert run.spans(b.fault) == [(2, 3)] and run.spans(b.silent) == [(3, 4)]
    assert run.spans(run.chargers["a"].failsafe) == [(3, 4)]


def test_a_run_without_a_controller_has_none_that_is_silent(tmp_path: Path) -> None:
    run = read(recorded(tmp_path / "run.jsonl", *[{"a": Charger(6, 6, 3)}] * 3))
    assert not any(run.silent) and not any(run.failsafe)


def test_a_run_of_the_simulator(tmp_path: Path) -> None:
    peers: list[Any] = [{"id": name, "events": [{"at": 10, "do": "connect"}]} for name in "abc"]
    peers[0]["heartbeat_current"] = None
    scenario = Scenario.model_validate(
        {
            "duration_s": 300,
            "supply": [{"at": 0, "amps": 32}],
            "peers": peers,
            "group": {"failsafe_safe_current": 15},
            "faults": [{"at": 100, "kind": "restart", "peer": "a", "lasts": 100}],
        }
    )
    lines: list[str] = []
    Simulation(scenario, lambda sample: lines.append(json.dumps(sample)), 10).run()
    file = tmp_path / "series.jsonl"
    file.write_text("\n".join(lines))
    run = read(file)
    assert list(run.chargers) == ["a", "b", "c"]
    assert max(run.drawn) > 32 and any(run.violation), "two at 15 A and one at what it had"
    (silent,) = run.spans(run.silent)
    assert 90 < silent[0] <= 101 < 190 < silent[1] <= 211
    assert run.spans(run.chargers["b"].failsafe), "it lost its controller"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "has no sample; a picture takes two"),
        ('{"summary": {}}\n', "has no sample"),
        ("hello\n", "line 1: no line of labyard-evse-monitor"),
        ("[]\n", "line 1: no line of"),
        ('{"t": 1}\n', "line 1: chargers is missing"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "run.jsonl"
    file.write_text(text)
    with pytest.raises(RunError, match=complaint):
        read(file)


def test_what_does_not_go_on_is_refused(eventful: Path) -> None:
    lines = eventful.read_text().splitlines()
    first, second = (json.loads(line) for line in lines[:2])
    for wrong, complaint in (
        (second | {"t": 0.0}, "line 2: t is 0, which is not after"),
        (second | {"chargers": {"a": None}}, "line 2: not the chargers of the line before"),
        (second | {"drawn": "NaN"}, "line 2: NaN is no number"),
        (second | {"budget": [1]}, "line 2: no line of"),
    ):
        eventful.write_text(f"{json.dumps(first)}\n{json.dumps(wrong)}\n")
        with pytest.raises(RunError, match=complaint):
            read(eventful)
    with pytest.raises(RunError, match="No such file"):
        read(eventful.with_name("nothing"))
    eventful.write_bytes(b"\xff\xfe")
    with pytest.raises(RunError, match="is no text"):
        read(eventful)


def test_a_picture_says_all_of_it_in_words(eventful: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.svg"
    save(read(eventful), file, "A <title>")
    drawn = file.read_text()
    for text in ("A &lt;title&gt;", "2 chargers, at most 36.0 A drawn; budget exceeded 1 time"):
        assert text in drawn
    for text in ("drawn", "offered", "budget", "over budget", "members lost", "controller silent"):
        assert f">{text}</text>" in drawn
    for text in (" fault", " silent", " failsafe", "sum, A", "time, s"):
        assert f">{text}</text>" in drawn
    save(read(eventful), tmp_path / "again.svg", "A <title>")
    assert (tmp_path / "again.svg").read_text() == drawn, "the same run, the same file"


@pytest.mark.parametrize("count", [1, 5, 20])
def test_each_charger_has_a_panel(tmp_path: Path, count: int) -> None:
    chargers: dict[str, Charger | None] = {f"host{number}/0": Charger(6, 6, 3) for number in range(count)}
    run = read(recorded(tmp_path / "run.jsonl", *[chargers] * 3))
    save(run, tmp_path / "run.svg", "title")
    drawn = (tmp_path / "run.svg").read_text()
    assert all(f">{name}</text>" in drawn for name in chargers)
    assert "members lost" not in drawn, "nothing was out of order"
    save(run, tmp_path / "run.png", "title")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


def test_a_long_trace_is_thinned_without_losing_its_steps() -> None:
    assert _steps([0, 1, 2, 3, 4], [6, 6, 6, 8, 8]) == ([0, 3, 4], [6, 8, 8])
    assert len(_steps([0, 1, 2], [nan, nan, nan])[0]) == 2
    times = [float(second) for second in range(86400)]
    values = [second % 7 for second in range(86400)]
    values[12345] = 99
    kept, amps = _steps(times, values)
    assert len(kept) <= MOST_POINTS and max(amps) == 99, "a peak stays"
