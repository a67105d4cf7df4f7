#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: the wheel of this checkout's Python package."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service_wheel
short_description: Build the wheel of a Python project, once for each state of its sources
description:
  - Builds with C(uv build) into a folder named after a hash of the sources, so nothing is built while they stay the
    same, and runs side by side do not disturb each other.
  - Runs on the control machine.
options:
  project:
    description: Folder with C(pyproject.toml) and C(src).
    type: path
    required: true
  output:
    description: Where wheels are kept. Those that nobody asked for in a day are removed.
    type: path
    required: true
  uv:
    description: The program uv.
    type: path
    required: true
attributes:
  check_mode: {support: full, description: A wheel is a cache, not a state of the lab; it is made in check mode too.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: Have the wheel
  labyard.lab.service_wheel:
    project: /srv/labyard
    output: /srv/labyard/build/wheels
    uv: /srv/labyard/.venv/bin/uv
  register: wheel
"""

RETURN = r"""
path:
  description: The wheel.
  type: str
  returned: always
digest:
  description: Hash of the sources that it was made from.
  type: str
  returned: always
"""

import glob
import hashlib
import os
import shutil
import tempfile
import time

from ansible.module_utils.basic import AnsibleModule

DAY = 86400


def digest_of(project: str) -> str:
    """Return the hash of what goes into the wheel: names and contents, 64 hex digits."""
    paths = [os.path.join(project, "pyproject.toml")]
    for folder, folders, names in os.walk(os.path.join(project, "src")):
        folders[:] = [name for name in folders if name != "__pycache__" and not name.endswith(".egg-info")]
        paths += [os.path.join(folder, name) for name in names]
    digest = hashlib.sha256()
    for path in sorted(paths):
        with open(path, "rb") as content:
            data = content.read()
        digest.update(f"{os.path.relpath(path, project)}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


def wheel_in(folder: str) -> str | None:
    return next(iter(glob.glob(os.path.join(glob.escape(folder), "*.whl"))), None)


def build(module: AnsibleModule, temporary: str) -> None:
    """Build into a folder. The build backend comes from uv's cache if it is there, else from the package index."""
    command = [module.params["uv"], "build", "--quiet", "--wheel", "--out-dir", temporary]
    said = ""
    for more in (["--offline"], []):
        code, _, said = module.run_command([*command, *more, module.params["project"]])
        if code == 0:
            return
    module.fail_json(
        msg=f"the wheel of labyard could not be built:\n{said.strip()}\n"
        "way out: if the package index did not answer, check network, proxy and certificate settings; "
        "else try it by hand: uv build --wheel"
    )


def prune(output: str, keep: str) -> None:
    for name in os.listdir(output):
        folder = os.path.join(output, name)
        try:
            old = time.time() - os.stat(folder).st_mtime > DAY
        except FileNotFoundError:  # that of a run beside this one
            continue
        if folder != keep and old:
            shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "path", "required": True},
            "output": {"type": "path", "required": True},
            "uv": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    project, output, uv = (module.params[name] for name in ("project", "output", "uv"))
    if not os.access(uv, os.X_OK):
        module.fail_json(msg=f"there is no uv at {uv}; way out: run make bootstrap, or install uv beside ansible")
    os.makedirs(output, exist_ok=True)
    for _ in range(3):
        digest = digest_of(project)
        folder = os.path.join(output, digest[:16])
        if path := wheel_in(folder):
            os.utime(folder)
            prune(output, folder)
            module.exit_json(changed=False, path=path, digest=digest)
        temporary = tempfile.mkdtemp(prefix=".new-", dir=output)
        os.chmod(temporary, 0o755)
        try:
            build(module, temporary)
            # Sources edited meanwhile would be filed under the wrong hash. To lose the race for the name is as good as
            # to win it.
            if digest_of(project) == digest and not os.path.isdir(folder):
                os.rename(temporary, folder)
        except OSError:
            if not os.path.isdir(folder):
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    module.fail_json(msg=f"the sources in {project}/src change while the wheel is built; try again when they are quiet")


if __name__ == "__main__":
    main()
