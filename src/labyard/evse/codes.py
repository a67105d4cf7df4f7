"""Numbers of the charger's controller: contract 2.4."""

from __future__ import annotations

from enum import IntEnum, IntFlag


class State(IntEnum):
    STARTING = 0x00
    NOT_CONNECTED = 0x01  # J1772 A
    CONNECTED = 0x02  # B
    CHARGING = 0x03  # C
    VENTILATION = 0x04  # D
    DIODE = 0x05
    GFCI = 0x06
    NO_GROUND = 0x07
    STUCK_RELAY = 0x08
    SELF_TEST = 0x09
    OVER_TEMPERATURE = 0x0A
    OVER_CURRENT = 0x0B
    RELAY_CLOSURE = 0x0E
    PP_SHORTED = 0x0F
    PP_MISSING = 0x10
    EEPROM = 0x11
    SLEEPING = 0xFE
    DISABLED = 0xFF


# A car may draw in these: what is offered there is a live offer.
OFFERING = (State.CONNECTED, State.CHARGING)
_SLEEPING_LEGACY = 0xFD  # what the public emulator image says for sleeping
_FIRST_FAULT, _LAST_FAULT = State.VENTILATION, State.EEPROM


def state_name(code: int) -> str:
    """For people."""
    if code == _SLEEPING_LEGACY:
        code = State.SLEEPING
    return State(code).name.lower().replace("_", " ") if code in set(State) else f"state {code:#04x}"


def is_fault(code: int) -> bool:
    return _FIRST_FAULT <= code <= _LAST_FAULT


class Vflag(IntFlag):
    AUTO_SERVICE_SKIPPED = 0x0001
    HARD_FAULT = 0x0002
    LIMIT_SLEEP = 0x0004
    AUTH_LOCKED = 0x0008
    TIME_LIMIT = 0x0010
    NO_GROUND_TRIPPED = 0x0020
    RELAY_CLOSED = 0x0040
    GFCI_TRIPPED = 0x0080
    CAR_CONNECTED = 0x0100
    SESSION_ENDED = 0x0200
    WAS_CONNECTED = 0x0400
    MENU = 0x0800
    TIMER = 0x1000
    CHARGE_LIMIT = 0x2000
    BOOT_LOCK = 0x4000
    MENNEKES = 0x8000


class Control(IntFlag):
    """Control bits of `$GE` (ecf): most switch a check off."""

    L2_SERVICE = 0x0001
    DIODE_OFF = 0x0002
    VENT_OFF = 0x0004
    GROUND_OFF = 0x0008
    RELAY_OFF = 0x0010
    AUTO_SERVICE_OFF = 0x0020
    AUTO_START_OFF = 0x0040
    MONO_LCD = 0x0100
    GFI_TEST_OFF = 0x0200
    TEMPERATURE_OFF = 0x0400
    ZERO_CROSS_OFF = 0x0800
    CGMI = 0x1000
    BOOT_LOCK_OFF = 0x2000
    BUTTON_OFF = 0x8000


class ErrorFlag(IntFlag):
    """`error_flags` of the emulator's HTTP API; never mixed into Vflag."""

    GFCI = 0x01
    STUCK_RELAY = 0x02
    NO_GROUND = 0x04
    DIODE = 0x08
    OVER_TEMPERATURE = 0x10
    SELF_TEST = 0x20


# Several faults at once: the first of these is the state.
FAULT_ORDER = (
    (ErrorFlag.OVER_TEMPERATURE, State.OVER_TEMPERATURE),
    (ErrorFlag.SELF_TEST, State.SELF_TEST),
    (ErrorFlag.STUCK_RELAY, State.STUCK_RELAY),
    (ErrorFlag.NO_GROUND, State.NO_GROUND),
    (ErrorFlag.GFCI, State.GFCI),
    (ErrorFlag.DIODE, State.DIODE),
)
