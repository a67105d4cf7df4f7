# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Jinja filters for playbooks/flows/evse_chaos.yml: what the monitor's lines say of faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

Line = dict[str, Any]
NEAR = 0.05  # A


def read(text: str) -> list[Line]:
    """The monitor's output; its last line may be cut off."""
    lines = []
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def offers(line: Line) -> dict[str, float | None]:
    """What each charger is offered, in A, by its URL; None for one that did not answer."""
    return {url: None if charger is None else charger["offered"] for url, charger in line["chargers"].items()}


def evse_offers(text: str, since: str = "") -> dict[str, float | None]:
    """What all chargers are offered, when it is the same in all lines; {} when it is not, or when one is from before
    `since` (ISO 8601)."""
    lines = read(text)
    if not lines or (since and moment(lines[0]["time"]) < moment(since)):
        return {}
    found = [offers(line) for line in lines]
    return found[0] if all(one == found[0] for one in found) else {}


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def evse_chaos(text: str, faults: list[dict[str, Any]], safe: float) -> dict[str, Any]:
    """Each fault with `failsafe_s`, `recovery_s` and `violations`, and the violations of the whole run.

    A fault has `begun` and `ended` (ISO 8601) and `affected`, the URLs of the emulators that shall fall back to
    `safe` A. Figures are seconds, None where it did not come to that: `failsafe_s` from the begin until all affected
    have fallen back, `recovery_s` from the end until all offers are again, and stay, what they were before.
    """
    lines = [(moment(line["time"]), line) for line in read(text)]
    faults = [fault | {key: moment(fault[key]) for key in ("begun", "ended")} for fault in faults]
    ends = [*(fault["begun"] for fault in faults[1:]), float("inf")]
    rows = []
    for fault, end in zip(faults, ends, strict=True):
        before = [line for at, line in lines if at < fault["begun"]]
        during = [(at, line) for at, line in lines if fault["begun"] <= at < end]
        rows.append(
            {key: fault[key] for key in ("name", "pair")}
            | {
                "failsafe_s": _failsafe(during, fault, safe),
                "recovery_s": _recovery(during, fault, offers(before[-1]) if before else {}),
                "violations": sum(line["violation"] for _, line in during),
            }
        )
    over = [line for _, line in lines if line["violation"]]
    worst = max((max(line["over"].values()) for line in over), default=0.0)
    return {"faults": rows, "passes": len(lines), "violations": len(over), "worst_over_a": worst}


def _failsafe(during: list[tuple[float, Line]], fault: dict[str, Any], safe: float) -> float | None:
    for at, line in during:
        seen = [offers(line).get(url) for url in fault["affected"]]
        if seen and all(amps is not None and amps <= safe + NEAR for amps in seen):
            return round(at - fault["begun"], 2)
    return None


def _recovery(during: list[tuple[float, Line]], fault: dict[str, Any], before: dict[str, Any]) -> float | None:
    if not during or offers(during[-1][1]) != before:
        return None
    different = [number for number, (_, line) in enumerate(during) if offers(line) != before]
    back = during[different[-1] + 1][0] if different else fault["ended"]
    return round(max(0.0, back - fault["ended"]), 2)


def evse_chaos_table(report: dict[str, Any]) -> list[str]:
    """The report for people, in lines."""
    form = "{:22} {:10} {:>11} {:>11} {:>11}"
    head = form.format("fault", "pair", "failsafe s", "recovery s", "violations")
    rows = [
        form.format(
            fault["name"],
            fault["pair"],
            *("-" if fault[key] is None else f"{fault[key]:.1f}" for key in ("failsafe_s", "recovery_s")),
            fault["violations"],
        )
        for fault in report["faults"]
    ]
    total = f"{report['violations']} violations in {report['passes']} passes, {report['worst_over_a']:g} A at worst"
    return [head, *rows, total]


class FilterModule:
    """Found by Ansible under this name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"evse_offers": evse_offers, "evse_chaos": evse_chaos, "evse_chaos_table": evse_chaos_table}
