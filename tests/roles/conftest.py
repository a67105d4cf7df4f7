"""Checks of what a role does, run by its Molecule scenario and against the built lab alike.

`test_<role>.py` runs on every host that has the role. `TestApplied` holds where the role is present, `TestRemoved`
after its removal; only Molecule removes roles.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from labyard.lab import LabHost
from labyard.testing.lab_plugin import load_lab
from labyard.testing.waiting import wait_until

NOBODY = None  # in place of a host: the role is nobody's in this lab


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each check on every host that the role named by its file applies to."""
    role = Path(metafunc.module.__file__ or "").stem.removeprefix("test_")
    if "host" in metafunc.fixturenames:
        hosts = [host for host in load_lab(metafunc.config).hosts() if role in host.roles]
        # In a scenario the role under test is the subject's; the probe has clients of its own.
        hosts = [host for host in hosts if host.name == "subject"] or hosts
        metafunc.parametrize("host", hosts or [NOBODY], ids=lambda host: host.name if host else "no host")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the checks of a role that no host of this lab has, and those of a removed role unless asked for by
    name."""
    removed = any("TestRemoved" in argument for argument in config.args)
    kept = [item for item in items if _has_host(item) and (removed or not _is_of_removed(item))]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def _has_host(item: pytest.Item) -> bool:
    chosen = item.callspec.params if hasattr(item, "callspec") else {}
    return chosen.get("host", item) is not NOBODY


def _is_of_removed(item: pytest.Item) -> bool:
    return item.nodeid.split("::")[1].startswith("TestRemoved")


def assert_runs(host: LabHost, unit: str) -> None:
    """The unit runs and starts with the host; a failure shows its journal."""
    service = host.shell.service(unit)
    journal = host.run("journalctl --no-pager --lines 30 --unit %s", unit)
    assert service.is_running and service.is_enabled, f"{unit} does not run:\n{journal.stdout}"


def assert_gone(host: LabHost, role: str, *paths: str) -> None:
    """Neither the role's card nor these files are there."""
    for path in (f"/etc/labyard/services.d/{role}.json", *paths):
        assert not host.shell.file(path).exists, f"{role} left {path} behind"


class Api:
    """A service's HTTP API, called from the probe host as an operator would."""

    def __init__(self, probe: LabHost, url: str) -> None:
        self.probe, self.url, self.token = probe, url, ""

    def call(self, method: str, path: str, *options: str, **body: Any) -> tuple[int, Any]:
        """Status and answer."""
        arguments = ["--write-out", "\n%{http_code}", "--request", method, self.url + path, *options]
        if self.token:
            arguments += ["--header", f"Authorization: Bearer {self.token}"]
        if body:
            arguments += ["--header", "Content-Type: application/json", "--data", json.dumps(body)]
        answer, _, status = self.probe.check(
            "curl --silent --max-time 60" + " %s" * len(arguments), *arguments
        ).rpartition("\n")
        return int(status), json.loads(answer) if answer.startswith(("{", "[")) else answer

    def good(self, method: str, path: str, *options: str, **body: Any) -> Any:
        """Answer of a call that must succeed."""
        status, answer = self.call(method, path, *options, **body)
        assert 200 <= status < 300, f"{method} {path}: {status} {answer}"
        return answer


def wait_until_ready(public: Api, path: str) -> None:
    """After a restart of the service, until this path answers 200."""
    # RuntimeError is curl's: connection refused.
    wait_until(lambda: public.call("GET", path)[0] == 200, f"{path} answers after a restart", despite=RuntimeError)
