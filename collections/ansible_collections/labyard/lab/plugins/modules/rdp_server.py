#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: an RDP server of the desktops service."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rdp_server
short_description: Keep an RDP server with the desktops service
description:
  - Makes an RDP server, keeps its configuration, starts, stops or deletes it.
  - Servers are found by their name among those of O(user_id). More than one of that name is an error.
  - A server keeps its resources. Others are an error, which says what to do.
options:
  name:
    description: The server's name.
    type: str
    required: true
  user_id:
    description: Whom it is for.
    type: str
    required: true
  description:
    description: What it is for. Only a new server takes it.
    type: str
  configuration:
    description:
      - What its desktop is like. What is left out has the service's default.
      - One that runs is restarted when it changes, unless somebody records it.
    type: dict
    suboptions:
      desktop_environment: {description: Which one., type: str, choices: [xfce, gnome, kde, lxde, icewm]}
      resolution: {description: Such as C(1920x1080)., type: str}
      color_depth: {description: Bits., type: int, choices: [16, 24, 32]}
      use_tls: {description: Whether its clients must use TLS., type: bool}
      audio: {description: Whether there is sound., type: bool}
      clipboard: {description: Whether the clipboard is shared., type: bool}
      drive_redirection: {description: Whether clients may bring drives., type: bool}
      printer_redirection: {description: Whether clients may bring printers., type: bool}
  resources:
    description: What it may use. Required for a server that is new.
    type: dict
    suboptions:
      cpu_limit: {description: Cores., type: float, required: true}
      memory_limit: {description: MiB., type: int, required: true}
      disk_limit: {description: MiB., type: int, required: true}
      network_bandwidth: {description: Mbit/s., type: int, required: true}
  state:
    description: Whether it is there, and whether it runs. C(present) leaves it running or stopped, as it is.
    type: str
    choices: [present, absent, started, stopped]
    default: present
extends_documentation_fragment: [labyard.lab.desktops_api]
attributes:
  check_mode: {support: full, description: Says what would change.}
  diff_mode: {support: full, description: Shows configuration and status.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: Have a desktop for Alice
  labyard.lab.rdp_server:
    url: https://desktops.example:8443
    token: "{{ vault_desktops_token }}"
    name: alice
    user_id: alice
    configuration: {desktop_environment: xfce, resolution: 1600x900}
    resources: {cpu_limit: 2, memory_limit: 4096, disk_limit: 20480, network_bandwidth: 1000}
    state: started
"""

RETURN = r"""
server:
  description: The server, as the service has it. C(host) and C(port) are where clients connect.
  type: dict
  returned: when it is there, and not in check mode for one that is new
"""

from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.labyard.lab.plugins.module_utils.desktops_api import ARGUMENTS, DesktopsApi, differs, given

TEXT = {"type": "str"}
NUMBER = {"type": "int"}
FLAG = {"type": "bool"}
NEEDED = {"required": True}
CONFIGURATION: dict[str, Any] = {
    "desktop_environment": {"type": "str", "choices": ["xfce", "gnome", "kde", "lxde", "icewm"]},
    "resolution": TEXT,
    "color_depth": {"type": "int", "choices": [16, 24, 32]},
    "use_tls": FLAG,
    "audio": FLAG,
    "clipboard": FLAG,
    "drive_redirection": FLAG,
    "printer_redirection": FLAG,
}
RESOURCES: dict[str, Any] = {
    "cpu_limit": {"type": "float"} | NEEDED,
    "memory_limit": NUMBER | NEEDED,
    "disk_limit": NUMBER | NEEDED,
    "network_bandwidth": NUMBER | NEEDED,
}
LIST = "/rdp/servers"


class Server:
    """One server, brought to where it shall be."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.want = module.params
        self.api = DesktopsApi(module)
        self.name = self.want["name"]
        rows = self.api.all(LIST, "servers", user_id=self.want["user_id"])
        found = [row for row in rows if row["name"] == self.name]
        if len(found) > 1:
            self.api.fail(
                f"{len(found)} RDP servers of {self.want['user_id']} have the name {self.name}; delete others"
            )
        self.found: dict[str, Any] | None = found[0] if found else None

    def create(self) -> None:
        if self.want["resources"] is None:
            self.api.fail(f"RDP server {self.name} is new: give its resources")
        fields = ("name", "user_id", "description", "configuration", "resources")
        if not self.module.check_mode:
            self.found = self.api.call("POST", LIST, given({field: self.want[field] for field in fields}))

    def do(self, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        if not self.module.check_mode and self.found:
            self.api.call(method, f"{LIST}/{self.found['server_id']}{path}", body)

    def shown(self) -> dict[str, Any]:
        return {name: self.found[name] for name in ("configuration", "status")} if self.found else {}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "name": TEXT | NEEDED,
            "user_id": TEXT | NEEDED,
            "description": TEXT,
            "configuration": {"type": "dict", "options": CONFIGURATION},
            "resources": {"type": "dict", "options": RESOURCES},
            "state": {"type": "str", "choices": ["present", "absent", "started", "stopped"], "default": "present"},
        },
        supports_check_mode=True,
    )
    server = Server(module)
    before, wanted = server.shown(), given(module.params["configuration"])
    if module.params["state"] == "absent":
        remove(server, before)
    after = dict(before)
    if server.found is None:
        server.create()
        after = {"configuration": wanted or {}, "status": "stopped"}
    elif different := differs(given(module.params["resources"]) or {}, server.found["resources"]):
        module.fail_json(
            msg=f"RDP server {server.name} has another {', '.join(different)}; a server keeps its resources: delete it "
            "first (state: absent)",
            server=server.found,
        )
    elif wanted is not None and wanted != before["configuration"]:
        after["configuration"] = wanted
        server.do("PUT", "/configuration", wanted)
        if before["status"] == "running" and module.params["state"] != "stopped":
            server.do("POST", "/restart")
    if module.params["state"] == "started" and after["status"] != "running":
        after["status"] = "running"
        server.do("POST", "/start")
    elif module.params["state"] == "stopped" and after["status"] not in ("stopped", "error"):
        after["status"] = "stopped"
        server.do("POST", "/stop")
    if server.found and before != after and not module.check_mode:
        server.found = server.api.call("GET", f"{LIST}/{server.found['server_id']}")
    result = {"server": server.found} if server.found else {}
    headers = {"before_header": server.name, "after_header": server.name}
    module.exit_json(changed=before != after, diff={"before": before, "after": after, **headers}, **result)


def remove(server: Server, before: dict[str, Any]) -> NoReturn:
    if server.found is None:
        server.module.exit_json(changed=False)
    server.do("DELETE", "")
    server.module.exit_json(changed=True, diff={"before": before, "after": {}, "before_header": server.name})
    raise AssertionError("exit_json ends the module")


if __name__ == "__main__":
    main()
