"""What happened to the charger, in numbered blocks of which the newest are kept: contract 5.4."""

from __future__ import annotations

from typing import Any

from labyard.evse.gateway.storage import Storage

BLOCK = 32  # entries
BLOCKS = 16


class EventLog:
    """Blocks `oldest` to `newest`; only the newest is written to."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        index = storage.read("log.json")
        known = index if isinstance(index, dict) else {}
        self.oldest, self.newest = (
            value if isinstance(value := known.get(key), int) and value >= 0 else 0 for key in ("min", "max")
        )
        self._block: list[Any] = self.read(self.newest) or []

    def add(self, entry: dict[str, Any]) -> None:
        if len(self._block) >= BLOCK:
            self.newest += 1
            self._block = []
            while self.newest - self.oldest >= BLOCKS:
                self._storage.remove(_name(self.oldest))
                self.oldest += 1
            self._storage.write("log.json", {"min": self.oldest, "max": self.newest})
        self._block.append(entry)
        self._storage.write(_name(self.newest), self._block)

    def read(self, number: int) -> list[Any] | None:
        """None: there is no such block."""
        if not self.oldest <= number <= self.newest:
            return None
        content = self._storage.read(_name(number))
        return content if isinstance(content, list) else []


def _name(number: int) -> str:
    return f"log-{number}.json"
