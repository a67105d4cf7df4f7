"""Machines and disks of the bench's own on the VM manager, asked for from this machine, as people and playbooks do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from labyard.bench.bench import Bench, MeasureError
from labyard.client.http import ClientError
from labyard.client.where import LabService
from labyard.vms.cli_where import Where

PREFIX = "bench-"  # of the names and labels of all that is made here
TEMPLATE = f"{PREFIX}small"
MEMORY = 128  # MiB
AT_ONCE = 4  # requests under way, where only the result is wanted
BOOT_SECONDS = 60
POLL_SECONDS = 0.1
# The guest starts its shell when it has begun to listen to the power button.
SHELL = "labyard#"

Given = TypeVar("Given")
Made = TypeVar("Made")


class Stand:
    """What the figures are measured on."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.service = LabService(bench.inventory, "vms")
        self.api = Where(bench.inventory, "", "").client
        self._disks: set[str] = set()  # a disk loses its label when it is unplugged

    def machines(self, count: int) -> list[str]:
        """New machines that are off."""
        names = [f"{PREFIX}{number}" for number in range(count)]
        each(lambda name: self.api.create_vm(name, TEMPLATE), names)
        return names

    def booted(self) -> str:
        """A new machine that is up. MeasureError when the lab gives machines nothing to boot."""
        if not self.service.value("default_boot_disk"):
            raise MeasureError("vms_default_boot_disk is not set: machines have nothing to boot")
        (name,) = self.machines(1)
        self.api.start(name)
        self.wait_for([name], SHELL, BOOT_SECONDS)
        return name

    def disks(self, count: int) -> list[str]:
        """Ids of new disks of 1 GiB."""

        def make(number: int) -> str:
            disk = self.api.create_disk(1, f"{PREFIX}{number}")["id"]
            self._disks.add(disk)
            return disk

        return each(make, range(count))

    def wait_for(self, names: Iterable[str], text: str, seconds: float) -> None:
        """Until the consoles of all machines show a text. MeasureError when one does not in time."""
        deadline = time.monotonic() + seconds
        waiting = list(names)
        while waiting := [name for name in waiting if text not in self.api.console(name)["console"]]:
            if time.monotonic() > deadline:
                end = self.api.console(waiting[0])["console"][-300:]
                raise MeasureError(
                    f"no {text!r} within {seconds:g} s from {', '.join(waiting)}; the first ends: {end!r}"
                )
            time.sleep(POLL_SECONDS)

    def clear(self) -> None:
        """Remove what is the bench's, also what a killed run left. What cannot be removed is told."""
        disks = [disk for disk in self.api.disks() if _ours(disk["mount_point"]) or _ours(disk["vm_id"])]
        self._remove(self.api.delete_vm, [vm["id"] for vm in self.api.vms() if _ours(vm["id"])])
        self._remove(self.api.delete_disk, self._disks.union(disk["id"] for disk in disks))
        self._remove(self.api.delete_template, [one["name"] for one in self.api.templates() if _ours(one["name"])])
        self._disks.clear()

    def left(self) -> list[str]:
        """What is still there of the bench's machines: records, addresses, processes, findings of the observer."""
        named = [vm["id"] for vm in self.api.vms()] + [lease["vm_id"] for lease in self.api.leases()]
        named += [issue["resource_id"] for issue in self.api.check()["issues"]]
        guest = f"guest={self.service.value('domain_prefix')}{PREFIX}"
        running = [line for line in self.service.host.check("ps -e -o args=").splitlines() if guest in line]
        return [name for name in named if _ours(name)] + [line[:80] for line in running]

    def _remove(self, call: Callable[[str], None], names: Iterable[str]) -> None:
        def remove(name: str) -> None:
            try:
                call(name)
            except ClientError as error:
                self.bench.say(f"could not remove {name}: {error}")

        each(remove, names)


@contextmanager
def stand_of(bench: Bench) -> Iterator[Stand]:
    """A stand with a template, and nothing of it before and after."""
    stand = Stand(bench)
    try:
        stand.clear()
        stand.api.create_template(TEMPLATE, 1, MEMORY)
        yield stand
    finally:
        stand.clear()


def each(call: Callable[[Given], Made], many: Iterable[Given], at_once: int = AT_ONCE) -> list[Made]:
    """Call for each of many, some at once. The first error is raised when those under way have ended."""
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(call, many))


def _ours(name: str | None) -> bool:
    return (name or "").startswith(PREFIX)
