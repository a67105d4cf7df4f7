"""A use case that touches several daemons: an ordered list of steps, each with its undo.

Progress is on record before a step runs, so that a failure, and a restart after `kill -9`, know what to undo.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import inf
from typing import Any

import structlog

log = structlog.get_logger(__name__)
_pool = ThreadPoolExecutor(max_workers=256, thread_name_prefix="step")


@dataclass(frozen=True)
class Step:
    """One thing to do. `undo` must be harmless when `run` did nothing or half of it."""

    name: str
    run: Callable[[], object]
    undo: Callable[[], object] | None = None
    code: str = "internal_error"
    timeout: float = 30.0


class StepFailed(Exception):
    """A step failed and the steps before it were undone, except those named in `left_over`."""

    def __init__(self, step: Step, reason: str, left_over: Sequence[str]) -> None:
        super().__init__(f"step {step.name}: {reason}")
        self.step = step
        self.reason = reason
        self.left_over = list(left_over)


def call(function: Callable[[], Any], timeout: float) -> Any:
    """Run `function` in a thread and wait at most `timeout` seconds for it. TimeoutError says how long."""
    context = contextvars.copy_context()
    future = _pool.submit(context.run, function)
    try:
        return future.result(timeout)
    except FutureTimeout:
        if future.done():  # the function's own, or it came just now
            return future.result()
        future.cancel()
        raise TimeoutError(f"no answer within {timeout:g} s") from None


def run_steps(
    steps: Sequence[Step],
    begin: Callable[[str], object],
    timed: Callable[[Step], AbstractContextManager[object]],
) -> None:
    """Run the steps in order; on failure undo those begun, last first.

    `begin(name)` records a step before it runs. `timed(step)` is a context manager around it, for metrics.
    Raises StepFailed.
    """
    run = _Run(steps, begin, timed)
    if failure := run.watch():
        step, error = failure
        reason = _told("step failed", step, error)
        raise StepFailed(step, reason, undo_steps(run.begun)) from error


def run_all(steps: Sequence[Step], timed: Callable[[Step], AbstractContextManager[object]]) -> list[tuple[Step, str]]:
    """Run every step, also after one that failed or hung. Returns those that failed, with the reason."""
    failed = []
    left = list(steps)
    while failure := _Run(left, lambda name: None, timed).watch():
        step, error = failure
        reason = _told("step failed", step, error)
        failed.append((step, reason))
        left = left[left.index(step) + 1 :]
    return failed


class _Run:
    """The steps, one after the other in one thread, and somebody else who waits and watches the clock. A thread for
    each step would do too; with many runs side by side, handing over costs more than most steps."""

    def __init__(
        self,
        steps: Sequence[Step],
        begin: Callable[[str], object],
        timed: Callable[[Step], AbstractContextManager[object]],
    ) -> None:
        self.begun: list[Step] = []
        self._steps = steps
        self._begin = begin
        self._timed = timed
        self._changed = threading.Condition()
        self._over = False
        self._failure: tuple[Step, Exception] | None = None
        self._deadline = inf
        self._watched = inf  # the moment at which who waits looks again

    def watch(self) -> tuple[Step, Exception] | None:
        """Do the work. What failed, or None when all is done; a step that takes longer than its timeout is given up."""
        _pool.submit(contextvars.copy_context().run, self._work)
        return self._wait()

    def _work(self) -> None:
        for step in self._steps:
            try:
                self._begin(step.name)
                self._enter(step)
                with self._timed(step):
                    step.run()
            except Exception as error:
                self._end((step, error))
                return
            with self._changed:
                if self._over:
                    return  # given up; what it did late is undone already, or found by the observer
                self._deadline = inf
        self._end(None)

    def _wait(self) -> tuple[Step, Exception] | None:
        with self._changed:
            while not self._over:
                left = self._deadline - time.monotonic()
                if left <= 0:
                    step = self.begun[-1]
                    self._failure = step, TimeoutError(f"no answer within {step.timeout:g} s")
                    self._over = True
                    break
                self._watched = self._deadline
                self._changed.wait(None if left == inf else left)
            return self._failure

    def _enter(self, step: Step) -> None:
        with self._changed:
            self.begun.append(step)
            self._deadline = time.monotonic() + step.timeout
            if self._deadline < self._watched:
                self._changed.notify()

    def _end(self, failure: tuple[Step, Exception] | None) -> None:
        with self._changed:
            if not self._over:
                self._failure, self._over = failure, True
                self._changed.notify()


def undo_steps(begun: Sequence[Step]) -> list[str]:
    """Undo steps, last first. One that fails does not stop the others. Returns the names of those that failed."""
    failed = []
    for step in reversed(begun):
        if step.undo is None:
            continue
        try:
            call(step.undo, step.timeout)
        except Exception as error:
            _told("undo failed", step, error, logging.ERROR)
            failed.append(step.name)
    return failed


def _told(what: str, step: Step, error: Exception, level: int = logging.WARNING) -> str:
    """Log it; the reason for people."""
    reason = str(error) or type(error).__name__
    log.log(level, what, step=step.name, reason=reason)
    return reason
