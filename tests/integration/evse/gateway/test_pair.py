"""The gateway with the emulator behind socat: contract 1, 2, 5."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from integration.evse.gateway.pair import Pair
from labyard.testing.waiting import PATIENCE


@pytest.fixture
def make_pair(tmp_path: Path) -> Iterator[Callable[..., Pair]]:
    made: list[Pair] = []

    def make(*arguments: Any, **more: Any) -> Pair:
        pair = Pair(tmp_path, *arguments, **more)
        made.append(pair)
        return pair

    yield make
    for pair in made:
        pair.close()


@pytest.fixture
def pair(make_pair: Callable[..., Pair]) -> Pair:
    made = make_pair(20.0)
    made.ready()
    return made


@pytest.fixture
def losing_pair(make_pair: Callable[..., Pair]) -> Pair:
    """One whose line loses commands: the gateway gives them up as soon as it should."""
    made = make_pair(20.0, patient=False)
    made.ready()
    return made


def config(pair: Pair) -> dict[str, Any]:
    found: dict[str, Any] = pair.gateway.http.get("/config").json()
    return found


def test_what_the_evse_says_is_in_config_and_status(pair: Pair) -> None:
    found = config(pair)
    assert (found["firmware"], found["min_current_hard"], found["max_current_hard"]) == ("8.2.1", 6, 80)
    assert found["max_current_soft"] == 32
    assert found["evse_serial"]
    status = pair.gateway.status()
    assert (status["state"], status["pilot"], status["rapi_connected"], status["service_level"]) == (1, 32, 1, 2)


def test_a_session_from_plug_to_plug(pair: Pair) -> None:
    pair.do("ev/connect")
    pair.wait(state=2, vehicle=1, amp=0)
    pair.do("ev/request_charge")
    pair.wait(state=3)
    pair.until(lambda: pair.gateway.status()["amp"] > 20000)
    status = pair.gateway.status()
    assert status["power"] == pytest.approx(7200, rel=0.05)
    pair.until(lambda: pair.gateway.status()["session_energy"] > 20)
    assert pair.gateway.status()["elapsed"] > 5
    assert pair.gateway.status()["total_energy"] >= 0.02
    pair.do("ev/disconnect")
    pair.wait(state=1, vehicle=0, amp=0)
    assert pair.gateway.status()["total_switches"] == 1
    states = [entry["evseState"] for entry in pair.gateway.http.get("/logs/0").json()]
    assert states == [1, 2, 3, 1]


def test_an_override_sleeps_and_limits(pair: Pair) -> None:
    pair.charge()
    pair.gateway.http.post("/override", json={"charge_current": 10})
    pair.wait(pilot=10)
    pair.until(lambda: pair.http.get("/api/evse/status").json()["current_capacity"] == 10)
    pair.until(lambda: 0 < pair.gateway.status()["amp"] <= 10000)
    pair.gateway.http.post("/override", json={"state": "disabled"})
    pair.wait(state=254, status="disabled", amp=0)
    pair.gateway.http.delete("/override")
    pair.wait(state=3, pilot=32)
    pair.gateway.http.post("/config", json={"pause_uses_disabled": True})
    pair.gateway.http.patch("/override")
    pair.wait(state=255)


def test_automatic_claims_go_with_the_car(pair: Pair) -> None:
    pair.gateway.http.post("/override", json={"charge_current": 10})
    pair.gateway.http.post("/claims/20", json={"charge_current": 12, "auto_release": False})
    pair.charge()
    pair.wait(pilot=10)
    pair.do("ev/disconnect")
    pair.wait(vehicle=0, pilot=12)
    assert pair.gateway.http.get("/override").json() == {}


def test_a_limit_ends_the_session(pair: Pair) -> None:
    pair.gateway.http.post("/limit", json={"type": "energy", "value": 30})
    pair.request()  # 30 Wh are charged within a second: that it charges may never be seen
    assert pair.wait(state=254)["session_energy"] >= 30
    [claim] = pair.gateway.http.get("/claims").json()
    assert (claim["client"], claim["priority"], claim["state"]) == (65542, 1100, "disabled")
    pair.do("ev/disconnect")
    pair.wait(vehicle=0, state=1, limit=False)
    assert pair.gateway.http.get("/claims").json() == []


def test_a_fresh_pair_counts_its_configuration_from_one(pair: Pair) -> None:
    assert pair.gateway.status()["config_version"] == 1
    values = {"max_current_soft": 24, "scale": 210, "service": 1, "vent_check": False, "lang": "de"}
    assert pair.gateway.http.post("/config", json=values).json() == {"config_version": 2, "msg": "done"}
    assert {key: config(pair)[key] for key in values} == values
    assert pair.rapi("$FF V 1")["ret"] == "$OK^20"  # somebody else's change is one, too
    pair.wait(config_version=3)


def test_limits_of_time_charge_and_range(pair: Pair) -> None:
    http = pair.gateway.http
    http.post("/config", json={"vehicle_data_src": 3})
    pair.charge()
    for limit, told in (
        ({"type": "time", "value": 1}, {}),
        ({"type": "soc", "value": 60}, {"battery_level": 60}),
        ({"type": "range", "value": 200}, {"battery_range": 201}),
    ):
        assert http.post("/limit", json=limit).status_code == 201
        assert http.post("/status", json=told).status_code == 200
        pair.wait(state=254)
        assert pair.gateway.status()["elapsed"] >= 60
        assert http.get("/claims/target").json()["claims"] == {"state": 65542}
        assert http.delete("/limit").json() == {"msg": "done"}
        pair.wait(state=3)


def test_settings_of_the_evse_are_written_before_the_answer(pair: Pair) -> None:
    answer = pair.gateway.http.post("/config", json={"max_current_soft": 24, "diode_check": False, "scale": 210})
    assert answer.json()["msg"] == "done"
    found = config(pair)
    assert (found["max_current_soft"], found["diode_check"], found["scale"]) == (24, False, 210)
    assert pair.rapi("$GC")["ret"].startswith("$OK 6 80 24 24")
    assert int(pair.rapi("$GE")["ret"].split("^")[0].split()[2], 16) & 2
    answer = pair.gateway.http.post("/config", json={"max_current_soft": 5})
    assert (answer.status_code, answer.json()) == (400, {"msg": "max_current_soft must be 6 to 80"})


def test_commands_pass_through(pair: Pair) -> None:
    assert pair.rapi("$GV") == {"cmd": "$GV", "ret": "$OK 8.2.1 5.0.1^2F"}
    assert pair.rapi("$XX") == {"cmd": "$XX", "ret": "$NK^21"}
    assert pair.rapi("$GV^35")["ret"] == "$OK 8.2.1 5.0.1^2F"
    assert pair.rapi("$FP 0 0 two  spaces")["ret"] == "$OK^20"
    assert pair.http.get("/api/evse/lcd").json()["row1"] == "two  spaces     "
    assert pair.rapi("$FF D 0")["ret"] == "$OK^20"
    assert config(pair)["diode_check"] is False
    assert pair.rapi("$FS")["ret"] == "$OK^20"
    assert pair.gateway.status()["state"] == 254
    # Last: the timer of the emulator may wake it.
    assert pair.rapi("$ST 1 2 3 4")["ret"] == "$OK^20"
    assert pair.rapi("$GD")["ret"].startswith("$OK 1 2 3 4^")


def test_what_is_done_at_the_charger_is_seen(pair: Pair) -> None:
    pair.do("evse/disable")
    pair.wait(state=254)
    pair.do("evse/enable")
    pair.wait(state=1)
    pair.do("evse/disable")
    pair.wait(state=254)
    pair.gateway.http.patch("/override")
    assert pair.gateway.http.get("/override").json()["state"] == "active"
    pair.wait(state=1)
    pair.do("errors/trigger", error="gfci")
    pair.wait(state=6)
    pair.until(lambda: pair.gateway.status()["gfcicount"] == 1)
    pair.do("errors/clear")
    pair.wait(state=1)


def test_the_socket_tells_changes_and_each_second_of_charging(pair: Pair) -> None:
    with connect(f"ws://127.0.0.1:{pair.gateway.port}/ws", open_timeout=PATIENCE) as socket:
        socket.recv(PATIENCE)
        pair.charge()
        seen: list[dict[str, Any]] = []
        while not any(message.keys() == {"amp", "voltage", "power"} and message["amp"] for message in seen):
            seen.append(json.loads(socket.recv(PATIENCE)))
        changes = [message for message in seen if "state" in message]
        assert [message["state"] for message in changes][-1] == 3
        assert changes[-1].keys() == {
            "state",
            "flags",
            "vehicle",
            "colour",
            "pilot",
            "max_current",
            "manual_override",
            "status",
            "elapsed",
            "amp",
            "voltage",
            "power",
        }


def test_the_shaper_caps_and_pauses(pair: Pair) -> None:
    pair.charge()
    pair.gateway.http.post("/config", json={"current_shaper_enabled": True, "current_shaper_max_pwr": 5000})
    pair.gateway.http.post("/status", json={"shaper_live_pwr": 0})
    pair.wait(pilot=20)
    pair.gateway.http.post("/status", json={"shaper_live_pwr": 20000})
    pair.wait(state=254)
    pair.gateway.http.post("/shaper", content="shaper=0")
    pair.wait(state=3, pilot=32)


def test_an_event_of_the_schedule_starts_and_limits(pair: Pair) -> None:
    http = pair.gateway.http
    http.post("/config", json={"scheduler_start_window": 0, "time_zone": "x|UTC0"})
    http.post("/labyard/clock", json={"mode": "manual"})
    http.post("/time", json={"time": "2026-03-02T11:59:50Z"})  # a Monday
    days = ["monday"]
    start = {"id": 1, "state": "active", "time": "12:00:00", "days": days, "limit": "energy", "limit_value": 50000}
    http.post("/schedule", json=[start, {"id": 2, "state": "disabled", "time": "12:01:00", "days": days}])
    plan = pair.wait(state=254, limit=False)["schedule_plan_version"]
    http.post("/labyard/clock/advance", json={"seconds": 20})
    pair.wait(state=1, limit=True, schedule_plan_version=plan + 1)
    assert http.get("/limit").json() == {"type": "energy", "value": 50000, "auto_release": True}
    http.post("/labyard/clock/advance", json={"seconds": 60})
    pair.wait(state=254)
    assert http.get("/schedule/plan").json()["current_event"]["id"] == 2


def test_a_bridge_that_goes_and_comes(pair: Pair) -> None:
    pair.charge()
    pair.stop("bridge")
    pair.wait(rapi_connected=0, evse_connected=0)
    assert pair.rapi("$GV")["error"] == "RAPI_RESPONSE_TIMEOUT"
    pair.gateway.http.post("/override", json={"charge_current": 8})
    pair.start_bridge()
    pair.wait(rapi_connected=1, evse_connected=1, pilot=8)
    assert "labyard_rapi_reconnects_total 1.0" in pair.gateway.http.get("/metrics").text


def test_an_emulator_that_reboots(losing_pair: Pair) -> None:
    pair = losing_pair
    pair.gateway.http.post("/claims/20", json={"charge_current": 10})
    pair.charge()
    pair.wait(pilot=10)
    times = pair.gateway.log.read_text().count("EVSE ready")
    assert pair.gateway.http.post("/restart", json={"device": "evse"}).json() == {"msg": "restart evse"}
    pair.until(lambda: pair.gateway.log.read_text().count("EVSE ready") > times)
    pair.wait(evse_connected=1, pilot=10)


def test_an_emulator_that_is_silent_for_a_while(losing_pair: Pair) -> None:
    pair = losing_pair
    pair.do("link/faults", seed=1, rules=[{"kind": "drop", "direction": "both", "probability": 1.0}])
    for _ in range(3):
        pair.rapi("$GV")
    pair.wait(rapi_connected=0)
    assert pair.http.delete("/api/link/faults").status_code == 200
    pair.wait(rapi_connected=1, evse_connected=1)


@pytest.mark.parametrize("kind", ["drop", "corrupt", "truncate", "duplicate"])
def test_a_bad_line_is_slow_but_right(losing_pair: Pair, kind: str) -> None:
    pair = losing_pair
    rules = [{"kind": kind, "direction": "both", "probability": 0.2}]
    pair.do("link/faults", seed=7, rules=rules)
    pair.charge()
    for amps in (10, 20, 8, 16):
        pair.gateway.http.post("/override", json={"charge_current": amps})
        pair.until(lambda amps=amps: pair.http.get("/api/evse/status").json()["current_capacity"] == amps)
    pair.gateway.http.post("/override", json={"state": "disabled"})
    pair.until(lambda: pair.http.get("/api/evse/status").json()["state"] == 254)


@pytest.mark.parametrize("kind", ["stall", "disconnect", "reboot"])
def test_a_link_that_breaks_now_and_then(losing_pair: Pair, kind: str) -> None:
    pair = losing_pair
    pair.charge()
    pair.do("link/faults", seed=3, rules=[{"kind": kind, "direction": "tx", "probability": 1.0, "count": 1}])
    pair.gateway.http.post("/override", json={"charge_current": 9})
    pair.until(lambda: pair.http.get("/api/link/log").json())
    if kind == "disconnect":  # socat ends with its connection; somebody starts it again
        pair.until(lambda: pair.ended("bridge"))
        pair.start_bridge()
    pair.until(lambda: pair.http.get("/api/evse/status").json()["current_capacity"] == 9)
    pair.wait(pilot=9, rapi_connected=1, evse_connected=1)


@pytest.mark.parametrize("bridge", ["wait-slave", "none"])
def test_behind_another_bridge(make_pair: Callable[..., Pair], bridge: str) -> None:
    pair = make_pair(20.0, bridge)
    pair.ready()
    assert config(pair)["firmware"] == "8.2.1"
    pair.charge()
    pair.gateway.http.post("/override", json={"state": "disabled"})
    pair.wait(state=254)


def test_the_manners_of_the_public_image(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair(20.0, "socat", "--evse-profile", "legacy")
    pair.ready()
    pair.charge()
    pair.gateway.http.post("/override", json={"charge_current": 10})
    pair.wait(pilot=10)
    pair.until(lambda: pair.http.get("/api/evse/status").json()["current_capacity"] == 10)
    pair.gateway.http.post("/override", json={"state": "disabled"})
    pair.wait(state=254, status="disabled", amp=0)
    pair.gateway.http.delete("/override")
    pair.wait(state=3, pilot=32)
    pair.do("errors/trigger", error="gfci")
    pair.wait(state=254)
    pair.do("errors/clear")
    pair.wait(state=3)


def test_an_old_protocol(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair(20.0, "socat", "--evse-protocol-version", "4.0.1")
    pair.ready()
    pair.charge()
    pair.gateway.http.post("/override", json={"state": "disabled"})
    pair.wait(state=254)


def test_the_gateway_restarts_and_the_car_goes_on(pair: Pair) -> None:
    pair.charge()
    total = pair.gateway.status()["total_switches"]
    pair.gateway.http.post("/restart", json={"device": "gateway"})
    pair.until(lambda: '"gateway restarts"' in pair.gateway.log.read_text())
    pair.until(pair.gateway.answers)
    pair.wait(state=3, evse_connected=1)
    assert pair.gateway.status()["total_switches"] == total == 1


def test_a_limit_counts_on_after_a_restart(pair: Pair) -> None:
    pair.charge()
    pair.gateway.http.post("/limit", json={"type": "energy", "value": 300})
    pair.until(lambda: pair.gateway.status()["session_energy"] > 150)
    pair.do("clock", mode="real")  # the restart may take a while, in which the car must not get far
    before = pair.http.get("/api/evse/status").json()["session_energy_wh"]
    pair.gateway.http.post("/restart", json={"device": "gateway"})
    pair.until(lambda: '"gateway restarts"' in pair.gateway.log.read_text())
    pair.until(pair.gateway.answers)
    assert pair.wait(evse_connected=1)["session_energy"] > 150
    pair.do("clock", mode="scaled", scale=10)
    pair.wait(state=254)
    # Where it counts anew it ends behind that.
    assert pair.http.get("/api/evse/status").json()["session_energy_wh"] < before + 300
