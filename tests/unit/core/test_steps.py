"""Ordered steps, each with its undo (contract section 6)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from labyard.core.context import Caller, caller, set_caller
from labyard.core.steps import Step, StepFailed, call, run_steps, undo_steps
from labyard.testing.waiting import PATIENCE


class World:
    """Records what ran, in order; `bad` names what raises."""

    def __init__(self, *bad: str) -> None:
        self.ran: list[str] = []
        self.bad = bad

    def do(self, what: str) -> None:
        self.ran.append(what)
        if what in self.bad:
            raise OSError(f"{what} failed")

    def steps(self) -> list[Step]:
        return [Step(name, lambda n=name: self.do(n), lambda n=name: self.do(f"-{n}")) for name in "abc"]  # type: ignore[misc]

    @contextmanager
    def timed(self, step: Step) -> Iterator[None]:
        self.ran.append(f"<{step.name}")
        yield
        self.ran.append(f"{step.name}>")

    def run(self) -> None:
        run_steps(self.steps(), lambda name: self.do(f"record {name}"), self.timed)


class TestRunSteps:
    def test_records_each_step_before_it_runs(self) -> None:
        world = World()
        world.run()
        assert world.ran == [item for n in "abc" for item in (f"record {n}", f"<{n}", n, f"{n}>")]

    @pytest.mark.parametrize(
        ("bad", "undone"), [("a", ["-a"]), ("b", ["-b", "-a"]), ("c", ["-c", "-b", "-a"]), ("record b", ["-a"])]
    )
    def test_undoes_those_begun_last_first(self, bad: str, undone: list[str]) -> None:
        world = World(bad)
        with pytest.raises(StepFailed) as caught:
            world.run()
        assert [item for item in world.ran if item.startswith("-")] == undone
        assert caught.value.step.name == bad[-1]
        assert caught.value.reason == f"{bad} failed"
        assert caught.value.left_over == []
        assert str(caught.value) == f"step {bad[-1]}: {bad} failed"

    def test_one_failing_undo_does_not_stop_the_others(self) -> None:
        world = World("c", "-b")
        with pytest.raises(StepFailed) as caught:
            world.run()
        assert [item for item in world.ran if item.startswith("-")] == ["-c", "-b", "-a"]
        assert caught.value.left_over == ["b"]

    def test_a_step_without_undo_is_passed_over(self) -> None:
        assert undo_steps([Step("check", lambda: None)]) == []

    def test_an_error_without_text_is_named_by_its_kind(self) -> None:
        def fail() -> None:
            raise KeyError

        with pytest.raises(StepFailed, match="step a: KeyError"):
            run_steps([Step("a", fail)], lambda name: None, World().timed)

    def test_a_hung_step_is_given_up_and_undone(self) -> None:
        release = threading.Event()
        undone: list[str] = []
        step = Step("hang", release.wait, lambda: undone.append("hang"), timeout=1)  # the undoing's, too
        with pytest.raises(StepFailed, match="no answer within 1 s"):
            run_steps([step], lambda name: None, World().timed)
        release.set()
        assert undone == ["hang"]


class TestCall:
    def test_hands_on_the_result_and_the_context(self) -> None:
        set_caller(Caller(request_id="req-3"))
        assert call(lambda: caller().request_id, PATIENCE) == "req-3"
        set_caller(Caller())

    def test_hands_on_what_was_raised(self) -> None:
        def fail() -> None:
            raise TimeoutError("the daemon said so")

        with pytest.raises(TimeoutError, match="the daemon said so"):
            call(fail, PATIENCE)
