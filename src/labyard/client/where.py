"""Where a service of a lab is, by the inventory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from labyard.client.http import ClientError
from labyard.inventory import InventoryError
from labyard.lab import Lab, LabHost

SOMEWHERE = "192.0.2.1"  # TEST-NET-1 (RFC 5737): only asks the routing table, sends nothing


@dataclass
class LabService:
    """A service is on the first host whose `lab_roles` name it, and its variables begin with its name."""

    inventory: Path
    name: str

    @cached_property
    def host(self) -> LabHost:
        """ClientError when the inventory cannot be used or has no such host."""
        try:
            return hosts_with(self.inventory, self.name)[0]
        except ClientError as error:
            raise ClientError(
                f"{error}; or say where the service is, with --url or LABYARD_{self.name.upper()}_URL"
            ) from error

    def value(self, name: str) -> str:
        """A variable of the service, without the service's name; empty when it is not set."""
        found = self.host.value(f"{self.name}_{name}")
        return "" if found is None else str(found)

    @property
    def url(self) -> str:
        """http://HOST:PORT. ClientError when no host has the service, or the host does not answer."""
        listens = self.value("http_host")
        return f"http://{listens if listens not in ('', '0.0.0.0') else address(self.host)}:{self.value('http_port')}"

    def secret_file(self, name: str) -> Path | None:
        """The inventory's file with a generated secret of the service, if there is one."""
        folder = self.inventory if self.inventory.is_dir() else self.inventory.parent
        file = folder / ".secrets" / f"{self.name}_{name}"
        return file if file.exists() else None


def hosts_with(inventory: Path, role: str) -> list[LabHost]:
    """The hosts whose `lab_roles` name a role. ClientError when there is none, or the inventory cannot be used."""
    try:
        found = [host for host in Lab(inventory).hosts() if role in host.roles]
    except InventoryError as error:
        raise ClientError(str(error)) from error
    if not found:
        raise ClientError(f"no host in {inventory} has {role} among its lab_roles")
    return found


def address(host: LabHost) -> str:
    """Where this machine reaches a lab host: where Ansible does, or the address of its default route. ClientError when
    the host does not answer."""
    if host.url.startswith("ssh"):
        return str(host.value("ansible_host", host.name))
    found = host.run(f"ip -4 -json route get {SOMEWHERE}")
    if found.rc != 0:
        raise ClientError(f"lab host {host.name} does not answer; build the lab with: make lab")
    return str(json.loads(found.stdout)[0]["prefsrc"])
