from __future__ import annotations

import pytest

from labyard.evse.monitor.__main__ import _emulator, arguments
from labyard.evse.monitor.sample import Charger, Group
from labyard.evse.monitor.watch import Watch, look
from labyard.evse.sharing.account import JOIN_GRACE, LOWERED_GRACE


def chargers(*amps: float, offered: float = 16.0) -> dict[str, Charger | None]:
    return {f"e{number}": Charger(one, offered, 3) for number, one in enumerate(amps)}


def test_a_sum_over_the_budget_is_a_violation_once() -> None:
    watch = Watch(32.0)
    assert not watch.take(chargers(16, 16.1), 0.0)["violation"], "within the tolerance"
    for second in (1.0, 2.0):
        line = watch.take(chargers(16, 18), second)
        assert line["violation"] and line["over"] == {"drawn": 2.0, "offered": 0.0}
        assert line["overdraw"] == ["e1"]
    assert watch.summary() == {
        "passes": 3,
        "violations": 1,
        "over_budget_ampere_seconds": 4.0,
        "offers_over_budget_ampere_seconds": 0.0,
        "worst_over_a": 2.0,
        "overdraw_passes": 2,
        "incomplete_passes": 0,
    }


def test_offers_alone_can_be_too_much() -> None:
    watch = Watch(32.0)
    line = watch.take(chargers(6, 6, offered=20.0), 0.0)
    assert line["violation"] and line["over"]["offered"] == 8


def test_a_lowered_budget_has_its_grace() -> None:
    watch = Watch(None)
    watch.take_group(Group(32, 2, 32), 0.0, follow_budget=True)
    assert not watch.take(chargers(16, 16), 0.0)["violation"]
    watch.take_group(Group(24, 2, 32), 1.0, follow_budget=True)
    assert not watch.take(chargers(16, 16), 1.0)["violation"]
    assert watch.take(chargers(16, 17), 2.0)["violation"], "but not for more than it was before"
    assert not watch.take(chargers(16, 16), 1.0 + LOWERED_GRACE)["violation"]
    assert watch.take(chargers(16, 16), 1.5 + LOWERED_GRACE)["violation"]


def test_a_joining_member_has_its_grace() -> None:
    watch = Watch(32.0)
    watch.take_group(Group(32, 1, 32), 0.0, follow_budget=False)
    watch.take(chargers(32), 0.0)
    watch.take_group(Group(32, 2, 32), 1.0, follow_budget=False)
    assert not watch.take(chargers(32, 32), 1.0)["violation"]
    assert watch.take(chargers(32, 32), 1.5 + JOIN_GRACE)["violation"]


def test_graces_are_in_the_chargers_time() -> None:
    watch = Watch(32.0, scale=10)
    watch.take_group(Group(32, 1, 32), 0.0, follow_budget=False)
    watch.take_group(Group(32, 2, 32), 1.0, follow_budget=False)
    assert watch.take(chargers(32, 32), 1.5 + JOIN_GRACE / 10)["violation"]


def test_one_that_does_not_answer_is_no_violation() -> None:
    watch = Watch(32.0)
    line = watch.take({"e0": None, "e1": Charger(16, 16, 3)}, 0.0)
    assert line["chargers"]["e0"] is None and not line["violation"]
    assert watch.summary()["incomplete_passes"] == 1, "but what it drew was not seen"
    assert watch.needs_second_look(chargers(17, 16)) and not watch.needs_second_look(chargers(16, 16))


def test_an_emulator_may_have_a_name() -> None:
    named, plain = _emulator("evse1/0=http://10.0.0.5:8080/"), _emulator("http://10.0.0.5:8080/")
    assert (named.name, named.emulator) == ("evse1/0", "http://10.0.0.5:8080")
    assert (plain.name, plain.emulator) == ("http://10.0.0.5:8080", "http://10.0.0.5:8080")


def test_arguments() -> None:
    options = arguments(["--pairs", "2", "--max-current", "32"])
    assert options.emulators == ["http://127.0.0.1:8080", "http://127.0.0.1:8081"]
    for words in (
        ["--max-current", "32"],
        ["--pairs", "2"],
        ["--pairs", "0", "--max-current", "1"],
        ["--pairs", "1", "--max-current", "nan"],
        ["--pairs", "1", "--max-current", "1", "--safety-factor", "2"],
        ["--pairs", "1", "--max-current", "1", "--interval", "nan"],
        ["--pairs", "1", "--max-current", "1", "--metrics-port", "70000"],
        ["--pairs", "1", "--controller", "http://a", "--user", "me"],
    ):
        with pytest.raises(SystemExit) as ended:
            arguments(words)
        assert ended.value.code == 2


class Readings:
    """A reader that finds the budget raised between its first look at the controller and that at the chargers."""

    def __init__(self, *budgets: float) -> None:
        self.budgets = list(budgets)

    async def group(self) -> Group:
        return Group(self.budgets.pop(0), 2, 32)

    async def chargers(self) -> dict[str, Charger | None]:
        return chargers(16, 16)


async def test_a_budget_that_is_raised_during_a_pass_is_no_violation() -> None:
    line = await look(Watch(None), Readings(24, 32), True, 0.0)  # type: ignore[arg-type]
    assert (line["violation"], line["budget"]) == (False, 32)
    assert (await look(Watch(None), Readings(24, 24), True, 0.0))["violation"]  # type: ignore[arg-type]
