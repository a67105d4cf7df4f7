#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: a node of the desktops service."""

from __future__ import annotations

DOCUMENTATION = r"""
module: desktop_node
short_description: Keep a node with the desktops service
description:
  - Registers a node with its hardware, keeps it in a pool, starts, stops or removes it.
  - A node keeps the type, hardware, location and configuration that it was registered with. Others are an error, which
    says what to do.
options:
  name:
    description: The node's name, 3 to 100 characters.
    type: str
    required: true
  node_type:
    description: What it is for. Required for a node that is new.
    type: str
    choices: [worker, validator, storage, compute]
  hardware_info:
    description: What it has. Required for a node that is new.
    type: dict
    suboptions:
      cpu:
        description: Its processor.
        type: dict
        required: true
        suboptions:
          cores: {description: How many cores., type: int, required: true}
          frequency_mhz: {description: How fast they are., type: float, required: true}
          architecture: {description: Such as C(x86_64)., type: str, required: true}
      memory:
        description: Its memory.
        type: dict
        required: true
        suboptions:
          total_bytes: {description: How much., type: int, required: true}
          type: {description: Such as C(DDR4)., type: str, required: true}
      storage:
        description: Its disks.
        type: dict
        required: true
        suboptions:
          total_bytes: {description: How much., type: int, required: true}
          type: {description: Such as C(SSD)., type: str, required: true}
          interface: {description: Such as C(NVMe)., type: str}
      gpu:
        description: Its graphics processor.
        type: dict
        suboptions:
          model: {description: What it is., type: str, required: true}
          memory_bytes: {description: How much memory it has., type: int, required: true}
      network:
        description: Its interfaces.
        type: list
        elements: dict
        suboptions:
          interface: {description: Its name., type: str, required: true}
          speed_mbps: {description: How fast it is., type: int, required: true}
          mac_address: {description: Its address., type: str}
  location:
    description: Where it is.
    type: dict
    suboptions:
      country: {description: Two capital letters., type: str, required: true}
      region: {description: Within the country., type: str, required: true}
      city: {description: Within the region., type: str}
      timezone: {description: Such as C(Europe/Berlin)., type: str}
  max_sessions:
    description: How many sessions it may carry.
    type: int
  agent_address:
    description: Where its agent listens, as C(https://HOST:8444). Without one it is declared only.
    type: str
  pool:
    description: The pool that it is in. A new node without one goes into C(pool_workers).
    type: str
  drain:
    description: Whether RDP servers that run on it are stopped when it is.
    type: bool
    default: false
  state:
    description:
      - C(present) registers it and leaves it as it is, C(started) and C(stopped) make it active or inactive.
      - C(absent) stops and removes it.
    type: str
    choices: [present, absent, started, stopped]
    default: present
extends_documentation_fragment: [labyard.lab.desktops_api]
attributes:
  check_mode: {support: full, description: Says what would change.}
  diff_mode: {support: full, description: Shows pool and status.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: Have a node that works
  labyard.lab.desktop_node:
    url: https://desktops.example:8443
    token: "{{ vault_desktops_token }}"
    name: rack-1
    node_type: worker
    hardware_info:
      cpu: {cores: 16, frequency_mhz: 2800, architecture: x86_64}
      memory: {total_bytes: 68719476736, type: DDR5}
      storage: {total_bytes: 1099511627776, type: NVMe}
    agent_address: https://10.0.0.11:8444
    state: started
"""

RETURN = r"""
node:
  description: The node, as the service has it.
  type: dict
  returned: when it is there, and not in check mode for one that is new
"""

from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.labyard.lab.plugins.module_utils.desktops_api import ARGUMENTS, DesktopsApi, differs, given

TEXT = {"type": "str"}
NUMBER = {"type": "int"}
NEEDED = {"required": True}
HARDWARE: dict[str, Any] = {
    "cpu": {
        "type": "dict", **NEEDED, "options": {
            "cores": NUMBER | NEEDED, "frequency_mhz": {"type": "float"} | NEEDED, "architecture": TEXT | NEEDED,
        },
    },
    "memory": {"type": "dict", **NEEDED, "options": {"total_bytes": NUMBER | NEEDED, "type": TEXT | NEEDED}},
    "storage": {
        "type": "dict", **NEEDED, "options": {
            "total_bytes": NUMBER | NEEDED, "type": TEXT | NEEDED, "interface": TEXT,
        },
    },
    "gpu": {"type": "dict", "options": {"model": TEXT | NEEDED, "memory_bytes": NUMBER | NEEDED}},
    "network": {
        "type": "list", "elements": "dict", "options": {
            "interface": TEXT | NEEDED, "speed_mbps": NUMBER | NEEDED, "mac_address": TEXT,
        },
    },
}  # fmt: skip
LOCATION: dict[str, Any] = {"country": TEXT | NEEDED, "region": TEXT | NEEDED, "city": TEXT, "timezone": TEXT}
FIRST_POOL = "pool_workers"
RESTING = ("inactive",)


