"""Faults on the RAPI line, drawn from a seed: the same seed and the same frames have the same faults (contract 8)."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, get_args

from labyard.evse.rapi import END

Kind = Literal["drop", "delay", "corrupt", "truncate", "duplicate", "stall", "disconnect", "reboot"]
Direction = Literal["rx", "tx"]  # as the emulator sees it: rx is a command, tx a reply or an asynchronous line
KINDS: tuple[str, ...] = get_args(Kind)
_DIRECTIONS = ("rx", "tx", "both")
_DEFAULT_MS = {"delay": (50.0, 200.0), "stall": (1000.0, 3000.0)}
_LONGEST_MS = 600_000
_MOST_RULES = 50
_LOG_LENGTH = 1000


@dataclass(frozen=True)
class Rule:
    """`count` None: without end. `delay_ms`: between these two, for `delay` and `stall`."""

    kind: Kind
    direction: str = "both"
    probability: float = 1.0
    match: re.Pattern[str] | None = None
    delay_ms: tuple[float, float] | None = None
    count: int | None = None

    def describe(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"kind": self.kind, "direction": self.direction, "probability": self.probability}
        if self.match is not None:
            shown["match"] = self.match.pattern
        if self.delay_ms is not None:
            shown["delay_ms"] = list(self.delay_ms)
        if self.count is not None:
            shown["count"] = self.count
        return shown


@dataclass(frozen=True)
class Fault:
    """One fault at one frame. `frame` is what is left of it, `delay` in s."""

    kind: Kind
    frame: bytes
    delay: float = 0.0


class FaultPlan:
    def __init__(self, seed: int = 0, rules: tuple[Rule, ...] = ()) -> None:
        self.seed = seed
        self.rules = rules
        self.injected = [0] * len(rules)
        self._random = {
            (index, direction): Random(f"{seed}:{index}:{direction}")
            for index in range(len(rules))
            for direction in get_args(Direction)
        }

    def faults(self, direction: Direction, frame: bytes) -> Iterator[tuple[int, Fault]]:
        """Each rule's number with its fault at this frame (with its CR), in the order of the rules, until one of them
        loses the frame or its end."""
        for index, rule in enumerate(self.rules):
            if rule.direction not in ("both", direction):
                continue
            if rule.count is not None and self.injected[index] >= rule.count:
                continue
            if rule.match is not None and not rule.match.search(frame.decode("latin-1").rstrip("\r")):
                continue
            random = self._random[index, direction]
            if random.random() >= rule.probability:
                continue
            self.injected[index] += 1
            fault = _strike(rule, frame, random)
            frame = fault.frame
            yield index, fault
            if not frame.endswith(END):
                return

    def describe(self) -> dict[str, Any]:
        rules = [rule.describe() | {"injected": n} for rule, n in zip(self.rules, self.injected, strict=True)]
        return {"seed": self.seed, "rules": rules}


def _strike(rule: Rule, frame: bytes, random: Random) -> Fault:
    match rule.kind:
        case "delay" | "stall":
            low, high = rule.delay_ms or _DEFAULT_MS[rule.kind]
            return Fault(rule.kind, frame, random.uniform(low, high) / 1000)
        case "corrupt":
            # Not the $, not the end, and a bit that makes neither out of a letter: still a line, but a wrong one.
            place, bit = random.randrange(1, len(frame) - 1), 1 << random.randrange(2)
            return Fault(rule.kind, frame[:place] + bytes([frame[place] ^ bit]) + frame[place + 1 :])
        case "truncate":
            return Fault(rule.kind, frame[: random.randrange(1, len(frame) - 1)])
        case "duplicate":
            return Fault(rule.kind, frame * 2)
        case _:
            return Fault(rule.kind, b"")


@dataclass
class FaultLog:
    """The newest faults, and how many there were of each kind since the start."""

    entries: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_LOG_LENGTH))
    totals: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(KINDS, 0)))
    _number: int = 0

    def add(self, now: float, client: str, direction: Direction, rule: int, frame: bytes, fault: Fault) -> None:
        self._number += 1
        self.totals[fault.kind] += 1
        entry = {
            "n": self._number,
            "time_s": round(now, 3),
            "client": client,
            "direction": direction,
            "rule": rule,
            "kind": fault.kind,
            "frame": frame.decode("latin-1").rstrip("\r"),
        }
        if fault.delay:
            entry["delay_ms"] = round(fault.delay * 1000, 3)
        elif fault.frame and fault.kind != "duplicate":
            entry["result"] = fault.frame.decode("latin-1").rstrip("\r")
        self.entries.append(entry)

    def restart(self) -> None:
        self.entries.clear()
        self._number = 0


def parse(body: dict[str, Any]) -> FaultPlan:
    """The plan of a request's body. ValueError names the key."""
    _known(body, {"seed", "rules"}, "")
    seed = body.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ValueError("seed: must be a whole number")
    rules = body.get("rules")
    if not isinstance(rules, list) or len(rules) > _MOST_RULES:
        raise ValueError(f"rules: must be a list of at most {_MOST_RULES} rules")
    return FaultPlan(seed, tuple(_rule(item, f"rules[{index}]") for index, item in enumerate(rules)))


def _rule(item: Any, where: str) -> Rule:
    if not isinstance(item, dict):
        raise ValueError(f"{where}: must be an object")
    _known(item, {"kind", "direction", "probability", "match", "delay_ms", "count"}, f"{where}.")
    if item.get("kind") not in KINDS:
        raise ValueError(f"{where}.kind: must be one of {', '.join(KINDS)}")
    if item.get("direction", "both") not in _DIRECTIONS:
        raise ValueError(f"{where}.direction: must be one of {', '.join(_DIRECTIONS)}")
    probability = item.get("probability", 1.0)
    if not _is_number(probability) or not 0 <= probability <= 1:
        raise ValueError(f"{where}.probability: must be a number from 0 to 1")
    count = item.get("count")
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 0):
        raise ValueError(f"{where}.count: must be a whole number, 0 or more")
    return Rule(
        item["kind"],
        item.get("direction", "both"),
        float(probability),
        _pattern(item.get("match"), where),
        _span(item.get("delay_ms"), where),
        count,
    )


def _pattern(match: Any, where: str) -> re.Pattern[str] | None:
    if match is None:
        return None
    if not isinstance(match, str) or len(match) > 200:
        raise ValueError(f"{where}.match: must be a regular expression of at most 200 characters")
    try:
        return re.compile(match)
    except re.error as error:
        raise ValueError(f"{where}.match: is no regular expression: {error}") from None


def _span(delay: Any, where: str) -> tuple[float, float] | None:
    if delay is None:
        return None
    if not isinstance(delay, list) or len(delay) != 2 or not all(map(_is_number, delay)):
        raise ValueError(f"{where}.delay_ms: must be two numbers, the shortest and the longest")
    if not 0 <= delay[0] <= delay[1] <= _LONGEST_MS:
        raise ValueError(f"{where}.delay_ms: must rise, from 0 to {_LONGEST_MS} at most")
    return delay[0], delay[1]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _known(item: dict[str, Any], keys: set[str], prefix: str) -> None:
    for key in item:
        if key not in keys:
            raise ValueError(f"{prefix}{key}: no such key; there are {', '.join(sorted(keys))}")
