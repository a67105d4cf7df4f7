#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: the virtual environment of a Labyard service."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service_venv
short_description: Keep a service's virtual environment, with locked dependencies and one wheel
description:
  - Has uv, from a virtual environment of its own that Python's venv and pip make, so that any processor will do.
  - Installs the locked dependencies with uv when the list, the host's Python or I(site_packages) has changed. The new
    environment is made beside the old one and takes its place when it is whole. This needs the package index.
  - Installs the wheel when its digest is another than that of the installed one. This needs no network.
options:
  path:
    description: The virtual environment. Left out, only uv is seen to.
    type: path
  uv:
    description: The virtual environment that uv is in.
    type: path
    required: true
  uv_requirements:
    description: Requirements with hashes for uv itself.
    type: str
  requirements:
    description: Requirements with hashes for the service.
    type: str
  site_packages:
    description: Whether it sees the Python packages of the distribution too. What is locked comes before them.
    type: bool
    default: false
  wheel:
    description: The wheel to install.
    type: path
  digest:
    description: What tells this wheel from another.
    type: str
  python:
    description: The Python that runs the service.
    type: path
    default: /usr/bin/python3
  state:
    description: Whether it exists. The last service of a folder takes uv with it.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode: {support: full, description: Says whether something would be installed or removed.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: Install a service's wheel
  labyard.lab.service_venv:
    path: /opt/labyard/netboot
    uv: /opt/labyard/uv
    wheel: /opt/labyard/netboot/wheel/labyard-0.1.0-py3-none-any.whl
    digest: 0f3a
"""

RETURN = r""" # """

import hashlib
import os
import shutil

from ansible.module_utils.basic import AnsibleModule

WAY_OUT = (
    "see that this host reaches the Python package index; behind a mirror, a proxy or a certificate authority of "
    "your own set labyard_service_index_url, labyard_service_proxy or labyard_service_ca_file"
)


def digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


class Folder:
    """A virtual environment that remembers what was put into it."""

    def __init__(self, module: AnsibleModule, path: str) -> None:
        self.module = module
        self.path = path

    def file(self, *names: str) -> str:
        return os.path.join(self.path, *names)

    def is_stamped(self, name: str, text: str) -> bool:
        try:
            with open(self.file(f".labyard-{name}"), encoding="ascii") as stamp:
                return stamp.read().strip() == text
        except FileNotFoundError:
            return False

    def stamp(self, name: str, text: str) -> None:
        with open(self.file(f".labyard-{name}"), "w", encoding="ascii") as stamp:
            stamp.write(f"{text}\n")

    def run(self, trouble: str, *command: str) -> None:
        # A host's own uv or pip settings must not change what is locked here.
        environment = {"UV_NO_CONFIG": "1", "UV_PYTHON_DOWNLOADS": "never", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        code, out, error = self.module.run_command(list(command), environ_update=environment)
        if code != 0:
            self.module.fail_json(msg=f"{trouble}\n{(error.strip() or out.strip())[-2000:]}")

    def write(self, name: str, text: str) -> str:
        path = os.path.join(self.module.tmpdir, name)
        with open(path, "w", encoding="utf-8") as target:
            target.write(text)
        return path


def have_uv(uv: Folder, requirements: str, python: str) -> None:
    shutil.rmtree(uv.path, ignore_errors=True)
    uv.run("no virtual environment for uv could be made", python, "-m", "venv", uv.path)
    pip = [uv.file("bin", "python"), "-m", "pip", "install", "--quiet", "--require-hashes", "--requirement"]
    uv.run(f"uv could not be installed; {WAY_OUT}", *pip, uv.write("uv.txt", requirements))
    uv.stamp("requirements", digest(requirements))


def have_dependencies(
    venv: Folder, uv: Folder, requirements: str, stamp: str, python: str, site_packages: bool
) -> None:
    fresh = Folder(venv.module, f"{venv.path}.new")
    shutil.rmtree(fresh.path, ignore_errors=True)
    program, cache = uv.file("bin", "uv"), f"{venv.path}.cache"
    common = ["--quiet", "--cache-dir", cache, "--python"]
    options = ["--relocatable", *(["--system-site-packages"] if site_packages else [])]
    fresh.run("no virtual environment could be made", program, "venv", *common, python, *options, fresh.path)
    install = [program, "pip", "install", *common, fresh.file("bin", "python"), "--require-hashes", "--no-deps"]
    trouble = f"the locked packages could not be installed; {WAY_OUT}"
    fresh.run(trouble, *install, "--requirement", venv.write("locked.txt", requirements))
    shutil.rmtree(cache, ignore_errors=True)
    fresh.stamp("requirements", stamp)
    # Not moved aside: overlayfs cannot rename a folder of the image that a container was made from.
    shutil.rmtree(venv.path, ignore_errors=True)
    os.rename(fresh.path, venv.path)
    # Only now, since compiled files hold their paths. It makes the service start in a third of the time.
    venv.run(
        "the packages could not be compiled",
        venv.file("bin", "python"),
        "-m",
        "compileall",
        "-q",
        "-j",
        "0",
        venv.file("lib"),
    )


def have_wheel(venv: Folder, uv: Folder, wheel: str, stamp: str) -> None:
    install = [uv.file("bin", "uv"), "pip", "install", "--quiet", "--no-cache", "--offline", "--no-deps", "--reinstall"]
    python = ["--python", venv.file("bin", "python"), "--compile-bytecode"]
    venv.run("the wheel could not be installed", *install, *python, wheel)
    venv.stamp("wheel", stamp)


def absent(module: AnsibleModule, venv: Folder, uv: Folder) -> bool:
    home = os.path.dirname(uv.path)
    there = set(os.listdir(home)) if os.path.isdir(home) else set()
    last = not there - {os.path.basename(venv.path), os.path.basename(uv.path)}
    doomed = [folder.path for folder in ([venv, uv] if last else [venv]) if os.path.exists(folder.path)]
    if not module.check_mode:
        for path in doomed:
            shutil.rmtree(path)
        if os.path.isdir(home) and not os.listdir(home):
            os.rmdir(home)
    return bool(doomed)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path"},
            "uv": {"type": "path", "required": True},
            "uv_requirements": {"type": "str"},
            "requirements": {"type": "str"},
            "site_packages": {"type": "bool", "default": False},
            "wheel": {"type": "path"},
            "digest": {"type": "str"},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_by={"requirements": ["path", "uv_requirements"], "wheel": ["path", "digest"]},
        supports_check_mode=True,
    )
    given = module.params
    uv, venv = Folder(module, given["uv"]), Folder(module, given["path"] or "")
    if given["state"] == "absent":
        module.exit_json(changed=absent(module, venv, uv))

    changed = False
    if given["uv_requirements"] and not uv.is_stamped("requirements", digest(given["uv_requirements"])):
        changed = True
        if not module.check_mode:
            have_uv(uv, given["uv_requirements"], given["python"])
    if given["requirements"]:
        # A host that got a newer Python needs its packages anew.
        version = os.path.realpath(given["python"])
        stamp = digest(given["requirements"], version, *(["site packages"] if given["site_packages"] else []))
        if not venv.is_stamped("requirements", stamp):
            changed = True
            if not module.check_mode:
                have_dependencies(venv, uv, given["requirements"], stamp, given["python"], given["site_packages"])
    if given["wheel"] and not venv.is_stamped("wheel", given["digest"]):
        changed = True
        if not module.check_mode:
            have_wheel(venv, uv, given["wheel"], given["digest"])
    module.exit_json(changed=changed)


if __name__ == "__main__":
    main()
