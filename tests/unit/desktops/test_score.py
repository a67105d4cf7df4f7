"""Score, money and reputation: the contract's worked figures, and what holds for all."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from math import fsum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labyard.core.clock import now
from labyard.desktops.service.money import QUANTUM, amount, fee_and_net
from labyard.desktops.service.reputation import averaged, penalised, penalty_left, reputation
from labyard.desktops.service.score import SCALE, WEIGHTS, Inputs, confidence, factors, jumped, score

TEN = Decimal(10)

decimals = {
    "session_hours": st.decimals(0, 1000, places=3),
    "work_credits": st.decimals(0, 100_000, places=1),
    "resource_utilization": st.decimals(0, 1, places=4),
    "network_mbps": st.decimals(0, 10_000, places=2),
    "uptime_percentage": st.decimals(0, 100, places=3),
    "session_quality": st.decimals(0, 1, places=4),
    "trust_score": st.decimals(0, 1, places=4),
}
inputs = st.builds(Inputs, **decimals)
scores = st.decimals(0, 100, places=4)


def of(*values: str) -> Decimal:
    return score(factors(Inputs(*map(Decimal, values))))


@pytest.mark.parametrize(
    ("values", "expected", "paid"),
    [
        (("10", "10000", "0.8", "1000", "99.9", "0.95", "0.9"), "95.985", "9.59375"),
        (("6", "6000", "0.6", "600", "95", "0.7", "0.6"), "66.25", "6.625"),
        (("1", "200", "0.2", "50", "60", "0.3", "0.2"), "19.4", "1.9375"),
        (("24", "99999", "1", "5000", "100", "1", "1"), "100", "10"),
        (("0", "0", "0", "0", "0", "0", "0.5"), "2.5", "0.25"),
        (("0", "0", "0", "0", "0", "0", "0.2"), "1", "0.09375"),
        (("0", "0", "0", "0", "0", "0", "0"), "0", "0.015625"),
    ],
)
def test_worked_figures(values: tuple[str, ...], expected: str, paid: str) -> None:
    assert of(*values) == Decimal(expected)
    assert amount(Decimal(expected), TEN) == Decimal(paid)


def test_no_history() -> None:
    assert score(factors(Inputs())) == Decimal("2.5")


def test_weights_are_a_whole_and_each_input_has_one() -> None:
    assert sum(WEIGHTS.values()) == 1
    assert set(WEIGHTS) == set(SCALE) == set(Inputs.__dataclass_fields__)


def test_rounding_is_half_to_even() -> None:
    nothing = dict.fromkeys(WEIGHTS, Decimal(0))
    assert score(nothing | {"trust_score": Decimal("0.001")}) == Decimal("0.0000")  # 0.00005
    assert score(nothing | {"trust_score": Decimal("0.003")}) == Decimal("0.0002")  # 0.00015


@given(inputs)
def test_bounded(found: Inputs) -> None:
    parts = factors(found)
    assert all(0 <= part <= 100 for part in parts.values())
    assert 0 <= score(parts) <= 100 and score(parts).as_tuple().exponent >= -4  # type: ignore[operator]


@given(inputs, st.data())
def test_monotone_in_every_factor(found: Inputs, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(decimals)))
    value = data.draw(decimals[name])
    low, high = sorted([getattr(found, name), value])
    assert score(factors(replace(found, **{name: low}))) <= score(factors(replace(found, **{name: high})))


class TestMoney:
    @given(scores, scores)
    def test_never_falls_as_the_score_rises(self, one: Decimal, other: Decimal) -> None:
        low, high = sorted([one, other])
        assert amount(low, TEN) <= amount(high, TEN)

    @given(scores, st.integers(1, 640_000))
    def test_is_of_whole_quanta_within_bounds(self, value: Decimal, quanta: int) -> None:
        paid = amount(value, quanta * QUANTUM)
        assert paid % QUANTUM == 0 and QUANTUM <= paid <= 10_000
        assert paid <= max(QUANTUM, quanta * QUANTUM * value / 100)

    @given(st.lists(scores, max_size=1000))
    def test_sums_are_exact_in_floats(self, values: list[Decimal]) -> None:
        amounts = [amount(value, TEN) for value in values]
        exact = sum(amounts, Decimal(0))
        plain = 0.0
        for paid in amounts:
            plain += float(paid)
        assert plain == fsum(map(float, amounts)) == float(exact) and Decimal(plain) == exact

    @given(st.integers(640, 640_000))
    def test_fee_and_net_add_up(self, quanta: int) -> None:
        gross = quanta * QUANTUM
        fee, net = fee_and_net(gross)
        assert fee + net == gross and abs(fee - gross / 100) <= Decimal("0.0000005")
        assert net.quantize(Decimal("0.000001")) == net


class TestReputation:
    @given(st.lists(scores, min_size=1, max_size=50))
    def test_scores_alone_never_lower_it_below_a_new_nodes(self, values: list[Decimal]) -> None:
        average = None
        for value in values:
            average = averaged(average, value)
        assert average is not None and 0 <= average <= 100
        assert 50 <= reputation(average, Decimal(0)) <= 100

    def test_first_score(self) -> None:
        assert averaged(None, Decimal(100)) == 20
        assert reputation(Decimal(20), Decimal(0)) == 60

    def test_misconduct_counts_and_wanes(self) -> None:
        moment = now()
        penalty = penalised(Decimal(0), None, moment)
        assert penalty == 10 and reputation(None, penalty) == 40
        later = moment + timedelta(days=4)
        assert penalty_left(penalty, moment, later) == 6
        assert penalised(penalty, moment, later) == 16
        assert penalty_left(penalty, moment, moment + timedelta(days=11)) == 0

    @given(scores, st.decimals(0, 1000, places=2))
    def test_bounded(self, average: Decimal, penalty: Decimal) -> None:
        assert 0 <= reputation(average, penalty) <= 100


class TestConfidence:
    def test_without_history(self) -> None:
        assert confidence(Decimal(50), [], 0) == 0.5 and not jumped(Decimal(50), [])

    def test_without_spread(self) -> None:
        week = [Decimal(50)] * 3
        assert confidence(Decimal(50), week, 0) == 1 and confidence(Decimal(51), week, 0) == 0.1

    def test_falls_with_the_distance(self) -> None:
        week = [Decimal(40), Decimal(60)]  # mean 50, spread 10
        assert confidence(Decimal(50), week, 0) == 1
        assert confidence(Decimal(65), week, 0) == 0.5
        assert confidence(Decimal(100), week, 0) == 0.1
        assert confidence(Decimal(50), week, 2) == 0.8

    @given(scores, st.lists(scores, max_size=100), st.integers(0, 4))
    def test_bounded(self, value: Decimal, week: list[Decimal], flags: int) -> None:
        assert 0.1 <= confidence(value, week, flags) <= 1

    def test_a_jump_is_more_than_twice_the_mean_away(self) -> None:
        assert jumped(Decimal(31), [Decimal(10)]) and not jumped(Decimal(30), [Decimal(10)])
        assert not jumped(Decimal(0), [Decimal(10)])
