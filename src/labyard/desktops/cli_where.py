"""Where the desktops service of a lab is, and a token for it: from the lab's host, unless told otherwise."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from labyard.client.http import ClientError
from labyard.client.where import LabService, address
from labyard.desktops.client import Client, Thing
from labyard.desktops.names import LOCAL_NODE

# Who may enter the host as root may have any token: this one does what the commands do, and nothing more.
ROLES = "session_manager,rdp_operator,node_operator,auditor"


def issue(sub: str = "labyard", roles: str = ROLES, ttl: str = "1h") -> str:
    """The command that prints a token, on the service's host."""
    return shlex.join(["labyard-desktops", "token", "issue", "--sub", sub, "--roles", roles, "--ttl", ttl])


@dataclass
class Where:
    """`url` and `token` are empty when they are to come from the lab's host."""

    inventory: Path
    url: str
    token: str

    @cached_property
    def client(self) -> Client:
        """A client of the service. ClientError when the inventory cannot be used, or the host gives no token."""
        url, certificate = self._address  # first: what is wrong with it costs no token
        return Client(url, self.token or ("" if self.url else self.run(issue())), certificate=certificate)

    @cached_property
    def stranger(self) -> Client:
        """One without a token."""
        url, certificate = self._address
        return Client(url, "", certificate=certificate)

    def reach(self, server: Thing) -> str:
        """Where this machine finds an RDP server: one on the lab's own host as the host itself, since this machine
        may have no address on the lab's segment."""
        if self.url or server["node_id"] != LOCAL_NODE:
            return str(server["host"])
        return address(self._service.host)

    @cached_property
    def _address(self) -> tuple[str, str]:
        """URL and certificate; the latter is empty where others vouch for it."""
        if self.url:
            return self.url, ""
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
        return f"https://{host}:{service.value('tls_port')}", self.run(f"cat {file}")

    @cached_property
    def _service(self) -> LabService:
        return LabService(self.inventory, "desktops")

    def run(self, command: str) -> str:
        """What a command prints on the service's host. ClientError when it fails."""
        host = self._service.host
        done = host.run(command)
        if done.rc != 0:
            raise ClientError(f"on {host.name}: {command.split()[0]}: {done.stderr.strip() or 'failed'}")
        return str(done.stdout).strip()
