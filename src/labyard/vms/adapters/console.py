"""Reading the log of a guest's serial port (contract section 7). The writer is libvirt's; here it is never written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TAIL = 50 * 1024  # bytes


@dataclass(frozen=True)
class Piece:
    """A part of the log. `file_size` and `next_offset` are bytes of the current file."""

    text: str
    file_size: int
    next_offset: int


def read_tail(path: Path) -> Piece:
    """The last 50 KiB, reaching into the rotated file before this one. FileNotFoundError, OSError."""
    content, size = _last(path, TAIL)
    if len(content) < TAIL and (before := _previous(path)) is not None:
        content = _last(before, TAIL - len(content))[0] + content
    return Piece(_text(content), size, size)


def read_range(path: Path, offset: int, limit: int) -> Piece:
    """At most `limit` bytes from `offset` of the current file. FileNotFoundError, OSError."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if offset >= size:
            return Piece("", size, offset)
        file.seek(offset)
        content = file.read(limit)
    return Piece(_text(content), size, offset + len(content))


def _last(path: Path, limit: int) -> tuple[bytes, int]:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - limit))
        return file.read(limit), size


def _previous(path: Path) -> Path | None:
    """virtlogd calls the youngest .0, others .1."""
    ends = {other: other.name.removeprefix(f"{path.name}.") for other in path.parent.glob(f"{path.name}.*")}
    numbered = [(int(end), other) for other, end in ends.items() if end.isdecimal()]
    return min(numbered)[1] if numbered else None


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace")
