"""The charger's controller: state, relay, faults, pilot, energy. Pure: it is told the time (seconds of evse/clock.py)
and leaves what it has to announce in `events`.

Everything that changes it, or the car, happens inside `with evse.at(now):`. What was drawn until then is counted
before, and the state that follows is settled after.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import NamedTuple

from labyard.evse.codes import FAULT_ORDER, Control, ErrorFlag, State, Vflag
from labyard.evse.emulator.config import MAX_AMPS, MIN_AMPS
from labyard.evse.emulator.display import Display
from labyard.evse.emulator.ev import Car
from labyard.evse.emulator.heartbeat import Heartbeat, Trigger
from labyard.evse.emulator.temperature import Warmth
from labyard.evse.emulator.wall_clock import DelayTimer, WallClock

LEVEL_MILLIVOLTS = {"L1": 120_000, "L2": 240_000}
TIME_LIMIT_UNIT = 15 * 60.0  # s
_CHECK_OFF = {
    ErrorFlag.DIODE: Control.DIODE_OFF,
    ErrorFlag.NO_GROUND: Control.GROUND_OFF,
    ErrorFlag.STUCK_RELAY: Control.RELAY_OFF,
    ErrorFlag.SELF_TEST: Control.GFI_TEST_OFF,
    ErrorFlag.OVER_TEMPERATURE: Control.TEMPERATURE_OFF,
}
_VFLAG = {
    ErrorFlag.GFCI: Vflag.GFCI_TRIPPED,
    ErrorFlag.NO_GROUND: Vflag.NO_GROUND_TRIPPED,
    ErrorFlag.STUCK_RELAY: Vflag.HARD_FAULT,
    ErrorFlag.SELF_TEST: Vflag.HARD_FAULT,
}
# What the self-test at boot finds, and its code.
_POST = ((ErrorFlag.STUCK_RELAY, 8), (ErrorFlag.SELF_TEST, 9), (ErrorFlag.NO_GROUND, 7))


class Changed(NamedTuple):
    """`$AT`. `pilot` is the pilot's state (1 A, 2 B, 3 C), `amps` the capacity."""

    state: State
    pilot: int
    amps: int
    flags: Vflag


class Booted(NamedTuple):
    """`$AB`."""

    post: int


class Pressed(NamedTuple):
    """`$AN`."""

    long: bool


Event = Changed | Booted | Pressed


