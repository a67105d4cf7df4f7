"""What several adapters ask of one libvirt domain."""

from __future__ import annotations

import libvirt

from labyard.core.adapter import AdapterError
from labyard.vms.adapters import domain_xml
from labyard.vms.adapters.libvirt_connection import asked

_PAUSED_BY_DISK = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR)
_PAUSED_BY_CRASH = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_CRASHED)


def is_active(domain: libvirt.virDomain) -> bool:
    """Whether it runs; not when it is gone altogether."""
    try:
        return bool(domain.isActive())
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return False
        raise AdapterError(f"virDomainIsActive failed: {error}") from error


def trouble(domain: libvirt.virDomain) -> str:
    """What libvirt has against a domain, in a few words; empty when it is well or off."""
    if not is_active(domain):
        return ""
    with asked("virDomainGetState"):
        state, why = domain.state()
    with asked("virDomainGetControlInfo"):
        control = domain.controlInfo()[0]
    if state == libvirt.VIR_DOMAIN_CRASHED or (state, why) == _PAUSED_BY_CRASH:
        return "guest crashed"
    if (state, why) == _PAUSED_BY_DISK:
        return "paused after a disk could not be written or read"
    if control == libvirt.VIR_DOMAIN_CONTROL_ERROR:
        return "QEMU's monitor cannot be used any more"
    return ""


def definition(domain: libvirt.virDomain, stored: bool = False) -> str:
    """The XML of the running domain, if it runs, or the stored one."""
    flags = libvirt.VIR_DOMAIN_XML_SECURE | (libvirt.VIR_DOMAIN_XML_INACTIVE if stored else 0)
    with asked("virDomainGetXMLDesc"):
        return str(domain.XMLDesc(flags))


def disks_of(domain: libvirt.virDomain) -> dict[str, str]:
    """The data disks of the running domain, each with its target."""
    return {disk_id: disk.target for disk_id, disk in read(domain).disks.items()}


def read(domain: libvirt.virDomain, stored: bool = False) -> domain_xml.DomainRead:
    """`definition`, read."""
    return domain_xml.read(definition(domain, stored))
