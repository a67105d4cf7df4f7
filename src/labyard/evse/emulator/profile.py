"""Whose manners the emulator has: the real controller's, or those of the public emulator image (contract 2.5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from labyard.evse.codes import State
from labyard.evse.emulator.command_table import Answer, CommandTable, Refused
from labyard.evse.emulator.commands import COMMANDS
from labyard.evse.emulator.controller import Booted, Changed, Event, Evse

_LEGACY_SLEEPING = 0xFD
_LEGACY_FAULT = 0xFE
_FAULTS = range(State.VENTILATION, State.EEPROM + 1)

_LEGACY_COMMANDS = CommandTable(COMMANDS)


@dataclass(frozen=True)
class Profile:
    commands: CommandTable
    describe: Callable[[Event, str], list[object]]
    announces_commands: bool  # what a command changed is announced after its reply


def _describe(event: Event, firmware: str) -> list[object]:
    """The words of an asynchronous line: contract 2.3."""
    if isinstance(event, Changed):
        return ["AT", f"{event.state:02X}", f"{event.pilot:02X}", event.amps, f"{event.flags:04X}"]
    if isinstance(event, Booted):
        return ["AB", f"{event.post:02X}", firmware]
    return ["AN", 0]


def _legacy_state(state: State) -> int:
    return _LEGACY_SLEEPING if state is State.SLEEPING else _LEGACY_FAULT if state in _FAULTS else int(state)


def _legacy_describe(event: Event, firmware: str) -> list[object]:
    words = _describe(event, firmware)
    if isinstance(event, Changed):
        words[1] = f"{_legacy_state(event.state):02X}"
    return words


@_LEGACY_COMMANDS.command("GS")
def _state(evse: Evse, now: float, arguments: Sequence[str]) -> Answer:
    report = evse.report()
    return f"{_legacy_state(report.state):02X}", int(evse.session.seconds), f"{report.pilot:02X}", f"{report.flags:04X}"


@_LEGACY_COMMANDS.command("SC", 1, 2)
def _set_capacity(evse: Evse, now: float, arguments: Sequence[str]) -> Answer:
    try:
        COMMANDS["SC"].handler(evse, now, arguments)
    except Refused as refused:
        if not refused.words:
            raise
    return ()


@_LEGACY_COMMANDS.command("GE")
def _settings(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    return evse.pilot.amps, int(evse.protection.faults)


@_LEGACY_COMMANDS.command("GF")
def _fault_counts(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    return tuple(evse.protection.counts.values())


@_LEGACY_COMMANDS.command("GU")
def _energy(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    return int(evse.total_wh), int(evse.session.watt_seconds)


@_LEGACY_COMMANDS.command("GG")
def _measured(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    return round(evse.current * 1000), evse.millivolts, 0, 0


PROFILES = {
    "real": Profile(COMMANDS, _describe, announces_commands=True),
    "legacy": Profile(_LEGACY_COMMANDS, _legacy_describe, announces_commands=False),
}
