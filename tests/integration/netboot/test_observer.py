"""The observer: nothing that starts, stops, crashes and faults leave behind stays (contract sections 6 and 11)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, strategies
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from pydantic import SecretStr
from sqlalchemy import update

from labyard.core.clock import now
from labyard.netboot.adapters.dhcp import Reservation
from labyard.netboot.adapters.disks import OverlaySpec
from labyard.netboot.adapters.fake import Fault
from labyard.netboot.adapters.iscsi import Lun, TargetSpec
from labyard.netboot.models import BootSession, Image, SessionStatus, Target, TargetStatus
from labyard.netboot.service import Netboot
from labyard.netboot.service.watch import Watch
from labyard.netboot.settings import Settings
from labyard.testing.waiting import PATIENCE

from .conftest import Client

START = "/api/v1/sessions/start"
BODY = {"machine_id": 1, "image_id": 1}
STRANGER = "machine-77-0a1b2c3d"


def found(netboot: Netboot) -> set[tuple[str, str]]:
    return {(finding.difference.value, finding.thing) for finding in netboot.observer.check(repair=False).findings}


def test_a_session_in_order_has_no_findings(netboot: Netboot, test_session: dict[str, Any]) -> None:
    assert found(netboot) == set()


def test_what_a_session_lacks_is_rebuilt(netboot: Netboot, operator: Client, test_session: dict[str, Any]) -> None:
    adapters = netboot.provision.adapters
    target = netboot.targets.get(test_session["session"]["target_id"])
    adapters.iscsi.remove(target.iqn, target.chap_username)
    adapters.scripts.remove("machines/00-11-22-33-44-55.ipxe")
    adapters.dhcp.apply([])
    netboot.provision.seed_path(target.target_id).unlink()
    assert found(netboot) == {
        ("missing", "seed"), ("missing", "target"), ("missing", "script"), ("missing", "reservation")
    }  # fmt: skip
    report = operator.post("/api/v1/observer/check", params={"repair": True}).json()
    assert len(report["repaired"]) == 4 and report["failed"] == []
    assert found(netboot) == set()
    assert adapters.scripts.read("machines/00-11-22-33-44-55.ipxe") == test_session["boot_script"]


def test_what_no_session_owns_is_removed(netboot: Netboot, test_session: dict[str, Any]) -> None:
    adapters = netboot.provision.adapters
    base = netboot.settings.images_dir / "test.vhdx"
    adapters.disks.apply(OverlaySpec(STRANGER, base, "vhdx"))
    export = adapters.disks.export_path(STRANGER)
    prefix = netboot.settings.iqn_prefix
    adapters.iscsi.apply(
        TargetSpec(
            f"{prefix}:target-{STRANGER}", f"{prefix}:initiator-020000000001", "s-0a1b2c3d", "x" * 16, (Lun(1, export),)
        )
    )
    adapters.scripts.apply("machines/02-00-00-00-00-01.ipxe", test_session["boot_script"])
    wanted = netboot.reservations.wanted()
    adapters.dhcp.apply(
        [*wanted, Reservation(77, "stranger", "02:00:00:00:00:01", None, "192.168.1.10", "machines/x.ipxe")]
    )
    foreign = netboot.settings.overlay_dir / "precious.qcow2"
    foreign.write_text("not ours")
    assert {("orphan", thing) for thing in ("overlay", "target", "script", "reservation")} <= found(netboot)
    netboot.observer.check(repair=True)
    assert found(netboot) == set()
    assert foreign.exists() and len(adapters.dhcp.observed()) == 1 and len(adapters.iscsi.observed()) == 1


def test_a_target_that_came_about_since_the_look_stays(
    netboot: Netboot, admin: Client, test_machine: Any, test_image: Image
) -> None:
    """To the first look after a start of the service, one that is being made looks like one that was cut off."""
    number = admin.post("/api/v1/targets", json=BODY).json()["id"]
    look = netboot.observer._look

    def be(status: TargetStatus) -> None:
        with netboot.database.write() as session:
            session.get_one(Target, number).status = status

    be(TargetStatus.PENDING)
    look.__self__.fresh = True  # type: ignore[attr-defined]
    findings = list(look())
    assert ("drift", "target") in {(finding.difference, finding.thing) for finding in findings}
    be(TargetStatus.ACTIVE)
    for finding in findings:
        assert finding.repair is not None
        finding.repair()
    assert found(netboot) == set() and netboot.provision.adapters.iscsi.observed()


def test_a_foreign_script_stays(netboot: Netboot, operator: Client, test_machine: Any, test_image: Image) -> None:
    path = netboot.settings.tftp_root / "machines/00-11-22-33-44-55.ipxe"
    path.write_text("#!ipxe\n# Written by the role ipxe\n")
    assert found(netboot) == set()
    answer = operator.post(START, json=BODY)
    assert answer.status_code == 500 and "not written by this service" in answer.json()["detail"]
    assert path.read_text().endswith("role ipxe\n")


@pytest.mark.parametrize("status", [SessionStatus.STARTING, SessionStatus.STOPPING])
def test_an_interrupted_start_or_stop_is_finished_after_a_restart(
    netboot: Netboot,
    operator: Client,
    test_session: dict[str, Any],
    make_service: Callable[[], TestClient],
    status: str,
) -> None:
    with netboot.database.write() as session:
        session.get_one(BootSession, test_session["session"]["id"]).status = status
    again: Netboot = make_service().app.state.netboot  # type: ignore[attr-defined]
    again.observer.check(repair=True)
    boot = again.sessions.get(test_session["session"]["id"])
    assert boot.status == (SessionStatus.ERROR if status == "starting" else SessionStatus.STOPPED)
    assert not boot.cleanup_pending
    adapters = again.provision.adapters
    assert not adapters.iscsi.observed() and not adapters.disks.observed() and not adapters.dhcp.observed()


def test_an_active_session_survives_a_restart(
    netboot: Netboot, test_session: dict[str, Any], make_service: Callable[[], TestClient]
) -> None:
    again: Netboot = make_service().app.state.netboot  # type: ignore[attr-defined]
    first = again.observer.last
    assert first is not None and first.findings == []
    assert again.observer.check(repair=True).findings == []
    assert again.sessions.get(test_session["session"]["id"]).status == SessionStatus.ACTIVE


@pytest.fixture
def watch(netboot: Netboot) -> Watch:
    """The service's own looks no more: they would come in between."""
    netboot.watch.stop()
    thread = netboot.watch._thread
    assert thread is not None
    thread.join(PATIENCE)
    return netboot.watch


