"""Tar archives read member by member, with bounds on what a hostile one can make us read or keep."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator
from typing import IO, Any

from labyard.faas.errors import ImageError
from labyard.faas.image.compression import BROKEN

PIECE = 1 << 20
MAX_HEADER = 4 << 20  # extended headers and sparse maps of one member
BLOCK = 512


class Section:
    """A part of a file, read from its start. Needs a descriptor; leaves its position alone."""

    def __init__(self, file: IO[bytes], offset: int, size: int) -> None:
        self._fd = file.fileno()
        self._offset = offset
        self.size = size
        self._at = 0
        self._sha256 = ""

    def read(self, size: int = -1) -> bytes:
        left = self.size - self._at
        data = os.pread(self._fd, left if size < 0 else min(size, left), self._offset + self._at)
        self._at += len(data)
        return data

    def peek(self, size: int) -> bytes:
        return os.pread(self._fd, min(size, self.size), self._offset)

    def fresh(self) -> Section:
        section = object.__new__(Section)
        section.__dict__.update(self.__dict__, _at=0)
        return section

    def sha256(self) -> str:
        if not self._sha256:  # asked for twice, and long to find for a large one
            digest = hashlib.sha256()
            section = self.fresh()
            while piece := section.read(PIECE):
                digest.update(piece)
            self._sha256 = digest.hexdigest()
        return self._sha256


class Budget:
    """What one image may still unpack to: bytes and entries."""

    def __init__(self, max_bytes: int, max_entries: int) -> None:
        self._max_bytes, self._max_entries = max_bytes, max_entries
        self._read = self._written = self._entries = 0

    def read(self, size: int) -> None:
        self._read += size
        if self._read > self._max_bytes:
            raise ImageError(f"it unpacks to more than {self._max_bytes} bytes")

    def write(self, size: int) -> None:
        self._written += size
        if self._written > self._max_bytes:
            raise ImageError(f"it unpacks to more than {self._max_bytes} bytes")

    def entry(self) -> None:
        self._entries += 1
        if self._entries > self._max_entries:
            raise ImageError(f"it has more than {self._max_entries} entries")


class Forward:
    """A file that goes forward only, as tarfile wants it: with `tell` and `seek`. Hashes and counts what it reads."""

    def __init__(self, raw: Any, budget: Budget | None) -> None:
        self._raw = raw
        self._budget = budget
        self._at = 0
        self._digest = hashlib.sha256() if budget else None
        self.header_left: int | None = None
        self.last = b""

    def tell(self) -> int:
        return self._at

    def read(self, size: int) -> bytes:
        if self.header_left is not None:
            self.header_left -= max(size, BLOCK)
            if self.header_left < 0:
                raise ImageError("a member's header is too large")
        self.last = self._read(size)
        return self.last

    def _read(self, size: int) -> bytes:
        data: bytes = self._raw.read(size)
        self._at += len(data)
        if self._budget and self._digest:
            self._budget.read(len(data))
            self._digest.update(data)
        return data

    def seek(self, position: int) -> None:
        while self._at < position:
            if not self._read(min(PIECE, position - self._at)):
                raise ImageError("an archive ends too early")

    def finish(self) -> str:
        """Read the rest; the SHA-256 of all of it."""
        while self._read(PIECE):
            pass
        return self._digest.hexdigest() if self._digest else ""


class Random(Forward):
    """The same over a file on disk, for the outer archive: members are skipped, not read."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, None)
        file.seek(0)
        self._file = file

    def seek(self, position: int) -> None:
        self._at = self._file.seek(position)


def members(stream: Forward) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Each member with its archive. ImageError for what is no tar archive, is cut off, or has a broken header."""
    try:
        stream.header_left = MAX_HEADER
        tar = tarfile.TarFile(fileobj=stream, encoding="utf-8", errors="surrogateescape")  # type: ignore[arg-type]
        while True:
            stream.header_left = MAX_HEADER
            member = tar.next()
            stream.header_left = None
            # tarfile keeps every member; half a million of them are hundreds of megabytes.
            tar.members.clear()  # type: ignore[attr-defined]
            if member is None:
                break
            yield tar, member
        # tarfile takes a broken header for the end.
        if stream.last.strip(b"\0") or len(stream.last) % BLOCK:
            raise ImageError("an archive is broken or cut off")
    except (tarfile.TarError, *BROKEN, ValueError, OverflowError, RecursionError) as error:
        raise ImageError(f"an archive cannot be read ({error})") from None
