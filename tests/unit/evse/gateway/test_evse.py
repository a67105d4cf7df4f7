from __future__ import annotations

import pytest

from labyard.evse.gateway.evse import Evse


def evse() -> Evse:
    made = Evse()
    made.read_version(("8.2.1", "5.0.1"))
    return made


def test_a_state_is_hexadecimal_but_elapsed_is_not() -> None:
    it = evse()
    it.read_state(("FE", "16", "01", "0100"), 0)
    assert (it.state, it.elapsed(0), it.vehicle, it.asleep) == (254, 16, True, True)


def test_an_old_controller_tells_state_and_elapsed_in_decimal() -> None:
    it = Evse()
    it.read_version(("4.8.0", "4.0.1"))
    it.read_state(("254", "16"), 0)
    assert (it.state, it.vehicle) == (254, False)
    for state, vehicle in ((3, True), (254, True), (1, False), (254, False)):
        it.read_state((str(state), "16"), 0)
        assert (it.state, it.vehicle) == (state, vehicle)


def test_elapsed_goes_on_while_it_charges_and_begins_anew_with_the_next_car() -> None:
    it = evse()
    it.read_transition(("02", "02", "32", "0100"), 10)
    it.read_transition(("03", "03", "32", "0140"), 20)
    assert it.elapsed(25.5) == 5
    it.read_transition(("02", "02", "32", "0100"), 30)
    assert it.elapsed(99) == 10
    it.read_transition(("03", "03", "32", "0140"), 40)
    assert it.elapsed(45) == 15
    it.read_transition(("01", "01", "32", "0000"), 50)
    assert it.elapsed(99) == 20
    it.read_transition(("02", "02", "32", "0100"), 100)
    assert it.elapsed(101) == 0


def test_more_fields_than_known_are_ignored() -> None:
    it = evse()
    it.read_state(("03", "5", "03", "0140", "9", "9"), 0)
    it.read_current(("16000", "240000", "1", "2"))
    assert (it.amp, it.voltage) == (16000, 240000)


def test_what_is_not_measured_is_nothing() -> None:
    it = evse()
    it.read_state(("03", "5", "03", "0140"), 0)
    it.read_current(("-1", "-1"))
    assert (it.amp, it.voltage) == (0, None)
    it.read_temperatures(("-2560", "-2560", "-2560"))
    assert (it.temperatures, it.temperature, it.temperature_max) == ([None] * 3, None, None)
    it.read_temperatures(("251", "-2560", "260"))
    it.read_temperatures(("240", "-2560", "250"))
    assert (it.temperature, it.temperature_max) == (250, 260)


def test_no_current_is_told_unless_it_charges() -> None:
    it = evse()
    it.read_state(("02", "5", "02", "0100"), 0)
    it.read_current(("500", "240000"))
    assert it.amp == 0


@pytest.mark.parametrize(
    "words",
    [
        ("03",),
        ("3", "x", "03", "0140"),
        ("03", "5", "03", "zz"),
        ("03", "5", "03", "0100_5A"),
        ("03", "1_6", "03", "0100"),
        ("-1x", "5", "0", "0"),
    ],
)
def test_nonsense_changes_nothing(words: tuple[str, ...]) -> None:
    it = evse()
    with pytest.raises(ValueError):
        it.read_state(words, 0)
    assert (it.state, it.vflags) == (0, 0)


def test_listeners_hear_what_changed_once() -> None:
    it, heard = evse(), []
    it.on_change(heard.append)
    for _ in range(2):
        it.read_capacity(("6", "80", "16", "32"))
    assert heard == [frozenset({"min", "pilot", "configured_max"})]
