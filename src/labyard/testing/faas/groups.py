"""Control groups for one daemon of the tests, so that what it leaves is not taken for another's."""

from __future__ import annotations

import itertools
import os
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path

from labyard.testing.waiting import wait_until

MOUNTED = Path("/sys/fs/cgroup")
_numbers = itertools.count()


class Groups:
    """A group in each hierarchy, below this process's own."""

    def __init__(self) -> None:
        self.name = f"labyard-test-{os.getpid()}-{next(_numbers)}"
        self.folders = [parent / self.name for parent in _parents()]
        for folder in self.folders:
            folder.mkdir()
            for file in ("cpuset.cpus", "cpuset.mems"):
                # Version 1 does not hand them down, and a group without them takes no process.
                if (folder / file).exists() and (folder.parent / file).exists():
                    (folder / file).write_text((folder.parent / file).read_text())

    def enter(self) -> str:
        """A line of shell by which a process enters them."""
        return "".join(f"echo $$ >{folder}/cgroup.procs; " for folder in self.folders)

    def containers(self) -> list[str]:
        return [str(path) for folder in self.folders for path in folder.glob("faas-*")]

    def close(self) -> None:
        """Kill what is in them, and remove them."""
        for folder in self.folders:
            wait_until(partial(self._killed, folder), f"no process is left in {folder}")
            for path in sorted(folder.rglob("*/"), reverse=True):
                if path.is_dir():
                    path.rmdir()
            folder.rmdir()

    def _killed(self, folder: Path) -> bool:
        for pid in self._processes(folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not self._processes(folder)

    @staticmethod
    def _processes(folder: Path) -> list[int]:
        found: list[int] = []
        for file in (folder / "cgroup.procs", *folder.rglob("*/cgroup.procs")):
            with suppress(OSError):  # a runtime that is being killed has removed the group
                found += [int(line) for line in file.read_text().split()]
        return found


def _parents() -> list[Path]:
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers:
            hierarchy = MOUNTED / controllers.removeprefix("name=")
        else:
            hierarchy = MOUNTED if (MOUNTED / "cgroup.controllers").exists() else MOUNTED / "unified"
        if (hierarchy / "cgroup.procs").exists():
            found.append(hierarchy / path.lstrip("/"))
    return found
