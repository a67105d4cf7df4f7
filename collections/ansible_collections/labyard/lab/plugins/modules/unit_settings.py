#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: Labyard's settings on top of a package's systemd unit."""

from __future__ import annotations

DOCUMENTATION = r"""
module: unit_settings
short_description: Keep a drop-in for a systemd unit
description:
  - Writes C(/etc/systemd/system/<unit>.d/labyard.conf) with the given C([Service]) settings and has systemd read it.
    The unit is not restarted; notify a handler where a setting needs that.
options:
  unit:
    description: The unit, with its ending.
    type: str
    required: true
  settings:
    description: Lines of the C([Service]) section, in order.
    type: list
    elements: str
    default: []
  state:
    description: Whether the drop-in exists.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode: {support: full, description: Says whether the drop-in would change.}
  diff_mode: {support: full, description: Shows the drop-in before and after.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: Come back after a crash
  labyard.lab.unit_settings:
    unit: kea-dhcp4-server.service
    settings: [Restart=always, RestartSec=1]
"""

RETURN = r""" # """

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.labyard.lab.plugins.module_utils.text_file import converge


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "unit": {"type": "str", "required": True},
            "settings": {"type": "list", "elements": "str", "default": []},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    folder = f"/etc/systemd/system/{module.params['unit']}.d"
    after = ""
    if module.params["state"] == "present":
        after = "\n".join(["# Managed by Ansible", "[Service]", *module.params["settings"], ""])
    result = converge(module, os.path.join(folder, "labyard.conf"), after)
    if result["changed"] and not module.check_mode:
        if not os.listdir(folder):
            os.rmdir(folder)
        module.run_command(["systemctl", "daemon-reload"], check_rc=True)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
