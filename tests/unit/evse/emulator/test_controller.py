from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, time

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from labyard.evse.codes import Control, ErrorFlag, State, Vflag
from labyard.evse.emulator.controller import Booted, Changed, Event, Evse, Pressed
from labyard.evse.emulator.ev import Car


def make(**options: object) -> Evse:
    return Evse(Car(), 0.0, **options)  # type: ignore[arg-type]


def charging(**options: object) -> Evse:
    evse = make(**options)
    with evse.at(0.0):
        evse.car.connect()
        evse.car.request()
    evse.tick(1.0)
    evse.events.clear()
    return evse


def after(evse: Evse, now: float, change: Callable[[], object]) -> list[Event]:
    with evse.at(now):
        change()
    events = list(evse.events)
    evse.events.clear()
    return events


def test_a_charge_from_plug_to_plug() -> None:
    evse = make()
    assert evse.report() == Changed(State.NOT_CONNECTED, 1, 32, Vflag(0))
    assert after(evse, 1, evse.car.connect) == [Changed(State.CONNECTED, 2, 32, Vflag.CAR_CONNECTED)]
    flags = Vflag.CAR_CONNECTED | Vflag.RELAY_CLOSED
    assert after(evse, 2, evse.car.request) == [Changed(State.CHARGING, 3, 32, flags)]
    evse.tick(3)
    assert evse.current == pytest.approx(30)
    evse.tick(3603)
    assert evse.session.watt_seconds == pytest.approx(7200 * 3600)
    assert evse.total_wh == pytest.approx(7200)
    assert evse.session.seconds == 3601
    assert evse.car.soc == pytest.approx(50 + 7.2 / 75 * 100)
    assert after(evse, 3603, evse.car.stop) == [Changed(State.CONNECTED, 2, 32, Vflag.CAR_CONNECTED)]
    assert evse.current == 0
    assert after(evse, 3604, evse.disconnect) == [Changed(State.NOT_CONNECTED, 1, 32, Vflag(0))]
    assert (evse.session.watt_seconds, evse.session.seconds) == (0, 0)
    assert evse.total_wh == pytest.approx(7200)


@pytest.mark.parametrize(("how", "state"), [("sleep", State.SLEEPING), ("disable", State.DISABLED)])
def test_at_rest_the_relay_is_open_and_a_car_is_still_seen(how: str, state: State) -> None:
    evse = charging()
    assert after(evse, 2, getattr(evse, how)) == [Changed(state, 2, 32, Vflag.CAR_CONNECTED)]
    assert evse.current == 0
    energy = evse.total_wh
    evse.tick(1000)
    assert evse.total_wh == energy
    assert after(evse, 1001, evse.disconnect) == [Changed(state, 1, 32, Vflag(0))]
    assert after(evse, 1002, evse.car.connect) == [Changed(state, 2, 32, Vflag.CAR_CONNECTED)]
    evse.car.request()
    [event] = after(evse, 1003, evse.enable)
    assert isinstance(event, Changed) and event.state is State.CHARGING


@pytest.mark.parametrize(
    ("flag", "state", "shown"),
    [
        (ErrorFlag.GFCI, State.GFCI, Vflag.GFCI_TRIPPED),
        (ErrorFlag.STUCK_RELAY, State.STUCK_RELAY, Vflag.HARD_FAULT),
        (ErrorFlag.NO_GROUND, State.NO_GROUND, Vflag.NO_GROUND_TRIPPED),
        (ErrorFlag.DIODE, State.DIODE, Vflag(0)),
        (ErrorFlag.OVER_TEMPERATURE, State.OVER_TEMPERATURE, Vflag(0)),
        (ErrorFlag.SELF_TEST, State.SELF_TEST, Vflag.HARD_FAULT),
    ],
)
def test_a_fault_opens_the_relay_at_once_and_keeps_it_from_being_enabled(
    flag: ErrorFlag, state: State, shown: Vflag
) -> None:
    evse = charging()
    assert after(evse, 2, lambda: evse.protection.trip(flag)) == [Changed(state, 2, 32, Vflag.CAR_CONNECTED | shown)]
    assert evse.current == 0
    with evse.at(3):
        assert not evse.enable()
    assert evse.state is state
    [event] = after(evse, 4, evse.protection.clear)
    assert isinstance(event, Changed) and event.state is State.CHARGING


def test_several_faults_have_an_order() -> None:
    evse = make()
    seen = []
    for flag in (
        ErrorFlag.DIODE,
        ErrorFlag.GFCI,
        ErrorFlag.NO_GROUND,
        ErrorFlag.STUCK_RELAY,
        ErrorFlag.SELF_TEST,
        ErrorFlag.OVER_TEMPERATURE,
    ):
        after(evse, 1, lambda flag=flag: evse.protection.trip(flag))  # type: ignore[misc]
        seen.append(evse.state)
    assert seen == [5, 6, 7, 8, 9, 10]


