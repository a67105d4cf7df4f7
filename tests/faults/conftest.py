"""Fault tests run playbooks as a user does, some of them on a second small lab beside the one that is up."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from second_lab import Inventory

# Where runc mounts itself for a moment at each `docker exec`, also at those of tests that run beside.
RUNTIME = re.compile(r"/runc\.\w+$")


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    """A copy of inventories/local."""
    return Inventory.copied_to(tmp_path / "inventory")


def mounts() -> set[str]:
    return {line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()}


def snapshot() -> dict[str, set[str]]:
    """What a lab leaves on this machine when it is not taken away: by kind, what there is now."""

    def lines(*command: str) -> set[str]:
        return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())

    return {
        "containers": lines("docker", "ps", "--all", "--format", "{{.ID}} {{.Names}}"),
        "networks": lines("docker", "network", "ls", "--format", "{{.ID}} {{.Name}}"),
        # A veth's name is the engine's own and new each time; the bridges are what a lab names.
        "bridges": lines("ip", "-brief", "link", "show", "type", "bridge"),
        "routes": lines("ip", "route", "show"),
        "mounts": {path for path in mounts() if not RUNTIME.search(path)},
        "files": {
            str(path) for folder in ("/etc", "/run", "/var/lib", "/var/log") for path in Path(folder).glob("labyard*")
        },
    }


@pytest.fixture
def take_snapshot() -> Callable[[], dict[str, set[str]]]:
    return snapshot


@pytest.fixture
def second_lab(inventory: Inventory) -> Iterator[Inventory]:
    """A lab of one host with names and networks of its own; taken away at the end, whatever the test did to it."""
    inventory.set_apart("second", 78, {"probes"}, machines=[])
    yield inventory
    inventory.run("playbooks/destroy.yml")
