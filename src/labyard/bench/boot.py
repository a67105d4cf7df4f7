"""Booting diskless machines: seconds from power-on to the first line of userland, by the VM host's own clock.

Before each figure all machines of the lab are switched off, since one that runs takes part of the processor;
they are off afterwards too.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from labyard.bench.bench import Bench, Measure, MeasureError
from labyard.lab import Machine
from labyard.testing.machines import PoweredMachine

MARK = "LABYARD userland=up"
RUNS = 5
BOOT_TIMEOUT = 60
STORM_TIMEOUT = 180


def _all_off(bench: Bench) -> None:
    for machine in bench.lab.machines.values():
        PoweredMachine(bench.lab, machine).power_off()


def _boot(bench: Bench, machines: list[Machine], timeout: float) -> dict[str, float]:
    """Power machines of one VM host on together; seconds to userland by machine."""
    host = bench.lab.vm_host(machines[0])
    script = Path(__file__).with_name("boot_clock.py").read_text()
    folder = str(host.value("vm_machine_console_folder"))
    names = [machine.name for machine in machines]
    command = f"timeout {timeout + 30:g} python3 -c %s " + " ".join(["%s"] * (3 + len(names)))
    answer: dict[str, float] = json.loads(host.check(command, script, MARK, folder, f"{timeout:g}", *names))
    return answer


def _firmware_median(bench: Bench, firmware: str) -> float:
    """Median of several boots of the first machine with a firmware, in seconds."""
    bench.host("vm_hosts")
    found = [machine for machine in bench.lab.machines_with_disk if machine.firmware == firmware]
    if not found:
        raise MeasureError(f"lab_machines has no machine with firmware {firmware}")
    _all_off(bench)
    seconds = [_boot(bench, found[:1], BOOT_TIMEOUT)[found[0].name] for _ in range(RUNS)]
    bench.say(f"{found[0].name} ({firmware}): " + ", ".join(f"{second:.2f}" for second in seconds) + " s")
    return statistics.median(seconds)


def bios(bench: Bench) -> float:
    """Seconds to userland of a BIOS machine."""
    return _firmware_median(bench, "bios")


def uefi(bench: Bench) -> float:
    """Seconds to userland of a UEFI machine."""
    return _firmware_median(bench, "uefi")


def storm(bench: Bench) -> float:
    """Seconds from powering all machines on at once until the last one is in userland."""
    bench.host("vm_hosts")
    _all_off(bench)
    carried: dict[str, list[Machine]] = defaultdict(list)
    for machine in bench.lab.machines_with_disk:
        carried[machine.vm_host].append(machine)
    # Each VM host measures by its own clock, so theirs need not agree.
    with ThreadPoolExecutor(len(carried)) as pool:
        answers = list(pool.map(lambda machines: _boot(bench, machines, STORM_TIMEOUT), carried.values()))
    seconds = {name: second for answer in answers for name, second in answer.items()}
    bench.say("storm: " + ", ".join(f"{name} {second:.1f}" for name, second in seconds.items()) + " s")
    return max(seconds.values())


MEASURES: dict[str, Measure] = {
    "boot.bios_userland_s": bios,
    "boot.uefi_userland_s": uefi,
    "boot.storm_8_s": storm,
}
