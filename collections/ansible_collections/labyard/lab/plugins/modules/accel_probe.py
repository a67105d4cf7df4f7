#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Finds out by booting a kernel whether KVM really works here."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: accel_probe
short_description: Finds out by booting a kernel whether KVM works on a host
version_added: "0.1.0"
description:
  - Boots a Linux kernel in QEMU under KVM with C(-cpu host), with neither disk nor network, and watches it.
  - A kernel that gets as far as looking for its root file system or init has proven the accelerator.
  - When that fails, the same kernel is booted under TCG (pure software emulation).
  - That C(/dev/kvm) exists proves nothing. It may be there and still abort or hang every guest.
  - Changes nothing. The QEMU it starts ends with the module, also when the module itself is killed.
author:
  - Labyard
options:
  kernel:
    description: Path to a Linux kernel image (bzImage) that prints on the first serial port.
    type: path
    required: true
  qemu:
    description: QEMU system emulator, a name looked up in E(PATH) or a path.
    type: str
    default: qemu-system-x86_64
  timeout:
    description:
      - Seconds each boot may take.
      - Under KVM a kernel that has printed nothing after a quarter of this time counts as hung.
    type: int
    default: 20
  memory_mb:
    description: Memory of the guest in MiB.
    type: int
    default: 256
attributes:
  check_mode:
    description: Can run in check mode; it does the same there, since it changes nothing.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
requirements:
  - python >= 3.9
  - QEMU
"""

EXAMPLES = r"""
- name: Find out how guests run here
  labyard.lab.accel_probe:
    kernel: /boot/vmlinuz
  register: accel

- name: Show the choice
  ansible.builtin.debug:
    msg: "guests run under {{ accel.accel }}: {{ accel.reason }}"
"""

RETURN = r"""
accel:
  description: The accelerator that booted the kernel.
  returned: success
  type: str
  choices: [kvm, tcg]
  sample: tcg
reason:
  description: Why this one was chosen. With V(tcg), what QEMU or the kernel complained about under KVM.
  returned: always, when a kernel was booted
  type: str
  sample: "KVM is of no use here: failed to set MSR 0x10a to 0x69"
seconds:
  description: Seconds from the start of QEMU until the kernel looked for its root file system.
  returned: success
  type: float
  sample: 1.3
console:
  description: The last lines of the guest's console under TCG.
  returned: failure, when a kernel was booted
  type: list
  elements: str
