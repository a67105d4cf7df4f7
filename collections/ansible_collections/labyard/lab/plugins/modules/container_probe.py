#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: does a container runtime really work on this host?"""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_probe
short_description: Find out by running one whether containers work on a host
description:
  - Runs one throw-away container with namespaces of its own, which executes C(true), and removes it.
  - When that fails it names what the host lacks, as far as that can be seen, and what the runtime said.
  - That the program is there proves nothing, inside a container of somebody else's above all.
options:
  runtime:
    description: The runtime, C(runc), C(crun), or a path of one of the two.
    type: str
    default: runc
  timeout:
    description: Seconds that the container may take.
    type: int
    default: 60
attributes:
  check_mode: {support: full, description: It does the same there, since it changes nothing.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: Find out whether containers run here
  labyard.lab.container_probe:
    runtime: runc
  register: probe
"""

RETURN = r"""
installed:
  description: Whether the runtime is there at all.
  type: bool
  returned: always
works:
  description: Whether the container ran.
  type: bool
  returned: always
missing:
  description: What the host lacks, each with the way out. May name something also when the container ran.
  type: list
  elements: str
  returned: always
reason:
  description: What the runtime said when it failed; empty when the container ran.
  type: str
  returned: always
cgroup:
  description: The version of control groups, 1 or 2; 0 when none are mounted.
  type: int
  returned: always
limits:
  description: Which of memory, cpu and pids can be limited.
  type: list
  elements: str
  returned: always
"""

import json
import os
import shutil
import subprocess
import tempfile
import uuid
from typing import Any

from ansible.module_utils.basic import AnsibleModule

NEEDED = {"CAP_SYS_ADMIN": 21, "CAP_NET_ADMIN": 12}  # bits of linux/capability.h
CONTROLLERS = ("memory", "cpu", "pids")
SYSTEM = ("/bin", "/lib", "/lib64", "/usr")


def process_status(name: str) -> str:
    """A field of /proc/self/status."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        return next((line.split(":", 1)[1].strip() for line in status if line.startswith(f"{name}:")), "")


def cgroup_mounts() -> list[tuple[str, str, set[str]]]:
    """Type, mount point and options (of the mount and of the superblock) of each hierarchy that can be reached."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            before, _, after = line.partition(" - ")
            words, kind = before.split(), after.split()[0]
            if kind in ("cgroup", "cgroup2") and os.path.exists(f"{words[4]}/cgroup.procs"):
                found.append((kind, words[4], {*words[5].split(","), *after.split()[2].split(",")}))
    return found


def cgroup_version(mounts: list[tuple[str, str, set[str]]]) -> int:
    if any(kind == "cgroup2" and point == "/sys/fs/cgroup" for kind, point, _ in mounts):
        return 2
    return 1 if any(kind == "cgroup" for kind, _, _ in mounts) else 0


def limitable(mounts: list[tuple[str, str, set[str]]]) -> list[str]:
    """The controllers that this host's control groups have."""
    if cgroup_version(mounts) == 2:
        with open("/sys/fs/cgroup/cgroup.controllers", encoding="ascii") as file:
            known = set(file.read().split())
    else:
        known = set().union(*(options for kind, _, options in mounts if kind == "cgroup"))
    return [name for name in CONTROLLERS if name in known]


def lacking(capabilities: int, seccomp: str, mounts: list[tuple[str, str, set[str]]]) -> list[str]:
    """What a host needs for containers and does not have."""
    found = [
        f"the capability {name} (docker run --cap-add {name[4:]}; lab_host_capabilities in the inventory)"
        for name, bit in NEEDED.items()
        if not capabilities >> bit & 1
    ]
    if not mounts:
        found.append("a cgroup mount (docker run --volume /sys/fs/cgroup:/sys/fs/cgroup:rw)")
    elif all("ro" in options for _, _, options in mounts):
        found.append("a cgroup mount that can be written (docker run --volume /sys/fs/cgroup:/sys/fs/cgroup:rw)")
    if seccomp == "2":
        found.append("freedom of system calls: a seccomp filter is on (docker run --security-opt seccomp=unconfined)")
    return found


def container_config(mounts: list[tuple[str, str, set[str]]]) -> dict[str, Any]:
    """A container as functions get it, of the host's own programs."""
    binds = [
        {"destination": path, "type": "bind", "source": path, "options": ["bind", "ro"]}
        for path in SYSTEM
        if os.path.isdir(path)
    ]
    kinds = ["pid", "network", "ipc", "uts", "mount"] + (["cgroup"] if os.path.exists("/proc/self/ns/cgroup") else [])
    return {
        "ociVersion": "1.0.0",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": [shutil.which("true") or "/bin/true"],
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "probe",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            *binds,
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in kinds],
            # What cannot be limited is not asked for: crun would fail.
            "resources": {"pids": {"limit": 16}} if "pids" in limitable(mounts) else {},
        },
    }


def attempt(program: str, timeout: int, mounts: list[tuple[str, str, set[str]]], folder: str) -> str:
    """Run the container: empty text, or what the runtime said last."""
    for path in ("/proc", "/dev", "/sys", *SYSTEM):
        os.makedirs(f"{folder}/rootfs{path}")
    with open(f"{folder}/config.json", "w", encoding="utf-8") as file:
        json.dump(container_config(mounts), file)
    name = f"labyard-probe-{uuid.uuid4()}"
    command = [program, "--root", f"{folder}/state"]
    try:
        done = subprocess.run(
            [*command, "run", "--bundle", folder, name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it did not end within {timeout} s"
    finally:
        subprocess.run([*command, "delete", "--force", name], capture_output=True, check=False, timeout=timeout)
    if done.returncode == 0:
        return ""
    return ((done.stderr.strip() or done.stdout.strip()).splitlines() or ["it said nothing"])[-1]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "runtime": {"type": "str", "default": "runc"},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    mounts = cgroup_mounts()
    missing = lacking(int(process_status("CapEff") or "0", 16), process_status("Seccomp"), mounts)
    about: dict[str, Any] = {"cgroup": cgroup_version(mounts), "limits": limitable(mounts) if mounts else []}
    program = shutil.which(module.params["runtime"], path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        reason = f"{module.params['runtime']} is not installed"
        module.exit_json(changed=False, installed=False, works=False, missing=missing, reason=reason, **about)
    folder = tempfile.mkdtemp(prefix="labyard-probe-", dir="/run")
    try:
        reason = attempt(program, module.params["timeout"], mounts, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    module.exit_json(changed=False, installed=True, works=not reason, missing=missing, reason=reason, **about)


if __name__ == "__main__":
    main()
