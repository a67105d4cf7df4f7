"""Layers applied to a tree in order, with overlay semantics (contract section 6)."""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from pathlib import Path
from typing import IO

from labyard.faas.errors import FaasError, ImageError
from labyard.faas.image.compression import BROKEN, decompressed
from labyard.faas.image.tarstream import PIECE, Budget, Forward, Section, members
from labyard.faas.image.tree import MissingDirectory, Parts, Tree, split_path
from labyard.faas.log import log

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"


class Unpacker:
    """Applies one layer after another. Directories get modes and times at the end: later layers write into them."""

    def __init__(self, root: Path, budget: Budget, scratch: Path) -> None:
        self._tree = Tree(root)
        self._budget = budget
        self._scratch = scratch
        self._directories: dict[Parts, tarfile.TarInfo] = {}
        self._mine: set[Parts] = set()  # what this layer brought, and the directories on the way to it
        self._skipped = 0

    def apply(self, layer: Section) -> str:
        """Unpack one layer; the SHA-256 of it uncompressed. ImageError; FaasError 507 when the disk is full."""
        self._mine = set()
        try:
            with decompressed(layer.fresh(), layer.peek(8), self._scratch) as raw:
                stream = Forward(raw, self._budget)
                for tar, member in members(stream):
                    self._budget.entry()
                    self._member(tar, member)
                return stream.finish()
        except (tarfile.TarError, *BROKEN, ValueError, OverflowError) as error:
            raise ImageError(f"a layer cannot be read ({error})") from None
        except OSError as error:
            raise disk_error(error) from None

    def finish(self) -> None:
        for parts, member in sorted(self._directories.items(), key=lambda item: -len(item[0])):
            if self._tree.kind(parts) == stat.S_IFDIR:
                self._set_metadata(self._tree.path(parts), member)
        if self._skipped:
            log("extract", f"{self._skipped} device nodes skipped: each container gets a /dev of its own")

    def _member(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        parts = split_path(member.name)
        if not parts:
            if member.isdir():
                self._directories[()] = member
            return
        if parts[-1].startswith(WHITEOUT):
            self._whiteout(parts)
            return
        if member.isblk() or member.ischr():
            self._skipped += 1
            return
        parts = self._tree.resolve_parent(parts, made=self._made)
        self._touch(parts)
        if member.isdir():
            self._tree.make_directory(parts)
            self._directories[parts] = member
            return
        path = self._tree.path(parts)
        if member.islnk():
            self._hard_link(parts, member)
        elif member.issym():
            self._tree.clear(parts)
            path.symlink_to(member.linkname)
            self._set_metadata(path, member)
        elif member.isfifo():
            self._tree.clear(parts)
            os.mkfifo(path)
            self._set_metadata(path, member)
        elif member.isreg():
            self._tree.clear(parts)
            self._file(path, tar, member)
        else:
            log("extract", f"{member.name!r} skipped: unknown type {member.type!r}")

    def _made(self, parts: Parts) -> None:
        """A directory on the way to a member. What an earlier one of that name was to become does not count for it."""
        self._directories.pop(parts, None)

    def _touch(self, parts: Parts) -> None:
        for length in range(1, len(parts) + 1):
            self._mine.add(parts[:length])

    def _file(self, path: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        self._budget.write(member.size)
        source = tar.extractfile(member)
        assert source is not None
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as target:
            copy_all(source, target)
        self._set_metadata(path, member)

    def _hard_link(self, parts: Parts, member: tarfile.TarInfo) -> None:
        target = split_path(member.linkname)
        if not target:
            raise ImageError(f"{member.name!r} is a hard link to nothing")
        target = self._tree.resolve_parent(target)
        if target == parts:
            return
        if self._tree.kind(target) not in (stat.S_IFREG, stat.S_IFLNK):
            raise ImageError(f"{member.name!r} is a hard link to {member.linkname!r}, which is not a file of the image")
        self._tree.clear(parts)
        os.link(self._tree.path(target), self._tree.path(parts), follow_symlinks=False)

    def _whiteout(self, parts: Parts) -> None:
        name = parts[-1]
        try:
            where = self._tree.resolve_parent((*parts[:-1], "x"))[:-1]
        except MissingDirectory:
            return  # there is nothing below that it could hide
        if name == OPAQUE:
            for child in self._tree.children(where):
                self._remove_lower((*where, child))
        elif not name.startswith(WHITEOUT * 2):
            hidden = name.removeprefix(WHITEOUT)
            if hidden in ("", ".", ".."):
                raise ImageError(f"{'/'.join(parts)!r} is not a valid whiteout")
            self._remove_lower((*where, hidden))

    def _remove_lower(self, parts: Parts) -> None:
        """Remove what layers below brought, and keep what this one did, whatever came first."""
        if parts not in self._mine:
            self._tree.clear(parts)
        elif self._tree.kind(parts) == stat.S_IFDIR:
            for child in self._tree.children(parts):
                self._remove_lower((*parts, child))

    @staticmethod
    def _set_metadata(path: Path, member: tarfile.TarInfo) -> None:
        if os.geteuid() == 0:
            os.lchown(path, member.uid, member.gid)
        if not member.issym():
            path.chmod(member.mode & 0o7777)
        if 0 <= member.mtime < 2**40:
            os.utime(path, (member.mtime, member.mtime), follow_symlinks=False)


def copy_all(source: IO[bytes], target: IO[bytes]) -> None:
    while piece := source.read(PIECE):
        target.write(piece)


def disk_error(error: OSError) -> FaasError:
    """What a failed write means to the one who deploys."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FaasError("the disk is full", 507)
    if error.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EILSEQ):
        return ImageError(f"an entry cannot be written ({error.strerror})")
    return FaasError(f"cannot unpack: {error}", 500)
