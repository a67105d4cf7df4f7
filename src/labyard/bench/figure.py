"""What is measured: figures, their units and their targets."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


def p95(values: Sequence[float]) -> float:
    """The 95th percentile, by nearest rank: of fewer than 20 values, the largest."""
    return sorted(values)[math.ceil(len(values) * 0.95) - 1]


@dataclass(frozen=True)
class Target:
    """A figure to measure.

    limit is in the figure's unit; None: reported without a target. on_request: measured only when `--only` names it.
    """

    name: str
    unit: str
    limit: float | None
    better: str
    about: str
    on_request: bool = False

    def met_by(self, value: float) -> bool:
        """Whether a value is good enough."""
        if self.limit is None:
            return True
        return value <= self.limit if self.better == "lower" else value >= self.limit

    def __str__(self) -> str:
        if self.limit is None:
            return "report"
        return f"{'≤' if self.better == 'lower' else '≥'} {self.limit:g} {self.unit}"


# In the order of measuring: the lab is built first, and what follows uses it.
TARGETS: tuple[Target, ...] = (
    Target("lab.cold_s", "s", 480, "lower", "`make purge`, then `make lab` in a fresh clone", on_request=True),
    Target("lab.warm_s", "s", 120, "lower", "`make destroy`, then `make lab`"),
    Target("lab.noop_s", "s", 45, "lower", "the playbook once more, with nothing to change"),
    Target("lab.speedup_vs_stock", "x", 3, "higher", "the same with stock settings, divided by ours"),
    Target("molecule.role_median_s", "s", 25, "lower", "`molecule test` of one role, images warm"),
    Target("boot.bios_userland_s", "s", 6, "lower", "BIOS machine: power-on to userland, median of 5"),
    Target("boot.uefi_userland_s", "s", 12, "lower", "UEFI machine: power-on to userland, median of 5"),
    Target("boot.storm_8_s", "s", 30, "lower", "all machines at once: power-on to the last userland"),
    Target("dhcp.leases_per_s", "1/s", 4000, "higher", "highest rate of DHCP exchanges without a drop"),
    Target("tftp.mb_per_s", "MB/s", None, "higher", "a 16 MB file by TFTP"),
    Target("iscsi.read_ratio", "x", 0.5, "higher", "reading through the target, divided by reading the file"),
    Target("netboot.start_p95_ms", "ms", 1000, "lower", "100 sessions started at once, 95th percentile"),
    Target("netboot.stop_p95_ms", "ms", 1000, "lower", "100 sessions stopped at once, 95th percentile"),
    Target("netboot.start_single_ms", "ms", 150, "lower", "one session started alone, median"),
    Target("netboot.script_ms", "ms", 5, "lower", "a boot script made and answered, median"),
    Target("netboot.dhcp_visible_ms", "ms", 500, "lower", "start answered to reservation seen by a DHCP client"),
    Target("netboot.rps", "1/s", 20, "higher", "starts and stops for 60 s beside 100 sessions, no error"),
    Target("netboot.rss_mb", "MB", 200, "lower", "memory of the service in that state"),
    Target("netboot.cpu_pct", "%", 50, "lower", "processor use of the service in that state"),
    Target("netboot.orphans_after_kill", "", 0, "lower", "findings after `kill -9` in 50 starts, restart, repair"),
    Target("vms.start_to_running_ms", "ms", 1500, "lower", "one VM started alone until its record says so, median"),
    Target("vms.stop_graceful_ms", "ms", 3000, "lower", "a guest asked to power off until it has, median"),
    Target("vms.hotplug_ms", "ms", 300, "lower", "a disk plugged into a running VM, median"),
    Target("vms.unplug_ms", "ms", 500, "lower", "a disk taken out of a running VM, median"),
    Target("vms.observer_check_ms", "ms", 500, "lower", "a look at 50 VMs and 200 disks, median"),
    Target("vms.concurrent", "", 10, "higher", "VMs started at once that reach userland, nothing left after"),
    Target("vms.concurrent_s", "s", 60, "lower", "their start to the last one's userland"),
    Target("vms.suite_s", "s", 180, "lower", "the VM manager's tests with real machines"),
    Target("vms.leaks", "", 0, "lower", "processes, taps, leases and files that those tests left"),
    Target("evse.suite_s", "s", 20, "lower", "the 14 tests of charger pairs, as processes of this machine"),
    Target("evse.pair_ready_ms", "ms", 1500, "lower", "a charger pair from its start to ready, median"),
    Target("evse.discovery_ms", "ms", 1000, "lower", "4 gateways asked to find each other until they have, median"),
    Target("evse.discovery_20_ms", "ms", 3000, "lower", "the same with 20"),
    Target("evse.pairs_per_host", "", 20, "higher", "pairs that charge in one group on this machine"),
    Target("evse.rapi_rtt_us", "µs", 300, "lower", "a RAPI command and its reply, median"),
    Target("evse.budget_violations", "", 0, "lower", "moments above the budget in a simulated day with faults"),
    Target(
        "evse.failsafe_s", "s", 6, "lower", "a controller killed, until its member has the safe current; timeout 5 s"
    ),
    Target("faas.cold_ratio", "x", 1.3, "lower", "a request that starts a container, by a bare `runc run`; medians"),
    Target("faas.warm_ms", "ms", 3, "lower", "a request that finds a parked handler, median"),
    Target("faas.concurrent", "", 100, "higher", "requests at once to one function, answered"),
    Target("faas.sequential", "", 1000, "higher", "requests in a row, answered"),
    Target("faas.handlers", "", 50, "higher", "functions beside each other that answer"),
    Target("faas.leaks", "", 0, "lower", "what is left of all that once the functions are removed"),
    Target("faas.vmtests_s", "s", 240, "lower", "the requirement's tests of functions in VMs"),
    Target("vm.boot_s", "s", 4, "lower", "the first VM ready, on a machine without a snapshot; median of 3"),
    Target("vm.fresh_s", "s", 0.6, "lower", "each further fresh VM ready; median of 10"),
    Target("desktops.rdp_create_ms", "ms", 500, "lower", "an RDP server made, the longest of ten"),
    Target("desktops.rdp_ready_ms", "ms", 2000, "lower", "an RDP server's start until RDP is negotiated, median"),
    Target("desktops.rdp_usage_ms", "ms", 200, "lower", "what a running RDP server uses, 95th percentile"),
    Target("desktops.rdp_stop_ms", "ms", 3000, "lower", "an RDP server stopped, the longest of five"),
    Target(
        "desktops.first_frame_ms", "ms", 5000, "lower", "its start until a FreeRDP client shows the desktop, median"
    ),
    Target("desktops.ten_starts_s", "s", 15, "lower", "ten RDP servers started at once until all run"),
    Target("desktops.concurrent_rdp", "", 10, "higher", "RDP servers started at once that run with a client each"),
    Target("desktops.idle_mib", "MiB", 300, "lower", "memory of service and agent at rest"),
    Target("desktops.idle_cpu_pct", "%", 5, "lower", "processor use of service and agent at rest, of one core"),
    Target("desktops.idle_network", "B/s", None, "lower", "network use of their host at rest, to and from others"),
    Target("desktops.api_p95_ms", "ms", 100, "lower", "reads of all kinds, 100 a second, 95th percentile"),
    Target("desktops.usage_p95_ms", "ms", 200, "lower", "usage of nodes, 100 reads a second, 95th percentile"),
    Target("desktops.lists_per_s", "1/s", 500, "higher", "lists that 50 clients get, each as fast as it can"),
    Target("desktops.success_pct", "%", 99, "higher", "of those requests, how many were answered with a list"),
    Target("desktops.success_double_pct", "%", 95, "higher", "the same with 100 clients; no answer is a 500"),
    Target("desktops.session_create_ms", "ms", 150, "lower", "a session made, 95th percentile of 100"),
    Target("desktops.node_ops_ms", "ms", 100, "lower", "node registered, moved, heard: the slowest 95th percentile"),
    Target("desktops.poot_ops_ms", "ms", 200, "lower", "PoOT submitted, validated: the slower 95th percentile"),
    Target("desktops.poot_batch_ms", "ms", 500, "lower", "100 PoOT validated in one call, median"),
    Target("desktops.payouts_per_s", "1/s", 200, "higher", "PoOT paid in one batch of 1000"),
    Target("desktops.session_start_ms", "ms", 2000, "lower", "a session's start to its first frame, longest of ten"),
    Target("desktops.session_stop_ms", "ms", 3000, "lower", "a session stopped and anchored, the longest of ten"),
    Target("desktops.capture_drop_pct", "%", 1, "lower", "frames dropped, three recordings with 5 frames a second"),
    Target(
        "desktops.end_to_end_s", "s", 3.5, "lower", "a change of the picture until it is in a committed chunk, median"
    ),
    Target("desktops.recordings", "", 10, "higher", "recordings at once without a lost chunk"),
    Target("desktops.chunk_commit_ms", "ms", 1000, "lower", "their chunks' end until committed, 95th percentile"),
    Target("desktops.chunks_per_min", "1/min", 1000, "higher", "chunks of 100 kB that wait on a node, committed"),
    Target("desktops.lost_chunks", "", 0, "lower", "committed chunks lost while everything is killed in turn"),
)


@dataclass(frozen=True)
class Figure:
    """One measured figure: a value in the target's unit, or the reason why there is none."""

    target: Target
    value: float | None
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was measured and meets its target."""
        return self.value is not None and self.target.met_by(self.value)

    def as_dict(self) -> dict[str, Any]:
        """For build/bench.json."""
        data: dict[str, Any] = {
            "name": self.target.name,
            "value": None if self.value is None else round(self.value, 3),
            "unit": self.target.unit,
            "target": self.target.limit,
            "better": self.target.better,
            "ok": self.ok,
        }
        return data | ({"reason": self.reason} if self.reason else {})


def select(only: str) -> list[Target]:
    """The targets that a comma-separated list names; an empty list names all that need not be asked for.

    A part names a family (`boot`), a figure (`boot.bios_userland_s`) or the first words of one (`boot.bios`).
    ValueError for a part that names nothing.
    """
    parts = [part.strip() for part in only.split(",") if part.strip()]
    if not parts:
        return [target for target in TARGETS if not target.on_request]
    patterns = {part: re.compile(re.escape(part) + r"(?![a-z0-9])") for part in parts}
    for part, pattern in patterns.items():
        if not any(pattern.match(target.name) for target in TARGETS):
            names = ", ".join(target.name for target in TARGETS)
            raise ValueError(f"unknown figure {part!r}; there are: {names}")
    return [
        target
        for target in TARGETS
        if any(
            pattern.match(target.name) and (not target.on_request or "." in part) for part, pattern in patterns.items()
        )
    ]
