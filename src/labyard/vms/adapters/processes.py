"""QEMU processes that libvirt does not own (contract section 9.2), read from /proc.

Liveness is never judged by a pid file: a pid counts only if its executable is QEMU.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_QEMU = re.compile(r"qemu-(system-.+|kvm)")
PROC = Path("/proc")


@dataclass(frozen=True)
class Search:
    """What makes a process ours. `scope`: storage, or host for every QEMU process that libvirt does not own."""

    prefix: str
    storage: Path
    scope: str


def stray_ids(search: Search, owned_uuids: Collection[str], proc: Path = PROC) -> set[str]:
    """The VM id, else `pid:N`, of each live QEMU process that is ours and not libvirt's.

    `owned_uuids`: of libvirt's active domains. Processes of other pid namespaces and those of which nothing can be read
    are passed over.
    """
    found: set[str] = set()
    libvirts: set[int] = set()
    for pid in _qemu_pids(proc):
        with suppress(OSError):  # it ended while we read
            arguments = _arguments(proc, pid)
            if _option(arguments, "-uuid") in owned_uuids:
                libvirts.add(pid)
                continue
            used = [path for path in (*arguments, *_open_files(proc, pid)) if f"{search.storage}/" in path]
            name = _option(arguments, "-name").split(",")[0].removeprefix("guest=")
            ours = bool(used) or name.startswith(search.prefix)
            if ours or search.scope == "host":
                found.add(_vm_id(name, used, search) or f"pid:{pid}")
    return found | _by_pid_file(search, libvirts, proc)


def _qemu_pids(proc: Path) -> Iterator[int]:
    for entry in proc.iterdir():
        if entry.name.isdigit() and _is_qemu(proc, int(entry.name)):
            yield int(entry.name)


def _is_qemu(proc: Path, pid: int) -> bool:
    try:
        name = (proc / str(pid) / "exe").readlink().name.removesuffix(" (deleted)")
        here = (proc / "self/ns/pid").readlink() == (proc / str(pid) / "ns/pid").readlink()
    except OSError:
        return False
    return here and bool(_QEMU.fullmatch(name))


def _arguments(proc: Path, pid: int) -> list[str]:
    return (proc / str(pid) / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")


def _option(arguments: list[str], option: str) -> str:
    with suppress(ValueError, IndexError):
        return arguments[arguments.index(option) + 1]
    return ""


def _open_files(proc: Path, pid: int) -> Iterator[str]:
    with suppress(PermissionError):  # another user's; its arguments must do
        for descriptor in (proc / str(pid) / "fd").iterdir():
            with suppress(OSError):
                yield str(descriptor.readlink())


def _vm_id(name: str, used: list[str], search: Search) -> str:
    if name.startswith(search.prefix):
        return name.removeprefix(search.prefix)
    for path in used:
        if found := re.search(re.escape(f"{search.storage}/vms/") + "([^/,]+)/", path):
            return found[1]
    return ""


def _by_pid_file(search: Search, libvirts: set[int], proc: Path) -> set[str]:
    """Left by earlier systems: `vms/<id>/qemu.pid`."""
    found = set()
    for file in search.storage.glob("vms/*/qemu.pid"):
        with suppress(OSError, ValueError):
            pid = int(file.read_text())
            if pid not in libvirts and _is_qemu(proc, pid):
                found.add(file.parent.name)
    return found
