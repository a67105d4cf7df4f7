"""Where the functions of a lab are, and the API's token: from the inventory, unless told otherwise."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from labyard.client.http import ClientError
from labyard.client.where import LabService, address
from labyard.faas_cli import exchange
from labyard.faas_cli.client import Client
from labyard.testing.vm.visit import argv

EVERYWHERE = "0.0.0.0"
FUNCTION_PORT = 80
GRACE = 30.0  # s beside a request's own time, for the way to the host and Python's start there


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
        """A client of the control API. ClientError when the inventory cannot be used."""
        if self.url:
            return Client(self.url, self.token)
        listens = self._service.host.value("faas_api_bind")[-1]
        host = address(self._service.host) if listens == EVERYWHERE else listens
        return Client(f"http://{host}:{self._service.value('api_port')}", self.token or self._service.value("token"))

    @cached_property
    def _service(self) -> LabService:
        return LabService(self.inventory, "faas")

    @property
    def port(self) -> int:
        """Of functions, on their addresses."""
        return FUNCTION_PORT if self.url else int(self._service.value("function_port") or FUNCTION_PORT)

    @property
    def here(self) -> str:
        """The machine that sends requests to functions. Their addresses are those of one host, and its lab knows the
        way to them: this machine does not, unless it was told a URL."""
        return "this machine" if self.url else self._service.host.name

    def send(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A request to a function (see exchange.py). ClientError when the host does not take it."""
        if self.url:
            return exchange.exchange(asked)
        host = self._service.host
        source = Path(exchange.__file__).read_text()
        try:
            done = subprocess.run(
                argv(host, ["python3", "-c", source]),
                input=json.dumps(asked),
                capture_output=True,
                text=True,
                timeout=asked["timeout"] + GRACE,
            )
            found: dict[str, Any] = json.loads(done.stdout)
        except subprocess.TimeoutExpired as error:
            raise ClientError(f"lab host {host.name} did not answer within {error.timeout:g} s") from error
        except (OSError, ValueError) as error:
            raise ClientError(f"lab host {host.name} does not answer; build the lab with: make lab") from error
        return found
