#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: an image of the netboot service."""

from __future__ import annotations

DOCUMENTATION = r"""
module: netboot_image
short_description: Keep an image with the netboot service
description:
  - Uploads an image or registers one that is on the server already, waits until it is ready, or removes it.
  - An image is replaced when its file has another SHA-256 than I(src). The new one is uploaded and checked beside the
    old one, which goes only then. An image with a live session on it is not replaced.
options:
  name:
    description: The image's name.
    type: str
    required: true
  src:
    description:
      - A file on the host that runs this task, which is uploaded. Its extension names the format.
      - An image that the service has converted since is another file, and would be replaced.
    type: path
  path:
    description:
      - The full path, without symbolic links, of a file on the server, below its IMAGES_DIR. It is used where it lies.
      - The service looks for itself whether the file has changed; in check mode nobody asks it to.
    type: str
  description:
    description: A note.
    type: str
  image_type:
    description: What it is for. The service takes C(system) for a new image.
    type: str
    choices: [system, game, data, template]
  timeout:
    description: How many seconds the service may take to check the image.
    type: int
    default: 600
  state:
    description: Whether the image is there. Removing it removes its file, unless it was registered by I(path).
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment: [labyard.lab.netboot_api]
attributes:
  check_mode: {support: full, description: Says what would change. I(src) is read for its checksum.}
  diff_mode: {support: full, description: Shows checksum or path, and the fields that change.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: Upload an image
  labyard.lab.netboot_image:
    url: http://boot.example:8000
    password: "{{ vault_netboot_password }}"
    name: debian
    src: images/debian.qcow2

- name: Use one that lies on the server
  labyard.lab.netboot_image:
    url: http://boot.example:8000
    password: "{{ vault_netboot_password }}"
    name: windows
    path: /storage/images/windows.vhdx
"""

RETURN = r"""
image:
  description: The image, as the service has it.
  type: dict
  returned: when it is there, and not in check mode for one that is new
"""

import hashlib
import os
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.labyard.lab.plugins.module_utils.netboot_api import API, ARGUMENTS, NetbootApi

PIECE_BYTES = 8 * 1024 * 1024
FIELDS = ("description", "image_type")


def sha256(path: str) -> str:
    """Of a file of any size."""
    digest = hashlib.sha256()
    with open(path, "rb") as source:
        while piece := source.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


