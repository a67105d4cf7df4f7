#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: a group of chargers that share a supply."""

from __future__ import annotations

DOCUMENTATION = r"""
module: evse_group
short_description: Keep a group of chargers that share a supply
description:
  - Makes a gateway the controller of a group, with these options and exactly these members, or takes the group apart.
    A member that leaves is told, and charges as it likes from then on.
  - An option that is left out is left as it is.
  - What fails half-way is taken back, as when a member does not come online or obeys another controller.
options:
  members:
    description:
      - All members besides the controller, each as C(NAME.local:PORT) or C(ADDRESS:PORT). Required with C(present).
      - Whether a member obeys is seen at its own gateway, so the module is run where that can be reached, as a rule on
        the controller's host.
    type: list
    elements: str
  group_id:
    description: The group's name.
    type: str
  group_max_current:
    description: What all chargers together may draw, in A. A new group needs it.
    type: float
  safety_factor:
    description: How much of that is given out, 0 to 1.
    type: float
  heartbeat_timeout:
    description: After how many seconds without its controller a member falls back to its safe current, 5 to 600.
    type: int
  failsafe_mode:
    description: Whether such a member has its safe current or does not charge at all.
    type: str
    choices: [safe_current, disable]
  failsafe_safe_current:
    description: >-
      That current in A, 0 to 80, and no more than I(group_max_current). Times the number of chargers, the controller
      counted, it should fit the supply; the module warns where it does not.
    type: float
  failsafe_peer_assumed_current:
    description: What the controller keeps back for a member that it cannot reach, in A, 0 to 80.
    type: float
  rotation_interval:
    description: After how many seconds those that wait for their minimum take turns. With 0 they do not.
    type: int
  priority:
    description: Priority of the controller's own charger; lower ones are served first.
    type: int
  priorities:
    description: >-
      Priority by member, as I(members) names it. Written at the member's own gateway, for only that has it. A member
      that is left out keeps its own.
    type: dict
    default: {}
  state:
    description: Whether the group is there. With C(absent) all members are free, and the gateway controls nobody.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment: [labyard.lab.evse_api]
attributes:
  check_mode:
    support: full
    description: Says what would change. A gateway that does not answer counts as started by an earlier task.
  diff_mode: {support: full, description: Shows the options and members that change.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: Share 40 A between three chargers
  labyard.lab.evse_group:
    url: http://127.0.0.1:8000
    group_id: garage
    group_max_current: 40
    heartbeat_timeout: 10
    members: [10.77.0.5:8001, 10.77.0.6:8000]
    priorities: {"10.77.0.6:8000": 1}
"""

RETURN = r"""
group:
  description: C(/loadsharing/status) of the controller.
  type: dict
  returned: with state present, and not in check mode
"""

import time
from functools import partial
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.labyard.lab.plugins.module_utils import evse_groups
from ansible_collections.labyard.lab.plugins.module_utils.evse_api import (
    ARGUMENTS,
    POLL_SECONDS,
    Entry,
    EvseApi,
    is_member,
    names,
    normal,
    owner,
    unmatched,
)

# By the names that they have in the module. The gateway checks them, too; check mode cannot ask it.
OPTIONS: dict[str, dict[str, Any]] = {
    "group_id": {"type": "str"},
    "group_max_current": {"type": "float"},
    "safety_factor": {"type": "float"},
    "heartbeat_timeout": {"type": "int"},
    "failsafe_mode": {"type": "str", "choices": ["safe_current", "disable"]},
    "failsafe_safe_current": {"type": "float"},
    "failsafe_peer_assumed_current": {"type": "float"},
    "rotation_interval": {"type": "int"},
    "priority": {"type": "int"},
}
RANGES = {"group_max_current": (0, 100_000), **evse_groups.RANGES}
# What a gateway has that is in no group.
NONE = {"enabled": False, "role": "", "group_id": "", "group_max_current": 0.0}


