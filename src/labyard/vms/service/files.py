"""The files of machines and disks under the storage folder (contract section 3.3)."""

from __future__ import annotations

import shutil
from pathlib import Path

from labyard.vms.names import is_id
from labyard.vms.settings import Settings

MARKER = ".labyard"  # in a machine's folder: ours to delete
ROOT = "root.qcow2"
SEED = "seed.iso"
CONSOLE = "console.txt"


class Files:
    """Paths are made here and nowhere else. ValueError for an id that must not become one; callers ask `is_id`."""

    def __init__(self, settings: Settings) -> None:
        self._disks = settings.disks_dir
        self._vms = settings.vms_dir

    def prepare(self) -> None:
        """The folders, without the halves of disks that a crash left."""
        for folder in (self._disks, self._vms):
            folder.mkdir(parents=True, exist_ok=True)
        for half in self._disks.glob(".*.qcow2*"):
            half.unlink(missing_ok=True)

    def disk(self, disk_id: str) -> Path:
        return self._disks / f"{_checked(disk_id)}.qcow2"

    def disks(self) -> dict[str, Path]:
        """The disk files that are there, by the disk id in their names."""
        return {path.stem: path for path in self._disks.glob("*.qcow2") if not path.name.startswith(".")}

    def vm(self, vm_id: str) -> Path:
        return self._vms / _checked(vm_id)

    def root(self, vm_id: str) -> Path:
        return self.vm(vm_id) / ROOT

    def seed(self, vm_id: str) -> Path:
        return self.vm(vm_id) / SEED

    def console(self, vm_id: str) -> Path:
        return self.vm(vm_id) / CONSOLE

    def is_leftover(self, vm_id: str) -> bool:
        """Whether the folder was ours. Asked when there is no row."""
        return (self.vm(vm_id) / MARKER).exists()

    def claim(self, vm_id: str) -> None:
        """Make the machine's folder, or take the one that an operator put there."""
        folder = self.vm(vm_id)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).touch()

    def disclaim(self, vm_id: str) -> None:
        """Undo `claim`: an operator's files stay."""
        folder = self.vm(vm_id)
        (folder / MARKER).unlink(missing_ok=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()

    def remove_vm(self, vm_id: str) -> None:
        folder = self.vm(vm_id)
        if folder.exists():
            shutil.rmtree(folder)


def _checked(key: str) -> str:
    if not is_id(key):
        raise ValueError(f"{key!r} is no id")
    return key