class ImageKeeper:
    """Brings one image to where it shall be."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.want = module.params
        self.api = NetbootApi(module)
        self.name = self.want["name"].strip()
        self.found = self.api.named("images", self.name)
        # A broken upload of somebody's, or a check that is under way, is waited for before anything is compared.
        if self.found and self.found["status"] in ("processing", "converting") and not module.check_mode:
            self.found = self.wait(self.found, may_fail=True)

    def content(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the image's file is and shall be, as a diff shows it; alike when nothing is to be done."""
        found = self.found or {}
        if self.want["src"]:
            before = {"checksum_sha256": found.get("checksum_sha256")}
            after = {"checksum_sha256": sha256(self.want["src"])}
        else:
            before, after = {"path": found.get("file_path")}, {"path": self.want["path"]}
        if found and found["status"] not in ("ready", "processing", "converting"):
            before["status"], after["status"] = found["status"], "ready"
        return before, after

    def put(self) -> dict[str, Any]:
        """Upload or register, in place of what is there."""
        old = self.found
        if old is not None:
            live = [
                session
                for status in ("starting", "active", "stopping")
                for session in self.api.call("GET", f"{API}/sessions", image_id=old["id"], status=status)["sessions"]
            ]
            if live:
                ids = ", ".join(str(session["id"]) for session in live)
                self.api.fail(f"image {self.name} is to be replaced, but is in use by session {ids}; stop that first")
        if old is not None and old["status"] == "ready" and self.want["src"]:
            beside = f"{self.name[:90]}.new"
            if left := self.api.named("images", beside):
                self.api.call("DELETE", f"/images/{left['id']}")
            new = self.wait(self.upload(beside))
            self.api.call("DELETE", f"/images/{old['id']}")
            return dict(self.api.call("PUT", f"/images/{new['id']}", {"name": self.name}))
        if old is not None:
            self.api.call("DELETE", f"/images/{old['id']}")
        return self.wait(self.upload(self.name) if self.want["src"] else self.register())

    def register(self) -> dict[str, Any]:
        body = {"name": self.name, "path": self.want["path"], **self.fields()}
        return dict(self.api.call("POST", "/images/import", body))

    def upload(self, name: str) -> dict[str, Any]:
        source = self.want["src"]
        size = os.path.getsize(source)
        body = {"name": name, "filename": os.path.basename(source), "size_bytes": size, **self.fields()}
        image = self.api.call("POST", "/images/uploads", body)
        with open(source, "rb") as content:
            offset = 0
            while piece := content.read(PIECE_BYTES):
                self.api.call("PUT", f"/images/upload/{image['id']}", piece, offset=offset)
                offset += len(piece)
        return dict(image)

    def wait(self, image: dict[str, Any], may_fail: bool = False) -> dict[str, Any]:
        """Until the service has checked it."""
        deadline = time.monotonic() + self.want["timeout"]
        while True:
            image = self.api.call("GET", f"/images/{image['id']}")
            if image["status"] == "ready" or (may_fail and image["status"] == "error"):
                return image
            if image["status"] == "error":
                self.api.fail(f"image {self.name}: {image['error_message']}", image=image)
            if time.monotonic() > deadline:
                self.api.fail(f"image {self.name} is still {image['status']} after {self.want['timeout']} s")
            time.sleep(0.3)

    def fields(self) -> dict[str, Any]:
        """The fields that were given; an empty description is none."""
        given = {field: self.want[field] for field in FIELDS if self.want[field] is not None}
        if "description" in given:
            given["description"] = given["description"].strip() or None
        return given


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "name": {"type": "str", "required": True},
            "src": {"type": "path"},
            "path": {"type": "str"},
            "description": {"type": "str"},
            "image_type": {"type": "str", "choices": ["system", "game", "data", "template"]},
            "timeout": {"type": "int", "default": 600},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ("src", "path"), True)],
        mutually_exclusive=[("src", "path")],
        supports_check_mode=True,
    )
    if module.params["state"] == "present" and module.params["src"] and not os.path.isfile(module.params["src"]):
        module.fail_json(msg=f"src: there is no file {module.params['src']} on this host")
    keeper = ImageKeeper(module)
    if module.params["state"] == "absent":
        remove(keeper)
    before, after = keeper.content()
    changed = before != after
    image = keeper.found
    if not module.check_mode:
        if changed:
            image = keeper.put()
        elif module.params["path"]:
            stamp = (image or {}).get("updated_at")
            image = keeper.wait(keeper.register())
            changed = image["updated_at"] != stamp
    fields = keeper.fields()
    different = {field: image[field] for field in fields if image and image[field] != fields[field]}
    if image and different and not module.check_mode:
        image = dict(keeper.api.call("PUT", f"/images/{image['id']}", {field: fields[field] for field in different}))
    diff = {
        "before": before | different if keeper.found else {},
        "after": after | {field: fields[field] for field in different},
        "before_header": keeper.name,
        "after_header": keeper.name,
    }
    result = {"image": image} if image else {}
    module.exit_json(changed=changed or bool(different), diff=diff, **result)


def remove(keeper: ImageKeeper) -> None:
    found = keeper.found
    if found is None:
        keeper.module.exit_json(changed=False)
    if not keeper.module.check_mode:
        keeper.api.call("DELETE", f"/images/{found['id']}")
    before = {"checksum_sha256": found["checksum_sha256"], "path": found["file_path"]}
    keeper.module.exit_json(changed=True, diff={"before": before, "after": {}, "before_header": keeper.name})


if __name__ == "__main__":
    main()
