"""A tree that members of layers are written into, and nothing outside of it (contract section 6, Confinement).

Paths are resolved here, component by component, never by the kernel: what is handed to it has only real directories
in front of the last name. The tree is private to the one who unpacks, so that nothing changes between look and use.
"""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from labyard.faas.errors import ImageError

MAX_PATH = 4096
MAX_LINKS = 40
Parts = tuple[str, ...]


class MissingDirectory(ImageError):
    """A path leads through what is not there."""


def split_path(name: str) -> Parts:
    """The components of a member's name; a leading slash is ignored. ImageError for `..` that leaves the tree."""
    if len(name.encode("utf-8", "surrogateescape")) > MAX_PATH:
        raise ImageError(f"a path is longer than {MAX_PATH} bytes")
    if "\0" in name:
        raise ImageError("a path has a NUL byte")
    parts: list[str] = []
    for part in name.split("/"):
        if part in ("", "."):
            continue
        if part == "..":
            if not parts:
                raise ImageError(f"{name!r} leads out of the image")
            parts.pop()
        else:
            parts.append(part)
    return tuple(parts)


class Tree:
    def __init__(self, root: Path) -> None:
        self.root = root
        self._real: set[Parts] = {()}  # known to be directories, and no links on the way to them

    def path(self, parts: Parts) -> Path:
        return self.root.joinpath(*parts)

    def kind(self, parts: Parts) -> int | None:
        """The type bits of what is there, links not followed; None for nothing."""
        try:
            return stat.S_IFMT(self.path(parts).lstat().st_mode)
        except FileNotFoundError:
            return None

    def resolve_parent(self, parts: Parts, made: Callable[[Parts], None] | None = None) -> Parts:
        """Where a member really goes: links in front of its last name are followed inside the tree.

        With `made`, missing directories are made and told to it. ImageError when a link leads out of the tree or to
        nothing.
        """
        return (*self._resolve(parts[:-1], made), parts[-1])

    def _resolve(self, parts: Parts, made: Callable[[Parts], None] | None) -> Parts:
        if parts in self._real:
            return parts
        at: list[str] = []
        todo = list(reversed(parts))
        links = 0
        through = ""
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if not at:
                    raise ImageError(f"{'/'.join(parts)!r}: the link {through!r} leads out of the image")
                at.pop()
                continue
            here = (*at, part)
            if here not in self._real:
                kind = self.kind(here)
                if kind == stat.S_IFLNK:
                    links += 1
                    if links > MAX_LINKS:
                        raise ImageError(f"{'/'.join(parts)!r}: too many links")
                    through = str(self.path(here).readlink())
                    if through.startswith("/"):
                        at.clear()
                    todo.extend(reversed(through.split("/")))
                    continue
                if kind is None:
                    if made is None or through:
                        raise MissingDirectory(f"{'/'.join(parts)!r}: no such directory in the image")
                    self.path(here).mkdir(0o755)
                    made(here)
                elif kind != stat.S_IFDIR:
                    raise ImageError(f"{'/'.join(parts)!r}: {part!r} is not a directory")
                self._real.add(here)
            at.append(part)
        return tuple(at)

    def make_directory(self, parts: Parts) -> None:
        """A directory; a link or file of that name gives way, a directory stays as it is."""
        kind = self.kind(parts)
        if kind == stat.S_IFDIR:
            return
        if kind is not None:
            self.path(parts).unlink()
        self.path(parts).mkdir(0o755)

    def clear(self, parts: Parts) -> None:
        """Remove what is there, with all that is in it. Nothing there is fine."""
        if self.kind(parts) == stat.S_IFDIR:
            self._real = {()}
            shutil.rmtree(self.path(parts))
        elif parts:
            self.path(parts).unlink(missing_ok=True)

    def children(self, parts: Parts) -> list[str]:
        return [path.name for path in self.path(parts).iterdir()]
