"""The lab network as a libvirt network with reserved addresses only (contract section 6)."""

from __future__ import annotations

import logging
import re
import subprocess
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

import libvirt

from labyard.core.adapter import AdapterError
from labyard.vms.adapters.libvirt_connection import SLOW, LibvirtConnection, asked
from labyard.vms.adapters.network import Lease

RELEASE_SECONDS = 10.0  # libvirt tells of leases when it has ended what it does with the network
_RESEND_SECONDS = 0.5
_POLL_SECONDS = 0.02
_TOOL_SECONDS = 10
_LEASE_MINUTES = "2"
# What dnsmasq takes as a host name, in one letter case. It passes over a reservation with another one.
_HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# No machine's. Without any reservation libvirt runs dnsmasq without DHCP: it would restart it for the first and after
# the last one, and the lease of that one could not be released.
_NOBODY = "02:00:00:00:00:00"
_DNSMASQ = "http://libvirt.org/schemas/network/dnsmasq/1.0"
_OPTION = f"{{{_DNSMASQ}}}option"
ET.register_namespace("dnsmasq", _DNSMASQ)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NetworkOptions:
    """Settings of section 2. `mode`: nat or isolated make a network; user and none do without one. `metadata_ip`: a
    second address of the bridge, empty for none."""

    mode: str
    name: str
    bridge: str
    subnet: IPv4Network
    gateway: IPv4Address
    dns: tuple[str, ...]
    metadata_ip: str


@dataclass(frozen=True)
class _Shape:
    """What must be so of a network that we use."""

    mode: str
    bridge: str
    addresses: tuple[tuple[str, str], ...]
    dns: tuple[str, ...]
    dynamic: bool

    def __str__(self) -> str:
        addresses = ", ".join("/".join(address) for address in self.addresses)
        ranges = "with" if self.dynamic else "without"
        return (
            f"mode {self.mode}, bridge {self.bridge}, {addresses}, DNS {', '.join(self.dns)}, {ranges} a dynamic range"
        )


@dataclass(frozen=True)
class _Host:
    ip: str
    mac: str
    name: str = ""

    @property
    def xml(self) -> str:
        node = ET.Element("host", mac=self.mac, ip=self.ip)
        if self.name:
            node.set("name", self.name)
        ET.SubElement(node, "lease", expiry=_LEASE_MINUTES, unit="minutes")
        return ET.tostring(node, encoding="unicode")


def has_mac_filter(connection: libvirt.virConnect) -> bool:
    """Whether this libvirt can hold guests to their address with the filter `clean-traffic`.

    It makes the filter with ebtables, and no machine starts where the kernel or the tool cannot.
    """
    try:
        connection.nwfilterLookupByName("clean-traffic")
        tried = subprocess.run(["ebtables", "-t", "nat", "-L"], capture_output=True, timeout=_TOOL_SECONDS)
    except (libvirt.libvirtError, OSError, subprocess.TimeoutExpired):
        return False
    return tried.returncode == 0


