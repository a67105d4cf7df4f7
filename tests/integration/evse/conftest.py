"""What tests of chargers share: the host for themselves, and pairs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from integration.results import outcome, write_result
from labyard.testing import HostLockError, host_lock
from labyard.testing.evse import Pair, Pairs, Settings, backend_of

# Fixtures that use the ports of the port plan. Those of sharing/ have a network of their own.
ALONE = {"evse_pairs", "pairs_with"}
# socat makes its link at once, on a machine that lets it.
PATIENT = {"LABYARD_EVSE_PTY_WAIT": "30"}
_began = time.monotonic()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Such tests have the host for themselves, also among the workers of `pytest -n`. Here, since waiting does then not
    count for a test's timeout."""
    # The bench has the lock already, so that its figure is without waiting.
    if ALONE.isdisjoint(getattr(item, "fixturenames", ())) or os.environ.get("LABYARD_EVSE_LOCK") == "held":
        return (yield)

    def say(text: str) -> None:
        with item.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\n{text}", flush=True)

    try:
        with host_lock(item.nodeid, say=say):
            return (yield)
    except HostLockError as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """NUM_INSTANCES=3 leaves out tests of other numbers of pairs, for a matrix of CI."""
    wanted = os.environ.get("NUM_INSTANCES")
    if not wanted:
        return
    left_out = [item for item in items if _num_instances(item) not in (None, wanted)]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


def _num_instances(item: pytest.Item) -> str | None:
    parameters = getattr(item, "callspec", None)
    return None if parameters is None else str(parameters.params.get("num_instances", "")) or None


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """LABYARD_EVSE_RESULT names a file, from the checkout, for what came of the run."""
    path = os.environ.get("LABYARD_EVSE_RESULT")
    found = outcome(terminalreporter)
    if path and found is not None:
        write_result(config.rootpath / path, {**found, "seconds": round(time.monotonic() - _began, 1)})


@pytest.fixture
def evse_pairs(tmp_path: Path) -> Iterator[Pairs]:
    """Starts pairs, and stops at the end those that it started."""
    settings = Settings.from_environment(PATIENT | os.environ)
    with Pairs(settings, backend_of(settings, tmp_path)) as pairs:
        yield pairs


@pytest.fixture
def pairs_with(tmp_path: Path) -> Iterator[Callable[..., Pairs]]:
    """pairs_with(NATIVE_BINARY_PATH=…): pairs as processes, as these environment variables say, whatever others do."""
    with ExitStack() as stack:

        def make(**environment: str) -> Pairs:
            settings = Settings.from_environment(PATIENT | environment)
            folder = tmp_path / f"pairs-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            return stack.enter_context(Pairs(settings, backend_of(settings, folder)))

        yield make


@pytest.fixture
def instance_pair(evse_pairs: Pairs) -> Callable[..., Pair]:
    """instance_pair(port_offset=0): one pair, ready, without anything stored."""

    def start(port_offset: int = 0) -> Pair:
        return evse_pairs.start([port_offset])[0]

    return start


@pytest.fixture
def multi_instance_group(evse_pairs: Pairs) -> Callable[[int], list[Pair]]:
    """multi_instance_group(3): pairs 0, 1 and 2, ready, without anything stored."""

    def start(num_instances: int) -> list[Pair]:
        return evse_pairs.start(range(num_instances))

    return start
