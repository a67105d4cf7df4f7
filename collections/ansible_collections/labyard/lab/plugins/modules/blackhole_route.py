#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: a blackhole route for a lab's supernet."""

from __future__ import annotations

DOCUMENTATION = r"""
module: blackhole_route
short_description: Drop packets for a destination that no better route takes
description:
  - Sets or removes a C(blackhole) route in the main table, with iproute2.
options:
  destination:
    description: IPv4 network in CIDR form.
    type: str
    required: true
  state:
    description: Whether the route exists.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode: {support: full, description: Says whether the route would change.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: Nothing of the lab leaves this machine
  labyard.lab.blackhole_route:
    destination: 10.77.0.0/16
"""

RETURN = r""" # """

import ipaddress
import json

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "destination": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    try:
        destination = str(ipaddress.IPv4Network(module.params["destination"]))
    except ValueError as error:
        module.fail_json(msg=f"destination: {error}; write a network such as 10.77.0.0/16")

    ip = module.get_bin_path("ip", required=True)
    _, listed, _ = module.run_command([ip, "-j", "route", "show", "type", "blackhole"], check_rc=True)
    exists = any(route["dst"] == destination for route in json.loads(listed or "[]"))
    changed = exists != (module.params["state"] == "present")
    if changed and not module.check_mode:
        verb = "add" if module.params["state"] == "present" else "del"
        module.run_command([ip, "route", verb, "blackhole", destination], check_rc=True)
    module.exit_json(changed=changed)


if __name__ == "__main__":
    main()
