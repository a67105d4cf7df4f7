"""Reads the serial console with its times, from what QEMU traces of the port.

A log of the console (libvirt's `<log file>`, virtlogd) has no times, and a program that follows the log stamps a line
when it looks, on a busy machine late, and only while it runs. QEMU's trace of the port (`-trace serial_write`, with
`-msg timestamp=on`, which libvirt always gives) stamps each character when the guest writes it, for every boot,
whoever started it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from labyard.waterfall.model import TimedLine

_EVENT = re.compile(r"^\d+@(\d+\.\d+):(serial_write write addr 0x(\w\w) val 0x(\w\w)|vm_state_notify running 1)", re.M)
_LINE_CONTROL, _DLAB = 3, 0x80
_BACKSPACE, _LINE_FEED = 8, 10

# What moves the cursor elsewhere ends a line as well: menus and boot loaders draw without line feeds.
_MOVES = re.compile(r"\x1b\[\d*(?:;\d+)?[Hf]|\x1b\[2J|\x1bc")
_CONTROL = re.compile(r"\x1b\[[0-9;?=]*[A-Za-z]|\x1bc|[\x00-\x1a\x1c-\x1f]")


@dataclass
class Console:
    """What the port wrote. `running_at` is when the guest's clock started, by the VM host's; None when not traced."""

    lines: list[TimedLine] = field(default_factory=list)
    running_at: float | None = None


def read_trace(text: str) -> Console:
    """The lines of a trace, without control sequences and without empty ones. Nothing for an empty trace."""
    console = Console()
    divisor = False
    start = end = 0.0
    line = ""

    def flush() -> None:
        nonlocal line
        plain = _CONTROL.sub("", _MOVES.sub("", line)).strip()
        if plain:
            console.lines.append(TimedLine(start, end, plain))
        line = ""

    for match in _EVENT.finditer(text):
        at = float(match[1])
        if match[3] is None:
            console.running_at = console.running_at or at
            continue
        register, value = int(match[3], 16), int(match[4], 16)
        if register == _LINE_CONTROL:
            divisor = bool(value & _DLAB)
        # With the divisor latch open, register 0 sets the speed.
        if register != 0 or divisor:
            continue
        if value == _BACKSPACE:
            # iPXE's prompt for Ctrl-B is taken back when its time is over.
            end = at
            flush()
            continue
        if not line:
            start = at
        line += chr(value)
        if value == _LINE_FEED:
            end = at
            flush()
        elif _CONTROL.fullmatch(line):
            line = ""
        elif _MOVES.search(line):
            flush()
        elif value > 32:
            end = at
    flush()
    return console
