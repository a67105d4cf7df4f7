"""What a RAPI command is: its name, its number of arguments, and the handler that executes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from labyard.evse.emulator.controller import Evse

MAX_LINE = 32  # bytes, with the $
MAX_TOKENS = 10
OK, NK = "OK", "NK"

Answer = Sequence[object]
# Gets the charger, the moment and the arguments, inside evse.at(now); returns what follows $OK.
Handler = Callable[[Evse, float, Sequence[str]], Answer]


class Refused(Exception):
    """Answered with $NK and these words."""

    def __init__(self, *words: object) -> None:
        self.words = words


class Command(NamedTuple):
    counts: frozenset[int]  # of arguments
    handler: Handler


class CommandTable(dict[str, Command]):
    """Commands by name."""

    def command(self, name: str, *counts: int) -> Callable[[Handler], Handler]:
        """Enters a handler for commands with that many arguments: none, or one of `counts`."""

        def enter(handler: Handler) -> Handler:
            self[name] = Command(frozenset(counts or (0,)), handler)
            return handler

        return enter

    def execute(self, evse: Evse, now: float, tokens: Sequence[str]) -> list[object]:
        """The reply's words. A reboot is only acknowledged: it is the caller's to do."""
        known = self.get(tokens[0].upper()) if 0 < len(tokens) <= MAX_TOKENS else None
        if known is None or len(tokens) - 1 not in known.counts:
            return [NK]
        try:
            with evse.at(now):
                return [OK, *known.handler(evse, now, tokens[1:])]
        except Refused as refused:
            return [NK, *refused.words]


def number(text: str, low: int, high: int) -> int:
    """A decimal argument. Refused: it is none, or out of range."""
    if not re.fullmatch(r"-?[0-9]{1,10}", text) or not low <= int(text) <= high:
        raise Refused
    return int(text)
