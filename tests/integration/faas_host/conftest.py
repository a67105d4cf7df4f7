"""faasd as a process, with the real runtime, on a host of its own. Needs root, runc and iproute2."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labyard.testing.faas.archives import docker_archive
from labyard.testing.faas.host import Host
from labyard.testing.faas.stock import handler_layer, python_layer
from labyard.testing.waiting import PATIENCE

HANDLER = Path(__file__).parents[1] / "faas/fixtures/test-handler/handler.py"
# In tests that are not about these limits: what waits for a processor on a busy machine is not late.
UNHURRIED = {"connect_timeout": PATIENCE, "queue_timeout": PATIENCE}


@pytest.fixture(scope="session", autouse=True)
def _needed() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces, addresses and containers")
    if missing := [name for name in ("runc", "ip", "unshare", "nsenter", "/usr/bin/python3") if not shutil.which(name)]:
        pytest.skip(f"needs {', '.join(missing)}")


@pytest.fixture(scope="session")
def layers() -> list[bytes]:
    return [python_layer(), handler_layer(HANDLER)]


@pytest.fixture(scope="session")
def image(layers: list[bytes]) -> Callable[..., bytes]:
    """Makes the archive of a handler that behaves as its arguments say."""

    def make(*arguments: str, **inner: object) -> bytes:
        command = {"Entrypoint": ["python3", "/app/handler.py"], "Cmd": list(arguments)}
        return docker_archive(layers, **{**command, **inner})

    return make


@pytest.fixture
def make_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Host]]:
    hosts: list[Host] = []

    def make() -> Host:
        hosts.append(Host(tmp_path_factory.mktemp("host"), **UNHURRIED))
        return hosts[-1]

    yield make
    for host in hosts:
        host.close()


@pytest.fixture
def host(make_host: Callable[[], Host]) -> Host:
    """A host without a daemon yet."""
    return make_host()
