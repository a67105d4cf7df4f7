"""The content store: each image unpacked once, and `images/<name>/rootfs` a link to its tree (contract section 2)."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from labyard.faas.errors import ImageError
from labyard.faas.image.archive import Image, open_image
from labyard.faas.image.config import Process, find_user, read_process
from labyard.faas.image.tarstream import Budget
from labyard.faas.image.tree import Tree, split_path
from labyard.faas.image.unpack import unpack
from labyard.faas.settings import Settings

CONTROL_SOCKET = "control.sock"
MOUNT_POINTS = ("proc", "dev", "sys", "tmp")


@dataclass(frozen=True)
class Stored:
    """An image in the store. `reused`: its tree was there already."""

    key: str
    process: Process
    user: tuple[int, int]
    groups: tuple[int, ...]
    reused: bool


class Images:
    """Trees by key, and the names that point to them. Who uses a tree holds it; the last to release it removes it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = settings.images / ".store"
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()
        self._unpacking: dict[str, threading.Lock] = {}

    def prepare(self) -> None:
        """Make the folders; only root may look at the images, which may carry set-uid files."""
        self._settings.images.mkdir(parents=True, exist_ok=True)
        self._settings.images.chmod(0o700)
        self._store.mkdir(exist_ok=True)
        self._settings.scratch.mkdir(mode=0o700, exist_ok=True)

    def tree(self, key: str) -> Path:
        return self._store / key / "tree"

    def rootfs(self, name: str) -> Path:
        return self._settings.images / name / "rootfs"

    def add(self, archive: IO[bytes]) -> Stored:
        """Unpack an archive unless its content is there; the caller holds the tree. ImageError, FaasError 507."""
        settings = self._settings
        with open_image(archive, settings.scratch, settings.max_unpacked, settings.max_entries) as image:
            process = read_process(image.config())
            key = self._key(image, process)
            self.hold(key)
            try:
                with self._lock:
                    unpacking = self._unpacking.setdefault(key, threading.Lock())
                with unpacking:
                    reused = self.tree(key).is_dir()
                    if not reused:
                        self._unpack(image, key, process)
                user, groups = find_user(Tree(self.tree(key)), process.user)
            except BaseException:
                self.release(key)
                raise
            return Stored(key, process, user, groups, reused)

    @staticmethod
    def _key(image: Image, process: Process) -> str:
        """Of the layers as they are here, and of the directory that is made for the process."""
        digest = hashlib.sha256()
        for layer in image.layers:
            digest.update(f"{layer.sha256()}\n".encode())
        digest.update(process.workdir.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def _unpack(self, image: Image, key: str, process: Process) -> None:
        settings = self._settings
        scratch = Path(tempfile.mkdtemp(dir=settings.scratch))
        try:
            fresh = scratch / "tree"
            fresh.mkdir(mode=0o755)
            unpack(image, fresh, Budget(settings.max_unpacked, settings.max_entries), scratch)
            _make_mount_points(Tree(fresh), process.workdir)
            self.tree(key).parent.mkdir(exist_ok=True)
            fresh.rename(self.tree(key))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def hold(self, key: str) -> None:
        """Keep a tree from being removed. Functions that an older daemon unpacked have no key: nothing to hold."""
        if key:
            with self._lock:
                self._held[key] += 1

    def release(self, key: str) -> None:
        """Undo one `hold`; the last one removes the tree."""
        if not key:
            return
        with self._lock:
            self._held[key] -= 1
            if self._held[key] > 0:
                return
            del self._held[key]
            self._unpacking.pop(key, None)
            gone = self._set_aside(self._store / key)
        shutil.rmtree(gone, ignore_errors=True)

    def _set_aside(self, path: Path) -> Path:
        """Out of the store by a rename, so that a deploy of the same content finds all of a tree or none."""
        aside = Path(tempfile.mkdtemp(dir=self._settings.scratch))
        if path.exists():
            path.rename(aside / "tree")
        return aside

    def point(self, name: str, key: str) -> str | None:
        """Let `images/<name>/rootfs` lead to a tree. Where it led before; None when it was not there."""
        link = self.rootfs(name)
        link.parent.mkdir(exist_ok=True)
        before = str(link.readlink()) if link.is_symlink() else None
        if before is None and link.is_dir():
            # A directory, from an older daemon: into the store, where what nobody holds is removed at the next start.
            kept = self._store / f"old-{name}"
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir()
            link.rename(kept / "tree")
            before = os.path.relpath(kept / "tree", link.parent)
        self._switch(link, os.path.relpath(self.tree(key), link.parent))
        return before

    def point_back(self, name: str, before: str | None) -> None:
        """Undo `point`."""
        if before is None:
            self.forget(name)
        else:
            self._switch(self.rootfs(name), before)

    @staticmethod
    def _switch(link: Path, target: str) -> None:
        fresh = link.with_name(".next")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target)
        fresh.rename(link)

    def forget(self, name: str) -> None:
        """Remove a name; absent is fine."""
        shutil.rmtree(self._settings.images / name, ignore_errors=True)

    def names(self) -> dict[str, str]:
        """Names, and where each leads; empty text for one that leads nowhere."""
        found = {}
        for path in self._settings.images.iterdir():
            if path.name != ".store":
                link = path / "rootfs"
                found[path.name] = link.resolve().parent.name if link.is_dir() else ""
        return found

    def unheld(self) -> list[str]:
        """Trees in the store that nobody uses."""
        with self._lock:
            return [path.name for path in self._store.iterdir() if path.name not in self._held]

    def remove_unheld(self, key: str) -> None:
        with self._lock:
            if key in self._held:
                return
            gone = self._set_aside(self._store / key)
        shutil.rmtree(gone, ignore_errors=True)


def _make_mount_points(tree: Tree, workdir: str) -> None:
    """What the runtime mounts on, and the process's directory. After this a tree is never written again."""
    tree.clear((CONTROL_SOCKET,))
    descriptor = os.open(tree.path((CONTROL_SOCKET,)), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    os.close(descriptor)
    for name in MOUNT_POINTS:
        kind = tree.kind((name,))
        if kind is None:
            tree.path((name,)).mkdir(0o755)
        elif kind not in (stat.S_IFDIR, stat.S_IFLNK):
            raise ImageError(f"/{name} is not a directory")
    parts = split_path(workdir)
    if parts:
        parts = tree.resolve_parent(parts, made=lambda _: None)
        if tree.kind(parts) is None:
            tree.path(parts).mkdir(0o755)
