"""The end of an output, however long it is."""

from __future__ import annotations

SIZE = 65536


class Ring:
    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._data = bytearray()

    def add(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > 2 * self._size:
            del self._data[: -self._size]

    def text(self) -> str:
        return bytes(self._data[-self._size :]).decode("utf-8", "replace")
