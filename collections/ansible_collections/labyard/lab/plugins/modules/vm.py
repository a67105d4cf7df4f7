#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: a virtual machine of the VM manager."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm
short_description: Keep a virtual machine with the VM manager
description:
  - Makes a VM from a template, tells its guest what to be, starts or stops it, or deletes it.
  - An option that is left out is left as it is. An empty text or list clears what may be empty.
options:
  name:
    description: The VM's name, which is its id with the service. Letters, digits, C(.), C(_), C(-), at most 63.
    type: str
    required: true
  template:
    description:
      - The template that it is made from. Required for a VM that is new.
      - A VM keeps its template. Another one than it was made from is an error.
    type: str
  hostname:
    description: The guest's host name. Without one it is the VM's name.
    type: str
  user_data:
    description: What cloud-init gets as user-data.
    type: str
  ssh_keys:
    description: Public keys for the guest, one an item.
    type: list
    elements: str
  force:
    description: Stop it without asking the guest.
    type: bool
    default: false
  state:
    description:
      - C(present) makes it if need be and leaves it running or stopped, as it is.
      - C(running) starts it, also when it is in error. What it is told reaches cloud-init's seed at its next start; a
        running VM is not restarted for that.
      - C(stopped) asks the guest to go, and switches it off when it does not in time. A VM in error is off, and stays
        in error.
      - C(restarted) restarts it each time, and starts one that does not run.
      - C(absent) deletes it with its root disk, running or not. Its data disks stay, but the service takes their
        labels, by which M(labyard.lab.vm_disk) finds them.
    type: str
    choices: [present, absent, running, stopped, restarted]
    default: present
