"""The parts of a node's agent where systemd runs things."""

from __future__ import annotations

import shutil

from labyard.desktops.adapters.recorder import Recorder
from labyard.desktops.agent.displays import NodeDisplays
from labyard.desktops.agent.rdp.account import Accounts
from labyard.desktops.agent.rdp.home import Homes
from labyard.desktops.agent.rdp.life import Parts
from labyard.desktops.agent.rdp.network import Network
from labyard.desktops.agent.rdp.run import run
from labyard.desktops.agent.rdp.servers import Servers
from labyard.desktops.agent.rdp.systemd import Systemd
from labyard.desktops.agent.recorder_units import SystemdRecorders
from labyard.desktops.agent.settings import Settings
from labyard.desktops.recorder.recorders import Recorders


def make_recorder(settings: Settings, servers: Servers) -> Recorder:
    """AdapterError when systemd cannot run recorders."""
    units = SystemdRecorders(settings.unit_prefix, settings.runtime_dir / "recorders", settings.spool_dir)
    units.prepare()
    displays = NodeDisplays(servers, settings.runtime_dir / "cookies")
    return Recorders(settings.runtime_dir / "recorders", settings.spool_dir, units, displays)


def purge(settings: Settings) -> None:
    """Servers, recorders, accounts, units, keys: all that the agent made. It must not run. AdapterError, OSError."""
    servers = make_servers(settings)
    for server_id in servers.known():
        servers.delete(server_id)
    runtime = settings.runtime_dir / "recorders"
    recorders = SystemdRecorders(settings.unit_prefix, runtime, settings.spool_dir)
    for folder in runtime.iterdir() if runtime.exists() else ():
        recorders.stop(folder.name)
    for templates in (recorders, Systemd(settings.unit_prefix, settings.servers_dir)):
        templates.remove()
    run("systemctl", "stop", f"{settings.unit_prefix}.slice")
    for folder in (settings.runtime_dir, settings.state_dir):
        if folder.exists():
            shutil.rmtree(folder)
    settings.socket.unlink(missing_ok=True)


def make_servers(settings: Settings) -> Servers:
    """Starts nothing and asks no daemon."""
    owner = settings.unit_prefix
    return Servers(settings, Parts(Systemd(owner, settings.servers_dir), Accounts(owner), Homes(), Network(owner)))
