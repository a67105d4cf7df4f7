#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: a template of the VM manager."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_template
short_description: Keep a template with the VM manager
description:
  - Makes a template, from which VMs get their CPUs and memory, or removes it.
  - A template never changes. One of this name with other numbers is an error, which says what to do.
options:
  name:
    description: The template's name.
    type: str
    required: true
  cpu_count:
    description: How many CPUs, 1 to 255. Required for a template that is new.
    type: int
  ram_amount:
    description: How much memory, in MiB. Required for a template that is new.
    type: int
  state:
    description: Whether the template is there. One that a VM was made from cannot be removed.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment: [labyard.lab.vms_api]
attributes:
  check_mode: {support: full, description: Says what would change.}
  diff_mode: {support: full, description: Shows CPUs and memory.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: Have a small template
  labyard.lab.vm_template:
    url: http://vms.example:8000
    token: "{{ vault_vms_token }}"
    name: small
    cpu_count: 1
    ram_amount: 512
"""

RETURN = r"""
template:
  description: The template, as the service has it.
  type: dict
  returned: when it is there, and not in check mode for one that is new
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.labyard.lab.plugins.module_utils.vms_api import ARGUMENTS, VmsApi, segment

FIELDS = ("cpu_count", "ram_amount")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "name": {"type": "str", "required": True},
            "cpu_count": {"type": "int"},
            "ram_amount": {"type": "int"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    api, name = VmsApi(module), module.params["name"]
    found = api.found(f"/templates/{segment(name)}")
    if module.params["state"] == "absent":
        remove(api, found, name)
    wanted = {field: module.params[field] for field in FIELDS if module.params[field] is not None}
    if found is None:
        create(api, name, wanted)
    different = ", ".join(
        f"{field} {found[field]}, not {wanted[field]}" for field in wanted if found[field] != wanted[field]
    )
    if different:
        module.fail_json(
            msg=f"template {name} has {different}; a template never changes: give the other one another name, "
            "or remove this one first (state: absent) when no VM was made from it",
            template=found,
        )
    module.exit_json(changed=False, template=found)


def remove(api: VmsApi, found: dict[str, Any] | None, name: str) -> None:
    if found is None:
        api.module.exit_json(changed=False)
    if not api.module.check_mode and not api.allow("in use", "DELETE", f"/templates/{segment(name)}"):
        api.fail(f"template {name} is in use; remove the VMs that were made from it first (labyard.lab.vm)")
    before = {field: found[field] for field in FIELDS}
    api.module.exit_json(changed=True, diff={"before": before, "after": {}, "before_header": name})


def create(api: VmsApi, name: str, wanted: dict[str, Any]) -> None:
    if missing := " and ".join(field for field in FIELDS if field not in wanted):
        api.fail(f"template {name} is new: give its {missing}")
    diff = {"before": {}, "after": wanted, "after_header": name}
    if api.module.check_mode:
        api.module.exit_json(changed=True, diff=diff)
    made = api.call("POST", "/templates", {"name": name, **wanted})
    api.module.exit_json(changed=True, template=made, diff=diff)


if __name__ == "__main__":
    main()
