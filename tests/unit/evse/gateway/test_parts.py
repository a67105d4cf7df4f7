"""Limit, override, energy, time, log, supply, vehicle: each by itself."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from labyard.evse.clock import Clock
from labyard.evse.gateway import limit, timekeeping
from labyard.evse.gateway.claims import Claims, Client, Properties, SafetyCaps
from labyard.evse.gateway.energy import EnergyMeter
from labyard.evse.gateway.eventlog import BLOCK, BLOCKS, EventLog
from labyard.evse.gateway.limit import Limit, Limits
from labyard.evse.gateway.override import Override, parse
from labyard.evse.gateway.storage import Storage
from labyard.evse.gateway.supply import ECO, FAST, Charger, Divert, Shaper
from labyard.evse.gateway.timekeeping import WallClock, parse_time, rapi_words, week_seconds, zone
from labyard.evse.gateway.vehicle import Vehicle


class TestLimit:
    @pytest.mark.parametrize(("kind", "below", "at"), [("time", 59.9, 60), ("energy", 59, 60), ("soc", 59, 61)])
    def test_a_reached_limit_stops_until_the_car_goes(self, kind: Any, below: float, at: float) -> None:
        claims = Claims()
        limits = Limits(claims)
        limits.set(Limit(kind, 60))
        assert not limits.look(True, {kind: below})
        assert limits.look(True, {kind: at})
        assert not limits.look(True, {kind: at})
        claim = claims.get(Client.LIMIT)
        assert claim is not None
        assert (claim.priority, claim.properties) == (1100, Properties("disabled"))
        limits.look(False, {kind: at})
        assert claims.all() == []

    def test_what_is_not_measured_is_not_reached(self) -> None:
        limits = Limits(Claims())
        limits.set(Limit("soc", 60))
        assert not limits.look(True, {"time": 1000})

    def test_a_higher_limit_lets_it_go_on(self) -> None:
        claims = Claims()
        limits = Limits(claims)
        limits.set(Limit("energy", 60))
        limits.look(True, {"energy": 100})
        limits.set(Limit("energy", 600))
        assert claims.all() == []

    def test_release_is_another_name(self) -> None:
        assert limit.parse({"type": "time", "value": 5, "release": False}) == Limit("time", 5, False)
        assert limit.parse({"type": "time", "value": 5, "auto_release": True, "release": False}).auto_release

    @pytest.mark.parametrize(
        "content",
        [
            [],
            {},
            {"type": "none", "value": 1},
            {"type": "time"},
            {"type": "time", "value": 0},
            {"type": "time", "value": "5"},
            {"type": "time", "value": True},
            {"type": "x", "value": 1},
            {"type": "time", "value": float("nan")},
            {"type": "time", "value": 1, "auto_release": 1},
        ],
    )
    def test_wrong_ones_are_refused(self, content: Any) -> None:
        with pytest.raises(ValueError):
            limit.parse(content)


class TestOverride:
    def test_parts_are_set_and_cleared_one_by_one(self) -> None:
        claims, told = Claims(), []
        override = Override(claims, lambda: True, lambda: told.append(override.as_json()))
        assert override.as_json() == {}
        override.set({"state": "active"})
        override.set({"charge_current": 10.9, "max_current": 20})
        assert override.as_json() == {"state": "active", "charge_current": 10, "max_current": 20, "auto_release": True}
        override.set({"state": "clear", "auto_release": False})
        assert override.as_json() == {"charge_current": 10, "max_current": 20, "auto_release": False}
        override.set({"charge_current": 10})
        claims.release_automatic()
        assert override.as_json() == {}
        assert len(told) == 5
        assert not override.release()

    @pytest.mark.parametrize(("active", "state"), [(True, "disabled"), (False, "active")])
    def test_toggle_asks_for_the_opposite_and_takes_it_back(self, active: bool, state: str) -> None:
        override = Override(Claims(), lambda: active, lambda: None)
        assert override.toggle()
        assert override.as_json() == {"state": state, "auto_release": True}
        assert override.toggle()
        assert override.as_json() == {}

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("state", "on"),
            ("charge_current", -1),
            ("charge_current", "10"),
            ("max_current", True),
            ("max_current", 1e9),
            ("auto_release", "yes"),
        ],
    )
    def test_wrong_ones_are_refused_by_name(self, key: str, value: Any) -> None:
        with pytest.raises(ValueError, match=key):
            parse({key: value}, Properties())


class TestEnergy:
    def test_counts_by_day_week_month_and_year(self) -> None:
        meter = EnergyMeter()
        meter.turn(date(2026, 12, 31))  # Thursday
        meter.add(3600, 7200)
        meter.turn(date(2027, 1, 1))  # same week
        assert meter.periods["day"] == 0.0
        meter.add(1800, 7200)
        assert meter.session == pytest.approx(10800)
        assert meter.total == pytest.approx(10.8)
        assert meter.periods == pytest.approx({"day": 3.6, "week": 10.8, "month": 3.6, "year": 3.6})
        meter.new_session()
        assert (meter.session, meter.total) == (0.0, pytest.approx(10.8))

    def test_outlives_a_restart(self) -> None:
        meter, again = EnergyMeter(), EnergyMeter()
        meter.turn(date(2026, 1, 1))
        meter.add(3600, 1000)
        again.restore(meter.as_json())
        again.turn(date(2026, 1, 1))
        again.add(3600, 1000)
        assert again.periods["day"] == pytest.approx(2.0)
        for spoilt in ({}, [], 5, {"total": "x"}):
            with pytest.raises(ValueError):
                again.restore(spoilt)
        assert again.total == pytest.approx(2.0)


class TestTime:
    def test_goes_with_the_clock_of_the_charger_and_can_be_set(self) -> None:
        clock = Clock()
        clock.set("manual")
        wall = WallClock(clock)
        wall.set(parse_time("2026-07-01T12:00:00Z"))
        clock.set("manual", now_s=clock.now() + 60)
        assert wall.now() == datetime(2026, 7, 1, 12, 1, tzinfo=UTC)
        wall.zone = zone("Europe/London|GMT0BST,M3.5.0/1,M10.5.0")
        assert timekeeping.offset(wall.local()) == "+0100"
        assert timekeeping.iso(wall.local()) == "2026-07-01T12:01:00Z"
        assert rapi_words(wall.local()) == "26 7 1 13 1 0"
        assert week_seconds(wall.local()) == (3, timedelta(hours=13, minutes=1))

    @pytest.mark.parametrize("text", ["", "yesterday", "1999-01-01T00:00:00Z", "2120-01-01"])
    def test_wrong_times_are_refused(self, text: str) -> None:
        with pytest.raises(ValueError):
            parse_time(text)

    @pytest.mark.parametrize(
        ("name", "hour"),
        [
            ("America/New_York|EST5EDT,M3.2.0,M11.1.0", 8),
            ("x|UTC0", 12),
            ("Australia/Sydney|AEST-10AEDT,M10.1.0,M4.1.0/3", 22),
        ],
    )
    def test_the_rule_of_a_zone_is_enough(self, name: str, hour: int) -> None:
        assert datetime(2026, 7, 1, 12, tzinfo=UTC).astimezone(zone(name)).hour == hour

    @pytest.mark.parametrize("name", ["x|y", "Nowhere/Town", "a|GMT0BST,M99", "", "../../etc/passwd"])
    def test_wrong_zones_are_refused(self, name: str) -> None:
        with pytest.raises(ValueError):
            zone(name)


class TestLog:
    def test_the_oldest_blocks_go(self, tmp_path: Path) -> None:
        log = EventLog(Storage(tmp_path))
        assert log.read(0) == []
        for number in range(BLOCK * (BLOCKS + 2) + 1):
            log.add({"n": number})
        assert (log.oldest, log.newest) == (3, BLOCKS + 2)
        assert log.read(2) is None
        assert log.read(3) == [{"n": number} for number in range(3 * BLOCK, 4 * BLOCK)]
        assert len(list(tmp_path.glob("log-*.json"))) == BLOCKS
        again = EventLog(Storage(tmp_path))
        again.add({"n": "again"})
        assert again.read(again.newest) == [{"n": BLOCK * (BLOCKS + 2)}, {"n": "again"}]


class TestSupply:
    def test_the_shaper_leaves_the_house_its_part(self) -> None:
        claims = Claims()
        shaper = Shaper(SafetyCaps(claims))
        shaper.active, shaper.max_power = True, 9000
        charger = Charger(voltage=230, power=2300, min=6)
        shaper.look(charger)
        assert claims.all() == []  # nothing was measured yet
        shaper.measured(5300, 0)  # 3000 W of it the house
        shaper.look(charger)
        assert claims.target().properties == Properties(max_current=26)
        shaper.measured(11000, 10)
        shaper.look(charger)
        assert claims.target().properties == Properties("disabled", max_current=1)
        assert (shaper.fresh(60), shaper.fresh(71)) == (True, False)
        shaper.active = False
        shaper.look(charger)
        assert claims.all() == []

    def test_divert_takes_what_the_sun_gives(self) -> None:
        claims = Claims()
        divert = Divert(claims)
        divert.measured_solar(1400, 0)
        divert.look(Charger(230, 0, 6))
        assert claims.all() == []
        divert.mode = ECO
        divert.look(Charger(230, 0, 6))
        assert claims.target().properties == Properties("disabled")  # 1518 W to start
        divert.measured_solar(1600, 0)
        divert.look(Charger(230, 0, 6))
        assert claims.target().properties == Properties("active", charge_current=6)
        divert.measured_solar(1400, 0)
        divert.look(Charger(230, 0, 6))
        assert claims.target().properties.state == "active"
        divert.measured_grid(-1000, 0)  # exported, beside what it charges with
        divert.look(Charger(230, 2300, 6))
        assert claims.target().properties.charge_current == 14
        divert.mode = FAST
        divert.look(Charger(230, 2300, 6))
        assert claims.all() == []


class TestVehicle:
    def test_is_taken_only_from_the_chosen_source(self) -> None:
        vehicle = Vehicle()
        content = {"battery_level": 50, "home_battery_soc": 70}
        assert not vehicle.take(content, 0, 1.0)
        assert vehicle.known == {"home_battery_soc": 70}
        assert vehicle.take(content, 3, 2.0)
        assert vehicle.known["battery_level"] == 50
        assert vehicle.updated_at == 2.0

    def test_what_is_no_number_is_refused_and_nothing_is_taken(self) -> None:
        vehicle = Vehicle()
        with pytest.raises(ValueError, match="battery_range"):
            vehicle.take({"battery_level": 50, "battery_range": "far"}, 3, 1.0)
        assert vehicle.known == {}
