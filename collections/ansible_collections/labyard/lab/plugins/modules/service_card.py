#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: a host's own record of a daemon that a role runs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service_card
short_description: Write down on a host which daemon a role runs there
description:
  - Each role that starts a daemon leaves a card in C(/etc/labyard/services.d). C(labyard status) reads the cards
    of a live lab, so that units and ports are named in one place, the role.
options:
  name:
    description: The role's name.
    type: str
    required: true
  unit:
    description: The systemd unit of the daemon.
    type: str
  listen:
    description: Where it listens, as C(address:port/protocol), or a socket's path.
    type: list
    elements: str
    default: []
  about:
    description: One short sentence for people.
    type: str
  state:
    description: Whether the card exists.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode: {support: full, description: Says whether the card would change.}
  diff_mode: {support: full, description: Shows the card before and after.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: Leave a card
  labyard.lab.service_card:
    name: tftp
    unit: tftpd-hpa.service
    listen: [10.77.0.2:69/udp]
    about: Boot programs and scripts
"""

RETURN = r""" # """

import json
import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.labyard.lab.plugins.module_utils.text_file import converge

FOLDER = "/etc/labyard/services.d"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "unit": {"type": "str"},
            "listen": {"type": "list", "elements": "str", "default": []},
            "about": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ("unit", "about"))],
        supports_check_mode=True,
    )
    after = ""
    if module.params["state"] == "present":
        fields = ("name", "unit", "listen", "about")
        after = json.dumps({key: module.params[key] for key in fields}, indent=2) + "\n"
    module.exit_json(**converge(module, os.path.join(FOLDER, module.params["name"] + ".json"), after))


if __name__ == "__main__":
    main()
