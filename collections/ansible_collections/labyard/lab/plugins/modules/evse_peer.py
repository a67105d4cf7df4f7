#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: one peer of a charger gateway."""

from __future__ import annotations

DOCUMENTATION = r"""
module: evse_peer
short_description: Keep a peer in the group of a charger gateway
description:
  - Adds one peer, or removes it. The gateway's other peers and its options stay as they are; C(evse_group) keeps a
    whole group.
  - A peer that is in the group already is known by each of its names, by its address and by its id.
  - What fails half-way, as a peer that does not come online, is taken back.
options:
  host:
    description: The peer, as C(NAME.local:PORT) or C(ADDRESS:PORT).
    type: str
    required: true
  state:
    description: Whether it is in the group. A gateway tells a peer that it removes, which then is free.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment: [labyard.lab.evse_api]
attributes:
  check_mode:
    support: full
    description: Says what would change. A gateway that does not answer counts as started by an earlier task.
  diff_mode: {support: full, description: Shows the peers before and after.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: Have the charger at the gate share with the one in the garage
  labyard.lab.evse_peer:
    url: http://garage.example:8000
    host: 10.77.0.6:8000
"""

RETURN = r"""
peer:
  description: The peer, as the gateway lists it.
  type: dict
  returned: with state present, and not in check mode for one that is new
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.labyard.lab.plugins.module_utils.evse_api import ARGUMENTS, EvseApi, names, normal


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "host": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    api, host, wanted = EvseApi(module), normal(module.params["host"]), module.params["state"] == "present"
    options = api.read_options()
    if options is None:
        module.exit_json(changed=wanted, diff={"before": {"peers": []}, "after": {"peers": [host] if wanted else []}})
    api.refuse_member(options)
    joined = api.joined()
    found = [entry for entry in joined if host in names(entry)]
    before = sorted(entry["host"] for entry in joined)
    after = sorted({*before, host} if wanted else set(before) - {entry["host"] for entry in found})
    if wanted and found:
        after = before
    if before != after and not module.check_mode:
        if wanted:
            api.add_peer(host)
        for entry in found if not wanted else []:
            api.remove_peer(entry["host"])
    if not module.check_mode and module.params["timeout"] > 0:
        if wanted:
            api.await_online([host], "host", module.params["timeout"])
        elif found:
            api.await_free(found, api.own_host(options), module.params["timeout"])
    shown = [entry for entry in api.joined() if host in names(entry)] if wanted else []
    result = {"peer": shown[0]} if shown else {}
    module.exit_json(
        changed=before != after,
        diff={
            "before": {"peers": before},
            "after": {"peers": after},
            "before_header": api.url,
            "after_header": api.url,
        },
        **result,
    )


if __name__ == "__main__":
    main()
