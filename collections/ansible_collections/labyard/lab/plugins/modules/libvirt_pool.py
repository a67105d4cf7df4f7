#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: a libvirt storage pool on a folder."""

from __future__ import annotations

DOCUMENTATION = r"""
module: libvirt_pool
short_description: Keep a storage pool of type dir, running and started with libvirt
description:
  - community.libvirt.virt_pool needs a task each for define, build, start and autostart, and defines in check mode.
options:
  name:
    description: Name of the pool.
    type: str
    required: true
  path:
    description: Its folder, made when missing.
    type: path
    required: true
  state:
    description: Whether the pool is there. The folder and what is in it stay.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment: [labyard.lab.libvirt]
attributes:
  check_mode: {support: full, description: Says whether the pool would change.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: A pool
  labyard.lab.libvirt_pool:
    name: labyard
    path: /var/lib/libvirt/images/labyard
"""

RETURN = r""" # """

import os
from xml.etree import ElementTree

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.labyard.lab.plugins.module_utils.libvirt_host import ARGUMENTS, connected


def pool_xml(name: str, path: str) -> str:
    """Return the pool's definition (https://libvirt.org/formatstorage.html)."""
    pool = ElementTree.Element("pool", type="dir")
    ElementTree.SubElement(pool, "name").text = name
    ElementTree.SubElement(ElementTree.SubElement(pool, "target"), "path").text = path
    return ElementTree.tostring(pool, encoding="unicode")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            **ARGUMENTS,
        },
        supports_check_mode=True,
    )
    name, path = module.params["name"], module.params["path"]
    changed = False
    with connected(module) as connection:
        pool = next((pool for pool in connection.listAllStoragePools() if pool.name() == name), None)
        if module.params["state"] == "absent":
            changed = pool is not None
            if pool is not None and not module.check_mode:
                if pool.isActive():
                    pool.destroy()
                pool.undefine()
            module.exit_json(changed=changed)

        if not os.path.isdir(path):
            changed = True
            if not module.check_mode:
                os.makedirs(path, mode=0o711)
        at = pool and ElementTree.fromstring(pool.XMLDesc()).findtext("target/path")
        if at != path:
            changed = True
            if not module.check_mode:
                if pool is not None:
                    if pool.isActive():
                        pool.destroy()
                    pool.undefine()
                pool = connection.storagePoolDefineXML(pool_xml(name, path))
        if pool is not None and not (pool.isActive() and pool.autostart()):
            changed = True
            if not module.check_mode:
                pool.setAutostart(True)
                if not pool.isActive():
                    pool.create()
    module.exit_json(changed=changed)


if __name__ == "__main__":
    main()
