#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: a recorded session of the desktops service."""

from __future__ import annotations

DOCUMENTATION = r"""
module: desktop_session
short_description: Record a remote desktop with the desktops service
description:
  - Makes a session, starts and stops its recording, or deletes it.
  - Sessions are found by their name. One that was stopped is sealed and never records again, so C(recording) makes a
    new one after it.
options:
  name:
    description: The session's name.
    type: str
    required: true
  description:
    description: What it is about. Only a new session takes it.
    type: str
  rdp_config:
    description: What is recorded. Required for a session that is new.
    type: dict
    suboptions:
      host: {description: Name or address of the RDP server., type: str, required: true}
      port: {description: Its port., type: int}
      username: {description: Who logs in there., type: str, required: true}
      domain: {description: The Windows domain of that user., type: str}
      password: {description: For a server that is not of this service., type: str}
      use_tls: {description: Whether to use TLS., type: bool}
      ignore_cert: {description: Whether any certificate will do., type: bool}
      provisioning:
        description: How the session gets its server.
        type: str
        choices: [attach, auto, none]
  recording_config:
    description: How it is recorded, as the service takes it. Only a new session takes it.
    type: dict
  storage_config:
    description: How it is kept, as the service takes it. Only a new session takes it.
    type: dict
  metadata:
    description: What is said about it. Changed when it differs.
    type: dict
  state:
    description:
      - C(present) has one that is not over, C(recording) has one that records, C(stopped) has none that does.
      - C(absent) stops and deletes every session of this name, with its recording.
    type: str
    choices: [present, absent, recording, stopped]
    default: present
extends_documentation_fragment: [labyard.lab.desktops_api]
attributes:
  check_mode: {support: full, description: Says what would change.}
  diff_mode: {support: full, description: Shows the status and what is said about it.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: Record Alice's desktop
  labyard.lab.desktop_session:
    url: https://desktops.example:8443
    token: "{{ vault_desktops_token }}"
    name: alice at work
    rdp_config: {host: 127.0.0.1, port: 33890, username: alice}
    metadata: {project: demo, priority: high}
    state: recording
"""

RETURN = r"""
session:
  description: The session, as the service has it.
  type: dict
  returned: when it is there, and not in check mode for one that is new
"""

from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.labyard.lab.plugins.module_utils.desktops_api import ARGUMENTS, DesktopsApi, differs, given

RDP: dict[str, Any] = {
    "host": {"type": "str", "required": True},
    "port": {"type": "int"},
    "username": {"type": "str", "required": True},
    "domain": {"type": "str"},
    "password": {"type": "str", "no_log": True},
    "use_tls": {"type": "bool"},
    "ignore_cert": {"type": "bool"},
    "provisioning": {"type": "str", "choices": ["attach", "auto", "none"]},
}
RECORDS = ("recording", "paused", "starting", "stopping")
GIVEN = ("name", "description", "rdp_config", "recording_config", "storage_config", "metadata")


class Sessions:
    """Those of one name. `current` is the one that is not over."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.want = module.params
        self.api = DesktopsApi(module)
        self.all = [row for row in self.api.all("/sessions", "sessions") if row["name"] == self.want["name"]]
        self.current = next((row for row in self.all if row["status"] in ("created", *RECORDS)), None)

    def create(self) -> None:
        if self.want["rdp_config"] is None:
            self.api.fail(f"session {self.want['name']} is new: give its rdp_config")
        if not self.module.check_mode:
            self.current = self.api.call("POST", "/sessions", given({name: self.want[name] for name in GIVEN}))

    def do(self, method: str, path: str, body: dict[str, Any] | None = None, row: dict[str, Any] | None = None) -> None:
        row = row or self.current
        if not self.module.check_mode and row:
            self.api.call(method, f"/sessions/{row['session_id']}{path}", body)

    def shown(self) -> dict[str, Any]:
        return {name: self.current[name] for name in ("status", "metadata")} if self.current else {}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "name": {"type": "str", "required": True},
            "description": {"type": "str"},
            "rdp_config": {"type": "dict", "options": RDP},
            "recording_config": {"type": "dict"},
            "storage_config": {"type": "dict"},
            "metadata": {"type": "dict"},
            "state": {"type": "str", "choices": ["present", "absent", "recording", "stopped"], "default": "present"},
        },
        supports_check_mode=True,
    )
    sessions, state = Sessions(module), module.params["state"]
    if state == "absent":
        remove(sessions)
    before = sessions.shown()
    after = dict(before)
    told = given(module.params["metadata"]) or {}
    if sessions.current is None and state != "stopped":
        sessions.create()
        after = {"status": "created", "metadata": told}
    elif sessions.current and differs(told, before["metadata"]):
        after["metadata"] = {**before["metadata"], **told}
        sessions.do("PUT", "/metadata", told)
    status = after.get("status")
    if state == "recording" and status != "recording":
        after["status"] = "recording"
        sessions.do("POST", "/resume" if status == "paused" else "/start")
    elif state == "stopped" and status in RECORDS:
        after["status"] = "stopped"
        sessions.do("POST", "/stop")
    if sessions.current and before != after and not module.check_mode:
        sessions.current = sessions.api.call("GET", f"/sessions/{sessions.current['session_id']}")
    result = {"session": sessions.current} if sessions.current else {}
    headers = {"before_header": module.params["name"], "after_header": module.params["name"]}
    module.exit_json(changed=before != after, diff={"before": before, "after": after, **headers}, **result)


def remove(sessions: Sessions) -> NoReturn:
    for row in sessions.all:
        if row["status"] in RECORDS:
            sessions.do("POST", "/stop", row=row)
        sessions.do("DELETE", "", row=row)
    before = {"sessions": [row["session_id"] for row in sessions.all]}
    sessions.module.exit_json(changed=bool(sessions.all), diff={"before": before, "after": {"sessions": []}})
    raise AssertionError("exit_json ends the module")


if __name__ == "__main__":
    main()
