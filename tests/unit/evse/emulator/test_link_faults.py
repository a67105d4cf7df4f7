from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labyard.evse.emulator.link_faults import KINDS, Direction, Fault, FaultPlan, parse
from labyard.evse.rapi import Checksum, decode, encode


def plan(*rules: dict[str, Any], seed: int = 1) -> FaultPlan:
    return parse({"seed": seed, "rules": list(rules)})


def strikes(of: FaultPlan, frames: list[tuple[Direction, bytes]]) -> list[tuple[int, Fault]]:
    return [hit for direction, frame in frames for hit in of.faults(direction, frame)]


FRAMES: list[tuple[Direction, bytes]] = [
    (direction, encode(*words))
    for _ in range(20)
    for direction, words in (("rx", ("GS",)), ("tx", ("OK", "01", 0)), ("rx", ("SC", 16, "V")), ("tx", ("OK", 16)))
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_and_frames_have_the_same_faults(kind: str) -> None:
    rule = {"kind": kind, "probability": 0.5, "delay_ms": [5, 50]}
    first = strikes(plan(rule), FRAMES)
    assert 10 < len(first) < 70
    assert first == strikes(plan(rule), FRAMES)
    assert first != strikes(plan(rule, seed=2), FRAMES) or kind in ("drop", "duplicate", "disconnect", "reboot")


def test_what_comes_the_other_way_changes_nothing() -> None:
    rule = {"kind": "corrupt", "direction": "rx", "probability": 0.5}
    received = [pair for pair in FRAMES if pair[0] == "rx"]
    assert strikes(plan(rule), FRAMES) == strikes(plan(rule), received)


def test_probability_count_direction_and_match() -> None:
    assert strikes(plan({"kind": "drop", "probability": 0}), FRAMES) == []
    assert len(strikes(plan({"kind": "drop"}), FRAMES)) == len(FRAMES)
    assert len(strikes(plan({"kind": "drop", "count": 3}), FRAMES)) == 3
    assert len(strikes(plan({"kind": "drop", "direction": "tx"}), FRAMES)) == 40
    assert len(strikes(plan({"kind": "drop", "match": r"^\$SC 16 V\^65$"}), FRAMES)) == 20


def test_what_is_lost_is_not_struck_again() -> None:
    both = plan({"kind": "drop", "match": "GS"}, {"kind": "duplicate", "direction": "rx"})
    assert [index for index, _ in strikes(both, FRAMES[:4])] == [0, 1]
    assert [rule["injected"] for rule in both.describe()["rules"]] == [1, 1]


def test_a_delay_lies_between_its_bounds() -> None:
    delays = [fault.delay for _, fault in strikes(plan({"kind": "delay", "delay_ms": [20, 30]}), FRAMES)]
    assert all(0.02 <= delay <= 0.03 for delay in delays) and len(set(delays)) > 10


@given(st.integers(), st.binary(min_size=1, max_size=40))
def test_a_corrupt_frame_never_looks_well(seed: int, text: bytes) -> None:
    frame = encode(*text.hex())
    [(_, fault)] = plan({"kind": "corrupt"}, seed=seed).faults("tx", frame)
    assert fault.frame != frame and fault.frame.endswith(b"\r") and fault.frame.count(b"\r") == 1
    assert decode(fault.frame[:-1]).checksum is not Checksum.GOOD


@given(st.integers(), st.binary(max_size=40))
def test_a_truncated_frame_has_no_end(seed: int, text: bytes) -> None:
    frame = encode("OK", *text.hex())
    faults = list(plan({"kind": "truncate"}, {"kind": "corrupt"}, seed=seed).faults("tx", frame))
    assert len(faults) == 1 and frame.startswith(faults[0][1].frame) and b"\r" not in faults[0][1].frame


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "rules: must be a list"),
        ({"rules": {}}, "rules: must be a list"),
        ({"rules": [{"kind": "drop"}] * 51}, "rules: must be a list of at most 50"),
        ({"rules": [], "sede": 1}, "sede: no such key"),
        ({"rules": [], "seed": 1.5}, "seed: must be a whole number"),
        ({"rules": ["drop"]}, r"rules\[0\]: must be an object"),
        ({"rules": [{}]}, r"rules\[0\]\.kind: must be one of drop"),
        ({"rules": [{"kind": "drop"}, {"kind": "explode"}]}, r"rules\[1\]\.kind"),
        ({"rules": [{"kind": "drop", "direction": "up"}]}, r"rules\[0\]\.direction"),
        ({"rules": [{"kind": "drop", "probability": 2}]}, r"rules\[0\]\.probability"),
        ({"rules": [{"kind": "drop", "match": "("}]}, r"rules\[0\]\.match: is no regular expression"),
        ({"rules": [{"kind": "drop", "match": 5}]}, r"rules\[0\]\.match"),
        ({"rules": [{"kind": "delay", "delay_ms": 5}]}, r"rules\[0\]\.delay_ms: must be two numbers"),
        ({"rules": [{"kind": "delay", "delay_ms": [9, 5]}]}, r"rules\[0\]\.delay_ms: must rise"),
        ({"rules": [{"kind": "drop", "count": -1}]}, r"rules\[0\]\.count"),
        ({"rules": [{"kind": "drop", "often": 1}]}, r"rules\[0\]\.often: no such key"),
    ],
)
def test_a_wrong_rule_is_named(body: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(body)


def test_what_was_given_is_shown() -> None:
    given = {
        "seed": 5,
        "rules": [
            {"kind": "delay", "direction": "tx", "probability": 0.5, "match": "OK", "delay_ms": [1, 2], "count": 3}
        ],
    }
    shown = parse(given).describe()
    assert shown["rules"][0].pop("injected") == 0
    assert shown == given
