"""A use case that touches several daemons: an ordered list of steps, each with its undo.

Progress is on record before a step runs, so that a failure, and a restart after `kill -9`, know what to undo.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
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
        if future.done():
            raise
        future.cancel()
        raise TimeoutError(f"no answer within {timeout:g} s") from None


def run_steps(
    steps: Sequence[Step],
    begin: Callable[[str], object],
    timed: Callable[[Step], Any],
) -> None:
    """Run the steps in order; on failure undo those begun, last first.

    `begin(name)` records a step before it runs. `timed(step)` is a context manager around it, for metrics.
    Raises StepFailed.
    """
    begun: list[Step] = []
    for step in steps:
        try:
            begin(step.name)
            begun.append(step)
            with timed(step):
                call(step.run, step.timeout)
        except Exception as error:
            reason = str(error) or type(error).__name__
            log.warning("step failed", step=step.name, reason=reason)
            raise StepFailed(step, reason, undo_steps(begun)) from error


def undo_steps(begun: Sequence[Step]) -> list[str]:
    """Undo steps, last first. One that fails does not stop the others. Returns the names of those that failed."""
    failed = []
    for step in reversed(begun):
        if step.undo is None:
            continue
        try:
            call(step.undo, step.timeout)
        except Exception as error:
            log.error("undo failed", step=step.name, reason=str(error) or type(error).__name__)
            failed.append(step.name)
    return failed
