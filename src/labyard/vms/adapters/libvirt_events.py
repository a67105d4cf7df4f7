"""What libvirt's lifecycle events of a domain amount to (contract section 5.4). Needs no libvirt."""

from __future__ import annotations

from enum import IntEnum

from labyard.vms.adapters.hypervisor import EventKind


# Numbers of libvirt's public interface: virDomainEventType, and the types of its details.
class Event(IntEnum):
    STARTED = 2
    STOPPED = 5
    SHUTDOWN = 6


class Shutdown(IntEnum):
    GUEST = 1
    HOST = 2


class Stopped(IntEnum):
    SHUTDOWN = 0
    DESTROYED = 1
    CRASHED = 2
    FAILED = 5


class Story:
    """Remembers of each domain, until it stopped, whether QEMU said that a signal ended it.

    A destroy makes QEMU say so too, hence nothing is decided before STOPPED tells why.
    """

    def __init__(self) -> None:
        self._signalled: set[str] = set()

    def read(self, uuid: str, event: int, detail: int) -> tuple[EventKind, str] | None:
        """What this event means for the domain's record, and why; None while it means nothing yet."""
        if event == Event.SHUTDOWN:
            (self._signalled.add if detail == Shutdown.HOST else self._signalled.discard)(uuid)
            return None
        if event not in (Event.STARTED, Event.STOPPED):
            return None
        signalled = uuid in self._signalled
        self._signalled.discard(uuid)
        if event == Event.STARTED:
            return EventKind.STARTED, ""
        if detail == Stopped.FAILED:
            return EventKind.FAILED, "QEMU process ended unexpectedly"
        if detail == Stopped.CRASHED:
            return EventKind.FAILED, "guest crashed"
        if detail == Stopped.SHUTDOWN and signalled:
            return EventKind.FAILED, "QEMU process was ended by a signal from outside"
        return EventKind.STOPPED, "destroyed" if detail == Stopped.DESTROYED else "guest powered off"
