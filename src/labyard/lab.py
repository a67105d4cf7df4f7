"""A built lab: its hosts, reached as Ansible reaches them, and the machines that boot in it.

This is the only place that knows testinfra; commands, tests and benchmarks all go through it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import testinfra

from labyard.inventory import Inventory, InventoryError

DEFAULT_INVENTORY = Path("inventories/local")
# In a checkout, where this file is src/labyard/lab.py; an installed package takes those of the current folder.
_CHECKOUT_ROLES = Path(__file__).parents[2] / "roles"
ROLES = _CHECKOUT_ROLES if _CHECKOUT_ROLES.is_dir() else Path("roles")


@dataclass(frozen=True)
class Machine:
    """A diskless machine of `lab_machines`."""

    name: str
    vm_host: str
    mac: str
    address: str
    firmware: str = "bios"
    memory_mb: int = 256
    disk: str = "own"  # own: the inventory gives it one; session: a netboot session does


class LabHost:
    """One host of the lab."""

    def __init__(self, name: str, inventory: Inventory) -> None:
        self.name = name
        self._inventory = inventory

    def value(self, name: str, default: Any = None) -> Any:
        """A variable from the inventory."""
        return self._inventory.value(self.name, name, default)

    @property
    def address(self) -> str:
        """Its address on the lab segment; empty for a host that is not on it."""
        return str(self.value("lab_address", ""))

    @property
    def roles(self) -> list[str]:
        """The roles that the inventory gives it."""
        return list(self.value("lab_roles", []))

    @property
    def url(self) -> str:
        """How testinfra reaches it: docker://, ssh:// or local://."""
        connection = str(self.value("ansible_connection", "ssh")).rpartition(".")[2]
        target = str(self.value("ansible_host", self.name))
        if connection in {"docker", "docker_api"}:
            return f"docker://{target}"
        if connection == "local":
            return "local://"
        user = self.value("ansible_user")
        port = self.value("ansible_port")
        key = self.value("ansible_ssh_private_key_file")
        where = (f"{user}@" if user else "") + target + (f":{port}" if port else "")
        options = f"&ssh_identity_file={quote(str(key))}" if key else ""
        # One connection for all probes; sudo, since lab daemons' files are root's.
        return f"ssh://{where}?controlpersist=120{options}" + ("&sudo=true" if user not in (None, "root") else "")

    @cached_property
    def shell(self) -> Any:
        """The testinfra host."""
        return testinfra.get_host(self.url)

    def run(self, command: str, *arguments: str) -> Any:
        """Run a command (`%s` takes an argument, quoted); answers with rc, stdout and stderr."""
        return self.shell.run(command, *arguments)

    def check(self, command: str, *arguments: str) -> str:
        """Run a command that must succeed and return what it printed. RuntimeError says what it printed instead."""
        result = self.run(command, *arguments)
        if result.rc != 0:
            said = (result.stderr or result.stdout).strip()
            raise RuntimeError(f"{self.name}: {result.command!r} exited with {result.rc}: {said}")
        return str(result.stdout)

    def __repr__(self) -> str:
        return f"<LabHost {self.name}>"


class Lab:
    """The lab that an inventory describes."""

    def __init__(self, path: Path | str = DEFAULT_INVENTORY) -> None:
        self.inventory = Inventory(path)
        self.inventory.add_role_defaults(ROLES)
        self._hosts = {name: LabHost(name, self.inventory) for name in self.inventory.hosts()}

    def hosts(self, group: str = "all") -> list[LabHost]:
        """Hosts of a group; without one every host that a role applies to."""
        named = [self._hosts[name] for name in self.inventory.hosts(group)]
        return named if group != "all" else [host for host in named if host.roles]

    def host(self, group: str) -> LabHost:
        """The first host of a group. InventoryError when the group has none."""
        hosts = self.hosts(group)
        if not hosts:
            raise InventoryError(f"group {group!r} of {self.inventory.path} has no host")
        return hosts[0]

    @cached_property
    def machines(self) -> dict[str, Machine]:
        """The diskless machines by name."""
        listed = self.inventory.value(self.inventory.hosts()[0], "lab_machines", [])
        known = Machine.__annotations__
        machines = (Machine(**{key: value for key, value in entry.items() if key in known}) for entry in listed)
        return {machine.name: machine for machine in machines}

    @property
    def machines_with_disk(self) -> list[Machine]:
        """Those that boot as they are, without a session."""
        return [machine for machine in self.machines.values() if machine.disk == "own"]

    def vm_host(self, machine: Machine) -> LabHost:
        """The host that carries the machine."""
        return self._hosts[machine.vm_host]
