"""A fake VM manager for its clients: see fake_service."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from fake_service import FakeServer


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """It runs, and the environment names no other."""
    for name in [name for name in os.environ if name.startswith("LABYARD_")]:
        monkeypatch.delenv(name)
    server = FakeServer()
    yield server
    server.stop()
