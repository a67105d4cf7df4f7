"""The routes of a gateway whose EVSE is not there: contract 4, 5."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from integration.evse.gateway.conftest import GatewayProcess

STATUS_KEYS = """
mode wifi_client_connected eth_connected net_connected ipaddress ipv6address macaddress emoncms_connected packets_sent
packets_success mqtt_connected mqtt_status ocpp_connected ohm_hour free_heap littlefs_free littlefs_used comm_sent
comm_success rapi_connected evse_connected amp voltage power pilot max_current temp temp_max temp1 temp2 temp3 state
status flags vehicle colour manual_override freeram divertmode srssi time local_time offset uptime session_elapsed
session_energy total_energy total_day total_week total_month total_year total_switches elapsed wattsec watthour
gfcicount nogndcount stuckcount solar grid_ie charge_rate divert_update divert_active shaper shaper_live_pwr shaper_cur
shaper_updated service_level limit ota_update config_version claims_version override_version schedule_version
schedule_plan_version limit_version vehicle_state_update
"""

CONFIG_KEYS = """
www_http_port www_https_port www_username www_password hostname time_zone sntp_enabled sntp_hostname lang
max_current_soft service diode_check gfci_check ground_check relay_check vent_check temp_check scale offset voltage
heartbeat_interval heartbeat_current pause_uses_disabled default_state led_brightness charge_mode divert_enabled
divert_type divert_PV_ratio current_shaper_enabled current_shaper_max_pwr limit_default_type limit_default_value
scheduler_start_window vehicle_data_src loadsharing_enabled loadsharing_role loadsharing_controller_host
loadsharing_group_id loadsharing_group_max_current loadsharing_safety_factor loadsharing_heartbeat_timeout
loadsharing_failsafe_mode loadsharing_failsafe_safe_current loadsharing_failsafe_peer_assumed_current
loadsharing_priority loadsharing_rotation_interval loadsharing_config_version loadsharing_config_updated_at
loadsharing_compat loadsharing_two_phase loadsharing_connected_min_in_budget loadsharing_subset_topup buildenv version
wifi_serial protocol espinfo espflash firmware evse_serial chip_id min_current_hard max_current_hard
mqtt_supported_protocols http_supported_protocols
"""


class TestCommon:
    def test_answers_are_json_that_nobody_caches(self, lone: GatewayProcess) -> None:
        answer = lone.http.get("/status")
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-cache"

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/", 404),
            ("GET", "/nope", 404),
            ("GET", "/status/", 404),
            ("GET", "/claims/x", 404),
            ("GET", "/claims/99", 404),
            ("GET", "/claims/99999999999", 404),
            ("GET", f"/claims/{'9' * 5000}", 404),
            ("GET", f"/schedule/{'9' * 5000}", 404),
            ("GET", f"/logs/{'9' * 5000}", 404),
            ("GET", "/schedule/99", 404),
            ("GET", "/schedule/-1", 404),
            ("GET", "/logs/99", 404),
            ("GET", "/logs/x", 404),
            ("PUT", "/status", 405),
            ("DELETE", "/limit/1", 404),
            ("PATCH", "/limit", 405),
            ("POST", "/claims", 405),
            ("DELETE", "/claims", 405),
            ("DELETE", "/claims/", 405),
            ("DELETE", "/schedule", 405),
            ("POST", "/claims/target", 405),
            ("POST", "/logs", 405),
            ("DELETE", "/rapi", 405),
            ("GET", "/login", 405),
        ],
    )
    def test_every_failure_says_what_it_is(self, lone: GatewayProcess, method: str, path: str, status: int) -> None:
        answer = lone.http.request(method, path)
        assert answer.status_code == status
        assert answer.json()["msg"] == ("Not found" if status == 404 else "Method not allowed")

    def test_config_alone_refuses_without_a_word(self, lone: GatewayProcess) -> None:
        answer = lone.http.put("/config", json={})
        assert (answer.status_code, answer.content) == (405, b"")
        assert lone.http.request("PROPFIND", "/config").content == b""
        assert lone.http.options("/config").status_code == 200

    @pytest.mark.parametrize("path", ["/status", "/config", "/override", "/claims/1", "/limit", "/schedule", "/time"])
    @pytest.mark.parametrize("body", [b"", b"{", b"[" * 60000, b"\xff\xfe", b'"text"', b'{"a": NaN}', b'{"a": 1e999}'])
    def test_what_is_no_json_is_refused(self, lone: GatewayProcess, path: str, body: bytes) -> None:
        answer = lone.http.post(path, content=body)
        assert answer.status_code == 400
        assert answer.json()["msg"]

    @pytest.mark.parametrize("path", ["/status", "/config", "/rapi", "/login"])
    def test_a_body_has_an_end(self, lone: GatewayProcess, path: str) -> None:
        answer = lone.http.post(path, content=b"x" * 65537)
        assert answer.status_code == 413
        assert answer.json()["msg"]

        def chunks() -> Any:
            for _ in range(20):
                yield b"x" * 8192

        assert lone.http.post(path, content=chunks()).status_code == 413

    def test_a_body_has_an_end_also_where_nobody_reads_it(self, lone: GatewayProcess) -> None:
        for method, path in (("PATCH", "/override"), ("DELETE", "/limit"), ("POST", "/loadsharing/discover")):
            assert lone.http.request(method, path, content=b"x" * 10_000_000).status_code == 413
        assert lone.http.get("/override").json() == {}
        assert lone.http.post("/config", content=b" " * 65534 + b"{}").status_code == 200

    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_forms_have_an_end(self, lone: GatewayProcess, method: str) -> None:
        fields = "&".join(f"a{number}=1" for number in range(100))
        answer = lone.http.request(method, f"/r?{fields}" if method == "GET" else "/r", content=fields)
        assert (answer.status_code, answer.json()) == (400, {"msg": "There must not be more than 64 form fields"})

    def test_what_is_no_http_is_refused_in_json(self, lone: GatewayProcess) -> None:
        with socket.create_connection(("127.0.0.1", lone.port)) as raw:
            raw.sendall(b"NONSENSE / HTTP/1.1\r\n\r\n")
            head, _, content = raw.makefile("rb").read().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert json.loads(content)["msg"]

    def test_nonsense_on_the_socket_does_no_harm(self, lone: GatewayProcess) -> None:
        for nonsense in (b"\0" * 100, b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n", b"GET /status HTTP/1.1\r\nx"):
            with socket.create_connection(("127.0.0.1", lone.port)) as raw:
                raw.sendall(nonsense)
        assert lone.http.get("/config").status_code == 200

    def test_a_head_has_an_end(self, lone: GatewayProcess) -> None:
        with socket.create_connection(("127.0.0.1", lone.port)) as raw, pytest.raises(ConnectionError):
            raw.sendall(b"GET /status HTTP/1.1\r\n")
            for number in range(10_000):
                raw.sendall(b"X-%d: %s\r\n" % (number, b"x" * 1000))
        assert lone.http.post("/config", content=b" " * 65534 + b"{}").json()["msg"] == "no change"

    def test_methods_that_nobody_knows(self, lone: GatewayProcess) -> None:
        answer = lone.http.request("TRACE", "/status")
        assert (answer.status_code, answer.json()) == (405, {"msg": "Method not allowed"})


class TestStatus:
    def test_every_field_is_there(self, lone: GatewayProcess) -> None:
        found = lone.status()
        assert [key for key in STATUS_KEYS.split() if key not in found] == []
        assert (found["state"], found["rapi_connected"], found["evse_connected"]) == (0, 0, 0)
        assert found["temp"] is False
        assert found["vehicle"] == 0
        assert found["limit"] is False

    def test_measurements_are_taken_and_echoed(self, lone: GatewayProcess) -> None:
        content = {"voltage": 231, "solar": 1000, "grid_ie": -500, "other": "x"}
        answer = lone.http.post("/status", content=json.dumps(content), headers={"content-type": "text/plain"})
        assert answer.json() == content
        found = lone.status()
        assert (found["voltage"], found["solar"], found["grid_ie"]) == (231, 1000, 0)
        lone.http.post("/status", json={"grid_ie": -500})
        assert lone.status()["grid_ie"] == -500

    def test_vehicle_data_counts_only_when_it_comes_by_http(self, lone: GatewayProcess) -> None:
        assert lone.http.post("/status", json={"battery_level": 50}).json() == {"battery_level": 50}
        assert "battery_level" not in lone.status()
        lone.http.post("/config", json={"vehicle_data_src": 3})
        answer = lone.http.post("/status", json={"battery_level": 50, "time_to_full_charge": 60})
        assert answer.json()["vehicle_state_update"] == 0
        assert lone.status()["battery_level"] == 50

    @pytest.mark.parametrize("content", [{"voltage": "high"}, {"voltage": 0}, {"solar": None}, {"shaper_live_pwr": []}])
    def test_what_is_no_number_is_refused_by_name(self, lone: GatewayProcess, content: dict[str, Any]) -> None:
        answer = lone.http.post("/status", json=content)
        assert answer.status_code == 400
        assert next(iter(content)) in answer.json()["msg"]


class TestConfig:
    def test_every_key_is_there_from_the_start(self, lone: GatewayProcess) -> None:
        found = lone.http.get("/config").json()
        assert [key for key in CONFIG_KEYS.split() if key not in found] == []
        assert (found["min_current_hard"], found["max_current_soft"], found["max_current_hard"]) == (0, 0, 80)
        assert found["version"] == "v5.2.0"
        assert found["protocol"] == "-"

    def test_a_change_is_counted(self, lone: GatewayProcess) -> None:
        before = lone.status()["config_version"]
        answer = lone.http.post("/config", json={"led_brightness": 5, "unknown": 1})
        assert answer.json() == {"config_version": before + 1, "msg": "done"}
        answer = lone.http.post("/config", json={"led_brightness": 5})
        assert answer.json() == {"config_version": before + 1, "msg": "no change"}

    def test_refusals(self, lone: GatewayProcess) -> None:
        answer = lone.http.post("/config", content=b"{x")
        assert (answer.status_code, answer.json()) == (400, {"msg": "Could not parse JSON"})
        answer = lone.http.post("/config", json={"loadsharing_heartbeat_timeout": 1})
        assert answer.status_code == 400
        assert "loadsharing_heartbeat_timeout" in answer.json()["msg"]
        answer = lone.http.post("/config", json={"time_zone": "Nowhere/Town"})
        assert "time_zone" in answer.json()["msg"]
        answer = lone.http.post("/config", json={"lang": "de"}, headers={"X-Storage": "factory"})
        assert answer.status_code == 423


class TestControl:
    def test_override(self, lone: GatewayProcess) -> None:
        version = lone.status()["override_version"]
        assert lone.http.get("/override").json() == {}
        answer = lone.http.delete("/override")
        assert (answer.status_code, answer.json()) == (500, {"msg": "Failed to release manual override"})
        answer = lone.http.post("/override", json={"state": "disabled", "charge_current": 12})
        assert (answer.status_code, answer.json()) == (201, {"msg": "Created"})
        assert lone.http.get("/override").json() == {"state": "disabled", "charge_current": 12, "auto_release": True}
        assert lone.status()["manual_override"] == 1
        assert lone.status()["status"] == "disabled"
        assert lone.http.patch("/override").json() == {"msg": "Updated"}
        assert lone.http.get("/override").json() == {}
        assert lone.http.patch("/override").json() == {"msg": "Updated"}
        assert lone.http.get("/override").json()["state"] == "disabled"
        assert lone.http.delete("/override").json() == {"msg": "Deleted"}
        assert lone.status()["override_version"] == version + 4
        answer = lone.http.post("/override", json={"state": "on"})
        assert answer.status_code == 400

    def test_claims(self, lone: GatewayProcess) -> None:
        answer = lone.http.post("/claims/20", json={"state": "active", "max_current": 20})
        assert (answer.status_code, answer.json()) == (200, {"msg": "done"})
        lone.http.post("/claims/21", json={"charge_current": 10, "auto_release": False})
        claim = {"client": 20, "priority": 500, "state": "active", "max_current": 20, "auto_release": True}
        assert lone.http.get("/claims/20").json() == claim
        assert lone.http.get("/claims").json()[0] == claim
        assert lone.http.get("/claims/target").json() == {
            "properties": {"state": "active", "charge_current": 10, "max_current": 20},
            "claims": {"state": 20, "charge_current": 21, "max_current": 20},
        }
        for client in (20, 21):
            assert lone.http.delete(f"/claims/{client}").json() == {"msg": "done"}
        answer = lone.http.delete("/claims/20")
        assert (answer.status_code, answer.json()) == (404, {"msg": "Not found"})

    def test_all_claims_taken(self, lone: GatewayProcess) -> None:
        for client in range(100, 110):
            assert lone.http.post(f"/claims/{client}", json={"state": "active"}).status_code == 200
        answer = lone.http.post("/claims/110", json={"state": "active"})
        assert (answer.status_code, answer.json()["msg"]) == (500, "All 10 claims are taken")
        for client in range(100, 110):
            lone.http.delete(f"/claims/{client}")

    def test_a_limit_always_finds_a_claim(self, lone: GatewayProcess) -> None:
        lone.http.post("/config", json={"current_shaper_max_pwr": 2400})
        lone.http.post("/status", json={"shaper_live_pwr": 0, "voltage": 240})
        for client in range(100, 110):
            lone.http.post(f"/claims/{client}", json={"max_current": 32})
        lone.http.post("/shaper", content="shaper=1")
        claims = lone.http.get("/claims").json()
        assert len(claims) == 10
        assert [claim["max_current"] for claim in claims if claim["client"] == 65548] == [10]
        for method, content in (("POST", {"max_current": 32}), ("DELETE", {})):
            answer = lone.http.request(method, "/claims/65548", json=content)
            assert answer.status_code == 403
            assert "65548" in answer.json()["msg"]
        assert lone.http.get("/claims").json() == claims
        lone.http.post("/shaper", content="shaper=0")
        for client in range(100, 110):
            lone.http.delete(f"/claims/{client}")

    def test_limit(self, lone: GatewayProcess) -> None:
        assert lone.http.get("/limit").json() == {}
        assert lone.http.delete("/limit").json() == {"msg": "no limit"}
        answer = lone.http.post("/limit", json={"type": "time", "value": 60, "release": False})
        assert (answer.status_code, answer.json()) == (201, {"msg": "done"})
        assert lone.http.get("/limit").json() == {"type": "time", "value": 60, "auto_release": False}
        assert lone.status()["limit"] is True
        assert lone.http.delete("/limit").json() == {"msg": "done"}
        for value in (0, 0.5, -1, "60", None, True):
            answer = lone.http.post("/limit", json={"type": "time", "value": value})
            assert (answer.status_code, answer.json()) == (400, {"msg": "failed to parse JSON"})

    @pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/json"])
    def test_forms_whatever_they_call_themselves(self, lone: GatewayProcess, content_type: str) -> None:
        headers = {"content-type": content_type}
        answer = lone.http.post("/divertmode", content="divertmode=2", headers=headers)
        assert (answer.status_code, answer.text) == (200, "Divert Mode changed")
        assert (lone.status()["divertmode"], lone.status()["divert_active"]) == (2, True)
        assert lone.http.post("/divertmode?divertmode=1").text == "Divert Mode changed"
        answer = lone.http.post("/shaper", content="shaper=1", headers=headers)
        assert answer.text == "Current Shaper state changed"
        assert lone.status()["shaper"] == 1
        lone.http.post("/shaper", content="shaper=0", headers=headers)
        assert lone.http.post("/shaper", content="shaper=7").status_code == 400


class TestSchedule:
    def test_events_come_and_go(self, lone: GatewayProcess) -> None:
        event = {"id": 1, "state": "active", "time": "12:00:00", "days": ["monday"]}
        assert lone.http.post("/schedule", json=[event, event | {"id": 2}]).json() == {"msg": "done"}
        lone.http.post("/schedule/3", json=event | {"limit": "energy", "limit_value": 100})
        assert [found["id"] for found in lone.http.get("/schedule").json()] == [1, 2, 3]
        assert lone.http.get("/schedule/3").json()["limit_value"] == 100
        plan = lone.http.get("/schedule/plan").json()
        assert plan["current_event"]["id"] in (1, 2, 3)
        assert len(plan["monday"]) == 3
        assert lone.http.get("/claims").json()[0] == {
            "client": 65540,
            "priority": 100,
            "state": "active",
            "auto_release": False,
        }
        for number in (1, 2, 3):
            assert lone.http.delete(f"/schedule/{number}").json() == {"msg": "done"}
        assert lone.http.delete("/schedule/1").status_code == 404
        assert lone.http.get("/claims").json() == []

    @pytest.mark.parametrize("content", [[], {}, [{"id": 1}], 5, [[]]])
    def test_bad_ones_are_refused(self, lone: GatewayProcess, content: Any) -> None:
        answer = lone.http.post("/schedule", json=content)
        assert answer.status_code == 400
        assert answer.json()["msg"]


class TestRapi:
    @pytest.mark.parametrize("path", ["/r", "/rapi"])
    def test_nobody_answers(self, lone: GatewayProcess, path: str) -> None:
        answer = lone.http.get(path, params={"json": 1, "rapi": '$GV"'})
        assert (answer.status_code, answer.json()) == (500, {"cmd": '$GV"', "error": "RAPI_RESPONSE_TIMEOUT"})
        answer = lone.http.post(path, content="json=1&rapi=%24GV", headers={"content-type": "text/plain"})
        assert answer.json() == {"cmd": "$GV", "error": "RAPI_RESPONSE_TIMEOUT"}

    def test_a_page_for_people(self, lone: GatewayProcess) -> None:
        answer = lone.http.get("/r", params={"rapi": "$GV<script>"})
        assert answer.headers["content-type"].startswith("text/html")
        assert "$GV&lt;script&gt;" in answer.text
        assert lone.http.get("/r").status_code == 200
        assert lone.http.get("/r?json=1").status_code == 400

    @pytest.mark.parametrize("command", ["$GV\r$FE", "$GV\n", "$", "$G$FE", "$GV^35$FE"])
    def test_two_commands_in_one_are_blocked(self, lone: GatewayProcess, command: str) -> None:
        answer = lone.http.get("/r", params={"json": 1, "rapi": command + " x"})
        assert (answer.status_code, answer.json()["error"]) == (400, "RAPI_RESPONSE_BLOCKED")

    def test_a_long_command_is_refused(self, lone: GatewayProcess) -> None:
        answer = lone.http.get("/r", params={"json": 1, "rapi": "$FP 0 0 " + "x" * 80})
        assert (answer.status_code, answer.json()["error"]) == (500, "RAPI_RESPONSE_CMD_TOO_LONG")

    @pytest.mark.parametrize(
        "headers",
        [
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Origin": "http://evil.example"},
            {"Origin": "http://["},
            {"Origin": "null"},
        ],
    )
    @pytest.mark.parametrize("path", ["/r?json=1&rapi=$FS", "/restart", "/divertmode?divertmode=2", "/shaper?shaper=1"])
    def test_links_of_other_sites_do_nothing(self, lone: GatewayProcess, path: str, headers: dict[str, str]) -> None:
        answer = lone.http.get(path, headers=headers)
        assert answer.status_code == 403
        assert answer.json()["msg"]
        assert lone.http.head(path, headers=headers).status_code == 403

    def test_links_of_its_own_site_work(self, lone: GatewayProcess) -> None:
        headers = {"Sec-Fetch-Site": "same-origin", "Origin": lone.url}
        assert lone.http.get("/r?json=1&rapi=$GV", headers=headers).status_code == 500


class TestDevice:
    def test_time_is_read_and_set(self, lone: GatewayProcess) -> None:
        found = lone.http.get("/time").json()
        assert {"time", "local_time", "offset", "uptime"} <= found.keys()
        zone = "Europe/Berlin|CET-1CEST,M3.5.0,M10.5.0/3"
        answer = lone.http.post(
            "/time", json={"time": "2026-07-01T12:00:00Z", "time_zone": zone, "sntp_enabled": False}
        )
        assert answer.json() == {"msg": "done"}
        found = lone.http.get("/time").json()
        assert found["time"].startswith("2026-07-01T12:0")
        assert found["local_time"].startswith("2026-07-01T14:0")
        assert found["offset"] == "+0200"
        lone.http.post("/time", json={"sync_now": True})
        assert lone.http.get("/time").json()["ntp_synchronised"] is True
        assert lone.http.post("/time", json={"time": "tomorrow"}).status_code == 400
        assert lone.http.post("/time", json={"time_zone": "x"}).status_code == 400

    def test_restart_refusals(self, lone: GatewayProcess) -> None:
        assert lone.http.post("/restart", json={"device": "moon"}).status_code == 404
        assert lone.http.post("/restart", json={}).status_code == 400
        assert lone.http.post("/restart", content=b"x").status_code == 400
        assert lone.http.post("/restart", json={"device": "evse"}).json() == {"msg": "restart evse"}

    def test_the_rest(self, lone: GatewayProcess) -> None:
        assert lone.http.get("/emoncms/describe").text == "openevse"
        assert lone.http.get("/logs").json() == {"min": 0, "max": 0}
        assert lone.http.get("/logs/0").json() == []
        assert lone.http.request("DELETE", "/emeter", json={"hard": True, "import": False}).json() == {"msg": "done"}
        assert lone.http.delete("/emeter").json() == {"msg": "done"}
        assert lone.http.request("DELETE", "/emeter", content=b"x").status_code == 400
        assert lone.http.post("/login", json={}).json() == {"msg": "ok"}  # no password is set

    def test_clock(self, lone: GatewayProcess) -> None:
        answer = lone.http.post("/labyard/clock", json={"mode": "manual"})
        now = answer.json()["now_s"]
        answer = lone.http.post("/labyard/clock/advance", json={"seconds": 60})
        assert answer.json() == {"mode": "manual", "scale": 1.0, "now_s": pytest.approx(now + 60)}
        for path, content in (
            ("/labyard/clock", {"mode": "fast"}),
            ("/labyard/clock", {"mode": "scaled", "scale": 121}),
            ("/labyard/clock", {"mode": "scaled", "scale": "x"}),
            ("/labyard/clock", {"now_s": 0}),
            ("/labyard/clock/advance", {}),
            ("/labyard/clock/advance", {"seconds": -1}),
        ):
            answer = lone.http.post(path, json=content)
            assert answer.status_code == 400, content
            assert answer.json()["msg"]
        assert lone.http.post("/labyard/clock", json={"mode": "real"}).json()["mode"] == "real"
        assert lone.http.post("/labyard/clock/advance", json={"seconds": 1}).status_code == 400

    def test_metrics(self, lone: GatewayProcess) -> None:
        text = lone.http.get("/metrics").text
        for line in (
            "labyard_evse_current_amps 0.0",
            "labyard_evse_offer_amps 0.0",
            "labyard_evse_state 0.0",
            "labyard_evse_vehicle_connected 0.0",
            "labyard_evse_energy_wh_total 0.0",
            'labyard_rapi_commands_total{result="timeout"}',
            "labyard_rapi_reconnects_total 0.0",
        ):
            assert f"\n{line}" in text
