"""The charger's display: two rows of 16 characters and a colour."""

from __future__ import annotations

COLUMNS = 16
ROWS = 2
COLOURS = 8


class Display:
    def __init__(self) -> None:
        self.rows = [" " * COLUMNS] * ROWS
        self.colour = 2
        self.updates = True  # $F0: whether the charger itself may write; this one never does

    def write(self, row: int, text: str, column: int = 0) -> None:
        """Over what is there; what does not fit is cut."""
        line = self.rows[row]
        self.rows[row] = (line[:column] + text + line[column + len(text) :])[:COLUMNS]

    def set_row(self, row: int, text: str) -> None:
        self.rows[row] = text[:COLUMNS].ljust(COLUMNS)