def test_an_idle_session_ends_as_timeout(
    netboot: Netboot, watch: Watch, operator: Client, test_session: dict[str, Any]
) -> None:
    netboot.settings.idle_timeout_seconds = 0.001
    watch.look()
    session = operator.get(f"/api/v1/sessions/{test_session['session']['id']}").json()
    assert session["status"] == "timeout" and not netboot.provision.adapters.iscsi.observed()


@pytest.mark.parametrize("sign", ["an event", "a stop and a new start"])
def test_what_happened_since_the_look_counts(
    netboot: Netboot, operator: Client, test_session: dict[str, Any], sign: str
) -> None:
    """The watch reads all sessions at once, and ending one takes a while."""
    number = test_session["session"]["id"]
    with netboot.database.write() as session:
        session.get_one(BootSession, number).last_activity = now() - timedelta(hours=1)
    stale = netboot.sessions.get(number)
    if sign == "an event":
        operator.post(f"/api/v1/sessions/{number}/events", json={"type": "ipxe_load"})
    else:
        operator.post(f"/api/v1/sessions/{number}/stop")
        assert operator.post(START, json=BODY).status_code == 201
    # Not before: the service's own watch would end it.
    netboot.settings.idle_timeout_seconds = 60
    netboot.watch._end_if_idle(stale, dropped=False)
    assert operator.get("/api/v1/sessions/machine/1/active").status_code == 200
    assert found(netboot) == set(), "the script of the new session is still there"