class Evse:
    def __init__(
        self,
        car: Car,
        now: float,
        *,
        firmware: str = "8.2.1",
        protocol: str = "5.0.1",
        current: int = 32,
        level: str = "L2",
        self_test: bool = True,
        warms: bool = True,
        mcuid: str = "LABYRD00000000",
        wall: datetime = datetime(2000, 1, 1),
    ) -> None:
        self.car = car
        self.firmware, self.protocol, self.mcuid = firmware, protocol, mcuid
        self.hardware_max = MAX_AMPS
        self._hardware_max_given = False
        self.stored_max = current
        self._pilot = current
        self.control = Control(0)
        if not self_test:
            self.control |= Control.GFI_TEST_OFF
        self.millivolts = LEVEL_MILLIVOLTS["L2"]
        self.set_level(level)
        self.current_scale = (220, 0)
        self.voltage_scale = (100, 0)
        self.echo = False
        self.locks_at_boot = False  # $FF L 1

        self.counts = dict.fromkeys((ErrorFlag.GFCI, ErrorFlag.NO_GROUND, ErrorFlag.STUCK_RELAY), 0)
        self.session_ws = 0.0
        self.session_seconds = 0.0  # of charging
        self.total_wh = 0.0
        self.current = 0.0  # A, drawn now
        self.heartbeat = Heartbeat()
        self.warmth = Warmth(warms)
        self.wall = WallClock(wall, now)
        self.timer = DelayTimer()
        self.display = Display()

        self.events: deque[Event] = deque(maxlen=64)  # for those who do not read it
        self.on = True
        self.relay_closed = False
        self._faults = ErrorFlag(0)
        self._rest: State | None = None  # SLEEPING or DISABLED, when told so
        self._limit_sleep = False
        self._boot_lock = False
        self.charge_limit_kwh = 0
        self.time_limit = 0  # in TIME_LIMIT_UNIT
        self._had_car = False
        self._counted_until = now
        self._must_announce = False
        self._announced = self.report()

    # What it shows

    @property
    def capacity(self) -> int:
        """A, what the pilot offers: as set, or less while heartbeats are missed."""
        limit = self.heartbeat.limit
        return self._pilot if limit is None else min(self._pilot, limit)

    @property
    def volts(self) -> float:
        return self.millivolts / 1000

    @property
    def state(self) -> State:
        if not self.on:
            return State.STARTING
        if faults := self.standing_faults:
            return next(state for flag, state in FAULT_ORDER if flag in faults)
        if self._rest is not None:
            return self._rest
        if not self.car.connected:
            return State.NOT_CONNECTED
        charges = self.car.requesting and self.capacity > 0 and not self._boot_lock
        return State.CHARGING if charges else State.CONNECTED

    @property
    def faults(self) -> ErrorFlag:
        """All that were triggered or came by warming."""
        return self._faults | (ErrorFlag.OVER_TEMPERATURE if self.warmth.too_hot else ErrorFlag(0))

    @property
    def standing_faults(self) -> ErrorFlag:
        """Those whose check is on: they stop the charge."""
        faults = self.faults
        if faults:
            for flag, bit in _CHECK_OFF.items():
                if bit in self.control:
                    faults &= ~flag
        return faults

    @property
    def flags(self) -> Vflag:
        flags = Vflag(0)
        if faults := self.standing_faults:
            for fault, shown in _VFLAG.items():
                if fault in faults:
                    flags |= shown
        for is_set, shown in (
            (self.relay_closed, Vflag.RELAY_CLOSED),
            (self.car.connected, Vflag.CAR_CONNECTED),
            (self._limit_sleep, Vflag.LIMIT_SLEEP),
            (self._boot_lock, Vflag.BOOT_LOCK),
            (self.time_limit > 0, Vflag.TIME_LIMIT),
            (self.charge_limit_kwh > 0, Vflag.CHARGE_LIMIT),
            (self.timer.on, Vflag.TIMER),
        ):
            if is_set:
                flags |= shown
        return flags

    @property
    def post(self) -> int:
        """What a self-test finds now; 0 is well."""
        faults = self.standing_faults
        return next((code for flag, code in _POST if flag in faults), 0)

    def report(self) -> Changed:
        state = self.state
        pilot = State.CHARGING if state is State.CHARGING else State.CONNECTED if self.car.connected else 1
        return Changed(state, int(pilot), self.capacity, self.flags)

    # Time

    @contextmanager
    def at(self, now: float) -> Iterator[None]:
        """Change something at that moment."""
        self._count_until(now)
        try:
            yield
        finally:
            self._settle()
            if self.on and (self._must_announce or self.report() != self._announced):
                self._announce()

    def tick(self, now: float) -> None:
        """Let the car answer to the pilot, and look at all that goes by time."""
        with self.at(now):
            self.heartbeat.check(now)
            begun = self.timer.turned(self.wall.read(now).time())
            if begun is not None:
                self._rest = None if begun else State.SLEEPING
            self._look_at_limits()
            self._settle()
            if self.relay_closed:
                self.current = self.car.draw(self.capacity, self.volts)

    def _count_until(self, now: float) -> None:
        seconds = now - self._counted_until
        self._counted_until = now
        self.warmth.pass_time(self.current, seconds)
        if self.relay_closed:
            self.session_seconds += seconds
            watt_seconds = self.current * self.volts * seconds
            self.session_ws += watt_seconds
            self.total_wh += watt_seconds / 3600
            self.car.fill(watt_seconds / 3600)

    def _look_at_limits(self) -> None:
        energy = self.charge_limit_kwh > 0 and self.session_ws >= self.charge_limit_kwh * 3_600_000
        duration = self.time_limit > 0 and self.session_seconds >= self.time_limit * TIME_LIMIT_UNIT
        if (energy or duration) and not self._limit_sleep:
            self._limit_sleep = True
            self._rest = State.SLEEPING

    def _settle(self) -> None:
        """Relay, session and car follow the state."""
        if self._had_car and not self.car.connected:
            self.clear_faults()
            self._clear_session()
        self._had_car = self.car.connected
        self.relay_closed = self.state is State.CHARGING
        if not self.relay_closed:
            self.current = 0.0

    def _clear_session(self) -> None:
        self.session_ws = self.session_seconds = 0.0
        self.charge_limit_kwh = self.time_limit = 0
        if self._limit_sleep:
            self._limit_sleep = False
            self._rest = None

    def _announce(self) -> None:
        self._must_announce = False
        self._announced = self.report()
        self.events.append(self._announced)

    def announce_anyway(self) -> None:
        """Report at the end of at(), changed or not."""
        self._must_announce = True

    def keep_capacity_quiet(self) -> None:
        """Who changed the capacity knows it: it is no reason for a report."""
        self._announced = self._announced._replace(amps=self.capacity)

    # What can be done with it, inside at()

    def enable(self) -> bool:
        """False, and nothing is changed: a fault stands."""
        if self.standing_faults:
            return False
        self._rest = None
        self._limit_sleep = False
        return True

    def sleep(self) -> None:
        self._rest = State.SLEEPING

    def disable(self) -> None:
        self._rest = State.DISABLED

    def set_pilot(self, amps: int) -> int:
        """Volatile, at most the stored maximum. Returns what it is now."""
        self._pilot = max(MIN_AMPS, min(amps, self.stored_max))
        return self.capacity

    def set_stored_max(self, amps: int) -> int:
        """Stored maximum and pilot, at most the hardware's maximum. Returns what the pilot is now."""
        self.stored_max = max(MIN_AMPS, min(amps, self.hardware_max))
        return self.set_pilot(self.stored_max)

    def set_hardware_max(self, amps: int) -> bool:
        """Possible once. False: it was given before, or is out of range."""
        if self._hardware_max_given or not MIN_AMPS <= amps <= MAX_AMPS:
            return False
        self._hardware_max_given = True
        self.hardware_max = amps
        self.stored_max = min(self.stored_max, amps)
        self._pilot = min(self._pilot, amps)
        return True

    def set_level(self, level: str) -> None:
        """L1, L2 or Auto; Auto keeps the voltage."""
        self.level = level
        self.millivolts = LEVEL_MILLIVOLTS.get(level, self.millivolts)
        if self.millivolts > LEVEL_MILLIVOLTS["L1"]:
            self.control |= Control.L2_SERVICE
        else:
            self.control &= ~Control.L2_SERVICE

    def switch_check(self, bit: Control, on: bool) -> None:
        """The bits say that a check is off."""
        self.control = self.control & ~bit if on else self.control | bit

    def trip(self, flag: ErrorFlag) -> None:
        if flag in self.counts and flag not in self._faults:
            self.counts[flag] += 1
        self._faults |= flag

    def clear_faults(self) -> None:
        self._faults = ErrorFlag(0)
        self.warmth.too_hot = False

    def unlock(self) -> bool:
        """Take the boot lock away. False: a fault stands."""
        if self.standing_faults:
            return False
        self._boot_lock = False
        return True

    def press(self, long: bool = False) -> None:
        self.events.append(Pressed(long))

    def power_off(self) -> None:
        """The first half of a reboot: relay open, nothing announced."""
        self.on = False

    def power_on(self) -> None:
        """What a boot does: it tests itself, says so, and forgets what is volatile."""
        self._rest = State.SLEEPING if Control.AUTO_START_OFF in self.control else None
        self._clear_session()
        self._pilot = self.stored_max
        self.heartbeat.trigger = Trigger.NEVER_MISSED
        self.echo = False
        self._faults &= ~ErrorFlag.GFCI  # it is tripped, not broken
        self._boot_lock = self.locks_at_boot
        self.events.append(Booted(self.post))
        self._announce()  # still as STARTING
        self.on = True
