"""For tests against a built lab: a pytest plugin, protocol probes, machines that can be powered on,
and one test at a time where a host allows no more."""

from labyard.testing.host_lock import HostLockError, host_lock
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
