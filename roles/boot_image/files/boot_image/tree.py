# Part of the role boot_image
"""A tree of files in memory, and the two forms it takes: an initramfs and a folder that mke2fs copies."""

from __future__ import annotations

import gzip
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from boot_image.tools import EPOCH, pipe


@dataclass(frozen=True)
class Node:
    """A file, folder, link or device. The content of a link is its target."""

    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


class Tree:
    """Nodes by path, folders before what is in them."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}

    def add(self, path: str, node: Node) -> None:
        parent = path.rpartition("/")[0]
        if parent:
            self.folder(parent)
        self.nodes[path] = node

    def folder(self, path: str) -> None:
        if path not in self.nodes:
            self.add(path, Node(stat.S_IFDIR | 0o755))

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        self.add(path, Node(stat.S_IFREG | mode, content))

    def link(self, path: str, target: str) -> None:
        self.add(path, Node(stat.S_IFLNK | 0o777, target.encode()))

    def device(self, path: str, mode: int, major: int, minor: int) -> None:
        self.add(path, Node(stat.S_IFCHR | mode, device=(major, minor)))

    def cpio(self) -> bytes:
        """The archive that a kernel takes as its initramfs (newc), the same bytes for the same tree."""
        data = bytearray()
        nodes = [*self.nodes.items(), ("TRAILER!!!", Node(0))]
        for inode, (path, node) in enumerate(nodes, start=1):
            name = path.encode() + b"\0"
            links = 2 if stat.S_ISDIR(node.mode) else 1
            numbers = (inode, node.mode, 0, 0, links, 0, len(node.content), 0, 0, *node.device, len(name), 0)
            data += b"070701" + b"".join(b"%08X" % number for number in numbers) + name
            data += b"\0" * (-len(data) % 4) + node.content
            data += b"\0" * (-len(data) % 4)
        return bytes(data)

    def write(self, folder: Path) -> None:
        """Put the tree into a folder. Devices are left out: a root gets its /dev from the kernel."""
        folder.mkdir()
        for path, node in self.nodes.items():
            target = folder / path
            if stat.S_ISDIR(node.mode):
                target.mkdir()
            elif stat.S_ISLNK(node.mode):
                target.symlink_to(node.content.decode())
            elif stat.S_ISREG(node.mode):
                target.write_bytes(node.content)
            else:
                continue
            if not stat.S_ISLNK(node.mode):
                target.chmod(stat.S_IMODE(node.mode))
        for path, node in reversed(self.nodes.items()):
            if not stat.S_ISCHR(node.mode):
                os.utime(folder / path, (EPOCH, EPOCH), follow_symlinks=False)


def compress(data: bytes, how: str) -> bytes:
    """An initramfs in one of the formats that the kernel unpacks."""
    if how == "gzip":
        return gzip.compress(data, 9, mtime=0)
    if how == "lz4":
        return pipe(["lz4", "-l", "-9", "-c"], data)
    if how == "zstd":
        return pipe(["zstd", "-19", "-c", "-q"], data)
    return data
