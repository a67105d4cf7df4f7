"""Fetching a recorded boot from a VM host; the host is a stand-in here, tests/flows has the real one."""

from __future__ import annotations

import base64
import gzip
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from labyard.waterfall.recording import RecordingError, fetch

DATA = Path(__file__).with_name("data")
LOG = "2026-11-21 10:49:32.002+0000: starting up libvirt version: 9.0.0\n"


class Host:
    name = "vmhost1"

    def __init__(
        self, *, packets: bytes = b"", trace: bytes = b"", log: str = LOG, free: str = "100", mb: int = 16
    ) -> None:
        self._answers = {"nic.pcap": self._packed(packets), "serial.trace": self._packed(trace), "m3.log": log}
        self._free, self._values = free, {"vm_machine_capture_folder": "/captures", "vm_machine_capture_mb": mb}

    @staticmethod
    def _packed(data: bytes) -> str:
        return base64.b64encode(gzip.compress(data)).decode() if data else ""

    def value(self, name: str, default: Any = None) -> Any:
        return self._values.get(name, default)

    def run(self, command: str, *arguments: str) -> Any:
        said = self._free if command.startswith("stat ") else self._answers[arguments[0].rpartition("/")[2]]
        return SimpleNamespace(rc=0, stdout=said)


def machine(host: Host) -> Any:
    return SimpleNamespace(host=host, machine=SimpleNamespace(name="m3", mac="52:54:00:77:00:03"))


def real(**more: Any) -> Host:
    files = {name: gzip.decompress((DATA / f"bios.{name}.gz").read_bytes()) for name in ("pcap", "trace")}
    return Host(packets=files["pcap"], trace=files["trace"], **more)


def test_a_recorded_boot_is_fetched_with_its_moment_of_power_on() -> None:
    found = fetch(machine(real()))
    assert found.power_on == pytest.approx(1795258172.002)
    assert found.waterfall().total == pytest.approx(9.74, abs=0.01)
    assert found.waterfall().notes == []


@pytest.mark.parametrize("log", ["", "garbage\n", LOG.replace("10:49", "09:49")])
def test_without_a_log_of_this_boot_the_guest_s_start_is_power_on(log: str) -> None:
    found = fetch(machine(real(log=log)))
    assert found.power_on == found.console.running_at


def test_room_that_was_full_is_said() -> None:
    assert "vm_machine_capture_mb" in fetch(machine(real(free="0"))).waterfall().notes[0]


@pytest.mark.parametrize(("mb", "said"), [(16, "make lab"), (0, "set vm_machine_capture_mb")])
def test_no_recording_says_the_way_out(mb: int, said: str) -> None:
    with pytest.raises(RecordingError, match=said):
        fetch(machine(Host(mb=mb)))
