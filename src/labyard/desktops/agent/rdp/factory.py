"""The servers of a node that systemd runs."""

from __future__ import annotations

from labyard.desktops.agent.rdp.account import Accounts
from labyard.desktops.agent.rdp.home import Homes
from labyard.desktops.agent.rdp.network import Network
from labyard.desktops.agent.rdp.servers import Parts, Servers
from labyard.desktops.agent.rdp.systemd import Systemd
from labyard.desktops.agent.settings import Settings


def make_servers(settings: Settings) -> Servers:
    """Starts nothing and asks no daemon."""
    owner = settings.unit_prefix
    return Servers(settings, Parts(Systemd(owner, settings.servers_dir), Accounts(owner), Homes(), Network(owner)))