def test_faults_are_counted_once_each_time_they_come() -> None:
    evse = make()
    for _ in range(2):
        after(evse, 1, lambda: evse.protection.trip(ErrorFlag.GFCI))
    assert evse.protection.counts[ErrorFlag.GFCI] == 1
    after(evse, 1, evse.protection.clear)
    after(evse, 1, lambda: evse.protection.trip(ErrorFlag.GFCI))
    assert evse.protection.counts[ErrorFlag.GFCI] == 2


def test_a_check_that_is_off_finds_nothing() -> None:
    evse = make(self_test=False)
    assert after(evse, 1, lambda: evse.protection.trip(ErrorFlag.SELF_TEST)) == []
    evse.protection.switch_check(Control.GFI_TEST_OFF, on=True)
    assert evse.state is State.SELF_TEST


def test_disconnecting_clears_faults_also_while_at_rest() -> None:
    evse = charging()
    after(evse, 2, evse.sleep)
    after(evse, 2, lambda: evse.protection.trip(ErrorFlag.DIODE))
    assert evse.state is State.DIODE
    after(evse, 3, evse.disconnect)
    assert (evse.state, evse.protection.faults) == (State.SLEEPING, 0)


def test_disconnecting_clears_faults_also_when_no_car_was_there() -> None:
    evse = make()
    after(evse, 1, lambda: evse.protection.trip(ErrorFlag.GFCI))
    [event] = after(evse, 2, evse.disconnect)
    assert isinstance(event, Changed) and event.state is State.NOT_CONNECTED


def test_a_lower_pilot_is_followed_within_one_tick() -> None:
    evse = charging()
    with evse.at(1.2):
        evse.pilot.set(10)
    evse.tick(2.0)
    assert evse.current == pytest.approx(10)


def test_the_limits_of_the_pilot() -> None:
    pilot = make(current=32).pilot
    for amps, offered in ((4, 6), (40, 32), (16, 16)):
        pilot.set(amps)
        assert pilot.amps == offered
    pilot.set_stored_max(100)
    assert (pilot.amps, pilot.stored_max) == (80, 80)
    assert not pilot.set_hardware_max(81)
    assert pilot.set_hardware_max(40) and not pilot.set_hardware_max(50)
    assert (pilot.amps, pilot.stored_max, pilot.hardware_max) == (40, 40, 40)
    pilot.set_stored_max(60)
    assert pilot.amps == 40


def test_a_missed_heartbeat_limits_the_pilot_until_it_is_acknowledged() -> None:
    evse = charging()
    evse.heartbeat.set(5, 6, 10)
    evse.tick(15)
    assert evse.pilot.amps == 32
    evse.tick(15.5)
    assert (evse.pilot.amps, evse.current, evse.heartbeat.trigger) == (6, 6, 2)
    assert evse.events[-1].amps == 6  # type: ignore[union-attr]
    assert not evse.heartbeat.pulse(16)
    evse.heartbeat.acknowledge(17)
    assert (evse.pilot.amps, evse.heartbeat.trigger) == (32, 1)
    assert evse.heartbeat.pulse(18)


def test_a_missed_heartbeat_is_seen_without_a_tick() -> None:
    evse = charging()
    evse.heartbeat.set(5, 6, 10)
    [event] = after(evse, 15.5, lambda: None)
    assert isinstance(event, Changed) and event.amps == 6


def test_a_heartbeat_that_is_switched_off_limits_no_more() -> None:
    evse = charging()
    evse.heartbeat.set(5, 6, 10)
    evse.tick(16)
    evse.heartbeat.set(0, 0, 17)
    evse.tick(18)
    assert (evse.pilot.amps, evse.state) == (32, State.CHARGING)


def test_a_heartbeat_limit_of_0_stops_the_charge() -> None:
    evse = charging()
    evse.heartbeat.set(5, 0, 0)
    evse.tick(6)
    assert (evse.state, evse.current) == (State.CONNECTED, 0)


def test_limits_put_it_to_sleep_until_the_car_is_gone() -> None:
    evse = charging()
    evse.session.time_limit = 1
    evse.tick(901)
    assert evse.state is State.SLEEPING
    assert evse.flags == Vflag.CAR_CONNECTED | Vflag.LIMIT_SLEEP | Vflag.TIME_LIMIT
    after(evse, 902, evse.disconnect)
    assert (evse.state, evse.flags, evse.session.time_limit) == (State.NOT_CONNECTED, 0, 0)

    evse = charging()
    evse.session.charge_limit_kwh = 1
    evse.tick(400)
    assert evse.state is State.CHARGING
    evse.tick(600)
    assert evse.state is State.SLEEPING and Vflag.CHARGE_LIMIT in evse.flags
    after(evse, 601, evse.enable)
    assert evse.state is State.CHARGING


def test_the_delay_timer() -> None:
    evse = make(wall=datetime(2026, 1, 1, 21, 59))
    evse.timer.set(time(22), time(6))
    with evse.at(0):
        evse.car.connect()
        evse.car.request()
    evse.tick(1)
    assert evse.state is State.SLEEPING and Vflag.TIMER in evse.flags
    evse.tick(61)
    assert evse.state is State.CHARGING
    after(evse, 62, evse.sleep)
    evse.tick(63)
    assert evse.state is State.SLEEPING, "it acts at its times only"
    evse.tick(9 * 3600)
    after(evse, 9 * 3600, evse.enable)
    assert evse.state is State.CHARGING


