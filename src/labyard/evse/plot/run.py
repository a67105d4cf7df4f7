"""A recorded run, read from the lines of labyard-evse-monitor, or from the series of labyard-evse-sim."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite, nan
from pathlib import Path
from typing import Any

from labyard.evse.codes import is_fault
from labyard.evse.monitor.sample import charger

Spans = list[tuple[float, float]]  # from, to, s


class RunError(Exception):
    """The file is no recorded run; the message names file and line."""


@dataclass
class Trace:
    """A charger over time, A. What is not known is nan."""

    offered: list[float] = field(default_factory=list)
    drawn: list[float] = field(default_factory=list)
    fault: list[bool] = field(default_factory=list)
    failsafe: list[bool] = field(default_factory=list)
    silent: list[bool] = field(default_factory=list)


@dataclass
class Run:
    """`times` are s from the beginning; all lists are as long. `silent`: the controller, which answered before, does
    not. `failsafe`: it counts with members that it has lost."""

    times: list[float] = field(default_factory=list)
    budget: list[float] = field(default_factory=list)
    drawn: list[float] = field(default_factory=list)
    offered: list[float] = field(default_factory=list)
    violation: list[bool] = field(default_factory=list)
    failsafe: list[bool] = field(default_factory=list)
    silent: list[bool] = field(default_factory=list)
    chargers: dict[str, Trace] = field(default_factory=dict)

    def spans(self, flags: list[bool]) -> Spans:
        """When they are set: each from its sample to the next."""
        found: Spans = []
        last = self.times[-1]
        for index, flag in enumerate(flags):
            if not flag:
                continue
            begin = self.times[index]
            end = self.times[index + 1] if index + 1 < len(self.times) else last
            if found and found[-1][1] >= begin:
                found[-1] = found[-1][0], end
            else:
                found.append((begin, end))
        return found


def read(path: Path) -> Run:
    """RunError: it cannot be read, is empty, or a line is not what those programs write."""
    run = Run()
    answered = False
    try:
        for number, line in _lines(path):
            try:
                answered = _take(run, json.loads(line), answered)
            except (ValueError, LookupError, TypeError, AttributeError) as problem:
                raise RunError(f"{path}, line {number}: {_what(problem)}") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise RunError(f"{path}: {problem.strerror if isinstance(problem, OSError) else 'is no text'}") from None
    if len(run.times) < 2:
        raise RunError(f"{path} has {len(run.times) or 'no'} sample; a picture takes two")
    return run


class _Wrong(ValueError):
    """What is wrong with a line, for people."""


def _what(problem: Exception) -> str:
    if isinstance(problem, _Wrong):
        return str(problem)
    missing = f"{problem.args[0]} is missing: " if isinstance(problem, KeyError) else ""
    return f"{missing}no line of labyard-evse-monitor or labyard-evse-sim"


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """With their numbers; the summary is none of the samples."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip() and not line.startswith('{"summary"'):
                yield number, line


def _take(run: Run, sample: Mapping[str, Any], answered: bool) -> bool:
    """Add a sample. Whether the controller has ever answered."""
    now = _number(sample["t"])
    if run.times and now <= run.times[-1]:
        raise _Wrong(f"t is {now:g}, which is not after the {run.times[-1]:g} before")
    if run.times and set(sample["chargers"]) != set(run.chargers):
        raise _Wrong("not the chargers of the line before")
    for name, one in sample["chargers"].items():
        _take_charger(run.chargers.setdefault(name, Trace()), one)
    run.times.append(now)
    run.budget.append(nan if sample["budget"] is None else _number(sample["budget"]))
    run.drawn.append(_number(sample["drawn"]))
    run.offered.append(_number(sample["offered"]))
    run.violation.append(bool(sample["violation"]))
    run.failsafe.append(bool(sample["failsafe"]))
    run.silent.append(answered and sample["committed"] is None)
    return answered or sample["committed"] is not None


def _take_charger(trace: Trace, one: Mapping[str, Any] | None) -> None:
    trace.silent.append(one is None)
    if one is None:
        trace.offered.append(nan)
        trace.drawn.append(nan)
        trace.fault.append(False)
        trace.failsafe.append(False)
        return
    now = charger(int(one["state"]), _number(one["offered"]), _number(one["drawn"]))
    trace.offered.append(now.offered)
    trace.drawn.append(now.drawn)
    trace.fault.append(is_fault(now.state))
    trace.failsafe.append(bool(one["failsafe"]))


def _number(value: Any) -> float:
    found = float(value)
    if not isfinite(found):
        raise _Wrong(f"{value} is no number")
    return found
