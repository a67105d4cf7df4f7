#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: which images the container hosts of a lab need."""

from __future__ import annotations

DOCUMENTATION = r"""
module: bake_plan
short_description: Name the image of each container lab host after what is installed in it
description:
  - A host's image is the base image with the C(install) step of the host's roles run in it. Its tag is a hash of
    the base image and of those roles' files, so an image is baked again exactly when one of them changes. The files of
    a role that an install step includes count too.
options:
  roles_path:
    description: Folder of the roles.
    type: path
    required: true
  repository:
    description: Name of the images, without the tag.
    type: str
    required: true
  base:
    description: Id of the base image.
    type: str
    required: true
  hosts:
    description: The roles of each host.
    type: dict
    required: true
attributes:
  check_mode: {support: full, description: Changes nothing in any mode.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: Plan the images
  labyard.lab.bake_plan:
    roles_path: roles
    repository: labyard/host
    base: sha256:0123
    hosts:
      boot1: [dhcp, tftp]
  register: plan
"""

RETURN = r"""
images:
  description: The images, each with C(name), C(tag), C(roles) and the C(hosts) that use it.
  type: list
  elements: dict
  returned: always
host_images:
  description: Image name with tag, by host.
  type: dict
  returned: always
"""

import glob
import hashlib
import os
import re

from ansible.module_utils.basic import AnsibleModule

# What the install step of a role reads; tasks/configure.yml, templates and the like leave the image as it is.
INSTALL_FILES = ("tasks/install.yml", "defaults/main.yml", "vars/main.yml", "files/**")
INCLUDED_ROLE = re.compile(rb"(?:include|import)_role:\s+name: (\w+)")


def add_role(digest: hashlib._Hash, roles_path: str, role: str) -> None:
    folder = os.path.join(roles_path, role)
    if not os.path.isdir(folder):
        raise KeyError(role)
    digest.update(role.encode())
    for pattern in INSTALL_FILES:
        for path in sorted(glob.glob(os.path.join(glob.escape(folder), pattern), recursive=True)):
            if not os.path.isfile(path) or "__pycache__" in path:
                continue
            with open(path, "rb") as file:
                content = file.read()
            digest.update(content)
            if pattern == "tasks/install.yml":
                for match in INCLUDED_ROLE.finditer(content):
                    add_role(digest, roles_path, match[1].decode())


def bake_tag(roles_path: str, base: str, roles: list[str]) -> str:
    """Return the image tag for these roles: 12 hex digits. KeyError names a role that does not exist."""
    digest = hashlib.sha256(base.encode())
    for role in roles:
        add_role(digest, roles_path, role)
    return digest.hexdigest()[:12]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "roles_path": {"type": "path", "required": True},
            "repository": {"type": "str", "required": True},
            "base": {"type": "str", "required": True},
            "hosts": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    images: dict[str, dict[str, object]] = {}
    host_images = {}
    for host, roles in sorted(module.params["hosts"].items()):
        try:
            tag = bake_tag(module.params["roles_path"], module.params["base"], roles)
        except KeyError as error:
            known = ", ".join(sorted(os.listdir(module.params["roles_path"])))
            module.fail_json(msg=f"lab_roles of host {host} names an unknown role {error}. Known roles: {known}")
        image = images.setdefault(tag, {"tag": tag, "roles": roles, "hosts": []})
        image["name"] = f"{module.params['repository']}:{tag}"
        image["hosts"].append(host)  # type: ignore[attr-defined]
        host_images[host] = image["name"]
    module.exit_json(changed=False, images=list(images.values()), host_images=host_images)


if __name__ == "__main__":
    main()
