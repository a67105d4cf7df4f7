"""RAPI's framing, the same at both ends of the line: contract 2.1. Text is latin-1."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from functools import reduce
from operator import xor

ENCODING = "latin-1"
END = b"\r"
# In the text of $FP a space travels as this byte, so that runs of spaces survive the splitting.
SPACE = "\xfe"

_ENDS = re.compile(rb"[\r\n]")
_XOR = re.compile(rb"\^([0-9A-Fa-f]{2})$")
_SUM = re.compile(rb"\*([0-9A-Fa-f]{2})$")
_SEQUENCE = re.compile(r":([0-9A-Fa-f]{2})$")


class Checksum(Enum):
    ABSENT = auto()
    GOOD = auto()
    WRONG = auto()


@dataclass(frozen=True)
class Frame:
    """One line. `tokens[0]` has no `$`; `sequence` is two upper-case hex digits, never 00."""

    tokens: tuple[str, ...]
    sequence: str | None = None
    checksum: Checksum = Checksum.ABSENT


def checksum(raw: bytes) -> int:
    """XOR of all bytes from `$` up to, not including, `^`."""
    return reduce(xor, raw, 0)


def encode(*tokens: object, sequence: str | None = None) -> bytes:
    """The line with `$`, checksum and CR: encode("OK", 16) is b"$OK 16^22\\r"."""
    text = "$" + " ".join(str(token) for token in tokens)
    if sequence is not None:
        text += f" :{sequence}"
    raw = text.encode(ENCODING)
    return b"%s^%02X%s" % (raw, checksum(raw), END)


def decode(line: bytes) -> Frame:
    """A line without its end, beginning with `$`. What looks like no checksum belongs to the last token."""
    state = Checksum.ABSENT
    if found := _XOR.search(line):
        line = line[: found.start()]
        state = Checksum.GOOD if checksum(line) == int(found[1], 16) else Checksum.WRONG
    elif found := _SUM.search(line):
        line = line[: found.start()]
        state = Checksum.GOOD if sum(line) & 0xFF == int(found[1], 16) else Checksum.WRONG
    tokens = line[1:].decode(ENCODING).split(" ")
    tokens = [token for token in tokens if token]
    sequence = None
    if len(tokens) > 1 and (match := _SEQUENCE.fullmatch(tokens[-1])) and match[1] != "00":
        sequence = match[1].upper()
        tokens.pop()
    return Frame(tuple(tokens), sequence, state)


class LineReader:
    """Cuts a stream into lines. A new `$` restarts the line, what has no `$` before it and what is longer than `limit`
    bytes (with the `$`) is dropped; CR and LF both end a line; a partial line is kept until its end comes."""

    def __init__(self, limit: int) -> None:
        self.overlong = 0  # lines that were dropped for their length
        self._limit = limit
        self._partial = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that are complete now, without their ends."""
        *lines, rest = _ENDS.split(self._partial + data)
        for line in lines:
            _, dollar, text = line.rpartition(b"$")
            if len(text) >= self._limit:
                self.overlong += bool(dollar)
            elif dollar and text:
                yield dollar + text
        # No more is kept than tells an overlong line.
        start = rest.rfind(b"$")
        self._partial = rest[start : start + self._limit + 1] if start >= 0 else b""

    def clear(self) -> None:
        """Forget a partial line, as after a reconnect."""
        self._partial = b""
