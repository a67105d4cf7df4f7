"""Sessions that switch their machine, and what machines tell of BMCs. With a real one: tests/flows/test_redfish.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from labyard.core.models import AuditLog
from labyard.core.steps import call
from labyard.netboot.adapters.fake import FakePower, Fault
from labyard.netboot.models import BootSession, Image, Machine, SessionStatus
from labyard.netboot.service import Netboot

from .conftest import MACHINE, PASSWORD, Client
from .test_sessions import BODY, START, nothing_is_left

URL = "https://10.0.0.5/redfish/v1/Systems/1"
BMC = {"bmc_url": URL, "bmc_username": "admin", "bmc_password": "not a secret"}


@pytest.fixture
def power(netboot: Netboot) -> FakePower:
    backend = netboot.provision.adapters.power
    assert isinstance(backend, FakePower)
    return backend


@pytest.fixture
def with_bmc(operator: Client, test_machine: dict[str, Any], test_image: Image) -> dict[str, Any]:
    answer = operator.put("/machines/1", json=BMC)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def stop(operator: Client, number: int, **body: Any) -> Any:
    return operator.post(f"/api/v1/sessions/{number}/stop", json=body)


def refused(answer: Any, field: str) -> str:
    """The message of a 422 for this field."""
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["detail"]
    assert error["loc"] == ["body", field], error
    return str(error["msg"])


class TestMachine:
    def test_password_is_never_told_nor_kept_readable(self, netboot: Netboot, operator: Client) -> None:
        made = operator.post("/machines", json=MACHINE | BMC)
        assert made.status_code == 201, made.text
        operator.put("/machines/1", json={"bmc_password": "another secret"})
        told = [made.text, operator.get("/machines/1").text, operator.get("/machines").text]
        assert all("secret" not in text for text in told)
        assert made.json()["bmc_password_set"] and made.json()["bmc_url"] == URL
        with netboot.database.read() as session:
            stored = session.scalar(select(Machine.bmc_password))
            audited = [str((row.old_values, row.new_values, row.message)) for row in session.scalars(select(AuditLog))]
        assert stored is not None and "secret" not in stored and netboot.box.open(stored) == "another secret"
        assert any("bmc_password" in row for row in audited) and all("secret" not in row for row in audited)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("bmc_url", "ftp://10.0.0.5"),
            ("bmc_url", "10.0.0.5"),
            ("bmc_url", "https://"),
            ("bmc_url", "https://10.0.0.5:99999"),
            ("bmc_url", "https://10.0.0.5/redfish/v1/Chassis/1"),
            ("bmc_url", "https://10.0.0.5/redfish/v1/Systems/1?x=1"),
            ("bmc_url", f"https://10.0.0.5/redfish/v1/Systems/{'1' * 500}"),
            ("bmc_username", "a:b"),
            ("bmc_username", ""),
            ("bmc_username", "x" * 101),
            ("bmc_password", "line\nbreak"),
            ("bmc_password", ""),
            ("bmc_verify_tls", "perhaps"),
        ],
    )
    def test_bad_values_are_refused_by_name(self, operator: Client, field: str, value: str) -> None:
        refused(operator.post("/machines", json=MACHINE | BMC | {field: value}), field)
        assert operator.get("/machines").json() == []

    def test_password_in_the_url_is_refused_and_not_repeated(self, operator: Client) -> None:
        answer = operator.post("/machines", json=MACHINE | {"bmc_url": "https://admin:hush-hush@10.0.0.5"})
        assert "bmc_username" in refused(answer, "bmc_url")
        assert "hush" not in answer.text

    def test_user_and_password_need_a_url(self, operator: Client, test_machine: dict[str, Any]) -> None:
        for field in ("bmc_username", "bmc_password"):
            refused(operator.post("/machines", json=MACHINE | {field: "x"}), field)
            refused(operator.put("/machines/1", json={field: "x"}), field)
        assert operator.get("/machines/1").json() == test_machine

    def test_another_url_needs_the_password_again(self, operator: Client, with_bmc: dict[str, Any]) -> None:
        refused(operator.put("/machines/1", json={"bmc_url": "https://10.66.0.1"}), "bmc_password")
        assert operator.get("/machines/1").json() == with_bmc
        moved = operator.put("/machines/1", json={"bmc_url": "https://10.66.0.1", "bmc_password": "new"})
        assert moved.status_code == 200 and moved.json()["bmc_url"] == "https://10.66.0.1"

    def test_no_url_forgets_the_rest(self, netboot: Netboot, operator: Client, with_bmc: dict[str, Any]) -> None:
        cleared = operator.put("/machines/1", json={"bmc_url": None}).json()
        assert (cleared["bmc_url"], cleared["bmc_username"], cleared["bmc_password_set"]) == (None, None, False)

    def test_the_same_again_changes_nothing(self, operator: Client, with_bmc: dict[str, Any]) -> None:
        assert operator.put("/machines/1", json=BMC).json() == with_bmc
        assert operator.put("/machines/1", json={"bmc_password": "other"}).json() != with_bmc


class TestStart:
    def test_cycle_switches_the_machine_on_when_all_is_ready(
        self, netboot: Netboot, operator: Client, power: FakePower, with_bmc: dict[str, Any], monkeypatch: Any
    ) -> None:
        there: list[bool] = []

        def cycle(bmc: Any, before: Callable[[Any], None] = power.cycle) -> None:
            adapters = netboot.provision.adapters
            there.append(bool(adapters.dhcp.observed() and adapters.scripts.observed() and adapters.iscsi.observed()))
            before(bmc)

        monkeypatch.setattr(power, "cycle", cycle)
        answer = operator.post(START, json=BODY | {"power": "CYCLE"})
        assert answer.status_code == 201, answer.text
        session = answer.json()["session"]
        assert (session["power"], session["power_cycled"], session["status"]) == ("cycle", True, "active")
        assert there == [True] and power.is_on(URL)

    def test_without_it_nothing_is_switched(self, operator: Client, power: FakePower, with_bmc: dict[str, Any]) -> None:
        session = operator.post(START, json=BODY).json()["session"]
        assert (session["power"], session["power_cycled"]) == ("none", False)
        assert "powered_off" not in stop(operator, session["id"]).json()
        assert power.calls == []

    def test_machine_without_bmc_is_refused_before_anything_is_done(
        self, netboot: Netboot, operator: Client, test_machine: Any, test_image: Image
    ) -> None:
        assert "bmc_url" in refused(operator.post(START, json=BODY | {"power": "cycle"}), "power")
        assert operator.get("/api/v1/sessions").json()["total"] == 0
        nothing_is_left(netboot)
        refused(operator.post(START, json=BODY | {"power": "off"}), "power")

    def test_bmc_that_fails_undoes_all(
        self, netboot: Netboot, operator: Client, power: FakePower, with_bmc: dict[str, Any]
    ) -> None:
        power.faults["cycle"] = Fault.RAISE
        answer = operator.post(START, json=BODY | {"power": "cycle"})
        assert (answer.status_code, answer.json()["error"]) == (500, "power_error")
        assert answer.json()["detail"].startswith("Session start failed at step power: ")
        nothing_is_left(netboot)
        session = operator.get("/api/v1/sessions/1").json()
        assert (session["status"], session["cleanup_pending"], session["power_cycled"]) == ("error", False, False)
        assert [verb for verb, _ in power.calls] == ["cycle", "off"] and not power.is_on(URL)
        power.faults.clear()
        assert operator.post(START, json=BODY | {"power": "cycle"}).status_code == 201

    def test_bmc_that_cannot_switch_off_again_is_told(
        self, netboot: Netboot, operator: Client, power: FakePower, with_bmc: dict[str, Any]
    ) -> None:
        power.faults |= {"cycle": Fault.RAISE, "off": Fault.RAISE}
        answer = operator.post(START, json=BODY | {"power": "cycle"})
        assert "the machine may still be on: " in answer.json()["detail"]
        nothing_is_left(netboot)
        assert not operator.get("/api/v1/sessions/1").json()["cleanup_pending"]

    def test_starts_with_and_without_it_side_by_side(self, netboot: Netboot, operator: Client) -> None:
        """Starts that end at the same moment share one transaction; each keeps its own steps."""
        boots = []
        with netboot.database.write() as session:
            for number, steps in enumerate((["session", "dhcp", "activate"], ["session", "dhcp", "power", "activate"])):
                machine = Machine(name=f"m{number}", label=f"m{number}", mac_address=f"00:00:00:00:00:0{number}")
                machine.created_by = 1
                image = Image(name=f"i{number}", filename="i", file_path="/i", format="raw", created_by=1)
                session.add_all([machine, image])
                session.flush()
                boot = BootSession(session_id=f"s{number}", machine_id=machine.id, image_id=image.id, created_by=1)
                boot.server_ip, boot.initiated_by = "192.168.1.10", "admin"
                session.add(boot)
                session.flush()
                boots.append((boot, steps, AuditLog(action="x", message="x", ip_address="x", request_id="x")))
        assert netboot.starts._write_active(boots) == {boot.id for boot, _, _ in boots}
        found = [operator.get(f"/api/v1/sessions/{boot.id}").json() for boot, _, _ in boots]
        assert [(one["status"], one["power_cycled"]) for one in found] == [("active", False), ("active", True)]


class TestStop:
    @pytest.fixture
    def running(self, operator: Client, with_bmc: dict[str, Any]) -> int:
        answer = operator.post(START, json=BODY | {"power": "cycle"})
        assert answer.status_code == 201, answer.text
        return int(answer.json()["session"]["id"])

    def test_off_switches_the_machine_off_first(
        self, netboot: Netboot, operator: Client, power: FakePower, running: int, monkeypatch: Any
    ) -> None:
        there: list[bool] = []

        def off(bmc: Any, before: Callable[[Any], None] = power.off) -> None:
            there.append(bool(netboot.provision.adapters.iscsi.observed()))
            before(bmc)

        monkeypatch.setattr(power, "off", off)
        answer = stop(operator, running, power="off").json()
        assert (answer["powered_off"], answer["power_error"]) == (True, None)
        assert there == [True] and not power.is_on(URL)
        nothing_is_left(netboot)

    def test_without_it_the_machine_stays_on(self, operator: Client, power: FakePower, running: int) -> None:
        assert stop(operator, running).status_code == 200
        assert power.is_on(URL)

    @pytest.mark.parametrize("fault", [Fault.RAISE, Fault.HANG])
    def test_bmc_that_fails_does_not_keep_a_stop_from_finishing(
        self, netboot: Netboot, operator: Client, power: FakePower, running: int, fault: Fault, monkeypatch: Any
    ) -> None:
        # Only the machine's BMC is given up soon, not the step that stands around it.
        monkeypatch.setattr("labyard.netboot.service.power.call", lambda off, seconds: call(off, 0.5))
        power.faults["off"] = fault
        answer = stop(operator, running, power="off")
        assert answer.status_code == 200, answer.text
        assert not answer.json()["powered_off"] and answer.json()["power_error"]
        nothing_is_left(netboot)
        assert operator.get(f"/api/v1/sessions/{running}").json()["status"] == "stopped"
        with netboot.database.read() as session:
            row = session.scalar(select(AuditLog).where(AuditLog.action == "session_stopped"))
        assert row is not None and answer.json()["power_error"] in row.message and row.severity == "warning"
        power.released.set()

    def test_machine_that_has_lost_its_bmc_is_refused(self, operator: Client, running: int) -> None:
        operator.put("/machines/1", json={"bmc_url": None})
        assert "bmc_url" in refused(stop(operator, running, power="off"), "power")
        assert operator.get(f"/api/v1/sessions/{running}").json()["status"] == "active"


def test_interrupted_start_switches_the_machine_off_again(
    make_service: Callable[[], TestClient], netboot: Netboot, operator: Client, with_bmc: dict[str, Any]
) -> None:
    """As after `kill -9` in the middle of the power step."""
    number = operator.post(START, json=BODY | {"power": "cycle"}).json()["session"]["id"]
    with netboot.database.write() as session:
        boot = session.get_one(BootSession, number)
        boot.status, boot.completed_steps = SessionStatus.STARTING, ["session", "overlay", "target", "tftp", "dhcp"]
    again = make_service()
    token = again.post("/api/v1/auth/login", json={"username": "admin", "password": PASSWORD}).json()["access_token"]
    admin = Client(again, token)
    assert admin.post("/api/v1/observer/check", params={"repair": True}).status_code == 200
    session_ = admin.get(f"/api/v1/sessions/{number}").json()
    assert (session_["status"], session_["cleanup_pending"]) == ("error", False)
    backend = again.app.state.netboot.provision.adapters.power  # type: ignore[attr-defined]
    assert not backend.is_on(URL)
