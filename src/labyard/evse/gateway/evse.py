"""What the gateway knows of its EVSE, read from replies and asynchronous lines: contract 2.2 to 2.4. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from labyard.evse.codes import Control, State, Vflag

ASLEEP = frozenset({State.SLEEPING, State.DISABLED})
PUBLIC_SLEEPING = 253  # what the public image says; clients and groups know 254
FAULTS = range(State.VENTILATION, 12)
_DECIMAL = re.compile(r"-?[0-9]{1,10}")
_HEX = re.compile(r"[0-9A-Fa-f]{1,4}")
ABSENT = -2560  # a temperature sensor that is not there, 0.1 °C


@dataclass(frozen=True)
class LocalStatus:
    """This charger as a member of a group."""

    amp: int  # mA, as in /status
    voltage: int  # V
    pilot: int  # A, what the car is offered
    vehicle: bool
    state: int
    min: int  # A
    max: int  # A, the configured maximum

    @property
    def amps(self) -> float:
        return self.amp / 1000

    @property
    def charging(self) -> bool:
        return self.state == State.CHARGING


class Evse:
    """`read_*` take the arguments of a reply without its OK, of an asynchronous line without its name; ValueError if
    they are not what they should be, and then nothing is changed. More arguments than known are ignored."""

    def __init__(self) -> None:
        self.firmware = ""
        self.protocol = ""
        self.serial = ""
        self.state = int(State.STARTING)
        self.vflags = 0
        self.min = 0
        self.hardware_max = 80
        self.configured_max = 0
        self.pilot = 0  # A, what the car is offered
        self.capacity: int | None = None  # A, as `$AT` tells it: when it changes, the pilot may have
        self.amp = 0  # mA
        self.voltage: int | None = None  # mV, None: not measured
        self.temperatures: list[int | None] = [None, None, None]  # 0.1 °C
        self.temperature_max: int | None = None
        self.gfci = self.no_ground = self.stuck = 0
        self.ecf = int(Control.L2_SERVICE)
        self.scale, self.offset = 220, 0
        self.session_wattseconds = 0
        self.total_wh = 0
        self._elapsed, self._elapsed_at = 0, 0.0
        self._listeners: list[Callable[[frozenset[str]], None]] = []

    def on_change(self, listener: Callable[[frozenset[str]], None]) -> None:
        """`listener` gets the names of the attributes that changed: state, vflags, pilot, amp, min, …"""
        self._listeners.append(listener)

    @property
    def vehicle(self) -> bool:
        return bool(self.vflags & Vflag.CAR_CONNECTED)

    @property
    def charging(self) -> bool:
        return self.state == State.CHARGING

    @property
    def asleep(self) -> bool:
        return self.state in ASLEEP

    @property
    def fault(self) -> bool:
        return self.state in FAULTS

    @property
    def old_protocol(self) -> bool:
        """Before 5.0.0 `$GS` has a decimal state, and elapsed only."""
        return bool(self.protocol) and self.protocol.split(".")[0].isdigit() and int(self.protocol.split(".")[0]) < 5

    @property
    def service_level(self) -> int:
        return 2 if self.ecf & Control.L2_SERVICE else 1

    @property
    def temperature(self) -> int | None:
        """The warmest sensor, 0.1 °C."""
        return max((value for value in self.temperatures if value is not None), default=None)

    def elapsed(self, now: float) -> int:
        """Seconds of charging in this session."""
        return self._elapsed + (int(now - self._elapsed_at) if self.charging else 0)

    def read_version(self, words: Sequence[str]) -> None:
        firmware, protocol = _some(words, 1)[0], words[1] if len(words) > 1 else "5.0.0"
        self._set(firmware=firmware, protocol=protocol)

    def read_boot(self, words: Sequence[str]) -> None:
        """`$AB`."""
        if len(words) > 1:
            self._set(firmware=words[1])

    def read_transition(self, words: Sequence[str], now: float) -> None:
        """`$AT`."""
        state, _, amps, vflags = _some(words, 4)[:4]
        self._enter(_hex(state), _hex(vflags), now, capacity=_count(amps))

    def read_state(self, words: Sequence[str], now: float) -> None:
        """`$GS`."""
        if self.old_protocol:
            state, vflags = _count(_some(words, 1)[0]), None
        else:
            state = _hex(_some(words, 2)[0])
            vflags = _hex(words[3]) if len(words) > 3 else None
        elapsed = _count(words[1]) if len(words) > 1 else 0
        if vflags is None:
            vflags = self._guess_vflags(state)
        self._enter(state, vflags, now)
        self._elapsed, self._elapsed_at = elapsed, now

    def read_capacity(self, words: Sequence[str]) -> None:
        """`$GC`."""
        low, hardware, pilot, configured = (_count(word) for word in _some(words, 4)[:4])
        self._set(min=low, hardware_max=hardware, pilot=pilot, configured_max=configured)

    def read_pilot(self, amps: int) -> None:
        """What `$SC n V` set."""
        self._set(pilot=amps)

    def read_settings(self, words: Sequence[str]) -> None:
        """`$GE`."""
        self._set(ecf=_hex(_some(words, 2)[1]))

    def read_faults(self, words: Sequence[str]) -> None:
        """`$GF`: hexadecimal; what is no hexadecimal number cannot be decimal either."""
        gfci, no_ground, stuck = (_hex(word) for word in _some(words, 3)[:3])
        self._set(gfci=gfci, no_ground=no_ground, stuck=stuck)

    def read_ammeter(self, words: Sequence[str]) -> None:
        """`$GA`."""
        scale, offset = (_number(word) for word in _some(words, 2)[:2])
        self._set(scale=scale, offset=offset)

    def read_serial(self, words: Sequence[str]) -> None:
        """`$GI`."""
        self._set(serial=" ".join(_some(words, 1)))

    def read_current(self, words: Sequence[str]) -> None:
        """`$GG`: mA and mV, -1 for what is not measured."""
        amp, voltage = (_number(word) for word in _some(words, 2)[:2])
        self._set(amp=max(0, amp) if self.charging else 0, voltage=voltage if voltage > 0 else None)

    def read_temperatures(self, words: Sequence[str]) -> None:
        """`$GP`."""
        values = [_number(word) for word in _some(words, 3)[:3]]
        self._set(temperatures=[value if value != ABSENT else None for value in values])
        if self.temperature is not None:
            self._set(temperature_max=max(self.temperature, self.temperature_max or self.temperature))

    def read_energy(self, words: Sequence[str]) -> None:
        """`$GU`."""
        session, total = (_count(word) for word in _some(words, 2)[:2])
        self._set(session_wattseconds=session, total_wh=total)

    def _guess_vflags(self, state: int) -> int:
        """An old controller does not say whether there is a car; asleep, one that was there is taken to be there."""
        if state in (State.CONNECTED, State.CHARGING, State.VENTILATION):
            return self.vflags | Vflag.CAR_CONNECTED
        return self.vflags & ~Vflag.CAR_CONNECTED if state == State.NOT_CONNECTED else self.vflags

    def _enter(self, state: int, vflags: int, now: float, **more: Any) -> None:
        state = State.SLEEPING if state == PUBLIC_SLEEPING else state
        elapsed = self.elapsed(now)
        if state != State.CHARGING:
            more["amp"] = 0
        # Time of the session stands while it does not charge, and begins anew with the next car.
        new_car = vflags & Vflag.CAR_CONNECTED and not self.vehicle
        self._elapsed, self._elapsed_at = 0 if new_car else elapsed, now
        self._set(state=state, vflags=vflags, **more)

    def _set(self, **values: Any) -> None:
        changed = frozenset(name for name, value in values.items() if getattr(self, name) != value)
        for name in changed:
            setattr(self, name, values[name])
        if changed:
            for listener in self._listeners:
                listener(changed)


def _some(words: Sequence[str], count: int) -> Sequence[str]:
    if len(words) < count:
        raise ValueError(f"{count} values were expected, not {' '.join(words)!r}")
    return words


def _number(word: str) -> int:
    """Stricter than int(), which takes "32_27": what is left of a line whose checksum lost its mark."""
    if not _DECIMAL.fullmatch(word):
        raise ValueError(f"a number was expected, not {word!r}")
    return int(word)


def _count(word: str) -> int:
    number = _number(word)
    if number < 0:
        raise ValueError(f"a number of 0 or more was expected, not {word!r}")
    return number


def _hex(word: str) -> int:
    if not _HEX.fullmatch(word):
        raise ValueError(f"a hexadecimal number was expected, not {word!r}")
    return int(word, 16)
