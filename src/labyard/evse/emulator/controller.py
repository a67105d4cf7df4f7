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

from labyard.evse.codes import Control, State, Vflag
from labyard.evse.emulator.display import Display
from labyard.evse.emulator.ev import Car
from labyard.evse.emulator.heartbeat import Heartbeat, Trigger
from labyard.evse.emulator.pilot import Pilot
from labyard.evse.emulator.protection import Protection
from labyard.evse.emulator.session import Session
from labyard.evse.emulator.temperature import Warmth
from labyard.evse.emulator.wall_clock import DelayTimer, WallClock

LEVEL_MILLIVOLTS = {"L1": 120_000, "L2": 240_000}


class Changed(NamedTuple):
    """`$AT`. `pilot` is the pilot's state (1 A, 2 B, 3 C), `amps` what it offers."""

    state: State
    pilot: int
    amps: int
    flags: Vflag


class Booted(NamedTuple):
    """`$AB`."""

    post: int


class Pressed(NamedTuple):
    """`$AN`, of a short press."""


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
        self.heartbeat = Heartbeat()
        self.pilot = Pilot(current, self.heartbeat)
        self.warmth = Warmth(warms)
        self.protection = Protection(Control(0) if self_test else Control.GFI_TEST_OFF, self.warmth)
        self.millivolts = LEVEL_MILLIVOLTS["L2"]
        self._is_l2 = True
        self.set_level(level)
        self.current_scale = (220, 0)
        self.voltage_scale = (100, 0)
        self.wall = WallClock(wall, now)
        self.timer = DelayTimer()
        self.display = Display()
        self.echo = False
        self.locks_at_boot = False  # $FF L 1

        self.session = Session()
        self.total_wh = 0.0
        self.current = 0.0  # A, drawn now
        self.relay_closed = False
        self.on = True
        self.tests_itself = False  # after a boot
        self.events: deque[Event] = deque(maxlen=64)  # for those who do not read it
        self._rest: State | None = None  # SLEEPING or DISABLED, when told so
        self._limit_sleep = False
        self._boot_lock = False
        self._counted_until = now
        self._must_announce = False
        self._announced = self.report()

    # What it shows

    @property
    def volts(self) -> float:
        return self.millivolts / 1000

    @property
    def control(self) -> Control:
        """The bits of `$GE`."""
        return self.protection.control | (Control.L2_SERVICE if self._is_l2 else Control(0))

    @property
    def state(self) -> State:
        if not self.on or self.tests_itself:
            return State.STARTING
        if (fault := self.protection.state) is not None:
            return fault
        if self._rest is not None:
            return self._rest
        if not self.car.connected:
            return State.NOT_CONNECTED
        charges = self.car.requesting and self.pilot.amps > 0 and not self._boot_lock
        return State.CHARGING if charges else State.CONNECTED

    @property
    def flags(self) -> Vflag:
        flags = self.protection.flags
        for is_set, shown in (
            (self.relay_closed, Vflag.RELAY_CLOSED),
            (self.car.connected, Vflag.CAR_CONNECTED),
            (self._limit_sleep, Vflag.LIMIT_SLEEP),
            (self._boot_lock, Vflag.BOOT_LOCK),
            (self.session.time_limit > 0, Vflag.TIME_LIMIT),
            (self.session.charge_limit_kwh > 0, Vflag.CHARGE_LIMIT),
            (self.timer.on, Vflag.TIMER),
        ):
            if is_set:
                flags |= shown
        return flags

    def report(self) -> Changed:
        state = self.state
        pilot = State.CHARGING if state is State.CHARGING else State.CONNECTED if self.car.connected else 1
        return Changed(state, int(pilot), self.pilot.amps, self.flags)

    # Time

    @contextmanager
    def at(self, now: float) -> Iterator[None]:
        """Change something at that moment."""
        self._count_until(now)
        self.heartbeat.check(now)
        try:
            yield
        finally:
            self._settle()
            if self.on and (self._must_announce or self.report() != self._announced):
                self._announce()

    def tick(self, now: float) -> None:
        """Let the car answer to the pilot, and look at all that goes by time."""
        with self.at(now):
            begun = self.timer.turned(self.wall.read(now).time())
            if begun is not None:
                self._rest = None if begun else State.SLEEPING
            if self.session.is_over and not self._limit_sleep:
                self._limit_sleep = True
                self._rest = State.SLEEPING
            self._settle()
            if self.relay_closed:
                self.current = self.car.draw(self.pilot.amps, self.volts)

    def _count_until(self, now: float) -> None:
        seconds = now - self._counted_until
        self._counted_until = now
        self.warmth.pass_time(self.current, seconds)
        if self.relay_closed:
            watt_seconds = self.current * self.volts * seconds
            self.session.seconds += seconds
            self.session.watt_seconds += watt_seconds
            self.total_wh += watt_seconds / 3600
            self.car.fill(watt_seconds / 3600)

    def _settle(self) -> None:
        """The relay follows the state."""
        self.relay_closed = self.state is State.CHARGING
        if not self.relay_closed:
            self.current = 0.0

    def _end_session(self) -> None:
        self.session = Session()
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

    def keep_pilot_quiet(self) -> None:
        """Who changed the pilot knows it: it is no reason for a report."""
        self._announced = self._announced._replace(amps=self.pilot.amps)

    # What can be done with it, inside at()

    def disconnect(self) -> None:
        """Unplug the car, if there is one. It takes its session and the faults with it."""
        self.car.disconnect()
        self.protection.clear()
        self._end_session()

    def enable(self) -> bool:
        """False, and nothing is changed: a fault stands."""
        if self.protection.standing:
            return False
        self._rest = None
        self._limit_sleep = False
        return True

    def sleep(self) -> None:
        self._rest = State.SLEEPING

    def disable(self) -> None:
        self._rest = State.DISABLED

    def set_level(self, level: str) -> None:
        """L1, L2 or Auto; Auto keeps the voltage."""
        self.level = level
        if level in LEVEL_MILLIVOLTS:
            self.millivolts = LEVEL_MILLIVOLTS[level]
            self._is_l2 = level == "L2"

    def unlock(self) -> bool:
        """Take the boot lock away. False: a fault stands."""
        if self.protection.standing:
            return False
        self._boot_lock = False
        return True

    def press(self) -> None:
        self.events.append(Pressed())

    def power_off(self) -> None:
        """The first half of a reboot: relay open, nothing announced."""
        self.on = False

    def power_on(self) -> None:
        """What a boot does: it begins to test itself, says so, and forgets what is volatile."""
        self._rest = None
        self._end_session()
        self.pilot.boot()
        self.heartbeat.trigger = Trigger.NEVER_MISSED
        self.echo = False
        self.protection.boot()
        self._boot_lock = self.locks_at_boot
        self.on = self.tests_itself = True
        self.events.append(Booted(self.protection.post))
        self._announce()  # as STARTING, though it may have been that before

    def tested(self) -> None:
        """The end of a boot: it does what the car wants."""
        self.tests_itself = False
