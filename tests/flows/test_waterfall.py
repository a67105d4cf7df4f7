"""Where the seconds of a real boot go, found from what the machine recorded of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from labyard.cli import app
from labyard.lab import LabHost
from labyard.testing import PoweredMachine
from labyard.waterfall import Kind, Waterfall
from labyard.waterfall.advice import headline
from labyard.waterfall.model import Cause
from labyard.waterfall.recording import fetch

# Generous, since a shared machine under software emulation can be slow.
BOOT_SECONDS = 120


@dataclass(frozen=True)
class Boot:
    machine: PoweredMachine
    waterfall: Waterfall
    console: str


def boot(machine: PoweredMachine) -> Boot:
    machine.power_on()
    console = machine.wait_for("done", BOOT_SECONDS)
    return Boot(machine, fetch(machine).waterfall(), console.plain)


def bios_machine(lab: Any) -> PoweredMachine:
    """Not the first one, which people boot by hand."""
    return PoweredMachine(lab, [found for found in lab.machines.values() if found.firmware == "bios"][1])


@pytest.fixture(scope="module")
def booted(lab: Any) -> Iterator[Boot]:
    machine = bios_machine(lab)
    try:
        yield boot(machine)
    finally:
        machine.power_off()


def test_spans_add_up_to_the_boot(booted: Boot) -> None:
    found = booted.waterfall
    assert found.finished, found.notes
    assert sum(span.seconds for span in found.spans) == pytest.approx(found.total, abs=1e-6)
    for before, after in zip(found.spans, found.spans[1:], strict=False):
        assert after.start == pytest.approx(before.end, abs=1e-9)


def test_every_stage_of_the_boot_is_seen(booted: Boot) -> None:
    seen = {span.kind for span in booted.waterfall.spans}
    work = set(Kind) - {Kind.WAIT, Kind.UNEXPLAINED, Kind.LOADER}
    assert work <= seen, work - seen


def test_files_and_their_sizes_are_those_that_were_served(booted: Boot, boot_host: LabHost) -> None:
    root = boot_host.value("ipxe_root")
    files = {span.name.removeprefix("TFTP "): span.size for span in booted.waterfall.spans if span.kind is Kind.TFTP}
    assert "boot.ipxe" in files
    for name, size in files.items():
        assert int(boot_host.check("stat --format %%s %s", f"{root}/{name}")) == size


def test_kernel_takes_as_long_as_it_says_itself(booted: Boot) -> None:
    said = float(booted.console.split("uptime=")[1].split()[0])
    kernel = sum(span.seconds for span in booted.waterfall.spans if span.kind is Kind.KERNEL)
    assert kernel == pytest.approx(said, abs=0.1)


def test_phone_home_is_where_the_console_has_it(booted: Boot) -> None:
    """Packets and console come with two clocks of QEMU's; this is what shows that they were joined well."""
    console = fetch(booted.machine).console
    power_on = fetch(booted.machine).power_on
    assert power_on is not None
    said = [line.end - power_on for line in console.lines if "phone_home=ok" in line.text]
    called = [span.end for span in booted.waterfall.spans if span.kind is Kind.HTTP]
    assert len(said) == len(called) > 0
    late = [line - wire for wire, line in zip(called, said, strict=True)]
    # A machine may stand still between a call and its line, but not each time; joined wrongly, all would be late.
    assert min(late) < 0.5 and all(seconds > -0.01 for seconds in late), late


def test_lab_as_built_waits_for_no_server(booted: Boot) -> None:
    """A server that stands still for half a second is waited for, too; but not by the same step of each boot."""
    servers = {Cause.ROUTER, Cause.PROXYDHCP, Cause.DHCP_SILENT, Cause.TFTP_SILENT, Cause.LOGIN, Cause.MENU}

    def waited(found: Waterfall) -> set[str]:
        return {span.name for span in found.waits if span.cause in servers}

    first = waited(booted.waterfall)
    assert not first or not first & waited(boot(booted.machine).waterfall)


def test_recording_is_small_and_root_s_own(booted: Boot) -> None:
    host, name = booted.machine.host, booted.machine.machine.name
    folder = f"{host.value('vm_machine_capture_folder')}/{name}"
    assert host.check("stat --format %%a %s", folder).strip() == "700"
    used = int(host.check("du --bytes --summarize %s", folder).split()[0])
    assert used <= int(host.value("vm_machine_capture_mb")) * 2**20


def test_without_router_advertisements_the_wait_and_its_cure_are_named(lab: Any, boot_host: LabHost) -> None:
    machine = bios_machine(lab)
    boot_host.check("systemctl stop radvd")
    try:
        found = boot(machine).waterfall
    finally:
        boot_host.check("systemctl start radvd")
        machine.power_off()
    longest = found.longest_wait
    assert longest is not None
    assert longest.cause is Cause.ROUTER, found.spans
    assert 12 < longest.seconds < 20
    assert "radvd" in headline(found)


def test_command_draws_the_boot(
    lab: Any, machine: Callable[[str], PoweredMachine], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    name = machine(bios_machine(lab).machine.name).machine.name
    picture = tmp_path / "boot.svg"
    inventory = ["--inventory", str(request.config.getoption("--lab"))]
    runner = CliRunner()
    shown = runner.invoke(app, ["waterfall", name, "--svg", str(picture), "--seconds", str(BOOT_SECONDS), *inventory])
    assert shown.exit_code == 0, shown.output
    assert "Longest wait:" in shown.output
    assert ElementTree.parse(picture).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    again = runner.invoke(app, ["waterfall", name, "--no-boot", "--json", *inventory])
    assert again.exit_code == 0, again.output
    assert '"total"' in again.output
