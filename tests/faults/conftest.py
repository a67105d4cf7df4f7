"""Fault tests run playbooks as a user does, some of them on a second small lab beside the one that is up."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Inventory:
    """A copy of the local inventory that a test may spoil."""

    folder: Path

    @property
    def hosts(self) -> Path:
        return self.folder / "hosts.yml"

    def edit(self, old: str, new: str, file: str = "group_vars/all/lab.yml") -> None:
        path = self.folder / file
        text = path.read_text()
        assert old in text, f"{file} no longer has {old!r}"
        path.write_text(text.replace(old, new, 1))

    def command(self, playbook: str, *arguments: str) -> list[str]:
        return ["ansible-playbook", "-i", str(self.hosts), playbook, *arguments]

    def run(self, playbook: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a playbook to its end; stdout and stderr are one text."""
        return subprocess.run(
            self.command(playbook, *arguments),
            cwd=ROOT,
            env=os.environ | {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "COLUMNS": "500"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
        )


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    """A copy of inventories/local."""
    return Inventory(Path(shutil.copytree(ROOT / "inventories/local", tmp_path / "inventory")))


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
        "mounts": {line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()},
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
    inventory.edit("lab_name: labyard", "lab_name: labyard-second")
    inventory.edit("10.77.0.0/16", "10.79.0.0/16")
    inventory.edit("labyard-mgmt", "labyard-second-mgmt")
    inventory.edit("ly-mgmt", "ly2-mgmt")
    inventory.edit("10.76.0.0/24", "10.78.0.0/24")
    inventory.edit("labyard-segment", "labyard-segment-second")
    inventory.edit("ly-segment", "ly2-segment")
    inventory.edit("10.77.0.0/17", "10.79.0.0/17")
    text = (inventory.folder / "group_vars/all/lab.yml").read_text()
    head, _, tail = text.partition("lab_machines:")
    rest = tail.split("\n\n", 1)[1]
    (inventory.folder / "group_vars/all/lab.yml").write_text(f"{head}lab_machines: []\n\n{rest}")
    hosts = yaml.safe_load(inventory.hosts.read_text())
    groups = hosts["all"]["children"]
    groups["probes"]["hosts"] = {"probe2": {"ansible_host": "labyard-second-probe", "lab_address": "10.79.0.4"}}
    for name in ("netboot", "vm_hosts"):
        groups.pop(name)
        groups["lab_containers"]["children"].pop(name)
    inventory.hosts.write_text(yaml.safe_dump(hosts))
    yield inventory
    inventory.run("playbooks/destroy.yml")
