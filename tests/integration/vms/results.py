"""What a run of the tests marked `integration` amounts to: a line at its end, and build/vms-integration.json, which
`make bench` reads."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator
from typing import Any

import pytest

ENABLED = os.environ.get("VMAN_ENABLE_INTEGRATION_TESTS") == "1"
LEAKS = "leaks"
_began = time.monotonic()


class LeftBehind(AssertionError):
    """Something of ours is still on the host: domains, processes, interfaces, leases, files."""

    def __init__(self, what: str, left: list[str]) -> None:
        super().__init__(f"left after the {what}: {left}")
        self.count = len(left)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, LeftBehind):
        report.user_properties.append((LEAKS, call.excinfo.value.count))  # they come over from workers, too
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not ENABLED:
        return
    stats: dict[str, list[Any]] = terminalreporter.stats
    bad = stats.get("failed", []) + stats.get("error", [])
    if not bad and not stats.get("passed"):
        return  # all skipped: that is no result
    result = {
        "suite_s": round(time.monotonic() - _began, 1),
        "passed": len(stats.get("passed", [])),
        "skipped": len(stats.get("skipped", [])),
        "failed": len(bad),
        "leaks": sum(count for report in bad for name, count in report.user_properties if name == LEAKS),
    }
    path = config.rootpath / "build/vms-integration.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result) + "\n")
    terminalreporter.write_line(f"{result['suite_s']} s, {result['leaks']} things left behind: {path}")
