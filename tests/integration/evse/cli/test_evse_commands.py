"""`labyard evse …` with pairs of real programs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from integration.evse.sharing.pairs import GROUP, Pair
from labyard.cli import app
from labyard.evse.monitor import sample
from labyard.testing.waiting import PATIENCE, wait_until

Command = Callable[..., Result]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Pair]]:
    """Two that are a group with 20 A, without mDNS, four times as fast as real ones."""
    folder = tmp_path_factory.mktemp("pairs")
    made = [Pair(folder / str(number), LABYARD_MDNS="off", LABYARD_TIME_SCALE="4") for number in range(2)]
    try:
        for pair in made:
            pair.ready()
        first, second = made
        first.configure(**{key.removeprefix("loadsharing_"): value for key, value in GROUP.items()})
        first.configure(group_max_current=20)
        assert first.add(f"127.0.0.1:{second.port}").status_code == 200
        wait_until(lambda: second.status["loadsharing_state"].startswith("member"), "the second is a member")
        yield made
    finally:
        for pair in made:
            pair.close()


@pytest.fixture
def words(pairs: list[Pair]) -> list[str]:
    urls = [("--gateway", pair.url, "--emulator", f"http://127.0.0.1:{pair.web_port}") for pair in pairs]
    return ["evse", *(word for pair in urls for word in pair)]


@pytest.fixture
def labyard(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    # Who stands still for a second is not left out of a sample.
    monkeypatch.setattr(sample, "TIMEOUT", PATIENCE)

    def call(*more: str, expect: int = 0) -> Result:
        done = CliRunner().invoke(app, [*words, *more])
        assert done.exit_code == expect, f"{more}: {done.output} {done.exception!r}"
        return done

    return call


def test_a_group_is_charged_watched_recorded_and_drawn(labyard: Command, pairs: list[Pair], tmp_path: Path) -> None:
    labyard("charge", "127.0.0.1/0", "127.0.0.1/1")
    wait_until(lambda: [pair.amps for pair in pairs] == [10, 10], "both have their share")
    listed = json.loads(labyard("list", "--json").stdout)
    assert [one["state"] for one in listed] == ["charging", "charging"]
    assert [one["role"] for one in listed] == ["controller", "member_limited"]
    assert [(one["reason"], one["offered"], one["drawn"]) for one in listed] == [("equal_share", 10.0, 10.0)] * 2

    run = tmp_path / "run.jsonl"
    assert "the budget held" in labyard("record", "--seconds", "5", "--interval", "0.2", "--output", str(run)).stdout
    lines = [json.loads(line) for line in run.read_text().splitlines()]
    assert len(lines) >= 2 and lines[-1]["chargers"]["127.0.0.1/1"] == {
        "drawn": 10.0,
        "offered": 10.0,
        "state": 3,
        "failsafe": False,
    }
    labyard("plot", str(run), "--output", str(tmp_path / "run.svg"))
    assert "2 chargers, at most 20.0 A drawn; budget never exceeded" in (tmp_path / "run.svg").read_text()

    assert "has 14 A for its group now; it had 20 A" in labyard("budget", "14").stdout
    wait_until(lambda: [pair.amps for pair in pairs] == [7, 7], "both have less")
    shown = labyard("watch", "--seconds", "0.5", "--interval", "0.2").stdout.splitlines()
    assert "drawn 14.0 A  offered 14.0 A  budget 14 A  ok  127.0.0.1/0 7.0/7  127.0.0.1/1 7.0/7" in shown[0]

    labyard("fault", "127.0.0.1/1", "gfci")
    assert "127.0.0.1/1: fault: gfci" in labyard("list", expect=1).stdout
    labyard("clear", "127.0.0.1/1")
    labyard("disconnect", "127.0.0.1/0", "127.0.0.1/1")
    wait_until(lambda: [pair.amps for pair in pairs] == [0, 0], "nobody charges")


def test_watch_ends_cleanly_by_ctrl_c(words: list[str]) -> None:
    """At a terminal, as a person has it."""
    leader, follower = os.openpty()
    command = [sys.executable, "-m", "labyard.cli", *words, "watch"]
    watch = subprocess.Popen(command, stdout=follower, stderr=follower, env=os.environ | {"TERM": "xterm"})
    os.close(follower)
    try:
        shown = b""
        while b"Ctrl-C ends it." not in shown:
            shown += os.read(leader, 4096)
        watch.send_signal(signal.SIGINT)
        while True:
            try:
                more = os.read(leader, 4096)
            except OSError:  # the other end is closed
                break
            if not more:
                break
            shown += more
        assert watch.wait(PATIENCE) == 0
    finally:
        watch.kill()
        os.close(leader)
    text = shown.decode()
    assert "Group test, controller 127.0.0.1/0" in text and "the budget held" in text
    assert "\x1b[?25h" in text, "the cursor is back"
    assert "Traceback" not in text


def test_a_violation_is_flagged_and_is_the_exit_code(labyard: Command, pairs: list[Pair]) -> None:
    labyard("charge", "127.0.0.1/0")
    wait_until(lambda: pairs[0].amps > 6, "it charges")
    shown = labyard("watch", "--budget", "5", "--seconds", "0.5", "--interval", "0.2", expect=1).stdout
    assert "OVER by" in shown
    assert "the budget was exceeded 1 time by what is drawn and 1 time by what is offered" in shown
    labyard("disconnect", "127.0.0.1/0")


def test_members_that_lose_their_controller_are_listed_and_recorded_with_a_password_too(
    labyard: Command, pairs: list[Pair], tmp_path: Path
) -> None:
    """The last one: the controller does not come back."""
    first, second = pairs
    first.configure(heartbeat_timeout=5)
    wait_until(
        lambda: second.http.get("/config").json()["loadsharing_heartbeat_timeout"] == 5, "the member knows it, too"
    )
    first.stop(signal.SIGKILL)
    wait_until(lambda: second.status["loadsharing_state"] == "failsafe", "its failsafe")
    shown = labyard("list", expect=1).stdout
    assert "127.0.0.1/0: the gateway does not answer" in shown
    assert "127.0.0.1/1: controller lost: at the safe current" in shown
    assert "--budget AMPS" in labyard("watch", expect=1).stderr

    assert second.http.post("/config", json={"www_password": "secret"}).status_code == 200
    refused = labyard("list", expect=1).stdout
    assert "127.0.0.1/1: gateway: auth; give the gateway's user with --user" in refused and "secret" not in refused
    let_in = labyard("--user", "openevseadmin:secret", "list", expect=1).stdout
    assert "127.0.0.1/1: controller lost: at the safe current" in let_in

    run = tmp_path / "run.jsonl"
    labyard(
        "--user",
        "openevseadmin:secret",
        "record",
        "--budget",
        "20",
        "--seconds",
        "0.5",
        "--interval",
        "0.2",
        "--output",
        str(run),
    )
    last = json.loads(run.read_text().splitlines()[-1])
    assert last["chargers"]["127.0.0.1/1"]["failsafe"] and not last["chargers"]["127.0.0.1/0"]["failsafe"]
