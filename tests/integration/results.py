"""What a run of tests on a host of the lab amounts to, as a file for those who started it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def outcome(terminalreporter: Any) -> dict[str, int] | None:
    """How many passed, were skipped, failed. None: all were skipped, which is no result."""
    stats: dict[str, list[Any]] = terminalreporter.stats
    count = {what: len(stats.get(what, [])) for what in ("passed", "skipped", "failed", "error")}
    count["failed"] += count.pop("error")
    return count if count["passed"] or count["failed"] else None


def write_result(path: Path, result: dict[str, Any]) -> None:
    """One line of JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result) + "\n")
