"""The archive that the kernel takes as its initramfs."""

from __future__ import annotations

import stat


class Cpio:
    """Files by path, folders made as needed, as bytes of the format newc. The same content gives the same bytes."""

    def __init__(self) -> None:
        self._nodes: dict[str, tuple[int, bytes, tuple[int, int]]] = {}

    def folder(self, path: str) -> None:
        if path and path not in self._nodes:
            self.folder(path.rpartition("/")[0])
            self._nodes[path] = (stat.S_IFDIR | 0o755, b"", (0, 0))

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        self.folder(path.rpartition("/")[0])
        self._nodes[path] = (stat.S_IFREG | mode, content, (0, 0))

    def device(self, path: str, major: int, minor: int) -> None:
        """A character device, for root only."""
        self.folder(path.rpartition("/")[0])
        self._nodes[path] = (stat.S_IFCHR | 0o600, b"", (major, minor))

    def __bytes__(self) -> bytes:
        data = bytearray()
        end = ("TRAILER!!!", (0, b"", (0, 0)))
        for inode, (path, (mode, content, device)) in enumerate((*self._nodes.items(), end), start=1):
            name = path.encode() + b"\0"
            links = 2 if stat.S_ISDIR(mode) else 1
            numbers = (inode, mode, 0, 0, links, 0, len(content), 0, 0, *device, len(name), 0)
            data += b"070701" + b"".join(b"%08X" % number for number in numbers) + name
            data += b"\0" * (-len(data) % 4) + content
            data += b"\0" * (-len(data) % 4)
        # The kernel reads archives one after another when each ends at a multiple of four; 512 is cpio's own habit.
        data += b"\0" * (-len(data) % 512)
        return bytes(data)
