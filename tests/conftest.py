"""What unit and integration tests share."""

from __future__ import annotations

import pytest


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
