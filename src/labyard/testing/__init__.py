"""For tests against a built lab: a pytest plugin, protocol probes, and machines that can be powered on."""

from labyard.testing.machines import Console, PoweredMachine
from labyard.testing.netboot import NetbootApi
from labyard.testing.probes import DhcpProbe, IscsiProbe, Lease, ProbeError, TftpProbe

__all__ = ["Console", "DhcpProbe", "IscsiProbe", "Lease", "NetbootApi", "PoweredMachine", "ProbeError", "TftpProbe"]
