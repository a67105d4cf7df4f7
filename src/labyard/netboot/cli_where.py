"""Where the netboot service of a lab is, and who calls it: from the inventory, unless told otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from labyard.client.http import ClientError
from labyard.client.where import LabService
from labyard.netboot.client import Client
from labyard.netboot.client_http import cache_folder


@dataclass
class Where:
    """`url`, `user` and `password` are empty when they are to come from the inventory."""

    inventory: Path
    url: str
    user: str
    password: str

    @cached_property
    def client(self) -> Client:
        """A client of the service. ClientError when the inventory cannot be used or has no password."""
        given = (self.url or self._service.url, self.user, self.password or self._password())
        return Client(*given, cache=cache_folder())

    @property
    def secret_file(self) -> Path | None:
        """The inventory's file with the admin's password, if the password came from there."""
        if self.user != "admin" or self.password or self.url:
            return None
        return self._service.secret_file("admin_password")

    @cached_property
    def _service(self) -> LabService:
        return LabService(self.inventory, "netboot")

    def _password(self) -> str:
        password = self._service.value("admin_password") if self.user == "admin" else ""
        if not password:
            raise ClientError(
                f"no password for user {self.user}: put it into a file and name it with --password-file, or set "
                "LABYARD_NETBOOT_PASSWORD"
            )
        return password
