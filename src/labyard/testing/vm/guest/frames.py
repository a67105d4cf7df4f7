"""Frames on the port between host and guest: magic, two lengths, a JSON header, raw bytes.

Host and guest both use this file.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

TYPE_CHECKING = False  # as in typing, which takes the guest longer to import than all the rest of this file
if TYPE_CHECKING:
    from typing import Any

    Header = dict[str, Any]

MAGIC = b"LVM1"
PREFIX = struct.Struct(">4sII")
CHUNK = 1 << 20  # bytes of payload in one frame at most: what is longer goes in several
MAX_HEADER = 4 << 20


def pack(header: Header, payload: bytes | memoryview = b"") -> bytes:
    """One frame. ValueError: header or payload is over its limit."""
    text = json.dumps(header).encode()
    if len(text) > MAX_HEADER or len(payload) > CHUNK:
        raise ValueError(f"a frame of {len(text)} + {len(payload)} bytes is over {MAX_HEADER} + {CHUNK}")
    return b"".join((PREFIX.pack(MAGIC, len(text), len(payload)), text, payload))


class Frames:
    """Cuts a stream into frames. Bytes that belong to none are dropped: a restored VM may begin in mid-frame."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Header, bytes]]:
        """The frames that are whole now."""
        self._bytes += data
        while True:
            self._drop_until_magic()
            if len(self._bytes) < PREFIX.size:
                return
            _, header_size, payload_size = PREFIX.unpack_from(self._bytes)
            if header_size > MAX_HEADER or payload_size > CHUNK:
                del self._bytes[:1]
                continue
            header_end = PREFIX.size + header_size
            end = header_end + payload_size
            if len(self._bytes) < end:
                return
            try:
                header = json.loads(self._bytes[PREFIX.size : header_end])
            except ValueError:
                header = None
            if not isinstance(header, dict):
                del self._bytes[:1]
                continue
            payload = bytes(self._bytes[header_end:end])
            del self._bytes[:end]
            yield header, payload

    def _drop_until_magic(self) -> None:
        at = self._bytes.find(MAGIC)
        if at < 0:
            # The magic's beginning may have come already.
            keep = next((n for n in range(len(MAGIC) - 1, 0, -1) if self._bytes.endswith(MAGIC[:n])), 0)
            at = len(self._bytes) - keep
        del self._bytes[:at]
