"""Segments that wait on the node until the service has them: encrypted, since this is a disk.

A segment is a chunk object of its own (`evidence.objects`), under a key that lies in memory only (a tmpfs) and goes
when the machine does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from labyard.desktops.adapters.agent import Segment
from labyard.desktops.adapters.files import write_durably
from labyard.desktops.evidence import objects
from labyard.desktops.evidence.compression import Compression
from labyard.desktops.evidence.objects import Key, Slice

KEY_NAME = "spool"
_NAME = re.compile(r"([0-9]{6,})\.lyck")


class Spool:
    """The segments of one session in `folder`; `key_file` is made when it is not there."""

    def __init__(self, folder: Path, key_file: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._key = Key(KEY_NAME, _key(key_file))

    def put(self, piece: Slice, media: bytes) -> None:
        """On disk when it returns. OSError when the disk does not take it."""
        data = objects.pack(piece, media, Compression.NONE, self._key)
        write_durably(self._path(piece.sequence_number), data)

    def numbers(self) -> list[int]:
        """The sequence numbers that are there, in order."""
        found = (_NAME.fullmatch(path.name) for path in self._folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def after(self, number: int) -> Iterator[Segment]:
        """The segments after this number. BadObject when one was altered."""
        for each in self.numbers():
            if each > number:
                header, media = objects.unpack(self._path(each).read_bytes(), self._key)
                yield Segment(
                    session_id=header.session_id,
                    sequence=header.sequence_number,
                    started_at=header.started_at,
                    duration_ms=header.duration_ms,
                    width=header.width,
                    height=header.height,
                    frame_count=header.frame_count,
                    data=media,
                )

    def newest(self) -> Slice | None:
        """What the last segment says of itself. BadObject when it cannot be read."""
        numbers = self.numbers()
        return objects.read_header(self._path(numbers[-1]).read_bytes()) if numbers else None

    def drop(self, upto: int) -> None:
        """Forget the segments up to this number, but the newest: a recorder that was killed goes on after it."""
        for each in self.numbers()[:-1]:
            if each <= upto:
                self._path(each).unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.lyck"


def _key(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(descriptor, "wb") as file:
        material = os.urandom(32)
        file.write(material)
    return material