def test_warming_stops_the_charge_and_cooling_lets_it_go_on() -> None:
    evse = charging()
    evse.car.direct_mode, evse.car.direct_amps = True, 70
    now = 1.0
    while evse.state is State.CHARGING and now < 4000:
        evse.tick(now := now + 1)
    assert (evse.state, evse.current) == (State.OVER_TEMPERATURE, 0)
    assert evse.warmth.celsius == pytest.approx(65, abs=1)
    while evse.state is not State.CHARGING and now < 4000:
        evse.tick(now := now + 1)
    assert evse.warmth.celsius == pytest.approx(55, abs=1)


@pytest.mark.parametrize(("warms", "amps"), [(True, 32), (False, 80)])
def test_what_it_is_made_for_does_not_overheat_it(warms: bool, amps: float) -> None:
    evse = charging(warms=warms)
    evse.car.direct_mode, evse.car.direct_amps = True, amps
    for now in range(2, 5000, 10):
        evse.tick(now)
    assert evse.state is State.CHARGING
    assert (evse.warmth.celsius > 30) is warms


def test_a_reboot() -> None:
    evse = charging()
    with evse.at(2):
        evse.pilot.set(10)
        evse.disable()
        evse.protection.trip(ErrorFlag.GFCI)
        evse.protection.trip(ErrorFlag.NO_GROUND)
    evse.events.clear()
    assert after(evse, 3, evse.power_off) == []
    assert (evse.state, evse.relay_closed) == (State.STARTING, False)
    assert after(evse, 3.1, evse.car.stop) == []
    flags = Vflag.CAR_CONNECTED | Vflag.NO_GROUND_TRIPPED
    assert after(evse, 3.5, evse.power_on) == [
        Booted(7),
        Changed(State.STARTING, 2, 32, flags),
    ]
    assert after(evse, 4.5, evse.tested) == [Changed(State.NO_GROUND, 2, 32, flags)]
    assert evse.session.seconds == 0


def test_the_boot_lock() -> None:
    evse = charging()
    evse.locks_at_boot = True
    after(evse, 2, evse.power_off)
    after(evse, 3, evse.power_on)
    after(evse, 3.5, evse.tested)
    assert (evse.state, evse.flags) == (State.CONNECTED, Vflag.BOOT_LOCK | Vflag.CAR_CONNECTED)
    after(evse, 4, lambda: evse.protection.trip(ErrorFlag.GFCI))
    assert not evse.unlock()
    after(evse, 5, evse.protection.clear)
    after(evse, 6, evse.unlock)
    assert evse.state is State.CHARGING


def test_the_button() -> None:
    evse = make()
    assert after(evse, 1, evse.press) == [Pressed()]


class Life(RuleBasedStateMachine):
    """Whatever is done to it: an open relay carries nothing, and only what is announced is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.evse = make()
        self.now = 0.0
        self.announced = self.evse.report()
        self.energy = 0.0

    def do(self, change: Callable[[], object]) -> None:
        with self.evse.at(self.now):
            change()

    @rule(name=st.sampled_from(["connect", "request", "stop"]))
    def the_car(self, name: str) -> None:
        self.do(getattr(self.evse.car, name))

    @rule(
        name=st.sampled_from(
            ["enable", "sleep", "disable", "disconnect", "unlock", "press", "power_off", "power_on", "tested"]
        )
    )
    def the_charger(self, name: str) -> None:
        self.do(getattr(self.evse, name))

    @rule()
    def clear(self) -> None:
        self.do(self.evse.protection.clear)

    @rule(flag=st.sampled_from(list(ErrorFlag)))
    def trip(self, flag: ErrorFlag) -> None:
        self.do(lambda: self.evse.protection.trip(flag))

    @rule(amps=st.integers(0, 100))
    def pilot(self, amps: int) -> None:
        self.do(lambda: self.evse.pilot.set(amps))

    @rule(seconds=st.floats(0, 5000))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.evse.tick(self.now)

    @invariant()
    def open_carries_nothing(self) -> None:
        evse = self.evse
        assert evse.relay_closed == (evse.state is State.CHARGING)
        assert evse.relay_closed == (Vflag.RELAY_CLOSED in evse.flags)
        assert evse.relay_closed or evse.current == 0
        assert 6 <= evse.pilot.amps <= evse.pilot.stored_max <= evse.pilot.hardware_max
        assert evse.total_wh >= self.energy
        self.energy = evse.total_wh

    @invariant()
    def what_is_shown_was_announced(self) -> None:
        for event in self.evse.events:
            if isinstance(event, Changed):
                self.announced = event
        self.evse.events.clear()
        assert not self.evse.on or self.announced == self.evse.report()


TestLife = Life.TestCase
