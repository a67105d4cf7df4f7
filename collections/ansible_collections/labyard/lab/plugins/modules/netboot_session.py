#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: a machine's diskless-boot session of the netboot service."""

from __future__ import annotations

DOCUMENTATION = r"""
module: netboot_session
short_description: Have a machine boot from an image, or take its disk away
description:
  - Starts a session of the netboot service, which gives a machine a copy-on-write disk on an image, or stops it.
  - When it has started one, the machine can be switched on; with I(power=cycle) the service does that itself.
  - The session's secrets are not in what it returns.
options:
  machine:
    description: Name of a registered machine.
    type: str
    required: true
  image:
    description: Name of an image that is ready. Required when I(state=started).
    type: str
  state:
    description: Whether the machine has a session.
    type: str
    choices: [started, stopped]
    default: started
  restart:
    description:
      - What to do with a session on another image, or with another I(boot_method) or I(transport) than is asked for.
        Stop it and start the one that is asked for, or fail. A running machine loses its disk.
    type: bool
    default: false
  boot_method:
    description: C(sanboot) runs the disk's own boot loader; the others load kernel and initrd from the server.
    type: str
    choices: [sanboot, iscsi_root, ram_root]
    default: sanboot
  transport:
    description: How script, kernel and initrd travel.
    type: str
    choices: [tftp, http]
    default: tftp
  session_type:
    description: A label.
    type: str
    choices: [diskless_boot, maintenance, testing]
    default: diskless_boot
  description:
    description: A note, for a session that is started.
    type: str
  ssh_keys:
    description: Public keys for cloud-init, for a session that is started.
    type: list
    elements: str
    default: []
  user_data:
    description: A cloud-config for cloud-init, for a session that is started.
    type: str
  power:
    description:
      - C(cycle), for a session that is started - switch the machine off and on by its BMC once all is ready.
      - C(off), for a session that is stopped - switch it off before its disk goes. A BMC that fails gives a warning.
      - A session that is as it shall be is no reason to switch anything.
    type: str
    choices: [none, cycle, 'off']
    default: none
  keep_overlay:
    description: When a session is stopped, keep what the machine wrote.
    type: bool
    default: false
  wait_for:
    description: >-
      C(active): the machine can boot. C(booted): it has told that it is in userland; somebody has to switch it on.
    type: str
    choices: [active, booted]
    default: active
  timeout:
    description: How many seconds to wait for that.
    type: int
    default: 300
extends_documentation_fragment: [labyard.lab.netboot_api]
attributes:
  check_mode:
    support: full
    description: Says what would change. A machine or image that is not there yet counts as made by an earlier task.
  diff_mode: {support: full, description: Shows image, boot method and transport of the session.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: Boot a workstation from Debian
  labyard.lab.netboot_session:
    url: http://boot.example:8000
    password: "{{ vault_netboot_password }}"
    machine: ws1
    image: debian
    power: cycle
    wait_for: booted

- name: Take its disk away
  labyard.lab.netboot_session:
    url: http://boot.example:8000
    password: "{{ vault_netboot_password }}"
    machine: ws1
    state: stopped
"""

