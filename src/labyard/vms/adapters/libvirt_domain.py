"""What several adapters ask of one libvirt domain."""

from __future__ import annotations

import libvirt

from labyard.core.adapter import AdapterError
from labyard.vms.adapters import domain_xml
from labyard.vms.adapters.libvirt_connection import asked


def is_active(domain: libvirt.virDomain) -> bool:
    """Whether it runs; not when it is gone altogether."""
    try:
        return bool(domain.isActive())
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return False
        raise AdapterError(f"virDomainIsActive failed: {error}") from error


def definition(domain: libvirt.virDomain, stored: bool = False) -> str:
    """The XML of the running domain, if it runs, or the stored one."""
    flags = libvirt.VIR_DOMAIN_XML_SECURE | (libvirt.VIR_DOMAIN_XML_INACTIVE if stored else 0)
    with asked("virDomainGetXMLDesc"):
        return str(domain.XMLDesc(flags))


def read(domain: libvirt.virDomain, stored: bool = False) -> domain_xml.DomainRead:
    """`definition`, read."""
    return domain_xml.read(definition(domain, stored))
