"""What the VMs of these tests have from the beginning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

PRELOADED = "/root/preloaded"
PRELOADED_CONTENT = bytes(range(256)) * 40_000


@pytest.fixture(scope="session")
def vm_preload() -> dict[str, bytes]:
    return {PRELOADED: PRELOADED_CONTENT}


@pytest.fixture(scope="session")
def vm_warmup() -> list[str]:
    return ["python3 -c 'import uuid, socket'", "ip addr >/dev/null", "runc --version >/dev/null"]


@pytest.fixture(scope="session")
def image_options(pytestconfig: pytest.Config) -> list[str]:
    """Of a pytest within a test: the same image and accelerator."""
    folder = Path(pytestconfig.getoption("--vm-image"))
    image = folder if folder.is_absolute() else pytestconfig.rootpath / folder
    return [f"--vm-image={image}", f"--vm-accel={pytestconfig.getoption('--vm-accel')}"]


@pytest.fixture
def bytes_sent(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How much of files the host has sent to guests since the test began."""
    from labyard.testing.vm.client import Agent

    sent = [0]
    write = Agent.write

    def counting(self: Agent, path: str, data: bytes, mode: int) -> dict[str, object]:
        sent[0] += len(data)
        return write(self, path, data, mode)

    monkeypatch.setattr(Agent, "write", counting)
    return lambda: sent[0]
