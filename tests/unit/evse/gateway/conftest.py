from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from evse.gateway.rig import Rig
from labyard.evse.gateway import rapi_client


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(rapi_client, "TIMEOUT", 0.02)
    made = Rig(tmp_path)
    running = asyncio.create_task(made.manager.run())
    yield made
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
