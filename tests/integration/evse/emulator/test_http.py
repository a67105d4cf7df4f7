"""The HTTP API of the real process, held against its own description."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml
from ports import free_port

from integration.evse.emulator.harness import EmulatorProcess
from labyard.evse.emulator.api.app import ROUTES
from labyard.evse.emulator.api.pages import DESCRIPTION
from labyard.testing.waiting import wait_until


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorProcess]:
    folder = tmp_path_factory.mktemp("emulator")
    arguments = ["--serial-mode", "tcp", "--serial-tcp-port", str(free_port()), "--simulation-update-interval-ms", "50"]
    arguments.append("--simulation-no-temperature-simulation")  # else it cools down while it rests
    with EmulatorProcess(folder, *arguments).wait_ready() as emulator:
        yield emulator


@pytest.fixture
def emulator(shared: EmulatorProcess) -> EmulatorProcess:
    """As it was at the start, but for totals."""
    shared.post("/api/ev/disconnect")
    shared.post("/api/ev/mode", direct_mode=False)
    shared.post("/api/ev/current_variance", enabled=False)
    shared.post("/api/ev/soc", soc=50)
    shared.post("/api/ev/max_rate", amps=30)
    shared.post("/api/errors/clear")
    shared.post("/api/evse/enable")
    shared.post("/api/evse/current", amps=32)
    shared.post("/api/evse/service_level", level="L2")
    shared.http.delete("/api/link/faults")
    return shared


DOCUMENT: dict[str, Any] = yaml.safe_load(DESCRIPTION.read_text(encoding="utf-8"))
CALLS = [(path, method) for path, methods in ROUTES.items() for method in methods]


def evse(emulator: EmulatorProcess) -> dict[str, Any]:
    answer: dict[str, Any] = emulator.http.get("/api/evse/status").json()
    return answer


def car(emulator: EmulatorProcess) -> dict[str, Any]:
    answer: dict[str, Any] = emulator.http.get("/api/ev/status").json()
    return answer


def settles(emulator: EmulatorProcess, amps: float) -> None:
    wait_until(lambda: evse(emulator)["actual_current"] == amps, f"it draws {amps} A")


def test_the_description_has_every_route_and_no_other() -> None:
    described = {(path, method.upper()) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert described == {*CALLS, ("/ws", "GET")}


@pytest.mark.parametrize(("path", "method"), [call for call in CALLS if call[1] == "GET"])
def test_every_answer_is_as_described(emulator: EmulatorProcess, path: str, method: str) -> None:
    emulator.post("/api/link/faults", rules=[{"kind": "delay", "delay_ms": [1, 2], "count": 1, "match": "x"}])
    answer = emulator.http.get(path)
    assert answer.status_code == 200
    [(kind, content)] = _resolved(DOCUMENT["paths"][path]["get"]["responses"]["200"])["content"].items()
    assert answer.headers["content-type"].partition(";")[0] == kind
    assert answer.headers["access-control-allow-origin"] == "*"
    if kind == "application/json":
        jsonschema.validate(answer.json(), content["schema"] | {"components": DOCUMENT["components"]})


def _resolved(item: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in item:
        found: dict[str, Any] = DOCUMENT["components"]["responses"][item["$ref"].rpartition("/")[2]]
        return found
    return item


WITH_BODY = [path for path, methods in DOCUMENT["paths"].items() if "requestBody" in methods.get("post", {})]


@pytest.mark.parametrize("path", WITH_BODY)
def test_a_bad_body_is_400_and_a_wrong_type_415(emulator: EmulatorProcess, path: str) -> None:
    as_json = {"content-type": "application/json; charset=utf-8"}
    for content in (b"", b"{", b"[]", b"7", b"\xff", b'{"amps": NaN}', b"[" * 30_000):
        answer = emulator.http.post(path, content=content, headers=as_json)
        assert answer.status_code == 400 and answer.json()["error"], content
    for headers in ({}, {"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}):
        answer = emulator.http.post(path, content=b"{}", headers=headers)
        assert answer.status_code == 415 and "application/json" in answer.json()["error"]
    answer = emulator.http.post(path, content=b" " * 70_000, headers=as_json)
    assert answer.status_code == 413 and answer.json()["error"]


@pytest.mark.parametrize("path", ["/nope", "/api", "/api/status/", "/api/ev/", "/api/evse/nope"])
def test_an_unknown_path_is_404(emulator: EmulatorProcess, path: str) -> None:
    for method in ("GET", "POST"):
        answer = emulator.http.request(method, path)
        assert answer.status_code == 404 and set(answer.json()) == {"error"}


@pytest.mark.parametrize("path", ROUTES)
def test_a_wrong_method_is_405(emulator: EmulatorProcess, path: str) -> None:
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - set(ROUTES[path]):
        answer = emulator.http.request(method, path)
        assert answer.status_code == 405 and set(answer.json()) == {"error"}
        assert answer.headers["allow"] == ", ".join(ROUTES[path])


def test_the_web_socket_takes_upgrades_only(emulator: EmulatorProcess) -> None:
    for method, status in (("GET", 426), ("POST", 405)):
        answer = emulator.http.request(method, "/ws")
        assert (answer.status_code, set(answer.json())) == (status, {"error"})


def test_web_pages_of_any_origin_may_use_it(emulator: EmulatorProcess) -> None:
    asked = {"origin": "http://elsewhere", "access-control-request-method": "POST"}
    answer = emulator.http.request("OPTIONS", "/api/ev/soc", headers=asked)
    assert answer.is_success and answer.headers["access-control-allow-origin"] == "*"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == "*"
    assert emulator.http.get("/nope").headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/evse/current", {}),
        ("/api/evse/current", {"amps": 5}),
        ("/api/evse/current", {"amps": 81}),
        ("/api/evse/current", {"amps": "16"}),
        ("/api/evse/current", {"amps": True}),
        ("/api/evse/current", {"amps": None}),
        ("/api/evse/service_level", {}),
        ("/api/evse/service_level", {"level": "L3"}),
        ("/api/evse/service_level", {"level": 2}),
        ("/api/evse/lcd", {"row1": 5}),
        ("/api/evse/lcd/backlight", {"color": 8}),
        ("/api/evse/lcd/backlight", {"color": 1.5}),
        ("/api/evse/lcd/backlight", {}),
        ("/api/ev/soc", {"soc": -1}),
        ("/api/ev/soc", {"soc": 100.1}),
        ("/api/ev/soc", {}),
        ("/api/ev/max_rate", {"amps": -1}),
        ("/api/ev/mode", {"direct_mode": 1}),
        ("/api/ev/direct_current", {"amps": -0.1}),
        ("/api/ev/direct_current", {"amps": 1e400}),
        ("/api/ev/current_variance", {"enabled": "yes"}),
        ("/api/errors/trigger", {"error": "flood"}),
        ("/api/errors/trigger", {}),
        ("/api/link/faults", {"rules": [{"kind": "explode"}]}),
        ("/api/clock", {"mode": "fast"}),
        ("/api/clock", {"mode": "scaled", "scale": 121}),
        ("/api/clock", {"mode": "real", "now_s": 0}),
        ("/api/clock/advance", {"seconds": 1}),
        ("/api/clock/advance", {"seconds": 86401}),
    ],
)
def test_a_wrong_value_is_400_and_changes_nothing(emulator: EmulatorProcess, path: str, body: dict[str, Any]) -> None:
    wait_until(lambda: evse(emulator)["actual_current"] == 0, "it rests")
    before = emulator.http.get("/api/status").json()
    answer = emulator.http.post(
        path, content=json.dumps(body).replace("Infinity", "1e400"), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert emulator.http.get("/api/status").json() == before
    assert emulator.http.get("/api/clock").json()["mode"] == "real"


def test_a_charge(emulator: EmulatorProcess) -> None:
    emulator.post("/api/ev/request_charge")
    assert not car(emulator)["requesting_charge"], "ignored while not connected"
    emulator.post("/api/ev/connect")
    assert (evse(emulator)["state"], evse(emulator)["state_name"]) == (2, "connected")
    emulator.post("/api/ev/request_charge")
    assert (evse(emulator)["state"], evse(emulator)["state_name"]) == (3, "charging")
    settles(emulator, 30)
    assert car(emulator)["actual_charge_rate_kw"] == 7.2
    emulator.post("/api/evse/current", amps=16)
    settles(emulator, 16)
    emulator.post("/api/ev/max_rate", amps=10)
    settles(emulator, 10)
    assert car(emulator)["max_charge_rate_kw"] == 2.4
    wait_until(lambda: evse(emulator)["session_energy_wh"] > 0, "energy is counted")
    emulator.post("/api/ev/soc", soc=100)
    wait_until(lambda: evse(emulator)["state"] == 2, "a full car stops")
    assert not car(emulator)["requesting_charge"]
    emulator.post("/api/ev/disconnect")
    assert (evse(emulator)["state"], evse(emulator)["session_energy_wh"]) == (1, 0)


def test_stop_charge(emulator: EmulatorProcess) -> None:
    for path in ("/api/ev/connect", "/api/ev/request_charge"):
        emulator.post(path)
    settles(emulator, 30)
    emulator.post("/api/ev/stop_charge")
    assert (evse(emulator)["state"], evse(emulator)["actual_current"]) == (2, 0)


def test_direct_mode_and_variance(emulator: EmulatorProcess) -> None:
    emulator.post("/api/ev/mode", direct_mode=True)
    emulator.post("/api/ev/direct_current", amps=40)
    for path in ("/api/ev/connect", "/api/ev/request_charge"):
        emulator.post(path)
    settles(emulator, 40)
    emulator.post("/api/ev/current_variance", enabled=True)
    wait_until(lambda: evse(emulator)["actual_current"] != 40, "it varies")
    assert 39.6 <= evse(emulator)["actual_current"] <= 40.4
    assert car(emulator)["direct_mode"] and car(emulator)["current_variance_enabled"]


def test_sleep_and_wake(emulator: EmulatorProcess) -> None:
    for path in ("/api/ev/connect", "/api/ev/request_charge", "/api/evse/disable"):
        emulator.post(path)
    assert (evse(emulator)["state"], evse(emulator)["state_name"]) == (254, "sleeping")
    emulator.post("/api/evse/enable")
    assert evse(emulator)["state"] == 3


@pytest.mark.parametrize(
    ("error", "state", "flag", "count"),
    [
        ("gfci", 6, 1, "gfci_count"),
        ("stuck_relay", 8, 2, "stuck_relay_count"),
        ("no_ground", 7, 4, "no_ground_count"),
        ("diode_check", 5, 8, None),
        ("over_temp", 10, 16, None),
        ("gfi_self_test", 9, 32, None),
    ],
)
def test_errors(emulator: EmulatorProcess, error: str, state: int, flag: int, count: str | None) -> None:
    for path in ("/api/ev/connect", "/api/ev/request_charge"):
        emulator.post(path)
    settles(emulator, 30)
    before = evse(emulator)
    emulator.post("/api/errors/trigger", error=error)
    after = evse(emulator)
    assert (after["state"], after["actual_current"], after["error_flags"]) == (state, 0, flag)
    assert count is None or after[count] == before[count] + 1
    assert car(emulator)["diode_check_failed"] is (error == "diode_check")
    answer = emulator.http.post("/api/evse/enable")
    assert answer.status_code == 400 and answer.json()["success"] is False and answer.json()["error"]
    assert emulator.http.get("/api/errors/status").json() == {
        "error_flags": flag,
        "error_counts": {
            "gfci": after["gfci_count"],
            "no_ground": after["no_ground_count"],
            "stuck_relay": after["stuck_relay_count"],
        },
    }
    emulator.post("/api/errors/clear")
    assert (evse(emulator)["state"], evse(emulator)["error_flags"]) == (3, 0)


def test_the_display(emulator: EmulatorProcess) -> None:
    emulator.post("/api/evse/lcd", row1="Hello", row2="a row that is too long")
    assert evse(emulator)["lcd_row1"] == "Hello           "
    emulator.post("/api/evse/lcd", row1="Bye")
    emulator.post("/api/evse/lcd/backlight", color=5)
    assert emulator.http.get("/api/evse/lcd").json() == {
        "row1": "Bye             ",
        "row2": "a row that is to",
        "backlight_color": 5,
    }
    assert emulator.http.get("/api/evse/lcd/backlight").json() == {"color": 5}


def test_service_level_and_voltage(emulator: EmulatorProcess) -> None:
    for level, millivolts in (("L1", 120_000), ("Auto", 120_000), ("L2", 240_000), ("Auto", 240_000)):
        emulator.post("/api/evse/service_level", level=level)
        assert (evse(emulator)["service_level"], evse(emulator)["voltage"]) == (level, millivolts)


def test_the_pages_need_no_other_host(emulator: EmulatorProcess) -> None:
    page = emulator.http.get("/api/docs").text
    assert "://" not in page
    for part in ("swagger-ui.css", "swagger-ui-bundle.js"):
        assert f"/api/docs/{part}" in page
        assert len(emulator.http.get(f"/api/docs/{part}").content) > 10_000
    assert emulator.http.get("/api/openapi.yaml").text == DESCRIPTION.read_text(encoding="utf-8")
    assert "not_connected" in emulator.http.get("/").text


def test_metrics(emulator: EmulatorProcess) -> None:
    def read() -> dict[str, float]:
        lines = [line for line in emulator.http.get("/metrics").text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    assert read()["labyard_evse_offer_amps"] == 0
    for path in ("/api/ev/connect", "/api/ev/request_charge"):
        emulator.post(path)
    settles(emulator, 30)
    seen = read()
    assert seen["labyard_evse_current_amps"] == 30 and seen["labyard_evse_offer_amps"] == 32
    assert seen["labyard_evse_state"] == 3 and seen["labyard_evse_vehicle_connected"] == 1
    assert seen["labyard_evse_energy_wh_total"] >= 0
    assert set(seen) >= {f'labyard_rapi_commands_total{{result="{name}"}}' for name in ("ok", "nk", "bad_checksum")}
    assert 'labyard_link_faults_total{kind="drop"}' in seen


def test_head_has_no_body(emulator: EmulatorProcess) -> None:
    answer = emulator.http.head("/api/status")
    assert (answer.status_code, answer.content) == (200, b"")
