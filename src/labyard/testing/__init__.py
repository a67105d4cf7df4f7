"""For tests against a built lab: a pytest plugin, protocol probes, machines that can be powered on,
and one test at a time where a host allows no more. `labyard.testing.vm` is for tests inside a real kernel."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from labyard.testing.host_lock import HostLockError, host_lock

if TYPE_CHECKING:
    from labyard.testing.machines import Console, PoweredMachine
    from labyard.testing.netboot import NetbootApi
    from labyard.testing.probes import DhcpProbe, IscsiProbe, Lease, ProbeError, TftpProbe

__all__ = [
    "Console",
    "DhcpProbe",
    "HostLockError",
    "IscsiProbe",
    "Lease",
    "NetbootApi",
    "PoweredMachine",
    "ProbeError",
    "TftpProbe",
    "host_lock",
]
_MODULES = {
    "machines": ("Console", "PoweredMachine"),
    "netboot": ("NetbootApi",),
    "probes": ("DhcpProbe", "IscsiProbe", "Lease", "ProbeError", "TftpProbe"),
}


def __getattr__(name: str) -> Any:
    """Imported when asked for: the fixture `vm` is also for projects that have no Ansible, which a lab needs."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"labyard.testing.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
