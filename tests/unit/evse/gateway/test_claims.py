from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from labyard.evse.gateway.claims import Cap, Claims, Client, Priority, Properties, SafetyCaps

properties = st.builds(
    Properties,
    state=st.sampled_from([None, "active", "disabled"]),
    charge_current=st.none() | st.integers(0, 80),
    max_current=st.none() | st.integers(0, 80),
)


def test_the_highest_priority_wins_for_each_property() -> None:
    claims = Claims()
    claims.set(Client.MANUAL, Priority.MANUAL, Properties("active", charge_current=20))
    claims.set(Client.LIMIT, Priority.LIMIT, Properties("disabled"))
    claims.set(20, Priority.API, Properties("active", charge_current=10, max_current=30))
    target = claims.target()
    assert target.properties == Properties("disabled", 20, 30)
    assert target.winners == {"state": Client.LIMIT, "charge_current": Client.MANUAL, "max_current": 20}
    assert claims.target(without=frozenset({Client.LIMIT})).properties.state == "active"


def test_of_equals_the_first_slot_wins_and_a_free_slot_is_used_again() -> None:
    claims = Claims()
    for client in (1, 2, 3):
        claims.set(client, Priority.API, Properties(max_current=client))
    assert claims.target().winners == {"max_current": 1}
    claims.release(1)
    assert claims.target().winners == {"max_current": 2}
    claims.set(4, Priority.API, Properties(max_current=4))
    assert claims.target().winners == {"max_current": 4}


def test_there_are_ten_slots() -> None:
    claims = Claims()
    assert all(claims.set(client, Priority.API, Properties("active")) for client in range(10))
    assert not claims.set(10, Priority.API, Properties("active"))
    assert claims.set(9, Priority.MANUAL, Properties("disabled"))
    assert claims.release(0)
    assert claims.set(10, Priority.API, Properties("active"))


def test_automatic_claims_go_with_the_car() -> None:
    claims = Claims()
    claims.set(1, Priority.API, Properties("active"), auto_release=True)
    claims.set(2, Priority.API, Properties("active"))
    claims.release_automatic()
    assert [claim.client for claim in claims.all()] == [2]


def test_only_changes_are_told() -> None:
    claims, told = Claims(), []
    claims.on_change(lambda: told.append(len(claims.all())))
    for _ in range(2):
        claims.set(1, Priority.API, Properties("active"))
    claims.release(1)
    claims.release(1)
    claims.release_automatic()
    assert told == [1, 0]


def test_the_lower_cap_counts_and_0_a_keeps_the_claim() -> None:
    claims = Claims()
    caps = SafetyCaps(claims)
    caps.set("shaper", Cap(20))
    caps.set("loadsharing", Cap(16))
    claim = claims.get(Client.SHAPER)
    assert claim is not None
    assert (claim.priority, claim.properties) == (5000, Properties(max_current=16))
    caps.set("loadsharing", Cap(0, off=True))
    assert claims.target().properties == Properties("disabled", max_current=0)
    caps.set("loadsharing", None)
    assert claims.target().properties == Properties(max_current=20)
    caps.set("shaper", None)
    assert claims.all() == []


@given(st.lists(st.tuples(st.integers(1, 12), st.sampled_from(list(Priority)), properties), max_size=30), st.data())
def test_what_wins_is_what_some_claim_asks_and_none_of_higher_priority_asks_else(
    sets: list[tuple[int, Priority, Properties]], data: st.DataObject
) -> None:
    claims = Claims()
    for client, priority, wanted in sets:
        claims.set(client, priority, wanted)
        if data.draw(st.booleans()):
            claims.release(data.draw(st.integers(1, 12)))
    assert len(claims.all()) <= 10
    target = claims.target()
    for name in ("state", "charge_current", "max_current"):
        asking = [claim for claim in claims.all() if getattr(claim.properties, name) is not None]
        if not asking:
            assert getattr(target.properties, name) is None
            assert name not in target.winners
            continue
        winner = claims.get(target.winners[name])
        assert winner is not None
        assert getattr(winner.properties, name) == getattr(target.properties, name)
        assert winner.priority == max(claim.priority for claim in asking)
