"""Whose manners the emulator has: the real controller's, or those of the public emulator image (contract 2.5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from labyard.evse.codes import ErrorFlag, State
from labyard.evse.emulator.commands import COMMANDS, Answer, Command, Refused, command, describe
from labyard.evse.emulator.controller import Changed, Event, Evse

_LEGACY_SLEEPING = 0xFD
_LEGACY_FAULT = 0xFE
_FAULTS = range(State.VENTILATION, State.EEPROM + 1)

_LEGACY_COMMANDS: dict[str, Command] = dict(COMMANDS)


@dataclass(frozen=True)
class Profile:
    commands: dict[str, Command]
    describe: Callable[[Event, str], list[object]]
    announces_commands: bool  # what a command changed is announced after its reply


def _legacy_state(state: State) -> int:
    return _LEGACY_SLEEPING if state is State.SLEEPING else _LEGACY_FAULT if state in _FAULTS else int(state)


def _legacy_describe(event: Event, firmware: str) -> list[object]:
    words = describe(event, firmware)
    if isinstance(event, Changed):
        words[1] = f"{_legacy_state(event.state):02X}"
    return words


@command("GS", table=_LEGACY_COMMANDS)
def _state(evse: Evse, now: float, arguments: Sequence[str]) -> Answer:
    report = evse.report()
    return f"{_legacy_state(report.state):02X}", int(evse.session_seconds), f"{report.pilot:02X}", f"{report.flags:04X}"


@command("SC", 1, 2, table=_LEGACY_COMMANDS)
def _set_capacity(evse: Evse, now: float, arguments: Sequence[str]) -> Answer:
    try:
        COMMANDS["SC"].handler(evse, now, arguments)
    except Refused as refused:
        if not refused.words:
            raise
    return ()


@command("GE", table=_LEGACY_COMMANDS)
def _settings(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    return evse.capacity, int(evse.faults)


@command("GF", table=_LEGACY_COMMANDS)
def _fault_counts(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    return tuple(evse.counts[flag] for flag in (ErrorFlag.GFCI, ErrorFlag.NO_GROUND, ErrorFlag.STUCK_RELAY))


@command("GU", table=_LEGACY_COMMANDS)
def _energy(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    return int(evse.total_wh), int(evse.session_ws)


@command("GG", table=_LEGACY_COMMANDS)
def _measured(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    return round(evse.current * 1000), evse.millivolts, 0, 0


PROFILES = {
    "real": Profile(COMMANDS, describe, announces_commands=True),
    "legacy": Profile(_LEGACY_COMMANDS, _legacy_describe, announces_commands=False),
}
