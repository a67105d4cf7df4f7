"""What a run of the tests marked `integration` amounts to: build/vms-integration.json, which `make bench` reads."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from typing import Any

import pytest

from integration.results import outcome, write_result

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
    found = outcome(terminalreporter)
    if not ENABLED or found is None:
        return
    stats: dict[str, list[Any]] = terminalreporter.stats
    bad = stats.get("failed", []) + stats.get("error", [])
    leaks = sum(count for report in bad for name, count in report.user_properties if name == LEAKS)
    result = {"suite_s": round(time.monotonic() - _began, 1), **found, "leaks": leaks}
    path = config.rootpath / "build/vms-integration.json"
    write_result(path, result)
    terminalreporter.write_line(f"{result['suite_s']} s, {leaks} things left behind: {path}")
