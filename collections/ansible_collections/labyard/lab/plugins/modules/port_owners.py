#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: who has TCP ports that are wanted."""

from __future__ import annotations

DOCUMENTATION = r"""
module: port_owners
short_description: Say who else listens on TCP ports that a role is about to use
description:
  - Looks which process listens on each of the ports, and names it with its systemd unit, or with its container.
  - What belongs to the role itself is not counted.
options:
  ports:
    description: TCP ports.
    type: list
    elements: int
    required: true
  own_units:
    description: Patterns of units that may have them.
    type: list
    elements: str
    default: []
  own_containers:
    description: Patterns of names of Docker containers that may have them.
    type: list
    elements: str
    default: []
attributes:
  check_mode: {support: full, description: Changes nothing in any mode.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: Look who has the ports
  labyard.lab.port_owners:
    ports: [8000, 8001]
    own_units: ["labyard-evse-*"]
  register: ports
"""

RETURN = r"""
taken:
  description: Ports that others have, each with its C(port) and C(owner), and both as a C(message).
  type: list
  elements: dict
  returned: always
"""

import re
from fnmatch import fnmatchcase

from ansible.module_utils.basic import AnsibleModule

LISTENER = re.compile(
    r"^\S+\s+\d+\s+\d+\s+\S+:(?P<port>\d+)\s+\S+(?:\s+users:\(\(\"(?P<name>[^\"]+)\",pid=(?P<pid>\d+))?"
)
UNIT = re.compile(r"([^/\s]+\.(?:service|scope))")


def parse_listeners(text: str) -> dict[int, tuple[str, int]]:
    """Program and process id by port, of C(ss -Hlntp). Id 0: a process that cannot be seen."""
    found: dict[int, tuple[str, int]] = {}
    for line in text.splitlines():
        match = LISTENER.match(line)
        if match and (match["pid"] or int(match["port"]) not in found):
            found[int(match["port"])] = (match["name"] or "a process that cannot be seen", int(match["pid"] or 0))
    return found


def unit_of(process: int) -> str:
    """The systemd unit that the process belongs to, or an empty text."""
    try:
        with open(f"/proc/{process}/cgroup", encoding="utf-8") as groups:
            units = UNIT.findall(groups.read())
    except OSError:  # ended meanwhile
        return ""
    return str(units[-1]) if units else ""


def container_at(module: AnsibleModule, port: int) -> str:
    """The container that has published the port, or an empty text."""
    ask = ["docker", "ps", "--filter", f"publish={port}", "--format", "{{.Names}}"]
    code, out, _ = module.run_command(ask)
    return out.strip() if code == 0 else ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "ports": {"type": "list", "elements": "int", "required": True},
            "own_units": {"type": "list", "elements": "str", "default": []},
            "own_containers": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    _, out, _ = module.run_command(["ss", "-Hlntp"], check_rc=True)
    listeners = parse_listeners(out)
    taken = []
    for port in sorted(set(module.params["ports"]) & set(listeners)):
        program, process = listeners[port]
        owner, patterns = unit_of(process), module.params["own_units"]
        if program == "docker-proxy" and (container := container_at(module, port)):
            owner, patterns = container, module.params["own_containers"]
            program = "container"
        if any(fnmatchcase(owner, pattern) for pattern in patterns):
            continue
        who = " ".join(word for word in (program, owner, f"(pid {process})" if process else "") if word)
        taken.append({"port": port, "owner": who, "message": f"port {port} is taken by {who}"})
    module.exit_json(changed=False, taken=taken)


if __name__ == "__main__":
    main()