class Group:
    """One group, brought to what it shall be."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.want = module.params
        self.present = self.want["state"] == "present"
        self.api = EvseApi(module)
        self.members = [normal(host) for host in self.want["members"] or []]
        self.priorities = {normal(host): value for host, value in self.want["priorities"].items()}
        self.options = self.api.read_options()
        self.fresh = self.options is None
        self.joined: list[Entry] = []
        self.listed: list[Entry] = []
        self.controller = ""
        if self.options is None:
            self.options = {f"loadsharing_{key}": value for key, value in NONE.items()}
            return
        self.listed = self.api.call("GET", "/loadsharing/peers")
        self.joined = [entry for entry in self.listed if entry["joined"] and not entry.get("isLocal")]
        self.controller = self.api.own_host(self.options)

    @property
    def leaving(self) -> list[Entry]:
        return [entry for entry in self.joined if not names(entry) & set(self.members)]

    @property
    def joining(self) -> list[str]:
        return unmatched(self.members, self.joined)

    def wanted_options(self) -> dict[str, Any]:
        """By their names at the gateway."""
        wanted = NONE
        if self.present:
            given = {key: self.want[key] for key in OPTIONS if self.want[key] is not None}
            wanted = {"enabled": True, "role": "controller"} | given
        return {f"loadsharing_{key}": value for key, value in wanted.items()}

    def wanted_priorities(self) -> dict[str, tuple[Any, int]]:
        """What a member has and shall have, by its host, where that differs. None: it is not known."""
        if not self.priorities or self.fresh:
            return {host: (None, value) for host, value in self.priorities.items()}
        entries = self.api.call("GET", "/loadsharing/status")["peers"]
        differ = {}
        for host, value in self.priorities.items():
            has = next((entry.get("status", {}).get("priority") for entry in entries if host in names(entry)), None)
            if has != value:
                differ[host] = (has, value)
        return differ

    # Refused before anything is done

    def refuse(self) -> None:
        assert self.options is not None
        for option, (low, high) in RANGES.items():
            if self.want[option] is not None and not low <= self.want[option] <= high:
                self.api.fail(f"{option}: {self.want[option]:g} is not {low} to {high}")
        for host in self.members:
            if not set(".:") & set(host):
                self.api.fail(f"members: {host!r} is no address and no name with a domain; write NAME.local:PORT")
        for host, value in self.priorities.items():
            if host not in self.members:
                self.api.fail(f"priorities: {host} is not among members")
            if not isinstance(value, int) or isinstance(value, bool):
                self.api.fail(f"priorities: {host} has {value!r}, which is no whole number")
        after = self.options | self.wanted_options()
        budget, safe = after["loadsharing_group_max_current"], after.get("loadsharing_failsafe_safe_current", 0)
        if budget <= 0:
            self.api.fail("group_max_current: is 0, so nothing would be given out; give what the group may draw")
        if safe > budget:
            self.api.fail(f"failsafe_safe_current: {safe:g} is more than group_max_current, {budget:g}")
        if self.fresh:
            return
        self.api.refuse_member(self.options)
        if self.controller in self.members:
            self.api.fail(f"members: {self.controller} is the controller itself")
        for host in self.joining:
            self.refuse_others(host)

    def refuse_others(self, host: str) -> None:
        """A member of another group would be counted and not obey."""
        url = next((entry["url"] for entry in self.listed if host in names(entry)), f"http://{host}")
        options = self.api.at(url).options_if_there()
        if options is None:
            return  # it is waited for
        if is_member(options) and normal(options["loadsharing_controller_host"]) != self.controller:
            self.api.fail(f"members: {host} {owner(options)}; remove it there first")
        if options["loadsharing_enabled"] and options["loadsharing_role"] == "controller":
            self.api.fail(f"members: {host} is the controller of a group of its own; take that apart first")

    # Done

    def apply(self, options: dict[str, Any]) -> None:
        assert self.options is not None
        leaving = self.leaving
        if self.present and options:
            self.api.set_options(options, self.options)
        for entry in leaving:
            self.api.remove_peer(entry["host"])
        for host in self.joining:
            self.api.add_peer(host)
        if not self.present and options:
            self.api.set_options(options, self.options)

    def settle(self, leaving: list[Entry]) -> None:
        """Wait until all are what they shall be, and write the members' own priorities."""
        seconds = self.want["timeout"]
        if seconds > 0:
            self.api.await_online(self.members, "members", seconds)
            self.api.await_obeying(self.members, self.controller, seconds)
            self.api.await_free(leaving, self.controller, seconds)
        for host, (before, value) in self.wanted_priorities().items():
            self.set_priority(host, before, value)
        deadline = time.monotonic() + seconds
        while seconds > 0 and (differ := self.wanted_priorities()):
            if time.monotonic() > deadline:
                self.api.fail(f"priorities: the controller does not see those of {', '.join(differ)} after {seconds} s")
            time.sleep(POLL_SECONDS)

    def set_priority(self, host: str, before: Any, value: int) -> None:
        entry = next(entry for entry in self.api.joined() if host in names(entry))
        ways = [
            partial(
                self.api.at(entry["url"]).exchange,
                "POST",
                "/config",
                # A member takes options of load sharing only together with its role.
                {"loadsharing_role": "member", "loadsharing_priority": priority},
            )
            for priority in (value, before or 0)
        ]
        self.api.change(*ways)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            **OPTIONS,
            "members": {"type": "list", "elements": "str"},
            "priorities": {"type": "dict", "default": {}},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ("members",))],
        supports_check_mode=True,
    )
    group = Group(module)
    assert group.options is not None
    if group.present:
        group.refuse()
    elif is_member(group.options):
        module.exit_json(changed=False)
    options = {key: value for key, value in group.wanted_options().items() if group.options.get(key) != value}
    priorities = group.wanted_priorities() if group.present else {}
    leaving, joining = group.leaving, group.joining
    before: dict[str, Any] = {key.removeprefix("loadsharing_"): group.options.get(key) for key in options}
    after: dict[str, Any] = {key.removeprefix("loadsharing_"): value for key, value in options.items()}
    if leaving or joining:
        hosts = {entry["host"] for entry in group.joined}
        before["members"] = sorted(hosts)
        after["members"] = sorted(hosts - {entry["host"] for entry in leaving} | set(joining))
    if priorities:
        before["priorities"] = {host: has for host, (has, _) in priorities.items()}
        after["priorities"] = {host: value for host, (_, value) in priorities.items()}
    result: dict[str, Any] = {}
    if not module.check_mode:
        group.apply(options)
        group.settle(leaving)
        if group.present:
            result["group"] = group.api.call("GET", "/loadsharing/status")
            for issue in result["group"].get("config_issues", []):
                module.warn(issue)
    headers = {"before_header": group.api.url, "after_header": group.api.url}
    module.exit_json(changed=before != after, diff={"before": before, "after": after, **headers}, **result)


if __name__ == "__main__":
    main()
