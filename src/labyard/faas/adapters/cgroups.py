"""Control groups, v1 and v2: which limits this host can enforce, out of memory, freezing (contract 8.2).

runc gets the empty `cgroupsPath` and makes containers' groups below the daemon's own (v1), or beside the leaf that the
daemon moved into (v2). crun would make them at the root, which may be the host's: it is told the daemon's own.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from labyard.faas.log import log
from labyard.faas.names import is_container_id

CONTROLLERS = ("memory", "cpu", "pids")
LEAF = "faasd"


@dataclass
class Cgroups:
    """`parents` are the folders below which containers' groups are made, by controller; v2 has one, under ''."""

    version: int = 0
    parents: dict[str, Path] = field(default_factory=dict)
    mounted: dict[str, Path] = field(default_factory=dict)  # mount points of the same controllers
    own_path: str = ""  # below the mount points, for a runtime that has to be told
    made: list[Path] = field(default_factory=list)  # folders that such a runtime makes on the way, deepest first
    enforced: frozenset[str] = frozenset()
    swap: bool = False  # swap can be limited, too

    @property
    def missing(self) -> list[str]:
        return [name for name in CONTROLLERS if name not in self.enforced]

    def named(self) -> Cgroups:
        """The same for a runtime that is told where groups are to be: one path in all hierarchies, that of memory."""
        first = "memory" if self.version == 1 else ""
        if first not in self.parents:
            return replace(self, enforced=frozenset())
        path = self.parents[first].relative_to(self.mounted[first])
        parents = {name: mounted / path for name, mounted in self.mounted.items()}
        made = [folder for parent in parents.values() for folder in (parent, *parent.parents) if not folder.exists()]
        return replace(self, parents=parents, own_path=os.path.normpath(f"/{path}"), made=made)

    def close(self) -> None:
        """Remove what the runtime made on the way to containers' groups; what is in use stays."""
        for folder in self.made:
            with suppress(OSError):
                folder.rmdir()

    def path_of(self, container: str) -> str:
        """What a container's configuration says of it."""
        return f"{self.own_path.rstrip('/')}/{container}" if self.own_path else ""

    def oom_kills(self, container: str) -> int:
        """How many processes of a container were killed for want of memory. It must not be deleted yet."""
        if self.version == 2:
            return _counter(self._group("memory", container) / "memory.events", "oom_kill")
        return _counter(self._group("memory", container) / "memory.oom_control", "oom_kill")

    def freeze(self, container: str, frozen: bool) -> None:
        """Stop or resume all processes of a container. OSError when it cannot be done."""
        if self.version == 2:
            (self._group("", container) / "cgroup.freeze").write_text("1" if frozen else "0")
        else:
            state = "FROZEN" if frozen else "THAWED"
            (self._group("freezer", container) / "freezer.state").write_text(state)

    def leftovers(self) -> dict[str, list[Path]]:
        """Groups of containers, by container."""
        found: dict[str, list[Path]] = {}
        for parent in self.parents.values():
            for path in parent.iterdir() if parent.is_dir() else ():
                if is_container_id(path.name):
                    found.setdefault(path.name, []).append(path)
        return found

    def remove(self, container: str) -> None:
        """Remove a container's empty groups; one that is still in use stays."""
        for path in self.leftovers().get(container, []):
            try:
                path.rmdir()
            except OSError as error:
                log("init", f"cannot remove {path}: {error.strerror}")

    def _group(self, controller: str, container: str) -> Path:
        parent = self.parents.get("" if self.version == 2 else controller)
        return (parent or Path("/nonexistent")) / container


def _counter(path: Path, name: str) -> int:
    try:
        rows = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return 0
    return next((int(row[1]) for row in rows if len(row) == 2 and row[0] == name), 0)


def _mounts() -> list[tuple[str, str, str, set[str]]]:
    """Mounted hierarchies: type, root within the hierarchy, mount point, options of the superblock."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        words, (kind, _, options) = before.split(), after.split()
        if kind in ("cgroup", "cgroup2"):
            found.append((kind, words[3], words[4], set(options.split(","))))
    return found


def _own() -> dict[str, str]:
    """The daemon's own group by controller; v2's under ''."""
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))
    return own


def _below(mount_point: str, root: str, path: str) -> Path:
    """A group's folder. Where cgroup namespaces are not used, the mount shows only a part of the hierarchy."""
    relative = os.path.relpath(path, root) if root != "/" else path.lstrip("/")
    return Path(os.path.normpath(f"{mount_point}/{relative}"))


def find_cgroups() -> Cgroups:
    """What this host has. With v2 the daemon moves into a leaf of its own, so that its group can have children."""
    mounts, own = _mounts(), _own()
    unified = next((row for row in mounts if row[0] == "cgroup2" and row[2] == "/sys/fs/cgroup"), None)
    if unified:
        found = _find_v2(_below(unified[2], unified[1], own.get("", "/")))
        return replace(found, mounted=dict.fromkeys(found.parents, Path(unified[2])))
    parents: dict[str, Path] = {}
    mounted: dict[str, Path] = {}
    for kind, root, mount_point, options in mounts:
        if kind == "cgroup":
            for name in options & set(own):
                parents.setdefault(name, _below(mount_point, root, own[name]))
                mounted.setdefault(name, Path(mount_point))
    enforced = frozenset(name for name in CONTROLLERS if name in parents and os.access(parents[name], os.W_OK))
    swap = "memory" in enforced and (parents["memory"] / "memory.memsw.limit_in_bytes").exists()
    return Cgroups(1, parents, mounted, enforced=enforced, swap=swap)


def _find_v2(group: Path) -> Cgroups:
    if group.name == LEAF:
        group = group.parent
    at_root = not (group / "cgroup.type").exists()
    try:
        if not at_root:
            leaf = group / LEAF
            leaf.mkdir(exist_ok=True)
            (leaf / "cgroup.procs").write_text(str(os.getpid()))
        available = set((group / "cgroup.controllers").read_text().split())
        for name in available & set(CONTROLLERS):
            (group / "cgroup.subtree_control").write_text(f"+{name}")
    except OSError as error:
        log("init", f"cgroup {group}: {error.strerror}: limits may not be enforced")
    try:
        enabled = set((group / "cgroup.subtree_control").read_text().split())
    except OSError:
        enabled = set()
    enforced = frozenset(enabled & set(CONTROLLERS))
    # The root of the hierarchy has no file that tells of swap; the leaf has one where there is any.
    swap = "memory" in enforced and (at_root or (group / LEAF / "memory.swap.max").exists())
    return Cgroups(2, {"": group, **dict.fromkeys(enforced, group)}, enforced=enforced, swap=swap)