extends_documentation_fragment: [labyard.lab.vms_api]
attributes:
  check_mode:
    support: full
    description: Says what would change. A VM or template that is not there yet counts as made by an earlier task.
  diff_mode: {support: full, description: Shows template, state and metadata. Of user-data it shows the SHA-256.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: Have a web server running
  labyard.lab.vm:
    url: http://vms.example:8000
    token: "{{ vault_vms_token }}"
    name: web-1
    template: small
    ssh_keys: ["{{ lookup('ansible.builtin.file', '~/.ssh/id_ed25519.pub') }}"]
    user_data: |
      #cloud-config
      packages: [nginx]
    state: running

- name: Delete it
  labyard.lab.vm:
    url: http://vms.example:8000
    token: "{{ vault_vms_token }}"
    name: web-1
    state: absent
"""

RETURN = r"""
vm:
  description: The VM, as the service has it. C(local_ip) is its address while it runs.
  type: dict
  returned: when it is there, and not in check mode for one that is new
"""

import hashlib
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.labyard.lab.plugins.module_utils.vms_api import ARGUMENTS, VmsApi, segment

METADATA = ("hostname", "user_data", "ssh_keys")


class Vm:
    """One VM, brought to where it shall be."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.want = module.params
        self.api = VmsApi(module)
        self.name = self.want["name"]
        self.path = f"/vms/{segment(self.name)}"
        self.found = self.api.found(self.path)

    def wanted_metadata(self) -> dict[str, str]:
        """The fields that were given, as the service takes them."""
        given = {field: self.want[field] for field in METADATA if self.want[field] is not None}
        if "ssh_keys" in given:
            given["ssh_keys"] = "\n".join(key.strip() for key in given["ssh_keys"])
        return given

    def stored_metadata(self, fields: dict[str, str]) -> dict[str, str]:
        """What the service has in these fields."""
        if not fields or self.found is None:
            return {}
        answer = self.api.call("GET", f"{self.path}/metadata")
        stored = {field: answer[field] or "" for field in fields}
        if "ssh_keys" in stored:
            stored["ssh_keys"] = "\n".join(stored["ssh_keys"].splitlines())
        return stored

    def check_template(self) -> None:
        """A new VM needs a template, and an old one keeps its own."""
        wanted = self.want["template"]
        if self.found is None:
            if not wanted:
                self.api.lacks(f"VM {self.name} is new: give its template")
            elif self.api.found(f"/templates/{segment(wanted)}") is None:
                self.api.lacks(f"there is no template {wanted}; make it first (labyard.lab.vm_template)")
            return
        has = (self.found["vm_template"] or {}).get("name")
        if wanted and wanted != has:
            made_from = f"template {has}" if has else "a template that is gone"
            self.api.fail(
                f"VM {self.name} was made from {made_from}, not from {wanted}; a VM keeps its template: leave the "
                "option out, or delete the VM first (state: absent)",
                vm=self.found,
            )

    def create(self) -> None:
        self.api.call("POST", "/vms", {"name": self.name, "template_name": self.want["template"]})

    def power(self, state: str) -> bool:
        """Have it running or stopped; whether it was not."""
        wanted = self.want["state"]
        if wanted == "restarted":
            self.api.call("POST", f"{self.path}/actions/restart")
            return True
        if wanted == "running" and state != "running":
            # One that somebody started meanwhile is as good.
            self.api.allow("already running", "POST", f"{self.path}/actions/start")
            return True
        if wanted == "stopped" and state != "stopped":
            # In error it is off as a rule; the service knows, and then refuses.
            query = {"force": "true"} if self.want["force"] else {}
            return self.api.allow("not running", "POST", f"{self.path}/actions/stop", **query)
        return False


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "name": {"type": "str", "required": True},
            "template": {"type": "str"},
            "hostname": {"type": "str"},
            "user_data": {"type": "str", "no_log": True},
            "ssh_keys": {"type": "list", "elements": "str", "no_log": False},
            "force": {"type": "bool", "default": False},
            "state": {
                "type": "str",
                "choices": ["present", "absent", "running", "stopped", "restarted"],
                "default": "present",
            },
        },
        supports_check_mode=True,
    )
    vm = Vm(module)
    if module.params["state"] == "absent":
        remove(vm)
    vm.check_template()
    fields = vm.wanted_metadata()
    stored = vm.stored_metadata(fields)
    told = {field: fields[field] for field in fields if fields[field] != stored.get(field, "")}
    state = vm.found["state"] if vm.found else "stopped"
    before = shown(vm.found["vm_template"], state, {field: stored[field] for field in told}) if vm.found else {}
    after = shown(
        vm.found["vm_template"] if vm.found else {"name": module.params["template"]}, becomes(vm, state), told
    )
    changed = before != after or module.params["state"] == "restarted"
    if not module.check_mode:
        if vm.found is None:
            vm.create()
        if told:
            vm.api.call("PUT", f"{vm.path}/metadata", told)
        changed = vm.power(state) or changed
        vm.found = vm.api.call("GET", vm.path)
    result = {"vm": vm.found} if vm.found else {}
    headers = {"before_header": vm.name, "after_header": vm.name}
    module.exit_json(changed=changed, diff={"before": before, "after": after, **headers}, **result)


def becomes(vm: Vm, state: str) -> str:
    """The state that it is in afterwards."""
    wanted = vm.want["state"]
    if wanted == "present" or (wanted == "stopped" and state == "error"):
        return state
    return "stopped" if wanted == "stopped" else "running"


def shown(template: dict[str, Any] | None, state: str, metadata: dict[str, str]) -> dict[str, Any]:
    """What a diff tells. User-data may have secrets in it."""
    told = dict(metadata)
    if told.get("user_data"):
        told["user_data"] = f"SHA-256 {hashlib.sha256(told['user_data'].encode()).hexdigest()}"
    return {"template": template["name"] if template else None, "state": state, **told}


def remove(vm: Vm) -> None:
    if vm.found is None:
        vm.module.exit_json(changed=False)
    if not vm.module.check_mode:
        vm.api.call("DELETE", vm.path)
    before = shown(vm.found["vm_template"], vm.found["state"], {})
    vm.module.exit_json(changed=True, diff={"before": before, "after": {}, "before_header": vm.name})


if __name__ == "__main__":
    main()
