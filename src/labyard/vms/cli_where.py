"""Where the VM manager of a lab is, and its token: from the inventory, unless told otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from labyard.client.where import LabService
from labyard.vms.client import Client


@dataclass
class Where:
    """`url` and `token` are empty when they are to come from the inventory.

    The inventory's token goes to the inventory's service only: with a `url`, an empty `token` is none.
    """

    inventory: Path
    url: str
    token: str

    @cached_property
    def client(self) -> Client:
        """A client of the service. ClientError when the inventory cannot be used."""
        if self.url:
            return Client(self.url, self.token)
        service = LabService(self.inventory, "vms")
        return Client(service.url, self.token or service.value("api_token"))
