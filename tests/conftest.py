"""What unit and integration tests share."""

from __future__ import annotations

import os
import signal

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
    """Long ones first, so that of two workers none is left with one when all else is done. Tests of the built lab are
    grouped by what they share, for workers of `--dist loadgroup`."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        if item.path.parent.name in ("roles", "flows", "faults"):
            item.add_marker(pytest.mark.xdist_group(lab_group(item)))


def lab_group(item: pytest.Item) -> str:
    """Tests of one group run one after the other, since they use the same hosts. What makes and counts containers on
    this machine is a group too."""
    name, fixtures = item.path.stem, getattr(item, "fixturenames", [])
    if {"inventory", "second_lab", "isc_lab"} & set(fixtures) or name in ("test_lab_engine", "test_lab_image"):
        return "machine"
    host = item.callspec.params.get("host") if hasattr(item, "callspec") else None
    for group in ("evse", "faas", "desktop"):
        if name.startswith(f"test_{group}") or (host and any(role.startswith(group) for role in host.roles)):
            return group
    return "netboot"


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