class LibvirtNetwork:
    """The `LabNetwork` of a real lab."""

    vlan_applied = False  # libvirt refuses a VLAN tag on its own bridges

    def __init__(self, connection: LibvirtConnection, options: NetworkOptions) -> None:
        self.ip_mac_filter = False
        self._connection = connection
        self._options = options
        self._exists = options.mode in ("nat", "isolated")
        self._making = threading.Lock()  # machines that start together find the network gone together
        self._renewable = True  # until the first look, when the service starts: nobody else uses the network then
        connection.on_connect(self._look_for_filter)

    def ensure(self) -> None:
        if self._exists:
            with self._making:
                self._ensure()

    def reserve(self, ip: str, mac: str, name: str) -> None:
        if not self._exists:
            return
        network = self._running()
        host = _Host(ip, mac.lower(), name if _HOST_NAME.fullmatch(name) else "")
        for flag, stored in _PLACES:
            there = _hosts(network, stored)
            if host in there:
                continue
            # The service's table is the only record of who has what; what contradicts it is left over.
            for other in there:
                if other.ip == host.ip or other.mac == host.mac or (host.name and other.name == host.name):
                    _update(network, libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, other, flag)
            _update(network, libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, host, flag)

    def release(self, ip: str, mac: str) -> None:
        if not self._exists:
            return
        network = self._find()
        if network is None:
            return
        mac = mac.lower()
        with asked("virNetworkIsActive"):
            active = bool(network.isActive())
        for flag, stored in _PLACES if active else _PLACES[1:]:
            for host in _hosts(network, stored):
                if host.ip == ip and host.mac == mac:
                    _update(network, libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, host, flag)
        if active:
            self._end_lease(network, ip, mac)

    def leases(self) -> Mapping[str, Lease]:
        network = self._find() if self._exists else None
        if network is None:
            return {}
        return {lease.ip: lease for lease, _ in _leases(network)}

    def _end_lease(self, network: libvirt.virNetwork, ip: str, mac: str) -> None:
        """Tell the DHCP server, as the guest would, until it has no such lease. It says nothing back."""
        deadline = time.monotonic() + RELEASE_SECONDS
        send_again = 0.0
        while clients := [client for lease, client in _leases(network) if (lease.ip, lease.mac) == (ip, mac)]:
            now = time.monotonic()
            if now >= deadline:
                raise AdapterError(f"dhcp_release failed: the lease of {ip} was not gone within {RELEASE_SECONDS:g} s")
            if now >= send_again:
                send_again = now + _RESEND_SECONDS
                _dhcp_release(self._options.bridge, ip, mac, clients[0])
            time.sleep(_POLL_SECONDS)

    def _look_for_filter(self, connection: libvirt.virConnect) -> None:
        self.ip_mac_filter = self._exists and has_mac_filter(connection)

    def _find(self) -> libvirt.virNetwork | None:
        connection = self._connection.get()
        try:
            return connection.networkLookupByName(self._options.name)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_NETWORK:
                return None
            raise AdapterError(f"virNetworkLookupByName failed: {error}") from error

    def _ensure(self) -> None:
        network = self._find()
        if network is None:
            with asked("virNetworkDefineXML"):
                network = self._connection.get().networkDefineXML(self._xml())
        wanted = _shape(ET.fromstring(self._xml()))
        for stored in (True, False):
            there = _shape(_read(network, stored))
            if there != wanted:
                raise AdapterError(f"network {self._options.name} is foreign: it has {there}, ours would have {wanted}")
        if self._renewable:
            self._renewable = False
            self._renew(network)
        with asked("virNetworkCreate"):
            if not network.isActive():
                network.create()

    def _renew(self, network: libvirt.virNetwork) -> None:
        """Give a network that an earlier version of ours made the DHCP options of this one; not while it is in use."""
        wanted = _dhcp_options(ET.fromstring(self._xml()))
        if all(_dhcp_options(_read(network, stored)) == wanted for stored in (True, False)):
            return
        if _NOBODY not in (host.mac for host in _hosts(network, stored=True)):
            return  # not made by us, and fit for use: it is left as it is
        with asked("virNetworkListAllPorts"):
            used = network.isActive() and network.listAllPorts()
        if used:
            way_out = "restart the service when no machine runs"
            _log.warning("network %s has DHCP options of an earlier version: %s", self._options.name, way_out)
            return
        with asked("virNetworkDefineXML"):
            self._connection.get().networkDefineXML(self._xml(network.UUIDString()))
        with asked("virNetworkDestroy"):
            if network.isActive():
                network.destroy()

    def _running(self) -> libvirt.virNetwork:
        """The network as `ensure` leaves it, made sure of again: another may have stopped or replaced it."""
        self.ensure()
        network = self._find()
        if network is None:
            raise AdapterError(f"virNetworkLookupByName failed: no network {self._options.name}")
        return network

    def _xml(self, uuid: str = "") -> str:
        """The definition; with the `uuid` of a network that is there, its new one."""
        options = self._options
        network = ET.Element("network")
        ET.SubElement(network, "name").text = options.name
        if uuid:
            ET.SubElement(network, "uuid").text = uuid
        if options.mode == "nat":
            ET.SubElement(network, "forward", mode="nat")
        ET.SubElement(network, "bridge", name=options.bridge, stp="off", delay="0")
        if options.dns:
            dns = ET.SubElement(network, "dns")
            for server in options.dns:
                ET.SubElement(dns, "forwarder", addr=server)
        gateway = str(options.gateway)
        address = ET.SubElement(network, "ip", address=gateway, prefix=str(options.subnet.prefixlen))
        ET.SubElement(ET.SubElement(address, "dhcp"), "host", mac=_NOBODY, ip=gateway)
        if options.metadata_ip:
            ET.SubElement(network, "ip", address=options.metadata_ip, prefix="32")
            if options.mode == "isolated":
                # There is no default route to find that address by. 121 is RFC 3442's list of routes.
                route = f"dhcp-option=121,{options.metadata_ip}/32,{gateway}"
                ET.SubElement(ET.SubElement(network, f"{{{_DNSMASQ}}}options"), _OPTION, value=route)
        return ET.tostring(network, encoding="unicode")


