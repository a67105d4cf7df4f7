"""RDP servers of the bench's own on the lab's desktops service, and real RDP clients of this machine on them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from labyard.bench.bench import Bench, MeasureError
from labyard.client.http import ClientError
from labyard.desktops.cli_where import Where

PREFIX = "bench-"  # of the names of all that is made here
CLIENT = ("xfreerdp", "Xvfb")
# Ten of them fit the reference host (contract 6.5). icewm is on every node.
SERVER: dict[str, Any] = {
    "user_id": "bench",
    "configuration": {"desktop_environment": "icewm", "resolution": "1280x720"},
    "resources": {"cpu_limit": 1.0, "memory_limit": 512, "disk_limit": 1024, "network_bandwidth": 1000},
}
Server = dict[str, Any]


class Stand:
    """What the figures are measured on."""

    def __init__(self, bench: Bench) -> None:
        self._where = Where(bench.inventory, "", "")
        self.api = self._where.client

    def server(self, number: int) -> Server:
        """A new one that is stopped."""
        return self.api.create_server(SERVER | {"name": f"{PREFIX}{number}"})

    def servers(self, count: int) -> list[Server]:
        return [self.server(number) for number in range(count)]

    def start(self, server: Server) -> Server:
        return self.api.turn_server(server["server_id"], "start")

    def stop(self, server: Server) -> Server:
        return self.api.turn_server(server["server_id"], "stop")

    def address(self, server: Server) -> str:
        """Where this machine finds it."""
        return self._where.reach(server)

    def access(self, server: Server) -> Server:
        """Who may log in, and where."""
        return self.api.of_server(server["server_id"], "credentials") | {"host": self.address(server)}

    def usage(self, server: Server) -> Server:
        return self.api.of_server(server["server_id"], "usage")

    def on_host(self, command: str) -> str:
        """What a command prints on the service's host."""
        return self._where.run(command)

    def clients(self, server: Server) -> int:
        """How many the service sees connected."""
        return len(self.api.of_server(server["server_id"], "sessions")["connections"])

    def clear(self) -> None:
        """Delete all that an earlier run or this one made."""
        for server in self.api.servers(user_id=SERVER["user_id"]):
            if server["name"].startswith(PREFIX):
                self.api.delete_server(server["server_id"])


@contextmanager
def stand_of(bench: Bench) -> Iterator[Stand]:
    """The lab's service, without anything of the bench before and after. MeasureError when it is not there."""
    try:
        stand = Stand(bench)
        stand.clear()
        try:
            yield stand
        finally:
            stand.clear()
    except ClientError as error:
        raise MeasureError(str(error)) from error


def need_clients() -> None:
    """MeasureError where this machine has no RDP client."""
    if missing := [name for name in CLIENT if not shutil.which(name)]:
        raise MeasureError(f"not installed: {', '.join(missing)}; apt-get install freerdp2-x11 xvfb")


def each(call: Callable[[Server], Server], servers: list[Server]) -> list[Server]:
    """A call for all of them at once; the first failure is raised when all have ended."""
    with ThreadPoolExecutor(len(servers)) as threads:
        return list(threads.map(call, servers))
