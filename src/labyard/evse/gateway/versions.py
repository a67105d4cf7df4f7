"""Counters of /status that tell clients what to fetch again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Versions:
    def __init__(self, publish: Callable[[dict[str, Any]], None]) -> None:
        self._publish = publish
        self._counts = dict.fromkeys(
            (
                "claims_version",
                "override_version",
                "schedule_version",
                "schedule_plan_version",
                "limit_version",
                "loadsharing_peers_version",
                "loadsharing_status_version",
            ),
            0,
        )

    def bump(self, name: str) -> None:
        self._counts[name] += 1
        self._publish({name: self._counts[name]})

    def as_json(self) -> dict[str, int]:
        return dict(self._counts)
