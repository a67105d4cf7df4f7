#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: a data disk of the VM manager."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_disk
short_description: Keep a data disk with the VM manager
description:
  - Makes an empty disk, plugs it into a running VM or unplugs it, or removes it.
  - The service names its disks itself, with ids. What stays the same from run to run is a disk's label, C(mount_point)
    in the service, which means nothing to the guest. This module takes it for the disk's name.
  - The service takes the label from a disk that is unplugged, and from those of a VM that is deleted. So a disk that
    shall be unplugged and kept, or moved, is named by I(id); this module refuses to do that by I(name), because its
    next run would not find the disk.
options:
  name:
    description:
      - The disk's label. It has to be the label of one disk only.
      - It does not begin with C(/dev/), because the service labels disks so that have none when they are plugged in.
    type: str
  id:
    description: The disk's id with the service, in place of I(name). It has to be there.
    type: str
  size:
    description:
      - GiB. Required for a disk that is new.
      - A disk keeps its size. Another one than it has is an error.
    type: int
  vm:
    description:
      - The running VM that it is plugged into. An empty text is none, left out is left as it is.
      - A disk that is plugged into another VM is moved when it is named by I(id).
    type: str
  state:
    description: Whether the disk is there. One that is removed is unplugged first, and what is on it is lost.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment: [labyard.lab.vms_api]
attributes:
  check_mode:
    support: full
    description: Says what would change. A disk or running VM that is not there yet counts as made by an earlier task.
  diff_mode: {support: full, description: Shows size and VM.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: Give a web server a disk
  labyard.lab.vm_disk:
    url: http://vms.example:8000
    token: "{{ vault_vms_token }}"
    name: web-1-data
    size: 5
    vm: web-1
  register: data

- name: Unplug it and keep it
  labyard.lab.vm_disk:
    url: http://vms.example:8000
    token: "{{ vault_vms_token }}"
    id: "{{ data.disk.id }}"
    vm: ""
"""

RETURN = r"""
disk:
  description: The disk, as the service has it. C(device_path) is where a guest with udev has it.
  type: dict
  returned: when it is there, and not in check mode for one that is new
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.labyard.lab.plugins.module_utils.service_api import Refused
from ansible_collections.labyard.lab.plugins.module_utils.vms_api import ARGUMENTS, VmsApi, segment


class Disk:
    """One disk, brought to where it shall be."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.want = module.params
        self.api = VmsApi(module)
        self.name = self.want["name"] or self.want["id"]
        self.found = self.find()

    def find(self) -> dict[str, Any] | None:
        if self.want["id"]:
            return self.api.found(f"/disks/{segment(self.want['id'])}")
        same = [disk for disk in self.api.call("GET", "/disks") if disk["mount_point"] == self.name]
        if len(same) > 1:
            ids = ", ".join(disk["id"] for disk in same)
            self.api.fail(f"{len(same)} disks have the label {self.name}; say which by its id: {ids}")
        return dict(same[0]) if same else None

    @property
    def path(self) -> str:
        return f"/disks/{segment(self.found['id'])}" if self.found else "/disks"

    def refuse(self) -> None:
        """What cannot be done, before anything is."""
        if self.found is None:
            if self.want["id"]:
                self.api.fail(f"there is no disk {self.name}; ids are the service's: give a new disk a name")
            if self.want["size"] is None:
                self.api.lacks(f"disk {self.name} is new: give its size")
            return
        size = self.want["size"]
        if size is not None and size != self.found["size"]:
            self.api.fail(
                f"disk {self.name} has {self.found['size']} GiB, not {size}; a disk keeps its size: make one "
                "of another name and copy what is on this one, or remove it first (state: absent)",
                disk=self.found,
            )
        has, wanted = self.found["vm_id"], self.want["vm"]
        if self.want["name"] and has and wanted is not None and wanted != has:
            self.api.fail(
                f"disk {self.name} is plugged into {has}; unplugged it would lose its label, so do it by "
                f"id: {self.found['id']}",
                disk=self.found,
            )

    def put(self) -> None:
        """Make it if it is new, and plug it where it shall be."""
        if self.found is None:
            self.found = dict(self.api.call("POST", "/disks", {"size": self.want["size"], "mount_point": self.name}))
        has, wanted = self.found["vm_id"], self.want["vm"]
        if wanted is None or wanted == (has or ""):
            return
        if has:
            self.api.call("POST", f"{self.path}/detach")
        if wanted:
            self.attach(wanted)
        self.found = self.api.call("GET", self.path)

    def attach(self, vm: str) -> None:
        try:
            self.api.ask("POST", f"{self.path}/attach", {"vm_id": vm})
        except Refused as error:
            start = "a disk is plugged into a VM that runs: labyard.lab.vm with state: running"
            way_out = f"; {start}" if "VM not found" in str(error) or "must be running" in str(error) else ""
            self.api.fail(f"disk {self.name} and VM {vm}: {error}{way_out}", disk=self.found)

    def remove(self) -> None:
        if not self.api.allow("Detach it first", "DELETE", self.path):
            self.api.call("POST", f"{self.path}/detach")
            self.api.call("DELETE", self.path)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "name": {"type": "str"},
            "id": {"type": "str"},
            "size": {"type": "int"},
            "vm": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_one_of=[("name", "id")],
        mutually_exclusive=[("name", "id")],
        supports_check_mode=True,
    )
    for option in ("name", "id"):
        if module.params[option] == "":
            module.fail_json(msg=f"{option}: must not be empty")
    if (module.params["name"] or "").startswith("/dev/"):
        module.fail_json(msg="name: must not begin with /dev/, which is how the service labels disks that have none")
    disk = Disk(module)
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    if disk.found:
        before = {"size": disk.found["size"], "vm": disk.found["vm_id"] or ""}
    if module.params["state"] == "present":
        disk.refuse()
        vm = module.params["vm"]
        after = {"size": module.params["size"], "vm": vm or ""} if disk.found is None else before
        if disk.found and vm is not None:
            after = before | {"vm": vm}
    changed = before != after
    if changed and not module.check_mode:
        if after:
            disk.put()
        else:
            disk.remove()
    result = {"disk": disk.found} if disk.found and after else {}
    headers = {"before_header": disk.name, "after_header": disk.name}
    module.exit_json(changed=changed, diff={"before": before, "after": after, **headers}, **result)


if __name__ == "__main__":
    main()
