"""Fetches a machine's recorded boot from its VM host. The role vm_machine has every machine record its boots."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from labyard.testing.machines import PoweredMachine
from labyard.waterfall.model import TimedEvent, Waterfall
from labyard.waterfall.phases import waterfall
from labyard.waterfall.serial import Console, read_trace

# libvirt's own, where no setting moves it; its first line of each start has the time.
_LIBVIRT_LOG = "/var/log/libvirt/qemu"


class RecordingError(Exception):
    """There is no recorded boot; the message says what to do."""


@dataclass(frozen=True)
class Recording:
    """One boot as it was recorded. `power_on` is when libvirt began, by the VM host's clock."""

    mac: str
    packets: bytes
    console: Console
    power_on: float | None
    full: bool = False

    def waterfall(self, events: list[TimedEvent] | None = None) -> Waterfall:
        """Where its seconds went."""
        found = waterfall(
            self.packets,
            self.console.lines,
            events,
            self.power_on,
            running_at=self.console.running_at,
            mac=self.mac,
        )
        if not self.full:
            return found
        note = "The recording's room was full before its end (vm_machine_capture_mb): later packets are missing."
        return replace(found, notes=[*found.notes, note])


def fetch(machine: PoweredMachine) -> Recording:
    """The boot since the machine's last power-on. RecordingError when there is none."""
    name, host = machine.machine.name, machine.host
    folder = f"{host.value('vm_machine_capture_folder')}/{name}"
    found = host.run("gzip -1 -c %s | base64 -w 0", f"{folder}/nic.pcap")
    packets = gzip.decompress(base64.b64decode(found.stdout)) if found.stdout else b""
    if len(packets) < 24:
        if int(host.value("vm_machine_capture_mb", 0)) == 0:
            raise RecordingError("boots are not recorded in this lab: set vm_machine_capture_mb (16 is the default)")
        raise RecordingError(
            f"{name} has no recorded boot on {host.name} ({folder}): switch it on, and if it stays so run `make lab`, "
            "which has machines record their boots"
        )
    trace = host.run("gzip -1 -c %s | base64 -w 0", f"{folder}/serial.trace")
    text = gzip.decompress(base64.b64decode(trace.stdout)).decode(errors="replace") if trace.stdout else ""
    started = host.run("grep -a 'starting up libvirt' %s | tail -n 1", f"{_LIBVIRT_LOG}/{name}.log")
    console = read_trace(text)
    power_on = _power_on(str(started.stdout), console.running_at)
    # QEMU stops its dump at the first packet that has no room; a page or two may be free then.
    free = host.run("stat --file-system --format %%a %s", folder)
    full = free.rc == 0 and int(free.stdout) <= 2
    return Recording(machine.machine.mac, packets, console, power_on, full)


def _power_on(line: str, running_at: float | None) -> float | None:
    """`2026-11-21 10:36:14.348+0000: starting up …` as seconds; None when it is not of this boot."""
    try:
        at = datetime.strptime(line[:28], "%Y-%m-%d %H:%M:%S.%f%z").timestamp()
    except ValueError:
        return running_at
    # The log is turned over by size; a line that long before the boot is an earlier one's.
    return at if running_at is None or 0 <= running_at - at < 60 else running_at


def events_of(answer: str) -> list[TimedEvent]:
    """Boot events from what the netboot service answers to GET /sessions/{id}/events (contract 5.5), or a bare list.

    ValueError when it is something else.
    """
    data = json.loads(answer)
    listed: Iterable[dict[str, Any]] = data["events"] if isinstance(data, dict) and "events" in data else data
    try:
        return [
            TimedEvent(
                datetime.fromisoformat(str(event["created_at"])).timestamp(),
                str(event["type"]),
                str(event.get("source", "")),
            )
            for event in listed
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"these are not boot events: each has type and created_at ({error})") from error
