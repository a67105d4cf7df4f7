"""The search for QEMU processes of ours, on a /proc of our own making."""

from __future__ import annotations

from pathlib import Path

import pytest

from labyard.vms.adapters.processes import Search, stray_ids

QEMU = "/usr/bin/qemu-system-x86_64"
UUID = "1c0800ce-08c7-49fd-bb07-98c23b6ce814"


class Proc:
    def __init__(self, path: Path) -> None:
        self.path = path / "proc"
        self.storage = path / "vman"
        (self.storage / "vms").mkdir(parents=True)
        self.add(1, "/sbin/init", [])
        (self.path / "self").symlink_to("1")

    def add(self, pid: int, exe: str, arguments: list[str], files: tuple[str, ...] = (), namespace: int = 1) -> None:
        folder = self.path / str(pid)
        (folder / "ns").mkdir(parents=True)
        (folder / "ns/pid").symlink_to(f"pid:[{namespace}]")
        (folder / "exe").symlink_to(exe)
        (folder / "cmdline").write_bytes(b"".join(part.encode() + b"\0" for part in [exe, *arguments]))
        (folder / "fd").mkdir()
        for number, file in enumerate(files):
            (folder / "fd" / str(number)).symlink_to(file)

    def found(self, scope: str = "storage") -> set[str]:
        return stray_ids(Search("labyard-", self.storage, scope), {UUID}, self.path)


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def test_by_name(proc: Proc) -> None:
    proc.add(10, QEMU, ["-name", "labyard-web-1"])
    proc.add(11, "/usr/bin/qemu-kvm (deleted)", ["-name", "guest=labyard-web-2,debug-threads=on"])
    proc.add(12, QEMU, ["-name", "guest=other"])
    proc.add(13, QEMU, ["-name"])
    assert proc.found() == {"web-1", "web-2"}
    assert proc.found("host") == {"web-1", "web-2", "pid:12", "pid:13"}


def test_by_files_of_our_storage(proc: Proc) -> None:
    proc.add(10, QEMU, ["-drive", f"file={proc.storage}/vms/web-1/root.qcow2,if=virtio"])
    proc.add(11, QEMU, [], files=(f"{proc.storage}/vms/web-2/console.txt",))
    proc.add(12, QEMU, [], files=(f"{proc.storage}/disks/d.qcow2",))
    proc.add(13, QEMU, ["-drive", f"file={proc.storage}-other/vms/web-3/root.qcow2"])
    assert proc.found() == {"web-1", "web-2", "pid:12"}


def test_what_libvirt_owns_is_passed_over_in_every_scope(proc: Proc) -> None:
    proc.add(10, QEMU, ["-name", "guest=labyard-web-1", "-uuid", UUID])
    (proc.storage / "vms/web-1").mkdir()
    (proc.storage / "vms/web-1/qemu.pid").write_text("10")
    assert proc.found() == proc.found("host") == set()


def test_what_is_not_qemu_or_not_of_this_namespace_is_passed_over(proc: Proc) -> None:
    proc.add(10, "/usr/bin/qemu-img", ["create", f"{proc.storage}/disks/d.qcow2"])
    proc.add(11, QEMU, ["-name", "labyard-web-1"], namespace=2)
    assert proc.found("host") == set()


def test_a_pid_file_counts_only_if_it_names_a_qemu(proc: Proc) -> None:
    proc.add(10, QEMU, ["-name", "other"])
    for vm_id, text in {"web-1": "10\n", "web-2": "1", "web-3": "99", "web-4": "", "web-5": "x"}.items():
        (proc.storage / "vms" / vm_id).mkdir()
        (proc.storage / "vms" / vm_id / "qemu.pid").write_text(text)
    assert proc.found() == {"web-1"}