class Node:
    """One node, brought to where it shall be."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.want = module.params
        self.api = DesktopsApi(module)
        found = self.api.all("/nodes", "nodes", name=self.want["name"])
        self.found: dict[str, Any] | None = found[0] if found else None

    def wanted(self) -> dict[str, Any]:
        """What was given of the things that a node keeps."""
        configuration = {"max_sessions": self.want["max_sessions"], "agent_address": self.want["agent_address"]}
        fields = {name: self.want[name] for name in ("node_type", "hardware_info", "location")}
        found: dict[str, Any] = given({**fields, "configuration": given(configuration) or None})
        return found

    def register(self) -> None:
        """A new one. Ends the module when something is missing."""
        body = self.wanted()
        if missing := [name for name in ("node_type", "hardware_info") if name not in body]:
            self.api.fail(f"node {self.want['name']} is new: give its {' and '.join(missing)}")
        if not self.module.check_mode:
            pool = self.want["pool"] or FIRST_POOL
            self.found = self.api.call("POST", "/nodes", {"name": self.want["name"], "initial_pool_id": pool, **body})

    def do(self, method: str, path: str, body: dict[str, Any] | None = None, **query: Any) -> None:
        if not self.module.check_mode and self.found:
            self.api.call(method, f"/nodes/{self.found['node_id']}{path}", body, **query)

    def stop(self) -> None:
        self.do("POST", "/stop", **({"drain": "true"} if self.want["drain"] else {}))

    def shown(self) -> dict[str, Any]:
        return {"pool": self.found["pool_id"], "status": self.found["status"]} if self.found else {}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "name": TEXT | NEEDED,
            "node_type": {"type": "str", "choices": ["worker", "validator", "storage", "compute"]},
            "hardware_info": {"type": "dict", "options": HARDWARE},
            "location": {"type": "dict", "options": LOCATION},
            "max_sessions": NUMBER,
            "agent_address": TEXT,
            "pool": TEXT,
            "drain": {"type": "bool", "default": False},
            "state": {"type": "str", "choices": ["present", "absent", "started", "stopped"], "default": "present"},
        },
        supports_check_mode=True,
    )
    node = Node(module)
    before = node.shown()
    if module.params["state"] == "absent":
        remove(node, before)
    after = dict(before)
    if node.found is None:
        node.register()
        after = {"pool": module.params["pool"] or FIRST_POOL, "status": "inactive"}
    elif different := differs(node.wanted(), node.found):
        module.fail_json(
            msg=f"node {module.params['name']} has another {', '.join(different)}; a node keeps what it was registered "
            "with: remove it first (state: absent)",
            node=node.found,
        )
    elif module.params["pool"] and module.params["pool"] != before["pool"]:
        after["pool"] = module.params["pool"]
        node.do("PUT", "/pool", {"pool_id": after["pool"]})
    if module.params["state"] == "started" and after["status"] != "active":
        # One that is only out of reach is started by whoever brings it back: its heartbeat.
        if after["status"] != "unreachable":
            after["status"] = "active"
            node.do("POST", "/start")
    elif module.params["state"] == "stopped" and after["status"] not in RESTING:
        after["status"] = "inactive"
        node.stop()
    if node.found and before != after and not module.check_mode:
        node.found = node.api.call("GET", f"/nodes/{node.found['node_id']}")
    result = {"node": node.found} if node.found else {}
    headers = {"before_header": module.params["name"], "after_header": module.params["name"]}
    module.exit_json(changed=before != after, diff={"before": before, "after": after, **headers}, **result)


def remove(node: Node, before: dict[str, Any]) -> NoReturn:
    if node.found is None:
        node.module.exit_json(changed=False)
    if before["status"] not in RESTING:
        node.stop()
    node.do("DELETE", "")
    diff = {"before": before, "after": {}, "before_header": node.want["name"]}
    node.module.exit_json(changed=True, diff=diff)
    raise AssertionError("exit_json ends the module")


if __name__ == "__main__":
    main()