def test_a_connected_session_is_not_idle(
    netboot: Netboot, watch: Watch, operator: Client, test_session: dict[str, Any]
) -> None:
    details, number = test_session["iscsi_details"], test_session["session"]["id"]
    iscsi = netboot.provision.adapters.iscsi
    secret = test_session["boot_script"].split("set password ")[1].split()[0]
    assert iscsi.log_in(details["target_iqn"], details["initiator_iqn"], details["chap_username"], secret)
    netboot.settings.idle_timeout_seconds = 60
    with netboot.database.write() as session:
        session.get_one(BootSession, number).last_activity = now() - timedelta(hours=1)
    watch.look()
    events = operator.get(f"/api/v1/sessions/{number}/events").json()["events"]
    assert [(event["type"], event["source"]) for event in events] == [("iscsi_connect", "iscsi")]
    with netboot.database.write() as session:
        session.get_one(BootSession, number).last_activity = now() - timedelta(hours=1)
    watch.look()
    assert netboot.sessions.get(number).status == SessionStatus.ACTIVE
    iscsi.log_out(details["target_iqn"])
    watch.look()
    assert netboot.sessions.get(number).status == SessionStatus.ACTIVE, "idle from now on"
    with netboot.database.write() as session:
        session.get_one(BootSession, number).last_activity = now() - timedelta(seconds=61)
    watch.look()
    assert netboot.sessions.get(number).status == SessionStatus.TIMEOUT
    assert operator.get("/api/v1/sessions/stats").json()["status_counts"]["timeout"] == 1


@pytest.mark.parametrize("status", [SessionStatus.STARTING, SessionStatus.STOPPING])
@pytest.mark.parametrize(("seconds", "finished"), [(50, False), (70, True)])
def test_starting_and_stopping_may_take_a_minute(
    netboot: Netboot, test_session: dict[str, Any], status: str, seconds: int, finished: bool
) -> None:
    """While the service runs; after a restart nobody is at work, and they are finished at once."""
    netboot.observer.check(repair=True)
    number = test_session["session"]["id"]
    with netboot.database.write() as session:
        values = {"status": status, "updated_at": now() - timedelta(seconds=seconds)}
        session.execute(update(BootSession).where(BootSession.id == number).values(**values))
    netboot.observer.check(repair=True)
    if not finished:
        assert netboot.sessions.get(number).status == status
        assert netboot.provision.adapters.iscsi.observed() and netboot.provision.adapters.disks.observed()
        return
    expected = SessionStatus.ERROR if status == SessionStatus.STARTING else SessionStatus.STOPPED
    assert netboot.sessions.get(number).status == expected
    assert not netboot.provision.adapters.iscsi.observed() and not netboot.provision.adapters.disks.observed()
    assert not netboot.provision.adapters.scripts.observed() and not netboot.provision.adapters.dhcp.observed()


def test_one_script_that_cannot_be_rendered_hides_nothing_else(
    netboot: Netboot, operator: Client, test_session: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: object) -> str:
        raise ValueError("line 3: no")

    monkeypatch.setattr(netboot.provision, "script", cannot)
    netboot.provision.adapters.dhcp.apply([])
    report = operator.post("/api/v1/observer/check", params={"repair": True}).json()
    assert [finding["thing"] for finding in report["repaired"]] == ["reservation"]
    assert [(finding["thing"], finding["reason"]) for finding in report["failed"]] == [("script", "line 3: no")]


def test_a_session_of_another_secret_key_is_ended(
    settings: Settings, test_session: dict[str, Any], make_service: Callable[[], TestClient]
) -> None:
    settings.secret_key = SecretStr("another key, at least 32 characters long")
    settings.admin_password = SecretStr("Another-password-8")
    client = make_service()
    again: Netboot = client.app.state.netboot  # type: ignore[attr-defined]
    again.observer.check(repair=True)
    assert again.sessions.get(test_session["session"]["id"]).status == SessionStatus.ERROR
    assert not again.provision.adapters.iscsi.observed() and not again.provision.adapters.disks.observed()
    login = {"username": "admin", "password": "Another-password-8"}
    assert client.post("/auth/login", json=login).status_code == 200, "the settings' new password counts"


def test_a_silent_daemon_is_a_finding(netboot: Netboot, test_session: dict[str, Any]) -> None:
    netboot.provision.adapters.iscsi.faults["observed"] = Fault.RAISE
    assert ("drift", "target") in found(netboot)


