"""Faults of the links to peers, on purpose: contract 8.3. The same seed and the same calls give the same faults."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Any

KINDS = ("drop", "delay", "partition")
MAX_RULES = 64
MAX_DELAY = 60_000.0  # ms


class Partitioned(ConnectionError):
    """A rule says that this host cannot be reached."""


@dataclass
class Rule:
    kind: str
    host: str | None  # None: every peer
    probability: float
    delay_ms: tuple[float, float]
    count: int | None  # how often it still applies

    def as_json(self) -> dict[str, Any]:
        content: dict[str, Any] = {"kind": self.kind, "probability": self.probability}
        if self.host is not None:
            content["host"] = self.host
        if self.kind == "delay":
            content["delay_ms"] = list(self.delay_ms)
        if self.count is not None:
            content["count"] = self.count
        return content


class PeerFaults:
    def __init__(self) -> None:
        self.injected: Counter[str] = Counter()
        self._seed = 0
        self._rules: list[Rule] = []
        self._random = Random(0)

    def set(self, content: Any) -> None:
        """ValueError names the key that does not fit; then nothing is changed."""
        if not isinstance(content, dict) or set(content) - {"seed", "rules"}:
            raise ValueError("seed and rules were expected, nothing else")
        seed, rules = content.get("seed", 0), content.get("rules")
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise ValueError("seed must be a whole number")
        if not isinstance(rules, list) or len(rules) > MAX_RULES:
            raise ValueError(f"rules must be a list of at most {MAX_RULES}")
        self._rules = [_rule(entry, f"rules[{place}]") for place, entry in enumerate(rules)]
        self._seed, self._random = seed, Random(seed)

    def clear(self) -> None:
        self._rules = []

    def as_json(self) -> dict[str, Any]:
        return {"seed": self._seed, "rules": [rule.as_json() for rule in self._rules], "injected": dict(self.injected)}

    def partitioned(self, host: str) -> bool:
        return any(self._applies(rule, host) for rule in self._rules if rule.kind == "partition")

    async def call(self, host: str) -> None:
        """Before a call to a peer. Partitioned: it must not be made."""
        if self._rules:
            if self.partitioned(host):
                raise Partitioned(f"{host} is partitioned by /labyard/faults")
            await self._delay(host)

    async def message(self, host: str) -> bool:
        """Before a message of a web socket, either way. False: it is lost."""
        if not self._rules:
            return True
        await self.call(host)
        return not any(self._applies(rule, host) for rule in self._rules if rule.kind == "drop")

    async def _delay(self, host: str) -> None:
        for rule in self._rules:
            if rule.kind == "delay" and self._applies(rule, host):
                await asyncio.sleep(self._random.uniform(*rule.delay_ms) / 1000)

    def _applies(self, rule: Rule, host: str) -> bool:
        if rule.count == 0 or rule.host not in (None, host):
            return False
        if rule.probability < 1 and self._random.random() >= rule.probability:
            return False
        if rule.count is not None:
            rule.count -= 1
        self.injected[rule.kind] += 1
        return True


def _rule(entry: Any, where: str) -> Rule:
    if not isinstance(entry, dict) or set(entry) - {"kind", "host", "probability", "delay_ms", "count"}:
        raise ValueError(f"{where} must have kind, and may have host, probability, delay_ms, count")
    if entry.get("kind") not in KINDS:
        raise ValueError(f"{where}.kind must be one of {', '.join(KINDS)}")
    host = entry.get("host")
    if host is not None and not isinstance(host, str):
        raise ValueError(f"{where}.host must be a host")
    probability = _number(entry.get("probability", 1.0), 0, 1, f"{where}.probability")
    delay = entry.get("delay_ms", [0, 0])
    if not isinstance(delay, list) or len(delay) != 2:
        raise ValueError(f"{where}.delay_ms must be two numbers")
    low = _number(delay[0], 0, MAX_DELAY, f"{where}.delay_ms")
    high = _number(delay[1], low, MAX_DELAY, f"{where}.delay_ms")
    count = entry.get("count")
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 0):
        raise ValueError(f"{where}.count must be a whole number, 0 or more")
    return Rule(entry["kind"], None if host is None else host.strip().lower(), probability, (low, high), count)


def _number(value: Any, low: float, high: float, where: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{where} must be {low:g} to {high:g}")
    return float(value)
