"""Where the netboot service of a lab is, and who calls it: from the inventory, unless told otherwise."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from labyard.inventory import InventoryError
from labyard.lab import Lab, LabHost
from labyard.netboot.client import Client, NetbootError
from labyard.netboot.client_http import cache_folder

GROUP = "netboot"
SOMEWHERE = "192.0.2.1"  # TEST-NET-1 (RFC 5737): only asks the routing table, sends nothing


@dataclass
class Where:
    """`url`, `user` and `password` are empty when they are to come from the inventory."""

    inventory: Path
    url: str
    user: str
    password: str

    @cached_property
    def client(self) -> Client:
        """A client of the service. NetbootError when the inventory cannot be used or has no password."""
        given = (self.url or self._url(), self.user, self.password or self._password())
        return Client(*given, cache=cache_folder())

    @property
    def secret_file(self) -> Path | None:
        """The inventory's file with the admin's password, if the password came from there."""
        if self.user != "admin" or self.password or self.url:
            return None
        folder = self.inventory if self.inventory.is_dir() else self.inventory.parent
        file = folder / ".secrets" / "netboot_admin_password"
        return file if file.exists() else None

    @cached_property
    def _host(self) -> LabHost:
        try:
            return Lab(self.inventory).host(GROUP)
        except InventoryError as error:
            raise NetbootError(f"{error}; or say where the service is, with --url or LABYARD_NETBOOT_URL") from error

    def _url(self) -> str:
        host = self._host
        listens = str(host.value("netboot_http_host", ""))
        address = listens if listens not in ("", "0.0.0.0") else _address(host)
        return f"http://{address}:{host.value('netboot_http_port')}"

    def _password(self) -> str:
        password = str(self._host.value("netboot_admin_password", "") if self.user == "admin" else "")
        if not password:
            raise NetbootError(
                f"no password for user {self.user}: put it into a file and name it with --password-file, or set "
                "LABYARD_NETBOOT_PASSWORD"
            )
        return password


def _address(host: LabHost) -> str:
    """Where this machine reaches a lab host: where Ansible does, or the address of its default route."""
    if host.url.startswith("ssh"):
        return str(host.value("ansible_host", host.name))
    found = host.run(f"ip -4 -json route get {SOMEWHERE}")
    if found.rc != 0:
        raise NetbootError(f"lab host {host.name} does not answer; build the lab with: make lab")
    return str(json.loads(found.stdout)[0]["prefsrc"])
