#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: copy-on-write overlays and the units that export them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: overlay_set
short_description: Keep a set of qcow2 overlays, each exported by a systemd unit
description:
  - Makes C(<folder>/<name>.qcow2) on its base image for each entry, and runs the unit that exports it.
  - An overlay is made anew when its base image is another file than it was made on, since what it holds would then
    be nonsense. Overlays in the folder that are not wanted are removed, their units stopped.
  - The base image is only ever read.
options:
  folder:
    description: Where the overlays are; made when missing.
    type: path
    required: true
  unit:
    description: Name of the unit that exports an overlay, C({}) standing for the overlay's name.
    type: str
    required: true
  overlays:
    description: Path of the base image by name of the overlay.
    type: dict
    required: true
  reload_units:
    description: Whether unit files have changed, so that systemd must read them again.
    type: bool
    default: false
attributes:
  check_mode: {support: full, description: Says which overlays would change.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: A disk of its own for each machine
  labyard.lab.overlay_set:
    folder: /var/lib/labyard/overlays
    unit: labyard-overlay@{}.service
    overlays:
      iqn.2025-01.lab.labyard:target-m1: /srv/labyard/images/boot.raw
"""

RETURN = r"""
made:
  description: Names of the overlays that were made or whose export was started. Who has one open must open it again.
  type: list
  elements: str
  returned: always
removed:
  description: Names of the overlays that were removed.
  type: list
  elements: str
  returned: always
"""

import json
import os

from ansible.module_utils.basic import AnsibleModule


class Overlays:
    """The overlays of one folder."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.folder: str = module.params["folder"]

    def path(self, name: str, ending: str) -> str:
        return os.path.join(self.folder, name + ending)

    def systemctl(self, verb: str, name: str) -> None:
        unit = self.module.params["unit"].format(name)
        code, _, error = self.module.run_command(["systemctl", *verb.split(), unit])
        if code != 0:
            journal = self.module.run_command(["journalctl", "--no-pager", "-n", "20", "-u", unit])[1]
            self.module.fail_json(msg=f"systemctl {verb} {unit}: {error.strip()}", journal=journal)

    def exported(self, name: str) -> bool:
        unit = self.module.params["unit"].format(name)
        return self.module.run_command(["systemctl", "is-active", "--quiet", unit])[0] == 0

    def identity(self, base: str) -> str:
        """What tells one base image from another: its path, size and time of change."""
        if not os.path.exists(base):
            if self.module.check_mode:
                return "absent"
            self.module.fail_json(msg=f"overlays: the base image {base} is not there; build or copy it first")
        stat = os.stat(base)
        return json.dumps({"base": base, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns})

    def recorded(self, name: str) -> str:
        try:
            with open(self.path(name, ".base"), encoding="utf-8") as record:
                return record.read()
        except FileNotFoundError:
            return ""

    def make(self, name: str, base: str, identity: str) -> None:
        if self.exported(name):
            self.systemctl("stop", name)
        info = self.module.run_command(["qemu-img", "info", "--output=json", base], check_rc=True)[1]
        create = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", json.loads(info)["format"]]
        self.module.run_command([*create, self.path(name, ".qcow2")], check_rc=True)
        with open(self.path(name, ".base"), "w", encoding="utf-8") as record:
            record.write(identity)

    def remove(self, name: str) -> None:
        self.systemctl("disable --now", name)
        for ending in (".raw", ".qcow2", ".base"):
            if os.path.exists(self.path(name, ending)):
                os.unlink(self.path(name, ending))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "unit": {"type": "str", "required": True},
            "overlays": {"type": "dict", "required": True},
            "reload_units": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    overlays = Overlays(module)
    wanted: dict[str, str] = module.params["overlays"]
    there = os.listdir(overlays.folder) if os.path.isdir(overlays.folder) else []
    unwanted = sorted({name.removesuffix(".qcow2") for name in there if name.endswith(".qcow2")} - set(wanted))

    if module.params["reload_units"] and not module.check_mode:
        module.run_command(["systemctl", "daemon-reload"], check_rc=True)
    made = []
    for name, base in sorted(wanted.items()):
        identity = overlays.identity(base)
        stale = overlays.recorded(name) != identity or not os.path.exists(overlays.path(name, ".qcow2"))
        if not stale and overlays.exported(name):
            continue
        made.append(name)
        if module.check_mode:
            continue
        os.makedirs(overlays.folder, mode=0o755, exist_ok=True)
        if stale:
            overlays.make(name, base, identity)
        overlays.systemctl("enable --now", name)
    if not module.check_mode:
        for name in unwanted:
            overlays.remove(name)
    module.exit_json(changed=bool(made or unwanted), made=made, removed=unwanted)


if __name__ == "__main__":
    main()
