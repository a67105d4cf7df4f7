"""What is kept of runs of the bench and of suites, and what is said of it."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from labyard.bench import history
from labyard.bench.__main__ import MEASURES, app
from labyard.bench.figure import Target

LOWER = Target("family.some_s", "s", 10, "lower", "")
HIGHER = Target("family.rate", "1/s", 10, "higher", "")
STAMP = {"date": "2026-11-26T10:00:00+00:00", "commit": "abc"}


def runs(path: Path, *values: float, name: str = "lab.noop_s") -> None:
    for value in values:
        history.append(path, STAMP, {name: value})


def trend(path: Path, only: str = "") -> str:
    console = Console(file=StringIO(), width=100)
    history.print_trend(console, history.read(path), only)
    said: str = console.file.getvalue()  # type: ignore[attr-defined]
    return said


class TestHistory:
    def test_a_line_for_each_run(self, tmp_path: Path) -> None:
        path = tmp_path / "build" / "history.jsonl"
        history.append(path, STAMP, {"lab.noop_s": 1.23456, "boot.storm_8_s": 20})
        history.append(path, STAMP, {})
        runs(path, 2)
        first, second = map(json.loads, path.read_text().splitlines())
        assert first["figures"] == {"lab.noop_s": 1.235, "boot.storm_8_s": 20}
        assert (first["commit"], second["machine"]) == ("abc", history.this_machine())
        assert history.read(path) == {"lab.noop_s": [1.235, 2], "boot.storm_8_s": [20]}

    def test_other_machines_and_half_a_line_do_not_count(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "history.jsonl"
        assert history.read(path) == {}
        with monkeypatch.context() as patched:
            patched.setattr(history, "this_machine", lambda: "another")
            runs(path, 1)
        runs(path, 2)
        with path.open("a") as file:
            file.write('{"date": "2026-')
        assert history.read(path) == {"lab.noop_s": [2]}


@pytest.mark.parametrize(
    ("value", "earlier", "target", "said"),
    [
        (10, [], LOWER, ""),
        (11, [10, 9, 100], LOWER, "[red]+10%[/]"),
        (8, [10], LOWER, "[green]-20%[/]"),
        (8, [10], HIGHER, "[red]-20%[/]"),
        (12, [10], HIGHER, "[green]+20%[/]"),
        (10.5, [10], LOWER, "+5%"),
        (20, [10], None, "+100%"),
        (0, [0, 0], LOWER, "same"),
        (1, [0], LOWER, "was 0"),
    ],
)
def test_change(value: float, earlier: list[float], target: Target | None, said: str) -> None:
    # 11 is 10 % above the median of 10, 9 and 100, which one bad run does not move.
    assert history.change(value, earlier, target) == said


class TestTrend:
    def test_lines(self, tmp_path: Path) -> None:
        path = tmp_path / "history.jsonl"
        runs(path, 10, 20, 30, 45)
        runs(path, 7, name="tests.desktops.passed")
        lines = [line.split() for line in trend(path).splitlines()]
        assert ["lab.noop_s", "4", "25.00", "s", "45.00", "s", "+125%", "▁▃▅█"] in lines
        assert ["tests.desktops.passed", "1", "7.00", "7.00", "▁"] in lines

    def test_only(self, tmp_path: Path) -> None:
        path = tmp_path / "history.jsonl"
        runs(path, 1)
        runs(path, 2, name="boot.storm_8_s")
        assert "lab" not in trend(path, "boot, dhcp")
        assert "no such figure" in trend(path, "dhcp")

    @pytest.mark.parametrize(("values", "bars"), [([5], "▁"), ([3, 3], "▁▁"), ([0, 7, 3], "▁█▄")])
    def test_course(self, values: list[float], bars: str) -> None:
        assert history.course(values) == bars


class TestCommandLine:
    @pytest.fixture(autouse=True)
    def checkout(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "site.yml").touch()
        monkeypatch.chdir(tmp_path)

    def test_a_run_says_how_it_differs_and_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        values = iter([10.0, 15.0])
        monkeypatch.setitem(MEASURES, "lab.noop_s", lambda _: next(values))
        first = CliRunner().invoke(app, ["--only", "lab.noop"]).stdout
        second = CliRunner().invoke(app, ["--only", "lab.noop"]).stdout
        assert "%" not in first and "+50%" in second
        assert "▁█" in CliRunner().invoke(app, ["--trend"]).stdout
        assert history.read(history.PATH) == {"lab.noop_s": [10, 15]}

    def test_what_came_of_a_suite_is_kept(self) -> None:
        Path("build").mkdir()
        Path("build/desktops-integration.json").write_text('{"passed": 70, "failed": 0, "seconds": 41.5}')
        assert CliRunner().invoke(app, ["--record", "desktops"]).exit_code == 0
        found = history.read(history.PATH)
        assert found == {"tests.desktops.passed": [70], "tests.desktops.failed": [0], "tests.desktops.seconds": [41.5]}
