#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: one command to a Kea daemon's control socket."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kea_command
short_description: Send a command to Kea's control socket
description:
  - Sends one command and fails when Kea's answer is not a success.
  - When nothing listens on the socket and I(start_unit) is given, that unit is restarted instead, so that a handler
    works for a daemon that is up and for one that is not.
options:
  socket:
    description: Path of the control socket.
    type: path
    required: true
  command:
    description: The command, such as C(config-reload).
    type: str
    required: true
  arguments:
    description: Its arguments.
    type: dict
  start_unit:
    description: systemd unit to restart when nothing listens.
    type: str
  timeout:
    description: Seconds to wait for the answer.
    type: int
    default: 15
attributes:
  check_mode: {support: full, description: Sends nothing.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: Load a new configuration without losing a request
  labyard.lab.kea_command:
    socket: /run/kea/kea4-ctrl-socket
    command: config-reload
"""

RETURN = r"""
arguments:
  description: What Kea answered.
  type: dict
  returned: when Kea answered
"""

import json
import socket
from typing import Any

from ansible.module_utils.basic import AnsibleModule


def ask(path: str, command: str, arguments: dict[str, Any] | None, timeout: float) -> dict[str, Any]:
    """Return Kea's answer. OSError when nothing listens, ValueError when the answer is not JSON."""
    request: dict[str, Any] = {"command": command}
    if arguments is not None:
        request["arguments"] = arguments
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(timeout)
        stream.connect(path)
        stream.sendall(json.dumps(request).encode())
        answer = b""
        while chunk := stream.recv(65536):
            answer += chunk
    parsed: dict[str, Any] = json.loads(answer)
    return parsed


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "socket": {"type": "path", "required": True},
            "command": {"type": "str", "required": True},
            "arguments": {"type": "dict"},
            "start_unit": {"type": "str"},
            "timeout": {"type": "int", "default": 15},
        },
        supports_check_mode=True,
    )
    given = module.params
    if module.check_mode:
        module.exit_json(changed=True)
    try:
        answer = ask(given["socket"], given["command"], given["arguments"], given["timeout"])
    except (FileNotFoundError, ConnectionRefusedError):
        if not given["start_unit"]:
            module.fail_json(msg=f"nothing listens on {given['socket']}; is Kea running?")
        module.run_command(["systemctl", "restart", given["start_unit"]], check_rc=True)
        module.exit_json(changed=True, msg=f"restarted {given['start_unit']}")
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"Kea did not answer {given['command']} on {given['socket']}: {error}")
    if answer.get("result") != 0:
        module.fail_json(msg=f"Kea refused {given['command']}: {answer.get('text', answer)}")
    module.exit_json(changed=True, arguments=answer.get("arguments", {}))


if __name__ == "__main__":
    main()
