"""What tests of chargers share."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from labyard.testing import HostLockError, host_lock

# Fixtures that start gateways which find each other, or use ports of the port plan.
ALONE = {"pairs", "gateways", "instance_pair", "multi_instance_group"}


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Such tests have the host for themselves, also among the workers of `pytest -n`. Here, since waiting does then not
    count for a test's timeout."""
    if ALONE.isdisjoint(getattr(item, "fixturenames", ())):
        return (yield)

    def say(text: str) -> None:
        with item.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\n{text}", flush=True)

    try:
        with host_lock(item.nodeid, say=say):
            return (yield)
    except HostLockError as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)
