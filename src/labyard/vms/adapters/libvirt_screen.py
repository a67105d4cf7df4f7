"""What the screen of a running domain shows."""

from __future__ import annotations

from contextlib import suppress

import libvirt

from labyard.core.adapter import AdapterError
from labyard.vms.adapters.libvirt_connection import asked, asked_monitor

SCREEN = 0  # the first


def screen_of(connection: libvirt.virConnect, domain: libvirt.virDomain) -> bytes:
    """A picture, PPM or PNG by the age of QEMU. AdapterError, also for a domain without a screen."""
    stream = connection.newStream()
    content = bytearray()
    try:
        asked_monitor("virDomainScreenshot", lambda: domain.screenshot(stream, SCREEN))
        with asked("virStreamRecvAll"):
            stream.recvAll(lambda _stream, piece, _opaque: content.extend(piece), None)
            stream.finish()
    except AdapterError:
        with suppress(libvirt.libvirtError):  # it may not even have begun
            stream.abort()
        raise
    return bytes(content)
