"""What the chaos run reads from the monitor's lines."""

from __future__ import annotations

import json
from typing import Any

import pytest

A, B = "http://a:8080", "http://b:8081"


def text(*offered: tuple[float | None, float | None], violation: int = -1) -> str:
    """One line in each second from 12:00:00 on; `violation` is the number of one that exceeds the budget by 3 A."""
    lines = []
    for second, values in enumerate(offered):
        chargers = {url: None if amps is None else {"offered": amps} for url, amps in zip((A, B), values, strict=True)}
        over = 3.0 if second == violation else 0.0
        at = f"2026-11-26T12:00:{second:02}.000+00:00"
        line = {"time": at, "chargers": chargers, "violation": bool(over), "over": {"drawn": 0.0, "offered": over}}
        lines.append(json.dumps(line))
    return "\n".join(lines) + "\n"


def fault(begun: float, ended: float, *affected: str) -> dict[str, Any]:
    at = "2026-11-26 12:00:0{:.6f}+00:00"
    times = {"begun": at.format(begun), "ended": at.format(ended)}
    return {"name": "killed", "pair": "evse1/0", "affected": list(affected)} | times


@pytest.fixture
def filters(load_module: Any) -> Any:
    return load_module("evse_chaos", "filter").FilterModule().filters()


def test_a_fault_is_timed(filters: Any) -> None:
    seen = text((8, 8), (8, 8), (8, 6), (6, 6), (6, 6), (8, 6), (8, 8), (8, 8))
    report = filters["evse_chaos"](seen, [fault(1.5, 4.5, A, B)], 6.0)
    (row,) = report["faults"]
    assert (row["failsafe_s"], row["recovery_s"], row["violations"]) == (1.5, 1.5, 0)
    assert (report["passes"], report["violations"]) == (8, 0)
    assert "killed" in filters["evse_chaos_table"](report)[1]


def test_what_never_comes_is_none(filters: Any) -> None:
    report = filters["evse_chaos"](text((8, 8), (8, 7), (None, 7), (8, 7)), [fault(0.5, 2.5, A, B)], 6.0)
    (row,) = report["faults"]
    assert row["failsafe_s"] is None and row["recovery_s"] is None
    assert " - " in filters["evse_chaos_table"](report)[1]


def test_violations_belong_to_the_fault_that_they_follow(filters: Any) -> None:
    seen = text(*[(8, 8)] * 8, violation=5)
    report = filters["evse_chaos"](seen, [fault(1.5, 2.5), fault(4.5, 4.5)], 6.0)
    assert [row["violations"] for row in report["faults"]] == [0, 1]
    assert (report["violations"], report["worst_over_a"]) == (1, 3.0)
    assert [row["recovery_s"] for row in report["faults"]] == [0.0, 0.0]


def test_offers_are_settled_when_all_lines_agree(filters: Any) -> None:
    settled = filters["evse_offers"]
    assert settled(text((8, 8), (8, 8))) == {A: 8, B: 8}
    assert settled(text((8, 8), (8, 6))) == {} and settled("") == {}
    assert settled(text((8, 8), (8, 8)) + '{"time": "cut o') == {A: 8, B: 8}
    assert settled(text((8, 8)), "2026-11-26 12:00:01+00:00") == {}
    assert settled(text((8, 8)), "2026-11-26 11:59:59+00:00") == {A: 8, B: 8}
