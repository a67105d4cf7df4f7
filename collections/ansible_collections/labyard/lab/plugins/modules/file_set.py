#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: exactly these generated files in a folder, next to files of others."""

from __future__ import annotations

DOCUMENTATION = r"""
module: file_set
short_description: Keep a set of small generated files in a folder
description:
  - Writes the given files, each atomically, and removes files in the folder that carry the marker line but are no
    longer wanted. Files without the marker belong to somebody else and are never touched, not even when they have
    the name of a file that is wanted.
  - One task instead of a loop, whatever the number of files.
options:
  folder:
    description: The folder. It must exist, but in check mode.
    type: path
    required: true
  marker:
    description: A line that every file of the set contains.
    type: str
    required: true
  files:
    description: Content by file name. Names are plain, without a folder.
    type: dict
    required: true
  mode:
    description: File mode, octal.
    type: str
    default: "0644"
attributes:
  check_mode: {support: full, description: Says which files would change.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: Boot scripts
  labyard.lab.file_set:
    folder: /var/lib/tftpboot/machines
    marker: "# Written by the role ipxe"
    files:
      52-54-00-00-00-01.ipxe: |
        #!ipxe
        # Written by the role ipxe
        exit 0
"""

RETURN = r"""
written:
  description: Names of the files that were written.
  type: list
  elements: str
  returned: always
kept:
  description: Names of wanted files that were not written, since somebody else's file has the name.
  type: list
  elements: str
  returned: always
removed:
  description: Names of the files that were removed.
  type: list
  elements: str
  returned: always
"""

import os

from ansible.module_utils.basic import AnsibleModule


def read(path: str) -> str | None:
    """Return the file's text, None when it is not there. Bytes that are not UTF-8 are kept apart, not an error."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as content:
            return content.read()
    except FileNotFoundError:
        return None


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "marker": {"type": "str", "required": True},
            "files": {"type": "dict", "required": True},
            "mode": {"type": "str", "default": "0644"},
        },
        supports_check_mode=True,
    )
    folder, marker, files = (module.params[key] for key in ("folder", "marker", "files"))
    for name, content in files.items():
        if os.path.basename(name) != name or name.startswith("."):
            module.fail_json(msg=f"files: {name!r} is not a plain file name")
        if marker not in content.splitlines():
            module.fail_json(msg=f"files: {name} lacks the marker line {marker!r}")

    mode = int(module.params["mode"], 8)
    written, kept = [], []
    for name, content in sorted(files.items()):
        path = os.path.join(folder, name)
        there = read(path)
        if there is not None and marker not in there.splitlines():
            kept.append(name)
            continue
        same = there == content and os.stat(path).st_mode & 0o7777 == mode
        if same:
            continue
        written.append(name)
        if not module.check_mode:
            temporary = os.path.join(module.tmpdir, name)
            with open(temporary, "w", encoding="utf-8") as target:
                target.write(content)
            os.chmod(temporary, mode)
            module.atomic_move(temporary, path)

    removed = []
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        path = os.path.join(folder, name)
        if name in files or not os.path.isfile(path) or marker not in (read(path) or "").splitlines():
            continue
        removed.append(name)
        if not module.check_mode:
            os.unlink(path)
    module.exit_json(changed=bool(written or removed), written=written, kept=kept, removed=removed)


if __name__ == "__main__":
    main()
