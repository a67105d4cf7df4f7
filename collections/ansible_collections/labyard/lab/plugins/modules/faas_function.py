#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: a function of faasd."""

from __future__ import annotations

DOCUMENTATION = r"""
module: faas_function
short_description: Keep a function deployed, made of an image archive
description:
  - Deploys an image archive as a function, a new version of it when image or limits differ, or removes it.
  - What the archive holds is found out where the task runs. One that is deployed already is not uploaded.
  - A function keeps its address for as long as it is there. A deploy that fails leaves the version before it.
options:
  name:
    description: The function's name.
    type: str
    required: true
  image:
    description:
      - The image as an archive, what C(docker save) writes or an OCI layout, on the host that runs this task.
      - An image that differs from the deployed one by nothing but the name of its user is taken for the same.
    type: path
  limits:
    description:
      - Limits of its own. What is not named is as the daemon has it.
      - Other limits need another deploy, and so another upload.
    type: dict
    default: {}
    suboptions:
      memory:
        description: Memory of one request, in bytes or as C(256M).
        type: raw
      cpu:
        description: Processor cores of one request.
        type: float
      pids:
        description: Processes and threads of one request.
        type: int
      tmp:
        description: Size of its C(/tmp), in bytes or as C(16M).
        type: raw
      timeout:
        description: Seconds that one request may take.
        type: float
      concurrency:
        description: Requests at once.
        type: int
      warm:
        description: Handlers that wait for a request.
        type: int
  state:
    description: Whether the function is there.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment: [labyard.lab.faas_api]
attributes:
  check_mode: {support: full, description: Says what would change. The image is read.}
  diff_mode: {support: full, description: Shows key, command, environment, directory and limits.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: Have a function
  labyard.lab.faas_function:
    url: http://127.0.0.1:8080
    token: "{{ faas_token }}"
    name: hello
    image: /srv/images/hello.tar
    limits:
      memory: 128M
      timeout: 10

- name: Take one away
  labyard.lab.faas_function:
    url: http://127.0.0.1:8080
    token: "{{ faas_token }}"
    name: hello
    state: absent
"""

RETURN = r"""
function:
  description: The function, as the daemon has it registered, with its C(ip).
  type: dict
  returned: when it is there, and not in check mode for one that is new
not_enforced:
  description: Limits that its host cannot enforce.
  type: list
  elements: str
  returned: when it was deployed
"""

import os
import re
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.labyard.lab.plugins.module_utils.faas_api import ARGUMENTS, FaasApi
from ansible_collections.labyard.lab.plugins.module_utils.faas_image import Unreadable, describe
from ansible_collections.labyard.lab.plugins.module_utils.faas_values import limit_problems, limit_value, name_problem

NUMBERS = re.compile(r"\d+:\d+")


def wanted_limits(module: AnsibleModule) -> dict[str, Any]:
    """Those that were given. A wrong one ends the module."""
    limits = {name: value for name, value in (module.params["limits"] or {}).items() if value is not None}
    if found := limit_problems("limits", limits):
        module.fail_json(msg="; ".join(found))
    return limits


def compared(function: dict[str, Any]) -> dict[str, Any]:
    """What makes one version of a function another, in one form, whoever wrote it."""
    limits = {name: limit_value(name, value) for name, value in function["limits"].items()}
    same = {name: function[name] for name in ("key", "cmd", "env", "workdir")}
    return {**same, "limits": dict(sorted(limits.items()))}


def described(module: AnsibleModule, limits: dict[str, Any]) -> dict[str, Any] | None:
    """What the archive will be; None in check mode when an earlier task would bring it."""
    image = module.params["image"]
    if not os.path.isfile(image):
        if not module.check_mode:
            module.fail_json(msg=f"image: there is no file {image} on this host")
        module.warn(f"image: there is no file {image}. Check mode takes it that an earlier task brings it")
        return None
    try:
        return {**describe(image), "limits": limits}
    except Unreadable as error:
        module.fail_json(msg=f"image: {error}")
        raise AssertionError("fail_json ends the module") from error


def differs(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """A user of numbers is compared; a name is known to the image alone."""
    numbers = wanted["user"] if NUMBERS.fullmatch(wanted["user"]) else None
    return compared(found) != compared(wanted) or (
        numbers is not None and [int(number) for number in numbers.split(":")] != found["user"][:2]
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "name": {"type": "str", "required": True},
            "image": {"type": "path"},
            "limits": {
                "type": "dict",
                "default": {},
                "options": {
                    "memory": {"type": "raw"},
                    "cpu": {"type": "float"},
                    "pids": {"type": "int"},
                    "tmp": {"type": "raw"},
                    "timeout": {"type": "float"},
                    "concurrency": {"type": "int"},
                    "warm": {"type": "int"},
                },
            },
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ("image",))],
        supports_check_mode=True,
    )
    api, name = FaasApi(module), module.params["name"]
    if problem := name_problem(name):
        module.fail_json(msg=f"name: {problem}")
    limits = wanted_limits(module)
    if module.params["state"] == "absent":
        remove(api, name)
    wanted = described(module, limits)
    found = api.function(name)
    changed = found is None or wanted is None or differs(found, wanted)
    diff = {
        "before": compared(found) if found else {},
        "after": compared(wanted) if wanted else {},
        "before_header": name,
        "after_header": name,
    }
    result: dict[str, Any] = {}
    if changed and not module.check_mode:
        result["not_enforced"] = api.deploy(name, module.params["image"], limits).get("not_enforced", [])
        found = api.function(name)
    if found:
        result["function"] = found
    module.exit_json(changed=changed, diff=diff, **result)


def remove(api: FaasApi, name: str) -> None:
    found = api.function(name)
    if found is None:
        api.module.exit_json(changed=False)
    if not api.module.check_mode:
        api.remove(name)
    api.module.exit_json(changed=True, diff={"before": compared(found), "after": {}, "before_header": name})


if __name__ == "__main__":
    main()
