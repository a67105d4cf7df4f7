"""`labyard evse …` over pairs in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from labyard.cli import app
from labyard.evse import cli_car, cli_group, survey

from .lab import Charger, FakeEmulator, FakeGateway

Run = Callable[..., Result]


@pytest.fixture
def chargers(monkeypatch: pytest.MonkeyPatch) -> list[Charger]:
    """Three, at the usual ports of this machine."""
    made = [Charger(number) for number in range(3)]
    lab = {f"http://127.0.0.1:{base + number}": one for number, one in enumerate(made) for base in (8000, 8080)}
    for module in (survey, cli_group):
        monkeypatch.setattr(module, "Gateway", partial(FakeGateway, lab))
    for module in (survey, cli_car):
        monkeypatch.setattr(module, "Emulator", partial(FakeEmulator, lab))
    return made


@pytest.fixture
def run(chargers: list[Charger]) -> Run:
    def call(*words: str, expect: int = 0) -> Result:
        result = CliRunner().invoke(app, ["evse", "--pairs", "3", *words])
        assert result.exit_code == expect, f"{words}: {result.output} {result.exception!r}"
        return result

    return call


def test_list_shows_what_pairs_do_and_why(run: Run, chargers: list[Charger]) -> None:
    first, second, _ = chargers
    first.control(32, second)
    first.charges(16, 15.8)
    second.charges(16, 12.0)
    shown = run("list").stdout
    for text in (
        "localhost/0",
        "charging",
        "yes, 50 %",
        "16.0 A",
        "15.8 A",
        "1.23 kWh",
        "controller of lab",
        "equal sha",
    ):
        assert text in shown
    for text in ("http://127.0.0.1:8000", "http://127.0.0.1:8080", "8023", "not connected"):
        assert text in shown
    assert "Group lab: 2 pairs draw 27.8 A, are offered 32.0 A of 32 A" in shown
    found = json.loads(run("list", "--json").stdout)
    assert [one["role"] for one in found] == ["controller", "member", "off"]
    assert [one["reason"] for one in found] == ["equal_share", "equal_share", ""]
    assert found[1] | {"offered": 16.0, "drawn": 12.0, "vehicle": True, "rapi_port": 8024} == found[1]
    assert all(one["healthy"] for one in found)


def test_list_has_a_row_for_one_that_is_not_well_and_exits_with_1(run: Run, chargers: list[Charger]) -> None:
    silent, half, broken = chargers
    silent.dead = {"emulator", "gateway"}
    half.dead = {"emulator"}
    half.status |= {"state": 3, "pilot": 10, "amp": 9500, "vehicle": 1}
    broken.evse["state"] = 6
    shown = run("list", expect=1).stdout
    assert "localhost/0: the emulator does not answer; the gateway does not answer" in shown
    assert "localhost/1: the emulator does not answer" in shown
    assert "localhost/2: fault: gfci" in shown
    found = json.loads(run("list", "--json", expect=1).stdout)
    assert found[0]["state"] is None and found[0]["drawn"] is None
    assert found[1] | {"state": "charging", "drawn": 9.5, "vehicle": True} == found[1], "the gateway knows it, too"
    assert not any(one["healthy"] for one in found)


def test_list_names_members_that_are_none_of_the_pairs_and_settings_that_cannot_work(
    run: Run, chargers: list[Charger]
) -> None:
    first = chargers[0]
    first.control(32)
    first.group["peers"].append({"id": "abc", "host": "elsewhere.local:8009", "joined": True})
    first.issues = ["loadsharing_failsafe_safe_current: too much"]
    shown = run("list").stdout
    assert "none of these pairs: elsewhere.local:8009" in shown
    assert "loadsharing_failsafe_safe_current: too much" in shown


def test_one_that_answers_something_else_says_so(run: Run, chargers: list[Charger]) -> None:
    del chargers[0].evse["state"]
    chargers[1].status.clear()
    chargers[1].status["hello"] = "world"
    shown = run("list", expect=1).stdout
    assert "localhost/0: what answers at http://127.0.0.1:8080 is no emulator" in shown
    assert "localhost/1: what answers at http://127.0.0.1:8001 is no gateway" in shown


def test_cars_are_played(run: Run, chargers: list[Charger]) -> None:
    car = chargers[1]
    assert "localhost/1 a car is plugged in" in run("connect", "localhost/1").stdout
    run("charge", "localhost/1", "localhost/2")
    run("soc", "localhost/1", "79.5")
    run("fault", "localhost/1", "stuck_relay")
    run("clear", "localhost/1")
    run("stop", "localhost/1")
    run("disconnect", "localhost/1")
    assert car.did == [
        ("ev/connect", {}),
        ("ev/request_charge", {}),
        ("ev/soc", {"soc": 79.5}),
        ("errors/trigger", {"error": "stuck_relay"}),
        ("errors/clear", {}),
        ("ev/stop_charge", {}),
        ("ev/disconnect", {}),
    ]
    assert chargers[2].did == [("ev/connect", {}), ("ev/request_charge", {})], "charge plugs a car in where none is"
    assert chargers[0].did == []


def test_a_full_car_is_not_said_to_charge(run: Run, chargers: list[Charger]) -> None:
    chargers[0].car |= {"connected": True, "soc": 100.0}
    assert "labyard evse soc localhost/0 50" in run("charge", "localhost/0").stdout


def test_wrong_words_change_nothing(run: Run, chargers: list[Charger]) -> None:
    assert "there are: localhost/0, localhost/1, localhost/2" in run("connect", "evse1/0", expect=1).stderr
    run("soc", "localhost/0", "101", expect=2)
    assert "gfci" in run("fault", "localhost/0", "fire", expect=2).stderr
    run("budget", "-1", expect=2)
    assert "labyard evse list" in run("budget", "20", expect=1).stderr
    assert "--budget AMPS" in run("watch", expect=1).stderr
    assert "labyard evse list" in run("record", "--output", "/nowhere/run.jsonl", expect=1).stderr
    assert not any(one.did for one in chargers)


def test_one_that_does_not_answer_is_an_error_with_a_way_out(run: Run, chargers: list[Charger]) -> None:
    chargers[0].dead = {"emulator"}
    assert "labyard: nothing answers at http://127.0.0.1:8080" in run("connect", "localhost/0", expect=1).stderr


def test_nothing_is_watched_where_no_host_answers(tmp_path: Path) -> None:
    inventory = tmp_path / "hosts.yml"
    host = "{lab_roles: [evse_pair], ansible_connection: community.docker.docker, ansible_host: labyard-test-nobody}"
    inventory.write_text(f"all: {{hosts: {{evse1: {host}}}}}")
    words = ["evse", "--inventory", str(inventory), "watch", "--budget", "32"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1 and "lab host evse1 does not answer" in result.stderr


def test_budget_tells_the_controller(run: Run, chargers: list[Charger]) -> None:
    first, second, third = chargers
    first.control(32, second)
    first.issues = ["the safe current is too high"]
    third.control(10)
    assert "say which with --controller, one of: localhost/0, localhost/2" in run("budget", "24", expect=1).stderr
    assert (
        "controllers are: localhost/0, localhost/2"
        in run("budget", "24", "--controller", "localhost/1", expect=1).stderr
    )
    shown = run("budget", "24", "--controller", "localhost/0").stdout
    assert "localhost/0 has 24 A for its group now; it had 32 A." in shown
    assert "the safe current is too high" in shown
    assert first.config["loadsharing_group_max_current"] == 24 and third.config["loadsharing_group_max_current"] == 10
    first.config["loadsharing_safety_factor"] = 0.5
    assert (
        "has 20 A for its group now, of which 50% are used: 10 A"
        in run("budget", "20", "--controller", "localhost/0").stdout
    )


def test_discover_shows_who_does_not_find_whom(run: Run, chargers: list[Charger]) -> None:
    seen = [{"id": one.id, "host": one.host, "online": True} for one in chargers]
    for number, one in enumerate(chargers):
        one.sees = [entry for entry in seen if entry["id"] != one.id]
        if number == 0:
            one.sees.append({"id": "abc", "host": "stranger.local:8000", "online": True})
    shown = run("discover").stdout
    assert shown.count("2 of 2") == 3 and "Found beside these pairs: stranger.local:8000" in shown
    chargers[1].sees = [seen[0], seen[2] | {"online": False}]
    found = json.loads(run("discover", "--seconds", "0", "--json", expect=1).stdout)
    assert [one["misses"] for one in found] == [[], ["localhost/2"], []]


def test_plot_draws_and_says_what_is_wrong(tmp_path: Path) -> None:
    def plot(*words: str, expect: int) -> Result:
        result = CliRunner().invoke(app, ["evse", "plot", *words])
        assert result.exit_code == expect, result.output
        return result

    run = tmp_path / "run.jsonl"
    assert f"labyard: {run}: No such file" in plot(str(run), expect=1).stderr.replace("\n", "")
    line = {"budget": 32, "drawn": 0, "offered": 0, "committed": None, "failsafe": None, "violation": False}
    run.write_text("".join(json.dumps({"t": t, **line, "chargers": {}}) + "\n" for t in range(3)))
    assert "must end in .svg or .png" in plot(str(run), "--output", "run.pdf", expect=1).stderr
    plot(str(run), expect=0)
    assert (tmp_path / "run.svg").read_text().count("<svg") == 1
    assert "run.svg" in plot(str(run), "--output", str(tmp_path / "no" / "run.svg"), expect=1).stderr
