# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""`evse_groups` of an inventory: what is wrong with it, and what evse_group is to be told."""

from __future__ import annotations

from typing import Any

Group = dict[str, Any]

# What an entry need not say: the gateway's own defaults, so that an entry says all that its group is.
DEFAULTS: Group = {
    "safety_factor": 1.0,
    "heartbeat_timeout": 30,
    "failsafe_mode": "safe_current",
    "failsafe_safe_current": 6.0,
    "failsafe_peer_assumed_current": 6.0,
    "rotation_interval": 1800,
    "priorities": {},
}
REQUIRED = ("id", "controller", "members", "budget_amps")
RANGES = {
    "safety_factor": (0, 1),
    "heartbeat_timeout": (5, 600),
    "failsafe_safe_current": (0, 80),
    "failsafe_peer_assumed_current": (0, 80),
    "rotation_interval": (0, 31_536_000),
}


def problems(groups: list[Group], pairs: dict[str, str]) -> list[str]:
    """What is wrong, each naming the field. `pairs` is where the gateway of each pair is, by the pair's name."""
    found = []
    of: dict[str, str] = {}  # the group of a pair
    ids: set[str] = set()
    for number, group in enumerate(groups):
        where = f"evse_groups[{group.get('id') or number}]"
        missing = [key for key in REQUIRED if group.get(key) in (None, "")]
        found += [f"{where}.{key}: is missing" for key in missing]
        known = (*REQUIRED, *DEFAULTS)
        found += [f"{where}.{key}: no such key; there are {', '.join(known)}" for key in group if key not in known]
        if missing:
            continue
        if group["id"] in ids:
            found.append(f"{where}.id: another group has this id")
        ids.add(group["id"])
        if not isinstance(group["members"], list):
            found.append(f"{where}.members: is no list of pairs")
            continue
        for field, pair in [("controller", group["controller"]), *(("members", pair) for pair in group["members"])]:
            if pair not in pairs:
                there = ", ".join(pairs) or "none; give hosts of evse_hosts an evse_pair_count"
                found.append(f"{where}.{field}: there is no pair {pair}; there are {there}")
            elif pair in of:
                found.append(f"{where}.{field}: {pair} is in {of[pair]} already")
            of.setdefault(pair, where)
        found += _wrong_numbers(where, DEFAULTS | group)
    return found


def _wrong_numbers(where: str, group: Group) -> list[str]:
    found = []
    for field, (low, high) in {"budget_amps": (0, 100_000), **RANGES}.items():
        if not _is_number(group[field]) or not low <= group[field] <= high:
            found.append(f"{where}.{field}: {group[field]!r} is no number from {low} to {high}")
    if group["failsafe_mode"] not in ("safe_current", "disable"):
        found.append(f"{where}.failsafe_mode: {group['failsafe_mode']!r} is neither safe_current nor disable")
    priorities = group["priorities"]
    if not isinstance(priorities, dict) or not all(isinstance(value, int) for value in priorities.values()):
        found.append(f"{where}.priorities: is no mapping of pairs to whole numbers")
    else:
        mine = {group["controller"], *group["members"]}
        found += [f"{where}.priorities: {pair} is not in the group" for pair in priorities if pair not in mine]
    if found or group["failsafe_mode"] == "disable":
        return found
    count, safe = len(group["members"]) + 1, group["failsafe_safe_current"]
    budget = group["budget_amps"] * group["safety_factor"]
    if count * safe > budget:
        found.append(
            f"{where}.budget_amps: {budget:g} A are too little: without their controller {count} chargers take "
            f"{safe:g} A each (failsafe_safe_current), {count * safe:g} A"
        )
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def plan(groups: list[Group], pairs: dict[str, str]) -> list[Group]:
    """For each group the arguments of evse_group, and its `controller`. Takes only groups that are right."""
    planned = []
    for group in groups:
        whole = DEFAULTS | group
        priorities = whole["priorities"]
        planned.append(
            {key: whole[key] for key in DEFAULTS}
            | {
                "controller": whole["controller"],
                "url": f"http://{pairs[whole['controller']]}",
                "group_id": whole["id"],
                "group_max_current": whole["budget_amps"],
                "members": [pairs[pair] for pair in whole["members"]],
                "priority": priorities.get(whole["controller"], 0),
                "priorities": {pairs[pair]: priorities.get(pair, 0) for pair in whole["members"]},
            }
        )
    return planned
