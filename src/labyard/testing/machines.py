"""Diskless machines of a lab: power and serial console, through libvirt on the host that carries them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from labyard.lab import Lab, LabHost, Machine
from labyard.testing.waiting import wait_until

# A line that the boot image prints, `LABYARD key=value key=value`. Only with its end: letters come one by one.
_REPORT = re.compile(r"^LABYARD (.*)\n", re.MULTILINE)

# Colours, cursor movements and carriage returns of firmware and shells.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1bc|\r")


@dataclass(frozen=True)
class Console:
    """What a machine has printed on its serial console since it was powered on."""

    text: str

    @property
    def reports(self) -> dict[str, str]:
        """What the boot image reported: values by key, the last one when a key came twice."""
        found: dict[str, str] = {}
        for match in _REPORT.finditer(self.plain):
            for word in match[1].split():
                key, _, value = word.partition("=")
                found[key] = value
        return found

    @property
    def plain(self) -> str:
        """The text without the terminal's control sequences."""
        return _CONTROL.sub("", self.text)

    def tail(self, lines: int = 40) -> str:
        """The last lines, plain."""
        return "\n".join(self.plain.splitlines()[-lines:])


class PoweredMachine:
    """A machine that can be switched on and off, and read."""

    def __init__(self, lab: Lab, machine: Machine) -> None:
        self.machine = machine
        self.host: LabHost = lab.vm_host(machine)
        self.console_file = f"{self.host.value('vm_machine_console_folder')}/{machine.name}.log"

    def power_on(self) -> datetime:
        """Switch on (off first when it runs) and return the moment of power-on, by the VM host's clock, in UTC."""
        self.power_off()
        began = self.host.check(f"date +%s.%N && virsh --quiet start {self.machine.name} >&2")
        return datetime.fromtimestamp(float(began.split()[0]), UTC)

    def power_off(self) -> None:
        """Switch off at once; nothing to do when it is off."""
        if self.is_on():
            self.host.check(f"virsh --quiet destroy {self.machine.name}")

    def power(self) -> str:
        """`running`, `shut off` or another state of libvirt's; `not defined` for a machine that is not set up yet."""
        result = self.host.run(f"virsh domstate {self.machine.name}")
        return str(result.stdout).strip() if result.rc == 0 else "not defined"

    def is_on(self) -> bool:
        """Whether it runs."""
        return self.power() == "running"

    def console(self) -> Console:
        """Its serial console so far; empty before the first power-on."""
        result = self.host.run(f"cat {self.console_file}")
        return Console(result.stdout if result.rc == 0 else "")

    def wait_for(self, key: str, seconds: float) -> Console:
        """Wait until the boot image has reported `key` on the console.

        AssertionError ends with the console's last lines, so that a failed boot can be read.
        """

        def reported() -> Console | None:
            console = self.console()
            return console if key in console.reports else None

        return wait_until(
            reported,
            lambda: f"{self.machine.name} reports {key!r}. Its console ends with:\n{self.console().tail()}",
            seconds,
        )
