"""What unit and integration tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest


def pytest_configure() -> None:
    """Here, since the file of the tests in question is read too late to stop workers of pytest-xdist."""
    if os.environ.get("VMAN_ENABLE_INTEGRATION_TESTS") == "1" and os.environ.get("VMAN_OPERATOR_DRY_RUN") == "1":
        raise pytest.UsageError(
            "VMAN_ENABLE_INTEGRATION_TESTS=1 with VMAN_OPERATOR_DRY_RUN=1: a dry integration run proves nothing; "
            "unset VMAN_OPERATOR_DRY_RUN"
        )
    # What a shell runs in the background ignores Control-C, and so would the programs that tests send it to.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long ones first, so that of two workers none is left with one when all else is done."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


# By how their files' names begin: tests of the lab that use the same hosts, or that make and count containers of this
# machine. All others are about network boot and VMs.
LAB_GROUPS = {
    "machine": ("bad_input", "builds", "desktop", "isc_dhcp", "lab_", "postgresql", "redis"),
    "evse": ("evse", "mdns"),
    "faas": ("faas", "runc_host"),
}


def lab_group(nodeid: str) -> str:
    """Tests of one group run one after the other."""
    name = Path(nodeid.partition("::")[0]).stem.removeprefix("test_")
    return next((group for group, names in LAB_GROUPS.items() if name.startswith(names)), "netboot")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadscope`, workers take groups. Not by the marker `xdist_group`: pytest-xdist 3.8 loses that with
    pytest 9.2."""
    if config.getoption("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class LabScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return lab_group(nodeid)

    return LabScheduling(config, log)


@pytest.fixture
def quick_hashes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Argon2 at its smallest cost, which is a large part of a test otherwise. A test that is about what a password
    costs is marked `costly_hashes`."""
    if request.node.get_closest_marker("costly_hashes"):
        return
    # Imported here: checks of roles, which begin anew for each scenario, do not need it.
    from argon2 import PasswordHasher

    from labyard.core import passwords

    monkeypatch.setattr(passwords, "_hasher", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    monkeypatch.setattr(passwords, "_NOBODY", passwords.hash_password("nobody"))