RETURN = r"""
session:
  description: The session, as the service has it.
  type: dict
  returned: when there is one, and not in check mode for one that is new
power_error:
  description: Why the machine was not switched off, when I(power=off) and it could not be.
  type: str
  returned: when that was so
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.labyard.lab.plugins.module_utils.netboot_api import API, ARGUMENTS, NetbootApi
from ansible_collections.labyard.lab.plugins.module_utils.service_api import Refused

HOW = ("boot_method", "transport")


class Session:
    """One machine's session, brought to where it shall be."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.want = module.params
        self.api = NetbootApi(module)
        self.deadline = time.monotonic() + self.want["timeout"]
        self.machine = self.api.named("machines", self.want["machine"])
        self.found = self.settled()
        self.power_error = ""

    def settled(self) -> dict[str, Any] | None:
        """The session, once it is neither starting nor stopping."""
        while True:
            found = self.api.session_of(self.machine["id"]) if self.machine else None
            if found is None or found["status"] not in ("starting", "stopping"):
                return found
            self.pause(f"the session of {self.want['machine']} is still {found['status']}")

    def pause(self, otherwise: str, **facts: Any) -> None:
        """Wait a little; fail when the time is over."""
        if time.monotonic() > self.deadline:
            self.module.fail_json(msg=f"{otherwise} after {self.want['timeout']} s", **facts)
        time.sleep(0.5)

    def shown(self) -> dict[str, Any]:
        """What a diff tells of the session that is there."""
        if self.found is None:
            return {}
        try:
            image = self.api.ask("GET", f"/images/{self.found['image_id']}")["name"]
        except Refused:  # removed since, under a session that only has to be cleaned up
            image = None
        return {"image": image, **{field: self.found[field] for field in HOW}, "status": self.found["status"]}

    def stop(self) -> None:
        """End the session that is there, if any."""
        if self.found is not None and not self.module.check_mode:
            power = self.want["power"] if self.want["state"] == "stopped" else "none"
            body = {"keep_overlay": self.want["keep_overlay"], "power": power}
            stopped = self.api.call("POST", f"{API}/sessions/{self.found['id']}/stop", body)
            if trouble := stopped.get("power_error"):
                self.power_error = trouble
                self.module.warn(f"{self.want['machine']} was not switched off: {trouble}")

    def start(self) -> dict[str, Any] | None:
        """Start the session that is asked for; None in check mode."""
        image = self.api.named("images", self.want["image"])
        missing = [
            f"{kind} {self.want[kind]}" for kind, one in (("machine", self.machine), ("image", image)) if one is None
        ]
        if missing and not self.module.check_mode:
            self.module.fail_json(msg=f"there is no {' and no '.join(missing)}; register it first")
        for one in missing:
            self.module.warn(f"there is no {one} yet; check mode takes it that an earlier task makes it")
        if self.module.check_mode:
            return None
        fields = (*HOW, "power", "session_type", "description", "ssh_keys", "user_data")
        body = {field: self.want[field] for field in fields}
        body |= {"machine_id": self.machine["id"], "image_id": image["id"]}
        started = self.api.call("POST", f"{API}/sessions/start", body)
        return dict(started["session"])

    def booted(self, session: dict[str, Any]) -> dict[str, Any]:
        """Wait until the machine tells that it is in userland."""
        name = self.want["machine"]
        while session["boot_phase"] != "booted":
            if session["boot_phase"] == "failed":
                self.module.fail_json(msg=f"{name} tells that it could not boot; its console says why", session=session)
            if session["status"] != "active":
                why = session["error_message"] or "somebody ended it"
                self.module.fail_json(msg=f"the session of {name} is {session['status']}: {why}", session=session)
            phase = session["boot_phase"]
            self.pause(f"{name} is not in userland (it came as far as: {phase}; is it on?)", session=session)
            session = self.api.call("GET", f"{API}/sessions/{session['id']}")
        return session


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "machine": {"type": "str", "required": True},
            "image": {"type": "str"},
            "state": {"type": "str", "choices": ["started", "stopped"], "default": "started"},
            "restart": {"type": "bool", "default": False},
            "boot_method": {"type": "str", "choices": ["sanboot", "iscsi_root", "ram_root"], "default": "sanboot"},
            "transport": {"type": "str", "choices": ["tftp", "http"], "default": "tftp"},
            "session_type": {
                "type": "str",
                "choices": ["diskless_boot", "maintenance", "testing"],
                "default": "diskless_boot",
            },
            "description": {"type": "str"},
            "ssh_keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "user_data": {"type": "str", "no_log": True},
            "power": {"type": "str", "choices": ["none", "cycle", "off"], "default": "none"},
            "keep_overlay": {"type": "bool", "default": False},
            "wait_for": {"type": "str", "choices": ["active", "booted"], "default": "active"},
            "timeout": {"type": "int", "default": 300},
        },
        required_if=[("state", "started", ("image",))],
        supports_check_mode=True,
    )
    power, only = module.params["power"], {"cycle": "started", "off": "stopped"}
    if only.get(power, module.params["state"]) != module.params["state"]:
        module.fail_json(msg=f"power: {power} goes with state: {only[power]}, not with state: {module.params['state']}")
    session = Session(module)
    before = session.shown()
    after: dict[str, Any] = {}
    found = session.found
    if module.params["state"] == "started":
        after = {field: module.params[field] for field in ("image", *HOW)} | {"status": "active"}
    changed = before != after
    if changed:
        if before and after and before["status"] == "active" and not module.params["restart"]:
            is_there = ", ".join(f"{key} {value}" for key, value in before.items() if value != after[key])
            module.fail_json(
                msg=f"{module.params['machine']} has a session with {is_there}; restart: true stops it and starts the "
                "one that is asked for",
                session=found,
            )
        session.stop()
        found = session.start() if after else None
    if found and module.params["wait_for"] == "booted" and not module.check_mode:
        found = session.booted(found)
    result: dict[str, Any] = {"session": found} if found else {}
    if session.power_error:
        result["power_error"] = session.power_error
    headers = {"before_header": module.params["machine"], "after_header": module.params["machine"]}
    module.exit_json(changed=changed, diff={"before": before, "after": after, **headers}, **result)


if __name__ == "__main__":
    main()
