"""What libvirt's lifecycle events amount to: the table of contract section 5.4."""

from __future__ import annotations

import pytest

from labyard.vms.adapters.hypervisor import EventKind
from labyard.vms.adapters.libvirt_events import Event, Shutdown, Stopped, Story

BOOTED = 0
MIGRATED = 3
CRASHED_EVENT = 8


@pytest.mark.parametrize(
    ("events", "kind"),
    [
        ([(Event.STARTED, BOOTED)], EventKind.STARTED),
        ([(Event.SHUTDOWN, Shutdown.GUEST), (Event.STOPPED, Stopped.SHUTDOWN)], EventKind.STOPPED),
        ([(Event.SHUTDOWN, Shutdown.HOST), (Event.STOPPED, Stopped.DESTROYED)], EventKind.STOPPED),
        ([(Event.STOPPED, Stopped.DESTROYED)], EventKind.STOPPED),
        ([(Event.STOPPED, MIGRATED)], EventKind.STOPPED),
        ([(Event.SHUTDOWN, Shutdown.HOST), (Event.STOPPED, Stopped.SHUTDOWN)], EventKind.FAILED),
        ([(Event.STOPPED, Stopped.FAILED)], EventKind.FAILED),
        ([(CRASHED_EVENT, 0), (Event.STOPPED, Stopped.CRASHED)], EventKind.FAILED),
    ],
)
def test_the_last_event_decides(events: list[tuple[int, int]], kind: EventKind) -> None:
    story = Story()
    told = [story.read("a", *event) for event in events]
    assert told[:-1] == [None] * (len(events) - 1)
    assert told[-1] is not None
    assert told[-1][0] == kind


def test_a_signal_is_remembered_for_its_own_domain_and_once() -> None:
    story = Story()
    story.read("a", Event.SHUTDOWN, Shutdown.HOST)
    assert story.read("b", Event.STOPPED, Stopped.SHUTDOWN) == (EventKind.STOPPED, "guest powered off")
    assert story.read("a", Event.STARTED, BOOTED) == (EventKind.STARTED, "")
    assert story.read("a", Event.STOPPED, Stopped.SHUTDOWN) == (EventKind.STOPPED, "guest powered off")
