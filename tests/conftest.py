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


# How files' names begin whose tests of the lab need neither its boot host nor its VM host. They run beside those that
# do; each of the two halves goes one after the other, since its tests share hosts or count what runs on this machine.
NO_NETBOOT = (
    *("bad_input", "builds", "desktop", "evse", "faas", "isc_dhcp", "lab_"),
    *("mdns", "postgresql", "redis", "runc_host"),
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadscope`, two workers take a half each. Not by the marker `xdist_group`: pytest-xdist 3.8 loses
    that with pytest 9.2."""
    if config.getoption("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class LabScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            name = Path(nodeid.partition("::")[0]).stem.removeprefix("test_")
            return "others" if name.startswith(NO_NETBOOT) else "netboot"

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