class Operations(RuleBasedStateMachine):
    """Random starts, stops, faults and losses. Afterwards one repair, and nothing may be found."""

    operator: Client
    netboot: Netboot
    machines = 3

    @initialize()
    def clean(self) -> None:
        self.heal()
        for session in self.operator.get("/api/v1/sessions", params={"status": "active"}).json()["sessions"]:
            self.operator.post(f"/api/v1/sessions/{session['id']}/stop")

    def expect(self, answer: httpx.Response, success: int) -> None:
        """500 counts only while a daemon is told to fail."""
        adapters = self.netboot.provision.adapters
        broken = any(fake.faults for fake in (adapters.disks, adapters.iscsi, adapters.dhcp))
        assert answer.status_code in (success, 400, *([500] if broken else [])), answer.text

    @rule(machine=strategies.integers(1, 3))
    def start(self, machine: int) -> None:
        answer = self.operator.post(START, json={"machine_id": machine, "image_id": 1})
        self.expect(answer, 201)

    @rule(machine=strategies.integers(1, 3), keep=strategies.booleans())
    def stop(self, machine: int, keep: bool) -> None:
        rows = self.operator.get("/api/v1/sessions", params={"machine_id": machine, "limit": 1}).json()["sessions"]
        if rows:
            answer = self.operator.post(f"/api/v1/sessions/{rows[0]['id']}/stop", json={"keep_overlay": keep})
            self.expect(answer, 200)

    @rule(
        adapter=strategies.sampled_from(["disks", "iscsi", "dhcp"]), verb=strategies.sampled_from(["apply", "remove"])
    )
    def break_one(self, adapter: str, verb: str) -> None:
        getattr(self.netboot.provision.adapters, adapter).faults[verb] = Fault.RAISE

    @rule()
    def heal(self) -> None:
        for adapter in ("disks", "iscsi", "dhcp"):
            getattr(self.netboot.provision.adapters, adapter).faults.clear()

    @rule()
    def lose_all_targets(self) -> None:
        """As after a crash of tgtd."""
        iscsi = self.netboot.provision.adapters.iscsi
        if not iscsi.faults:
            for iqn in list(iscsi.observed()):
                iscsi.remove(iqn, f"s-{iqn.rsplit('-', 1)[1]}")

    @rule()
    def lose_all_scripts(self) -> None:
        folder = self.netboot.settings.tftp_root / "machines"
        shutil.rmtree(folder)
        folder.mkdir()

    @rule()
    def look(self) -> None:
        self.netboot.observer.check(repair=True)

    @invariant()
    def at_most_one_live_session_each(self) -> None:
        live = [
            row["machine_id"]
            for row in self.operator.get("/api/v1/sessions", params={"limit": 1000}).json()["sessions"]
            if row["status"] in ("starting", "active", "stopping")
            or (row["status"] == "error" and row["cleanup_pending"])
        ]
        assert len(live) == len(set(live))

    def teardown(self) -> None:
        self.heal()
        self.netboot.observer.check(repair=True)
        assert self.netboot.observer.check(repair=False).findings == []
        active = {
            row["machine_id"]
            for row in self.operator.get("/api/v1/sessions", params={"status": "active"}).json()["sessions"]
        }
        adapters = self.netboot.provision.adapters
        assert {entry.machine_id for entry in adapters.dhcp.observed()} == active
        assert len(adapters.iscsi.observed()) == len(adapters.disks.observed()) == len(active)
        assert len(adapters.iscsi.accounts()) == len(adapters.scripts.observed()) == len(active)


def test_random_operations_and_faults_leave_nothing(
    netboot: Netboot, operator: Client, test_image: Image, tmp_path: Path
) -> None:
    for number in range(1, Operations.machines + 1):
        operator.post("/machines", json={"name": f"pc-{number}", "mac_address": f"02000000000{number}"})
    Operations.operator, Operations.netboot = operator, netboot
    run_state_machine_as_test(
        Operations,
        settings=hypothesis_settings(
            max_examples=25,
            stateful_step_count=20,
            derandomize=True,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