# In both, else a reservation is lost with the running network or comes back with the next one.
_PLACES = (
    (libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE, False),
    (libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG, True),
)


def _update(network: libvirt.virNetwork, command: int, host: _Host, flag: int) -> None:
    """Change one reservation. libvirt refuses what is done already: that is success when it really is so."""
    adding = command != libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE
    try:
        with SLOW, asked("virNetworkUpdate"):
            network.update(command, libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST, 0, host.xml, flag)
    except AdapterError:
        if (host in _hosts(network, stored=flag == libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG)) != adding:
            raise


def _dhcp_release(bridge: str, ip: str, mac: str, client: str) -> None:
    command = ["dhcp_release", bridge, ip, mac, *([client] if client else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TOOL_SECONDS)
    except FileNotFoundError:
        raise AdapterError("dhcp_release failed: it is not installed; install dnsmasq-utils") from None
    except subprocess.TimeoutExpired:
        raise AdapterError(f"dhcp_release failed: it did not end within {_TOOL_SECONDS} s") from None
    if done.returncode:
        raise AdapterError(f"dhcp_release failed: {done.stderr.strip() or f'it ended with status {done.returncode}'}")


def _leases(network: libvirt.virNetwork) -> Iterator[tuple[Lease, str]]:
    """Unexpired leases with their client ids, empty for clients without one."""
    with asked("virNetworkGetDHCPLeases"):
        entries = network.DHCPLeases() if network.isActive() else []
    now = time.time()
    for entry in entries:
        if entry["expirytime"] == 0 or entry["expirytime"] > now:
            yield Lease(entry["ipaddr"], entry["mac"].lower()), entry["clientid"] or ""


def _read(network: libvirt.virNetwork, stored: bool) -> ET.Element:
    with asked("virNetworkGetXMLDesc"):
        return ET.fromstring(network.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE if stored else 0))


def _hosts(network: libvirt.virNetwork, stored: bool) -> list[_Host]:
    return [
        _Host(node.get("ip", ""), node.get("mac", "").lower(), node.get("name", ""))
        for node in _read(network, stored).iterfind("ip/dhcp/host")
    ]


def _shape(network: ET.Element) -> _Shape:
    forward, bridge = network.find("forward"), network.find("bridge")
    return _Shape(
        mode="isolated" if forward is None else forward.get("mode", "nat"),
        bridge="" if bridge is None else bridge.get("name", ""),
        addresses=tuple(sorted((node.get("address", ""), _prefix(node)) for node in network.iterfind("ip"))),
        dns=tuple(node.get("addr", "") for node in network.iterfind("dns/forwarder")),
        dynamic=network.find("ip/dhcp/range") is not None,
    )


def _dhcp_options(network: ET.Element) -> list[str]:
    return [node.get("value", "") for node in network.iter(_OPTION)]


def _prefix(node: ET.Element) -> str:
    if mask := node.get("netmask"):
        return str(IPv4Network(f"0.0.0.0/{mask}").prefixlen)
    return node.get("prefix", "")
