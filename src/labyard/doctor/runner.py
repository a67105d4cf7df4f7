"""Runs all checks at the same time, and ends those that hang."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait

from labyard.doctor.model import Check, CheckResult, Finding, Problem, Settings, Status
from labyard.doctor.work import TimeUp, Work

# For a check that was told to stop: its cleaning up.
GRACE_SECONDS = 8.0

Progress = Callable[[list[str]], None]


def execute(check: Check, settings: Settings, work: Work) -> CheckResult:
    """Runs one check in this thread. Whatever happens becomes a result; what the check made is taken down."""
    started = time.monotonic()
    try:
        if check.needs_root and os.geteuid() != 0:
            finding = Finding("not tried, since it needs root", Status.WARN, "run the doctor as root")
        else:
            finding = check.function(work, settings)
    except Problem as problem:
        finding = problem.finding
    except TimeUp as stopped:
        finding = _hangs(check, str(stopped))
    except Exception as error:  # a check must never end the doctor
        finding = Finding(
            f"{type(error).__name__}: {error}",
            Status.FAIL,
            f"the doctor did not expect this; run by hand what it was doing, and report it: {work.doing}",
        )
    finally:
        work.close()
    return CheckResult(check.name, finding.status, finding.found, finding.remedy, round(time.monotonic() - started, 2))


def run_all(checks: Sequence[Check], settings: Settings, progress: Progress | None = None) -> list[CheckResult]:
    """Runs the checks concurrently and returns their results in the order given.

    `progress` is called about ten times a second with the names of the checks still running. On
    KeyboardInterrupt all checks are stopped and have cleaned up before it is raised again.
    """
    works = [Work(check.timeout) for check in checks]
    started = time.monotonic()
    futures = [_in_thread(check, settings, work) for check, work in zip(checks, works, strict=True)]
    try:
        while True:
            spent = time.monotonic() - started
            open_ = [
                (check, future, work)
                for check, future, work in zip(checks, futures, works, strict=True)
                if not future.done() and spent < check.timeout + GRACE_SECONDS
            ]
            if not open_:
                break
            for check, _future, work in open_:
                if spent > check.timeout:
                    work.stop()
            if progress:
                progress([check.name for check, _future, _work in open_])
            wait([future for _check, future, _work in open_], timeout=0.1, return_when=FIRST_COMPLETED)
    except BaseException:
        for work in works:
            work.stop()
        wait(futures, timeout=GRACE_SECONDS)
        raise
    return [
        future.result() if future.done() else _abandoned(check, work)
        for check, future, work in zip(checks, futures, works, strict=True)
    ]


def _in_thread(check: Check, settings: Settings, work: Work) -> Future[CheckResult]:
    # Not an executor: it would wait at the end of the program for a thread that hangs in the kernel.
    future: Future[CheckResult] = Future()

    def body() -> None:
        try:
            future.set_result(execute(check, settings, work))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=body, name=f"doctor {check.name}", daemon=True).start()
    return future


def _abandoned(check: Check, work: Work) -> CheckResult:
    finding = _hangs(check, work.doing)
    return CheckResult(check.name, finding.status, finding.found, finding.remedy, check.timeout + GRACE_SECONDS)


def _hangs(check: Check, doing: str) -> Finding:
    return Finding(
        f"no end within {check.timeout:g} s, while doing: {shorten(doing)}",
        Status.FAIL,
        "run that by hand to see where it stops",
    )


def shorten(text: str, limit: int = 160) -> str:
    """At most `limit` characters of a text, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
