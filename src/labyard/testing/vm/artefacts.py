"""What is collected from a VM whose test has failed."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path

from labyard.testing.vm.errors import VMError, describe_code
from labyard.testing.vm.machine import Record, text
from labyard.testing.vm.vm import VM

SECONDS = 10.0
SECTION_LINES = 60
ASKED = {
    "dmesg": "dmesg",
    "ps": "ps -eo pid,ppid,pgid,stat,etimes,rss,args --forest",
    "ip-addr": "ip addr",
    "journal": "if command -v journalctl >/dev/null; then journalctl --no-pager; fi",
}


def folder_of(root: Path, node_id: str) -> Path:
    """artifacts/vm/<test id>, as a folder's name."""
    return root / "artifacts/vm" / re.sub(r"[^\w.\[\]-]+", "_", node_id).strip("_")[:150]


def collect(vm: VM, folder: Path) -> dict[str, str]:
    """Write it to the folder, within SECONDS; the same texts by name. A VM that is gone gives what the host has."""
    found = {"commands.txt": _commands(vm.records), "processes.txt": _processes(vm)}
    with contextlib.suppress(VMError):  # closed: by the test, or it failed after its end
        found |= {"serial.log": vm.serial_log, "qemu.log": vm.guest.qemu.read_log("qemu.log")} | _asked(vm)
    found = {name: content for name, content in found.items() if content.strip()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in found.items():
        (folder / name).write_text(content, encoding="utf-8")
    return found


def _asked(vm: VM) -> dict[str, str]:
    """What the guest says to the commands, as far as it does within SECONDS."""
    end = time.monotonic() + SECONDS
    found: dict[str, str] = {}
    for name, command in ASKED.items():
        try:
            call = vm.agent.start("run", command=command)
            whole = call.ended.wait(max(0.0, end - time.monotonic()))
            call.check()
        except (VMError, OSError) as error:
            found[f"{name}.txt"] = f"not collected: {error}\n"
            break
        found[f"{name}.txt"] = text(call.output("stdout") + call.output("stderr"))
        if not whole:
            found[f"{name}.txt"] += f"[cut off: collecting takes {SECONDS:g} s at most]\n"
    return found


def section(content: str) -> str:
    """The end of a text, for pytest's report."""
    lines = content.splitlines()
    if len(lines) <= SECTION_LINES:
        return content
    return "\n".join((f"... {len(lines) - SECTION_LINES} lines before", *lines[-SECTION_LINES:]))


def _commands(records: list[Record]) -> str:
    parts = []
    for record in records:
        code = "killed, it took too long" if record.code is None else f"code {describe_code(record.code)}"
        parts.append(f"$ {record.command}\n[{code}, {record.duration:.2f} s]\n")
        parts += [text(output).rstrip("\n") + "\n" for output in (record.stdout, record.stderr) if output]
    return "".join(parts)


def _processes(vm: VM) -> str:
    parts = []
    for process in vm.processes:
        try:
            code = process.poll()
            state = "running" if code is None else f"code {describe_code(code)}"
        except VMError as error:
            state = str(error)
        parts.append(
            f"== {process.pid}: {process.args} [{state}]\n-- stdout\n{process.stdout}\n-- stderr\n{process.stderr}\n"
        )
    return "".join(parts)
