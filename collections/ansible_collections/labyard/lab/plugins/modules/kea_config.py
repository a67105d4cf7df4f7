#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: Kea's DHCPv4 configuration file, which the netboot service writes too."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kea_config
short_description: Have Kea's DHCPv4 configuration carry a base
description:
  - The netboot service sets reservations in the running Kea, and Kea writes the whole configuration to its file. So the
    file is Kea's own text, which no template can be compared with.
  - This module notes a digest of the base in the file's user-context. When that is another one, it writes the base
    anew, with the service's reservations and client classes carried over from the file. Otherwise the file stays.
  - It reads and writes the file only. Notify a handler that has Kea load it.
options:
  dest:
    description: The configuration file that Kea starts from.
    type: path
    required: true
  base:
    description: The whole configuration as JSON, without anything of the service's.
    type: json
    required: true
  validate:
    description: Command that must accept the file before it is put in place. C(%s) stands for its path.
    type: str
extends_documentation_fragment: [ansible.builtin.files]
attributes:
  check_mode: {support: full, description: Says whether the file would change.}
  diff_mode: {support: full, description: Shows the file before and after.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: Have Kea's configuration carry the base
  labyard.lab.kea_config:
    dest: /etc/kea/kea-dhcp4.conf
    base: "{{ lookup('ansible.builtin.template', 'labyard-base.json.j2') }}"
    validate: kea-dhcp4 -t %s
    owner: _kea
    mode: "0640"
  notify: Load the DHCP configuration
"""

RETURN = r"""
carried:
  description: Hardware addresses whose reservations of the netboot service were carried over.
  type: list
  elements: str
  returned: when the file changes
"""

import hashlib
import ipaddress
import json
import os
import tempfile
from collections.abc import Iterator
from typing import Any

from ansible.module_utils.basic import AnsibleModule

# The netboot service's mark, as in labyard.netboot.adapters.kea_merge; a unit test compares the two.
MARK = "labyard-netboot"
DIGEST = "labyard-base"


def digest(base: dict[str, Any]) -> str:
    """A digest of the base, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(base, sort_keys=True).encode()).hexdigest()


def recorded(config: dict[str, Any]) -> str:
    """The digest of the base that a configuration carries; empty when it carries none."""
    return str((config.get("Dhcp4", {}).get("user-context") or {}).get(DIGEST, ""))


def mark_of(item: dict[str, Any]) -> dict[str, Any] | None:
    """The service's mark on a reservation or class; None when it is somebody else's."""
    mark = (item.get("user-context") or {}).get(MARK)
    return mark if isinstance(mark, dict) else None


def subnets(dhcp4: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every subnet, those in shared networks too."""
    yield from dhcp4.get("subnet4", [])
    for network in dhcp4.get("shared-networks", []):
        yield from network.get("subnet4", [])


def rebuild(base: dict[str, Any], live: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The base with its digest and with what is the service's in `live`; and the hardware addresses carried over.

    ValueError when a reservation has no place in the base.
    """
    config = json.loads(json.dumps(base))
    dhcp4, old = config["Dhcp4"], live.get("Dhcp4", {})
    dhcp4["user-context"] = (dhcp4.get("user-context") or {}) | {DIGEST: digest(base)}
    carried = []
    for subnet in subnets(old):
        for item in subnet.get("reservations", []):
            if mark_of(item) is not None:
                place(dhcp4, item, subnet["subnet"])
                carried.append(item["hw-address"])
    classes = [item for item in old.get("client-classes", []) if mark_of(item) is not None]
    if classes:
        # The service has some classes before all others and some, which wait for the reservation, after them.
        late = [item for item in classes if "member('KNOWN')" in item.get("test", "")]
        early = [item for item in classes if item not in late]
        dhcp4["client-classes"] = [*early, *dhcp4.get("client-classes", []), *late]
    return config, sorted(carried)


def place(dhcp4: dict[str, Any], item: dict[str, Any], was_in: str) -> None:
    """Put a reservation of the service into its subnet; the base's own of that machine is set aside inside it."""
    mac, address = item["hw-address"].lower(), item.get("ip-address", "")
    for subnet in subnets(dhcp4):
        for other in subnet.get("reservations", []):
            if address and other.get("ip-address") == address and other.get("hw-address", "").lower() != mac:
                raise ValueError(
                    f"the base reserves {address} for {other.get('hw-address', 'another client')}, but a session of "
                    f"the netboot service has it for {mac}; change the base or stop the session"
                )
    where = ipaddress.ip_address(address or was_in.split("/")[0])
    homes = [subnet for subnet in subnets(dhcp4) if where in ipaddress.ip_network(subnet["subnet"])]
    if not homes:
        raise ValueError(
            f"a session of the netboot service has a reservation for {mac} ({address or was_in}), which is in none of "
            "the base's subnets; stop the session first, or keep the subnet"
        )
    home = max(homes, key=lambda subnet: ipaddress.ip_network(subnet["subnet"]).prefixlen)
    others = home.get("reservations", [])
    replaced = [other for other in others if other.get("hw-address", "").lower() == mac and mark_of(other) is None]
    item = json.loads(json.dumps(item))
    item["user-context"][MARK].pop("replaces", None)
    if replaced:
        item["user-context"][MARK]["replaces"] = replaced[0]
    home["reservations"] = [other for other in others if other not in replaced] + [item]


def parse(text: str) -> dict[str, Any]:
    """The configuration in a file. One with comments was not written by Kea, so nothing in it is the service's.

    ValueError when the service's things are in it and it cannot be read.
    """
    try:
        found = json.loads(text)
    except ValueError:
        if MARK in text:
            raise ValueError("is not JSON, but has things of the netboot service in it; mend or remove it") from None
        return {}
    return found if isinstance(found, dict) else {}


def write(module: AnsibleModule, path: str, text: str) -> None:
    """Replace the file, once the validating command has accepted it. A confined Kea reads its own folder only."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    handle, candidate = tempfile.mkstemp(prefix=".labyard-", dir=os.path.dirname(path))
    with os.fdopen(handle, "w", encoding="utf-8") as target:
        target.write(text)
    module.add_cleanup_file(candidate)
    if command := module.params["validate"]:
        code, out, err = module.run_command([part.replace("%s", candidate) for part in command.split()])
        if code:
            said = (err.strip() or out.strip()).replace(candidate, path)
            module.fail_json(msg=f"{path} was left as it was: the new configuration is refused: {said}")
    module.atomic_move(candidate, path)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "dest": {"type": "path", "required": True},
            "base": {"type": "json", "required": True},
            "validate": {"type": "str"},
        },
        add_file_common_args=True,
        supports_check_mode=True,
    )
    path = module.params["dest"]
    before = ""
    if os.path.exists(path):
        with open(path, encoding="utf-8") as content:
            before = content.read()
    result: dict[str, Any] = {"changed": False}
    try:
        base = json.loads(module.params["base"])
        live = parse(before)
        if recorded(live) != digest(base):
            config, carried = rebuild(base, live)
            after = json.dumps(config, indent=2) + "\n"
            result = {
                "changed": True,
                "carried": carried,
                "diff": {"before": before, "after": after, "before_header": path},
            }
            if not module.check_mode:
                write(module, path, after)
    except (ValueError, KeyError, TypeError) as error:
        module.fail_json(msg=f"{path}: {error}")
    if os.path.exists(path):
        result["changed"] = module.set_fs_attributes_if_different(
            module.load_file_common_arguments(module.params, path=path), result["changed"]
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
