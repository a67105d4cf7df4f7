"""RDP servers of a node: real xrdp, sesman and Xorg, without systemd."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from integration.desktops.processes import Processes
from labyard.desktops.adapters.agent import AgentRefused, ServerSpec
from labyard.desktops.agent.rdp.account import Accounts
from labyard.desktops.agent.rdp.home import Homes
from labyard.desktops.agent.rdp.life import Parts
from labyard.desktops.agent.rdp.network import Network
from labyard.desktops.agent.rdp.servers import Servers
from labyard.desktops.agent.rdp.timeouts import Timeouts
from labyard.desktops.agent.settings import Settings
from labyard.testing.waiting import PATIENCE, wait_until

# A range of ports for each process that runs tests, and so displays of its own. From the end, since a service that is
# there begins at the other.
FIRST_PORT = 33980 - 20 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
FIRST_DISPLAY = Settings().display(FIRST_PORT)
NEEDED = ("xrdp", "xrdp-sesrun", "icewm-session", "nft", "unshare")
MISSING = [name for name in NEEDED if not shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")]
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes accounts and mount namespaces"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed here: {', '.join(MISSING)}"),
]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path, unit_prefix=f"t{secrets.token_hex(4)}")


@pytest.fixture
def servers(settings: Settings) -> Iterator[Servers]:
    with running_servers(settings) as made:
        yield made


@contextmanager
def running_servers(settings: Settings) -> Iterator[Servers]:
    """Whatever they made is gone afterwards."""
    owner = settings.unit_prefix
    parts = Parts(Processes(settings.servers_dir), Accounts(owner), Homes(), Network(owner))
    made = Servers(settings, parts)
    made.start_up()
    yield made
    for server_id in made.known():
        made.delete(server_id)


def spec(port: int, **changes: Any) -> ServerSpec:
    server_id = f"rdp-{secrets.token_hex(8)}"
    given: dict[str, Any] = {
        "server_id": server_id,
        "port": port,
        "account": server_id,
        "password": secrets.token_urlsafe(32),
        "configuration": {"desktop_environment": "icewm", "resolution": "1280x720", "color_depth": 24},
        "cpu_limit": 1.0,
        "memory_limit": 1024,
        "disk_limit": 1024,
        "network_bandwidth": 1000,
    }
    return ServerSpec(**(given | changes))


def accounts() -> set[str]:
    return {entry.pw_name for entry in pwd.getpwall()}


class TestLife:
    def test_a_server_from_create_to_delete(self, servers: Servers, settings: Settings) -> None:
        wanted = spec(FIRST_PORT)
        made = servers.create(wanted)
        assert (made.xrdp, made.sesman, made.xorg) == ("inactive", "inactive", "inactive")
        assert servers.known() == (wanted.server_id,)
        running = servers.start(wanted)
        assert (running.xrdp, running.sesman, running.xorg) == ("active", "active", "active")
        assert running.display == FIRST_DISPLAY
        assert running.desktop_effective == "icewm"
        assert servers.start(wanted) == running  # again: it runs, nothing is started
        usage = servers.usage(wanted.server_id)
        assert usage.cpu_percent is not None and usage.cpu_percent <= 100
        assert usage.memory_percent is not None and 0 < usage.memory_percent < 100
        assert usage.disk_percent is not None and usage.disk_percent < 100
        stopped = servers.stop(wanted.server_id)
        assert (stopped.xrdp, stopped.xorg, stopped.display) == ("inactive", "inactive", None)
        with pytest.raises(AgentRefused, match="does not run"):
            servers.usage(wanted.server_id)
        assert servers.start(wanted).display == FIRST_DISPLAY
        servers.delete(wanted.server_id)
        assert servers.known() == ()
        assert wanted.account not in accounts()
        assert not list(settings.servers_dir.iterdir())
        servers.delete(wanted.server_id)  # absent is fine

    def test_three_start_at_once(self, servers: Servers) -> None:
        wanted = [spec(port) for port in range(FIRST_PORT + 10, FIRST_PORT + 13)]
        with ThreadPoolExecutor() as pool:
            states = list(pool.map(servers.start, wanted))
        assert [state.display for state in states] == [FIRST_DISPLAY + 50, FIRST_DISPLAY + 55, FIRST_DISPLAY + 60]
        assert {state.xorg for state in states} == {"active"}


class TestProbe:
    def test_tells_right_from_wrong(self, servers: Servers) -> None:
        wanted = spec(FIRST_PORT)
        servers.create(wanted)
        stopped = servers.probe(wanted.server_id, wanted.account, wanted.password)
        assert (stopped["connection_available"], stopped["port_open"]) == (False, False)
        servers.start(wanted)
        right = servers.probe(wanted.server_id, wanted.account, wanted.password)
        assert right["connection_available"]
        assert right["login"] == {"attempted": True, "succeeded": True, "reason": None}
        assert right["tls"]["version"] == "TLSv1.3"
        wrong = servers.probe(wanted.server_id, wanted.account, "not the password")
        assert wrong["connection_available"]
        assert (wrong["login"]["attempted"], wrong["login"]["succeeded"]) == (True, False)
        other = servers.probe(wanted.server_id, "root", "root")
        assert not other["login"]["succeeded"]
        assert not servers.probe(wanted.server_id, None, None)["login"]["attempted"]

    def test_without_tls(self, servers: Servers) -> None:
        wanted = spec(FIRST_PORT, configuration={"desktop_environment": "icewm", "use_tls": False, "color_depth": 16})
        servers.start(wanted)
        found = servers.probe(wanted.server_id, wanted.account, wanted.password)
        assert (found["connection_available"], found["protocol"], found["tls"]) == (True, "rdp", None)
        assert found["login"]["succeeded"]


class TestLimits:
    def test_ten_clients_and_no_more(self, servers: Servers) -> None:
        wanted = spec(FIRST_PORT)
        servers.start(wanted)
        if servers.status(wanted.server_id).enforcement["network"] == "none":
            pytest.skip("nftables does nothing here")
        clients = [socket.create_connection(("127.0.0.1", wanted.port), PATIENCE) for _ in range(10)]
        try:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", wanted.port), PATIENCE)
        finally:
            for client in clients:
                client.close()

    def test_a_client_that_stays_too_long(self, servers: Servers) -> None:
        wanted = spec(FIRST_PORT)
        servers.start(wanted)
        timeouts = Timeouts(servers.running, 0.2)
        with socket.create_connection(("127.0.0.1", wanted.port), PATIENCE) as client:
            timeouts.look()
            time.sleep(0.3)  # longer than it may

            def is_ended() -> bool:
                # Its process is there a moment after the connection.
                timeouts.look()
                client.settimeout(0.1)
                return client.recv(1) == b""

            wait_until(is_ended, "its connection is ended", despite=TimeoutError)
        assert servers.probe(wanted.server_id, wanted.account, wanted.password)["login"]["succeeded"]


class TestFailures:
    def test_a_taken_port_is_told_and_nothing_stays(self, servers: Servers) -> None:
        wanted = spec(FIRST_PORT)
        with socket.create_server(("127.0.0.1", wanted.port)), pytest.raises(AgentRefused) as refused:
            servers.start(wanted)
        assert refused.value.code == "RDP_START_FAILED"
        assert "taken by another program" in str(refused.value)
        assert servers.status(wanted.server_id).sesman == "inactive"
        assert servers.start(wanted).xorg == "active"  # the next start may succeed

    def test_a_desktop_that_is_not_installed(self, servers: Servers) -> None:
        if shutil.which("startplasma-x11"):
            pytest.skip("KDE is installed here")
        wanted = spec(FIRST_PORT, configuration={"desktop_environment": "kde"})
        assert servers.create(wanted).desktop_effective == "icewm"
        with pytest.raises(AgentRefused, match="kde is not installed"):
            servers.start(replace(wanted, fallback=False))

    def test_an_unknown_server(self, servers: Servers) -> None:
        for work in (servers.stop, servers.status, servers.usage):
            with pytest.raises(AgentRefused) as refused:
                work("rdp-0123456789abcdef")
            assert refused.value.code == "RDP_NOT_FOUND"
        with pytest.raises(AgentRefused, match="is no id"):
            servers.status("../../etc")