"""

import contextlib
import ctypes
import os
import pathlib
import selectors
import shutil
import signal
import subprocess
import time

from ansible.module_utils.basic import AnsibleModule

# What kernels say when they look for a root file system or start init. All of it comes after memory,
# interrupts, timers and the scheduler have worked, where broken accelerators fail. Other panics match none.
MARKERS = (
    "VFS: Cannot open root device",
    "VFS: Unable to mount root fs",
    "/dev/root: Can't open blockdev",
    " as init process",
    "No working init found",
)
# What a kernel in trouble says, most telling first.
TROUBLE = ("Kernel panic", "BUG:", "Oops:", "general protection fault", "watchdog:", "rcu_sched")

PR_SET_PDEATHSIG = 1


def die_with_parent():
    """In the child: QEMU ends when this module does, even when that is killed with SIGKILL."""
    # Without this C library the ordinary end in attempt() remains.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def reached_root(console):
    """True when the console text shows the kernel looking for its root file system or init."""
    return any(marker in console for marker in MARKERS)


def complaint(stderr, console):
    """The first meaningful line of QEMU's stderr, else of the kernel's console; empty when there is none."""
    for line in stderr.splitlines():
        line = line.strip()
        if not line or "warning:" in line or "terminating on signal" in line:
            continue
        # "qemu-system-x86_64: -accel kvm: error: text" -> "text", as far as these parts are there
        if line.startswith("qemu"):
            line = line.partition(": ")[2] or line
        if line.startswith("error: "):
            line = line[len("error: ") :]
        return line
    lines = [line.strip() for line in console.splitlines() if line.strip()]
    for sign in TROUBLE:
        for line in lines:
            if sign in line:
                return line
    return ""


def attempt(qemu, kernel, accel, memory_mb, timeout):
    """Boots once under one accelerator.

    Returns (booted, why, seconds, console): whether the kernel got to its root file system, the complaint
    when not, how long it took, and what the guest printed.
    """
    command = [
        qemu, "-accel", accel, "-m", str(memory_mb), "-nodefaults", "-no-user-config", "-display", "none",
        "-serial", "stdio", "-no-reboot", "-kernel", kernel,
        "-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1",
    ]  # fmt: skip
    if accel == "kvm":
        command += ["-cpu", "host"]  # what the lab's machines use; TCG has no such model
    silence = timeout / 4.0 if accel == "kvm" else timeout
    texts = {"stdout": b"", "stderr": b""}
    started = time.monotonic()
    verdict = ""
    booted = False
    # In this module's own process group: who ends the group ends QEMU as well.
    process = subprocess.Popen(  # pylint: disable=subprocess-popen-preexec-fn
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=die_with_parent,
    )
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ, "stdout")
            selector.register(process.stderr, selectors.EVENT_READ, "stderr")
            while selector.get_map():
                spent = time.monotonic() - started
                limit = timeout if texts["stdout"] else silence
                if spent >= limit:
                    verdict = f"no output within {limit:g} s"
                    if texts["stdout"]:
                        verdict = f"the kernel did not look for its root file system within {limit:g} s"
                    break
                for key, _events in selector.select(limit - spent):
                    chunk = os.read(key.fd, 65536)
                    if not chunk:
                        selector.unregister(key.fileobj)
                    texts[key.data] += chunk
                booted = reached_root(texts["stdout"].decode("utf-8", "replace"))
                if booted:
                    break
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
    seconds = round(time.monotonic() - started, 2)
    console = texts["stdout"].decode("utf-8", "replace")
    if booted:
        return True, "", seconds, console
    said = complaint(texts["stderr"].decode("utf-8", "replace"), console)
    if verdict and said:
        verdict = f"{verdict}; {said}"
    return (
        False,
        verdict or said or f"QEMU ended with status {process.returncode} and said nothing",
        seconds,
        console,
    )


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "kernel": {"type": "path", "required": True},
            "qemu": {"type": "str", "default": "qemu-system-x86_64"},
            "timeout": {"type": "int", "default": 20},
            "memory_mb": {"type": "int", "default": 256},
        },
        supports_check_mode=True,
    )
    kernel, timeout, memory_mb = (module.params[name] for name in ("kernel", "timeout", "memory_mb"))
    if timeout < 1 or memory_mb < 64:
        module.fail_json(msg="timeout must be at least 1 s and memory_mb at least 64")
    if not pathlib.Path(kernel).is_file():
        module.fail_json(msg=f"there is no kernel at {kernel}")
    qemu = shutil.which(module.params["qemu"])
    if not qemu:
        module.fail_json(msg="there is no {} on this host".format(module.params["qemu"]))

    try:
        booted, why_not, seconds, console = attempt(qemu, kernel, "kvm", memory_mb, timeout)
        if booted:
            reason = f"a kernel booted under KVM in {seconds:.1f} s"
            module.exit_json(changed=False, accel="kvm", reason=reason, seconds=seconds)
        reason = f"KVM is of no use here: {why_not}"
        booted, why_not, seconds, console = attempt(qemu, kernel, "tcg", memory_mb, timeout)
        if booted:
            module.exit_json(changed=False, accel="tcg", reason=reason, seconds=seconds)
    except OSError as error:
        module.fail_json(msg=f"{qemu} could not be started: {error}")
    module.fail_json(
        msg=f"the kernel boots neither under KVM nor under TCG (software emulation): {why_not}",
        reason=f"{reason}; under TCG: {why_not}",
        console=console.splitlines()[-20:],
    )


if __name__ == "__main__":
    main()
