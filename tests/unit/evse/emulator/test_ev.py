from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labyard.evse.emulator.ev import Car

VOLTS = 240.0


def charging(**given: float | bool) -> Car:
    car = Car(connected=True, requesting=True)
    for name, value in given.items():
        setattr(car, name, value)
    return car


@pytest.mark.parametrize(
    ("soc", "offer", "amps"),
    [
        (50, 16, 16),
        (50, 32, 30),  # 7.2 kW
        (80, 32, 30),
        (90, 32, 22.5),
        (100, 32, 15),
        (50, 0, 0),
    ],
)
def test_it_draws_what_is_offered_up_to_its_maximum_and_less_when_nearly_full(
    soc: float, offer: float, amps: float
) -> None:
    assert charging(soc=soc).draw(offer, VOLTS) == pytest.approx(amps)


def test_without_the_charge_curve_it_takes_all_to_the_end() -> None:
    assert charging(soc=99, tapers=False).draw(32, VOLTS) == pytest.approx(30)


def test_direct_mode_draws_what_was_set_whatever_offer_and_charge() -> None:
    car = charging(soc=100, direct_mode=True, direct_amps=12.5)
    assert car.draw(6, VOLTS) == 12.5
    car.fill(1000)
    assert car.requesting


def test_a_full_car_stops_asking_and_does_not_ask_again() -> None:
    car = charging(soc=99.0)
    car.fill(car.battery_kwh * 10)
    assert (car.soc, car.requesting) == (100, False)
    car.request()
    assert not car.requesting


def test_it_asks_only_while_connected() -> None:
    car = Car()
    car.request()
    assert not car.requesting
    car.connect()
    car.request()
    assert car.requesting
    car.disconnect()
    assert (car.connected, car.requesting) == (False, False)


def test_variance_is_new_each_time_within_bounds_and_the_same_for_the_same_seed() -> None:
    def series(seed: int, direct: bool) -> list[float]:
        car = Car(seed=seed, varies=True, direct_mode=direct, direct_amps=10)
        return [car.draw(10, VOLTS) for _ in range(50)]

    assert all(9.9 <= amps <= 10.1 for amps in series(1, True)) and max(series(1, True)) > 10
    assert all(9.9 <= amps <= 10.0 for amps in series(1, False))
    assert len(set(series(1, True))) > 40
    assert series(1, True) == series(1, True) != series(2, True)


@given(
    st.floats(0, 80),
    st.floats(0, 100),
    st.floats(0, 50),
    st.booleans(),
)
def test_without_direct_mode_it_never_draws_more_than_it_is_offered(
    offer: float, soc: float, max_kw: float, varies: bool
) -> None:
    car = Car(soc=soc, max_rate_kw=max_kw, varies=varies)
    assert 0 <= car.draw(offer, VOLTS) <= offer + 1e-9
