"""Where the desktops service of a lab is, and a token for it: from the lab's host, unless told otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from labyard.client.http import ClientError
from labyard.client.where import LabService, address
from labyard.desktops.client import Client

# Who may enter the host as root may have any token: this one does what the commands do, and nothing more.
TOKEN = "labyard-desktops token issue --sub labyard --roles session_manager,auditor --ttl 1h"


@dataclass
class Where:
    """`url` and `token` are empty when they are to come from the lab's host."""

    inventory: Path
    url: str
    token: str

    @cached_property
    def client(self) -> Client:
        """A client of the service. ClientError when the inventory cannot be used, or the host gives no token."""
        if self.url:
            return Client(self.url, self.token)
        url, certificate = self.place
        return Client(url, self.token or self.issue(TOKEN), certificate=certificate)

    @cached_property
    def place(self) -> tuple[str, str]:
        """The service's URL and certificate (PEM), from the lab's host. ClientError."""
        service = self._service
        listens = service.value("tls_host")
        if not listens:
            raise ClientError(
                f"the service on {service.host.name} listens on its own loopback only: set desktops_tls_host, or give "
                "--url of a tunnel to it, with --token"
            )
        host = address(service.host) if listens == "0.0.0.0" else listens
        # The role's own, when it was given none; then nobody else vouches for it.
        file = service.value("tls_certificate") or f"{service.value('state_dir')}/https.pem"
        return f"https://{host}:{service.value('tls_port')}", self._run(f"cat {file}")

    def issue(self, command: str) -> str:
        """A token of the lab's host, by this command there. ClientError when it gives none."""
        return self._run(command)

    @cached_property
    def _service(self) -> LabService:
        return LabService(self.inventory, "desktops")

    def _run(self, command: str) -> str:
        done = self._service.host.run(command)
        if done.rc != 0:
            raise ClientError(f"on {self._service.host.name}: {command.split()[0]}: {done.stderr.strip() or 'failed'}")
        return str(done.stdout).strip()
