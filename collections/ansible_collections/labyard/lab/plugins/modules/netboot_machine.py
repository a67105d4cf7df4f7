#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: a machine of the netboot service."""

from __future__ import annotations

DOCUMENTATION = r"""
module: netboot_machine
short_description: Keep a machine registered with the netboot service
description:
  - Registers a machine, changes what is different, or removes it. The name says which machine it is.
  - An option that is left out is left as it is. An empty text clears what may be empty.
  - The service never tells a password. One that is given is handed over each time, and the service says whether it was
    another one; check mode cannot know that, and tells only of a machine that had none.
options:
  name:
    description: The machine's name. DHCP's host label comes from it.
    type: str
    required: true
  mac_address:
    description: 12 hex digits, bare or separated by C(:) or C(-). Required for a machine that is new.
    type: str
  ip_address:
    description: Its fixed IPv4 address. Without one, DHCP's pool gives one.
    type: str
  hostname:
    description: Its host name.
    type: str
  boot_mode:
    description: What it boots with. C(bios) is another word for C(legacy). The service takes C(uefi) for a new machine.
    type: str
    choices: [legacy, bios, uefi, uefi_secure]
  secure_boot_enabled:
    description: Whether secure boot is on.
    type: bool
  status:
    description: Only an active machine can get a session.
    type: str
    choices: [active, inactive, maintenance, retired]
  description:
    description: A note.
    type: str
  location:
    description: Where it stands.
    type: str
  room:
    description: Its room.
    type: str
  asset_tag:
    description: Its asset tag.
    type: str
  bmc_url:
    description: >-
      Its system in Redfish, as C(https://10.0.0.5/redfish/v1/Systems/1), for I(power) of C(netboot_session). An empty
      text forgets user and password, too.
    type: str
  bmc_username:
    description: Who may use its BMC.
    type: str
  bmc_password:
    description: That user's password.
    type: str
  bmc_verify_tls:
    description: Whether the certificate of its BMC is checked. The service takes C(true) for a new machine.
    type: bool
  state:
    description: Whether the machine is registered. One with a live session cannot be removed.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment: [labyard.lab.netboot_api]
attributes:
  check_mode: {support: full, description: Says what would change.}
  diff_mode: {support: full, description: Shows the fields that change.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: Register a workstation
  labyard.lab.netboot_machine:
    url: http://boot.example:8000
    password: "{{ vault_netboot_password }}"
    name: ws1
    mac_address: 52:54:00:77:00:09
    ip_address: 10.77.1.9
    boot_mode: uefi
"""

RETURN = r"""
machine:
  description: The machine, as the service has it.
  type: dict
  returned: when it is there, and not in check mode for one that is new
"""

import re
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.labyard.lab.plugins.module_utils.netboot_api import ARGUMENTS, NetbootApi

TEXTS = ("ip_address", "hostname", "description", "location", "room", "asset_tag", "bmc_url", "bmc_username")
FIELDS = ("mac_address", *TEXTS, "boot_mode", "secure_boot_enabled", "bmc_verify_tls", "status")


def wanted(params: dict[str, Any]) -> dict[str, Any]:
    """The fields that were given, written as the service writes them."""
    fields: dict[str, Any] = {}
    for field in FIELDS:
        value = params[field]
        if value is None:
            continue
        if field in TEXTS:
            value = value.strip() or None
        if field == "bmc_url" and value:
            value = value.rstrip("/")
        if field == "mac_address":
            digits = re.sub("[:-]", "", value.strip()).upper()
            value = ":".join(digits[i : i + 2] for i in range(0, 12, 2)) if len(digits) == 12 else value
        elif field == "boot_mode":
            value = "legacy" if value == "bios" else value
        elif field == "hostname" and value:
            value = value.lower()
        fields[field] = value
    return fields


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "name": {"type": "str", "required": True},
            "mac_address": {"type": "str"},
            "ip_address": {"type": "str"},
            "hostname": {"type": "str"},
            "boot_mode": {"type": "str", "choices": ["legacy", "bios", "uefi", "uefi_secure"]},
            "secure_boot_enabled": {"type": "bool"},
            "status": {"type": "str", "choices": ["active", "inactive", "maintenance", "retired"]},
            "description": {"type": "str"},
            "location": {"type": "str"},
            "room": {"type": "str"},
            "asset_tag": {"type": "str"},
            "bmc_url": {"type": "str"},
            "bmc_username": {"type": "str"},
            "bmc_password": {"type": "str", "no_log": True},
            "bmc_verify_tls": {"type": "bool"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    api, name = NetbootApi(module), module.params["name"].strip()
    found = api.named("machines", name)
    if module.params["state"] == "absent":
        remove(api, found, name)
    fields, password = wanted(module.params), module.params["bmc_password"] or None
    if found is None:
        if not fields.get("mac_address"):
            module.fail_json(msg=f"{name} is new: give its mac_address")
        create(api, name, fields, password)
    before = {field: found[field] for field in fields if found[field] != fields[field]}
    after = {field: fields[field] for field in before}
    changed = bool(before) or (password is not None and not found["bmc_password_set"])
    if (before or password) and not module.check_mode:
        known = found["updated_at"]
        found = api.call("PUT", f"/machines/{found['id']}", after | with_password(password))
        changed = found["updated_at"] != known  # so it is with another password, too
    result = {"changed": changed, "machine": {**found, **after}}
    module.exit_json(**result, diff={"before": before, "after": after, "before_header": name, "after_header": name})


def with_password(password: str | None) -> dict[str, str]:
    return {} if password is None else {"bmc_password": password}


def remove(api: NetbootApi, found: dict[str, Any] | None, name: str) -> None:
    if found is None:
        api.module.exit_json(changed=False)
    if not api.module.check_mode:
        api.call("DELETE", f"/machines/{found['id']}")
    before = {field: found[field] for field in FIELDS if found[field] is not None}
    api.module.exit_json(changed=True, diff={"before": before, "after": {}, "before_header": name})


def create(api: NetbootApi, name: str, fields: dict[str, Any], password: str | None) -> None:
    diff = {"before": {}, "after": fields, "after_header": name}
    if api.module.check_mode:
        api.module.exit_json(changed=True, diff=diff)
    # A status is not among what a new machine is given, so it is set right after.
    status = fields.get("status")
    given = {"name": name} | {field: value for field, value in fields.items() if field != "status"}
    machine = api.call("POST", "/machines", given | with_password(password))
    if status and machine["status"] != status:
        machine = api.call("PUT", f"/machines/{machine['id']}", {"status": status})
    api.module.exit_json(changed=True, machine=machine, diff=diff)


if __name__ == "__main__":
    main()
