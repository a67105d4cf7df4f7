"""Sessions: refusals, races, faults at each step, boot events (contract sections 5.5, 5.6, 6 and 11)."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from labyard.core import steps
from labyard.core.models import AuditLog
from labyard.core.steps import Step
from labyard.netboot.adapters.dhcp import Reservation
from labyard.netboot.adapters.fake import Fault
from labyard.netboot.adapters.reservations import BadReservations
from labyard.netboot.models import BootSession, Image
from labyard.netboot.service import Netboot, start
from labyard.testing.waiting import PATIENCE

from .conftest import GIB, PASSWORD, Client

START = "/api/v1/sessions/start"
BODY = {"machine_id": 1, "image_id": 1}


def path_of(netboot: Netboot, url: str) -> str:
    return url.removeprefix(netboot.settings.public_url)


def nothing_is_left(netboot: Netboot) -> None:
    adapters = netboot.provision.adapters
    assert not adapters.disks.observed()
    assert not adapters.iscsi.observed() and not adapters.iscsi.accounts()
    assert not adapters.scripts.observed() and not adapters.dhcp.observed()
    assert not netboot.provision.seeds()


@pytest.mark.parametrize("status", ["inactive", "maintenance", "retired"])
def test_machine_must_be_active(operator: Client, test_machine: dict[str, Any], test_image: Image, status: str) -> None:
    operator.put("/machines/1", json={"status": status})
    answer = operator.post(START, json=BODY)
    assert answer.status_code == 400
    assert answer.json()["detail"] == f"Machine must be active to start session. Current status: {status}"


def test_unknown_image_and_bad_bodies(operator: Client, test_machine: dict[str, Any]) -> None:
    answer = operator.post(START, json={"machine_id": 1, "image_id": 9})
    assert (answer.status_code, answer.json()["detail"]) == (404, "Image with ID 9 not found")
    for body in (
        {},
        {"machine_id": "1", "image_id": 1},
        BODY | {"session_type": "nap"},
        [],
        BODY | {"description": "x" * 501},
    ):
        assert operator.post(START, json=body).status_code == 422, body


def test_second_start_and_target_are_refused(operator: Client, admin: Client, test_session: dict[str, Any]) -> None:
    again = operator.post(START, json=BODY)
    assert (again.status_code, again.json()["detail"]) == (400, "Machine 1 already has an active session")
    target = admin.post("/api/v1/targets", json=BODY)
    assert (target.status_code, target.json()["detail"]) == (400, "Target already exists for machine 1")


def test_a_standing_target_blocks_a_start(
    operator: Client, admin: Client, test_machine: Any, test_image: Image
) -> None:
    made = admin.post("/api/v1/targets", json=BODY)
    assert made.status_code == 201, made.text
    answer = operator.post(START, json=BODY)
    assert (answer.status_code, answer.json()["detail"]) == (400, "Target already exists for machine 1")
    assert operator.delete("/machines/1").status_code == 409
    assert admin.delete(f"/api/v1/targets/{made.json()['id']}").status_code == 204
    assert operator.post(START, json=BODY).status_code == 201


@pytest.mark.parametrize(
    ("adapter", "fault", "code", "step"),
    [
        ("disks", Fault.RAISE, "storage_error", "overlay"),
        ("disks", Fault.HANG, "storage_error", "overlay"),
        ("iscsi", Fault.RAISE, "iscsi_error", "target"),
        ("iscsi", Fault.HANG, "iscsi_error", "target"),
        ("dhcp", Fault.RAISE, "dhcp_error", "dhcp"),
        ("dhcp", Fault.HANG, "dhcp_error", "dhcp"),
    ],
)
def test_a_failed_step_is_undone_and_the_next_start_works(
    operator: Client,
    netboot: Netboot,
    test_machine: Any,
    test_image: Image,
    adapter: str,
    fault: Fault,
    code: str,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = getattr(netboot.provision.adapters, adapter)
    fake.faults["apply"] = fault
    over = threading.Event()

    def hasty(name: str, run: Callable[[], object], *rest: Any) -> Step:
        """The step that hangs is given up soon, no other, and `over` tells of its end."""
        if name != step:
            return Step(name, run, *rest)

        def to_the_end() -> None:
            try:
                run()
            finally:
                over.set()

        return Step(name, to_the_end, *rest[:-1], timeout=0.5)

    with monkeypatch.context() as patch:
        if fault is Fault.HANG:
            patch.setattr(start, "Step", hasty)
            patch.setattr(steps, "call", lambda undo, _, call=steps.call: call(undo, PATIENCE))
        answer = operator.post(START, json=BODY)
    assert answer.status_code == 500, answer.text
    assert answer.json()["error"] == code
    assert answer.json()["detail"].startswith(f"Session start failed at step {step}: ")
    fake.faults["apply"] = Fault.OK
    fake.released.set()
    # A step that hung may still do its work, after its undo: the observer mends that too.
    assert fault is Fault.RAISE or over.wait(PATIENCE)
    netboot.observer.check(repair=True)
    nothing_is_left(netboot)
    assert operator.get("/api/v1/targets").json()["total"] == 0
    row = operator.get("/api/v1/sessions").json()["sessions"][0]
    assert row["status"] == "error" and row["error_code"] == code and row["ended_at"]
    assert operator.post(START, json=BODY).status_code == 201


def test_a_script_that_cannot_be_rendered_fails_the_start_at_its_step(
    operator: Client, netboot: Netboot, test_machine: Any, test_image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    netboot.settings.portal_port = 0  # the SAN URI would name port 0
    answer = operator.post(START, json=BODY)
    assert (answer.status_code, answer.json()["error"]) == (500, "script_error")
    assert answer.json()["detail"].startswith("Session start failed at step script: line ")
    nothing_is_left(netboot)
    assert operator.get("/api/v1/targets").json()["total"] == 0


def test_an_undo_that_fails_leaves_work_for_the_observer(
    operator: Client, netboot: Netboot, test_machine: Any, test_image: Image
) -> None:
    adapters = netboot.provision.adapters
    adapters.dhcp.faults["apply"] = adapters.iscsi.faults["remove"] = Fault.RAISE
    assert operator.post(START, json=BODY).json()["error"] == "dhcp_error"
    assert not adapters.scripts.observed() and not adapters.disks.observed(), "one failing undo stops no other"
    row = operator.get("/api/v1/sessions").json()["sessions"][0]
    assert (row["status"], row["cleanup_pending"]) == ("error", True) and row["ended_at"]
    adapters.dhcp.faults.clear(), adapters.iscsi.faults.clear()
    netboot.observer.check(repair=True)
    nothing_is_left(netboot)
    row = operator.get(f"/api/v1/sessions/{row['id']}").json()
    assert (row["status"], row["cleanup_pending"]) == ("error", False)
    assert operator.post(START, json=BODY).status_code == 201


def test_one_bad_entry_blocks_no_other_machine(
    operator: Client, netboot: Netboot, test_machine: Any, test_image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contract section 11.4: the backend refuses the entry of machine 1 only."""
    operator.post("/machines", json={"name": "ws-2", "mac_address": "020000000002"})
    dhcp = netboot.provision.adapters.dhcp
    real = dhcp.apply

    def apply(entries: Sequence[Reservation]) -> None:
        real([entry for entry in entries if entry.machine_id != 1])
        if any(entry.machine_id == 1 for entry in entries):
            raise BadReservations({1: "address 192.168.1.101 belongs to another client"})

    monkeypatch.setattr(dhcp, "apply", apply)
    bad = operator.post(START, json=BODY)
    assert (bad.status_code, bad.json()["error"]) == (500, "dhcp_error")
    assert "belongs to another client" in bad.json()["detail"]
    started = operator.post(START, json={"machine_id": 2, "image_id": 1})
    assert started.status_code == 201
    with netboot.database.write() as session:
        # As if machine 1 had been refused only now, with its session up.
        session.scalars(select(BootSession).where(BootSession.machine_id == 1)).one().status = "starting"
        session.scalars(select(BootSession).where(BootSession.machine_id == 1)).one().reserved = True
    assert operator.post(f"/api/v1/sessions/{started.json()['session']['id']}/stop").status_code == 200
    assert not dhcp.observed()
    assert "belongs to another client" in operator.get("/api/v1/dhcp/status").json()["last_error"]


def test_tftp_fault_names_the_step(operator: Client, netboot: Netboot, test_machine: Any, test_image: Image) -> None:
    folder = netboot.settings.tftp_root / "machines"
    folder.rmdir()
    folder.write_text("in the way")
    answer = operator.post(START, json=BODY)
    assert (answer.status_code, answer.json()["error"]) == (500, "tftp_error")
    folder.unlink()
    folder.mkdir()
    nothing_is_left(netboot)


def test_a_link_in_the_tftp_folder_is_never_followed(
    operator: Client, netboot: Netboot, test_machine: Any, test_image: Image
) -> None:
    victim = netboot.settings.tftp_root.parent / "victim"
    victim.write_text("precious")
    (netboot.settings.tftp_root / "machines/00-11-22-33-44-55.ipxe").symlink_to(victim)
    assert operator.post(START, json=BODY).status_code == 500
    assert victim.read_text() == "precious"


def test_image_file_gone_is_told(operator: Client, netboot: Netboot, test_machine: Any, test_image: Image) -> None:
    (netboot.settings.images_dir / "test.vhdx").unlink()
    answer = operator.post(START, json=BODY)
    assert answer.status_code == 500 and answer.json()["error"] == "storage_error" and "gone" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("adapter", "code"), [("disks", "storage_error"), ("iscsi", "iscsi_error"), ("dhcp", "dhcp_error")]
)
def test_a_stop_that_fails_half_way_says_so_and_can_be_repeated(
    operator: Client, netboot: Netboot, test_session: dict[str, Any], adapter: str, code: str
) -> None:
    number = test_session["session"]["id"]
    fake = getattr(netboot.provision.adapters, adapter)
    fake.faults["apply" if adapter == "dhcp" else "remove"] = Fault.RAISE
    answer = operator.post(f"/api/v1/sessions/{number}/stop")
    assert (answer.status_code, answer.json()["error"]) == (500, code)
    session = operator.get(f"/api/v1/sessions/{number}").json()
    assert (session["status"], session["cleanup_pending"], session["error_code"]) == ("error", True, code)
    assert operator.post(START, json=BODY).status_code == 400, "the machine is not free yet"
    fake.faults.clear()
    assert operator.post(f"/api/v1/sessions/{number}/stop").status_code == 200
    assert operator.get(f"/api/v1/sessions/{number}").json()["status"] == "stopped"
    nothing_is_left(netboot)


def test_stop_refusals(operator: Client, viewer: Client, test_session: dict[str, Any]) -> None:
    number = test_session["session"]["id"]
    assert viewer.post(f"/api/v1/sessions/{number}/stop").status_code == 403
    assert operator.post("/api/v1/sessions/999/stop").json()["detail"] == "Session with ID 999 not found"
    assert operator.post("/api/v1/sessions/abc/stop").status_code == 422
    assert operator.post(f"/api/v1/sessions/{number}/stop").status_code == 200
    again = operator.post(f"/api/v1/sessions/{number}/stop")
    assert (again.status_code, again.json()["detail"]) == (
        400,
        "Session must be active to stop. Current status: stopped",
    )


def test_a_repeated_stop_keeps_what_the_first_was_to_keep(
    operator: Client, netboot: Netboot, test_session: dict[str, Any]
) -> None:
    number = test_session["session"]["id"]
    disks = netboot.provision.adapters.disks
    disks.faults["remove"] = Fault.RAISE
    assert operator.post(f"/api/v1/sessions/{number}/stop", json={"keep_overlay": True}).status_code == 500
    disks.faults.clear()
    assert operator.post(f"/api/v1/sessions/{number}/stop").status_code == 200
    assert [path.suffix for path in (netboot.settings.overlay_dir / "kept").iterdir()] == [".qcow2"]


def test_a_failed_stop_that_the_observer_finishes_ends_as_stopped(
    operator: Client, netboot: Netboot, test_session: dict[str, Any]
) -> None:
    number = test_session["session"]["id"]
    iscsi = netboot.provision.adapters.iscsi
    iscsi.faults["remove"] = Fault.RAISE
    assert operator.post(f"/api/v1/sessions/{number}/stop").status_code == 500
    iscsi.faults.clear()
    netboot.observer.check(repair=True)
    session = operator.get(f"/api/v1/sessions/{number}").json()
    assert (session["status"], session["cleanup_pending"]) == ("stopped", False)
    nothing_is_left(netboot)


def test_the_secret_of_an_earlier_session_opens_nothing(
    operator: Client, netboot: Netboot, test_session: dict[str, Any]
) -> None:
    iscsi = netboot.provision.adapters.iscsi

    def credentials(started: dict[str, Any]) -> tuple[str, str]:
        return tuple(re.findall(r"^set (?:username|password) (\S+)$", started["boot_script"], re.MULTILINE))  # type: ignore[return-value]

    def may_log_in(started: dict[str, Any], user: str, secret: str) -> bool:
        details = started["iscsi_details"]
        return bool(iscsi.log_in(details["target_iqn"], details["initiator_iqn"], user, secret))

    first = credentials(test_session)
    assert may_log_in(test_session, *first)
    operator.post(f"/api/v1/sessions/{test_session['session']['id']}/stop")
    again = operator.post(START, json=BODY).json()
    second = credentials(again)
    assert first[0] != second[0] and first[1] != second[1]
    assert iscsi.accounts() == {second[0]}, "an account survives its target unless it is deleted"
    assert not may_log_in(again, *first) and not may_log_in(again, second[0], first[1])
    assert may_log_in(again, *second)


def test_answer_of_a_start_is_the_contract_s(netboot: Netboot, test_session: dict[str, Any]) -> None:
    """Contract section 5.5, field by field, with the names of section 3."""
    assert set(test_session) == {"session", "target_info", "boot_script", "ipxe_script_url", "iscsi_details"}
    session, info, details = test_session["session"], test_session["target_info"], test_session["iscsi_details"]
    assert set(session) - {"boot_method", "transport", "power", "power_cycled"} == {
        "id", "session_id", "machine_id", "target_id", "image_id", "session_type", "status", "boot_phase",
        "user_notes", "started_at", "ended_at", "ready_time", "boot_duration_seconds", "duration_seconds",
        "initiated_by", "created_by", "server_ip", "client_ip", "error_code", "error_message", "cleanup_pending",
    }  # fmt: skip
    suffix = session["session_id"].removeprefix("session-1-")
    assert re.fullmatch("[0-9a-f]{8}", suffix)
    iqn = f"iqn.2025-01.lab.labyard:target-machine-1-{suffix}"
    initiator = "iqn.2025-01.lab.labyard:initiator-001122334455"
    export = str(netboot.settings.overlay_dir / f"machine-1-{suffix}.raw")
    created_at = info.pop("created_at")
    assert created_at.endswith("Z") and session["started_at"].endswith("Z")
    assert info == {
        "target_id": f"machine-1-{suffix}",
        "iqn": iqn,
        "backstore": {"name": f"img-machine-1-{suffix}", "type": "fileio", "file_path": export, "size": GIB},
        "lun": {"lun_id": 1, "iqn": iqn, "backstore_path": export},
        "acl": {"iqn": iqn, "initiator_iqn": initiator},
        "portal": {"iqn": iqn, "ip": "192.168.1.10", "port": 3260},
        "image_path": str(netboot.settings.images_dir / "test.vhdx"),
        "initiator_iqn": initiator,
    }
    assert details == {
        "target_iqn": iqn,
        "initiator_iqn": initiator,
        "portal_ip": "192.168.1.10",
        "portal_port": 3260,
        "lun_id": 1,
        "san_uri": f"iscsi:192.168.1.10::3260:1:{iqn}",
        "chap_username": f"s-{suffix}",
    }
    assert (session["status"], session["cleanup_pending"], session["server_ip"]) == ("active", False, "192.168.1.10")
    assert session["ended_at"] is session["ready_time"] is session["client_ip"] is session["error_code"] is None


def test_lists_filters_and_single_sessions(
    operator: Client, viewer: Client, netboot: Netboot, test_session: dict[str, Any]
) -> None:
    number = test_session["session"]["id"]
    active = viewer.get("/api/v1/sessions/machine/1/active")
    assert active.status_code == 200 and active.json()["id"] == number
    assert viewer.get("/api/v1/sessions/machine/9/active").json()["detail"] == "Machine with ID 9 not found"
    for query, total in (({"machine_id": 1}, 1), ({"machine_id": 2}, 0), ({"image_id": 1}, 1), ({"image_id": 2}, 0)):
        assert viewer.get("/api/v1/sessions", params=query).json()["total"] == total, query
    for query in ({"skip": -1}, {"limit": 0}, {"limit": 1001}, {"machine_id": "x"}):
        assert viewer.get("/api/v1/sessions", params=query).status_code == 422, query
    token = netboot.sessions.get(number).boot_token or ""
    assert token and token not in viewer.get("/api/v1/sessions").text + viewer.get(f"/api/v1/sessions/{number}").text
    for path in ("999", "999/events", str(2**40)):
        answer = viewer.get(f"/api/v1/sessions/{path}")
        assert (answer.status_code, answer.json()["error"]) == (404, "not_found"), path
    assert operator.post("/api/v1/sessions/999/events", json={"type": "ipxe_load"}).status_code == 404
    assert operator.post(f"/api/v1/sessions/{number}/events", json={"type": "nap"}).status_code == 422
    assert viewer.post(f"/api/v1/sessions/{number}/events", json={"type": "ipxe_load"}).status_code == 403
    assert viewer.post(START, json=BODY).json()["detail"] == "Operator privileges required"
    assert viewer.http.get("/api/v1/sessions").status_code == 401
    operator.post(f"/api/v1/sessions/{number}/stop")
    gone = viewer.get("/api/v1/sessions/machine/1/active")
    assert (gone.status_code, gone.json()["detail"]) == (404, "No active session found for machine 1")


def test_keep_overlay_keeps_what_was_written(operator: Client, netboot: Netboot, test_session: dict[str, Any]) -> None:
    operator.post(f"/api/v1/sessions/{test_session['session']['id']}/stop", json={"keep_overlay": True})
    assert [path.suffix for path in (netboot.settings.overlay_dir / "kept").iterdir()] == [".qcow2"]


def test_five_parallel_starts_of_one_machine(
    operator: Client, netboot: Netboot, test_machine: Any, test_image: Image
) -> None:
    with ThreadPoolExecutor(5) as pool:
        codes = sorted(answer.status_code for answer in pool.map(lambda _: operator.post(START, json=BODY), range(5)))
    assert codes == [201, 400, 400, 400, 400]
    assert len(netboot.provision.adapters.iscsi.observed()) == 1


def test_fifty_parallel_starts_of_different_machines(operator: Client, netboot: Netboot, test_image: Image) -> None:
    for number in range(1, 51):
        made = operator.post("/machines", json={"name": f"ws-{number}", "mac_address": f"02000000{number:04x}"})
        assert made.status_code == 201
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda n: operator.post(START, json={"machine_id": n, "image_id": 1}), range(1, 51)))
    assert [answer.status_code for answer in answers] == [201] * 50
    secrets = {answer.json()["boot_script"].split("set password ")[1].split()[0] for answer in answers}
    assert len(secrets) == 50, "each session has a secret of its own"
    assert len(netboot.provision.adapters.dhcp.observed()) == 50
    # Removing ws-1 leaves ws-10 and ws-11 alone.
    assert operator.post(f"/api/v1/sessions/{answers[0].json()['session']['id']}/stop").status_code == 200
    labels = {entry.label for entry in netboot.provision.adapters.dhcp.observed()}
    assert labels == {f"ws-{number}" for number in range(2, 51)}


def test_start_stop_ten_times_within_a_second_or_so(
    operator: Client, netboot: Netboot, test_machine: Any, test_image: Image
) -> None:
    for _ in range(10):
        started = operator.post(START, json=BODY)
        assert started.status_code == 201, started.text
        assert operator.post(f"/api/v1/sessions/{started.json()['session']['id']}/stop").status_code == 200
    nothing_is_left(netboot)
    rows = audit_actions(netboot)
    assert rows.count("session_started") == rows.count("session_stopped") == 10


def audit_actions(netboot: Netboot) -> list[str]:
    with netboot.database.read() as session:
        return list(session.scalars(select(AuditLog.action).order_by(AuditLog.id)))


def test_audit_is_kept_over_a_restart_and_holds_no_secret(
    operator: Client, netboot: Netboot, test_session: dict[str, Any], make_service: Callable[[], TestClient]
) -> None:
    before = audit_actions(netboot)
    secret = netboot.box
    with netboot.database.read() as session:
        boot = session.scalars(select(BootSession)).one()
        sealed = netboot.targets.get(boot.target_id or 0).chap_secret
        text = " ".join(f"{row.message} {row.old_values} {row.new_values}" for row in session.scalars(select(AuditLog)))
    for value in (secret.open(sealed), boot.boot_token, PASSWORD, operator.token):
        assert value and value not in text
    again: Netboot = make_service().app.state.netboot  # type: ignore[attr-defined]
    assert audit_actions(again)[: len(before)] == before


class TestBootEvents:
    def url(self, netboot: Netboot, started: dict[str, Any]) -> str:
        return path_of(netboot, started["ipxe_script_url"])

    def phase(self, operator: Client, started: dict[str, Any]) -> str:
        answer = operator.get(f"/api/v1/sessions/{started['session']['id']}").json()
        return str(answer["boot_phase"])

    def test_the_client_needs_its_token_only(
        self, service: TestClient, operator: Client, netboot: Netboot, test_session: dict[str, Any]
    ) -> None:
        url = self.url(netboot, test_session)
        answer = service.get(url)
        assert answer.text == test_session["boot_script"] and answer.headers["Cache-Control"] == "no-store"
        assert service.get(f"{url}/events/ipxe_load").status_code == 204
        assert self.phase(operator, test_session) == "script"
        assert service.post(f"{url}/events/boot_success", json={"message": "up"}).status_code == 204
        session = operator.get(f"/api/v1/sessions/{test_session['session']['id']}").json()
        assert session["boot_phase"] == "booted" and session["ready_time"] and session["boot_duration_seconds"] >= 0
        machine = operator.get("/machines/1").json()
        assert machine["boot_count"] == 1 and machine["is_online"] and machine["last_boot"] and machine["last_seen"]

    def test_bad_types_and_tokens(self, service: TestClient, netboot: Netboot, test_session: dict[str, Any]) -> None:
        url = self.url(netboot, test_session)
        assert service.get(f"{url}/events/dhcp_request").status_code == 422
        assert service.get(f"{url}/events/nonsense").status_code == 422
        assert service.get("/api/v1/ipxe/script/wrong").status_code == 404
        assert service.get("/api/v1/ipxe/script/wrong/events/ipxe_load").status_code == 404

    def test_repeats_are_merged(
        self,
        service: TestClient,
        operator: Client,
        netboot: Netboot,
        test_session: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("labyard.netboot.service.boot.MERGE_WITHIN", timedelta(seconds=PATIENCE))
        for _ in range(3):
            service.get(f"{self.url(netboot, test_session)}/events/ipxe_load")
        events = operator.get(f"/api/v1/sessions/{test_session['session']['id']}/events").json()
        assert (events["total"], events["events"][0]["source"]) == (1, "client")

    def test_the_phase_goes_back_only_when_the_client_restarts(self, operator: Client, test_session: Any) -> None:
        number = test_session["session"]["id"]
        seen = []
        for kind in (
            "dhcp_request",
            "tftp_request",
            "ipxe_load",
            "iscsi_connect",
            "tftp_request",
            "boot_success",
            "iscsi_connect",
            "DHCP_REQUEST",
            "boot_failed",
            "tftp_request",
            "iscsi_connect",
            "boot_failed",
            "ipxe_load",
        ):
            answer = operator.post(f"/api/v1/sessions/{number}/events", json={"type": kind})
            assert answer.status_code == 201, answer.text
            seen.append(self.phase(operator, test_session))
        before_the_restart = ["dhcp", "tftp", "script", "iscsi", "iscsi", "booted", "booted", "dhcp"]
        # "Try again" of the menu logs in anew; a TFTP request that is told late changes nothing.
        assert seen == [*before_the_restart, "failed", "failed", "iscsi", "failed", "script"]
        everything = operator.get("/monitoring/boot-events", params={"type": "dhcp_request"}).json()
        assert everything["total"] >= 1 and everything["events"][0]["source"] == "operator"

    def test_what_a_client_posts_is_kept_when_it_is_a_message(
        self, service: TestClient, operator: Client, netboot: Netboot, test_session: dict[str, Any]
    ) -> None:
        url = self.url(netboot, test_session)
        events = f"/api/v1/sessions/{test_session['session']['id']}/events"
        for kind, given, kept in (
            ("ipxe_load", {"json": {"message": "  two\nwords "}}, "two words"),
            ("boot_failed", {"content": b"{" + b"x" * 10_000}, None),
            ("boot_success", {"data": {"hostname": "ws-1"}}, None),
        ):
            answer = service.post(f"{url}/events/{kind}", **given)
            assert (answer.status_code, answer.content) == (204, b"")
            assert operator.get(events).json()["events"][0]["message"] == kept

    def test_after_stop_the_token_is_dead(
        self, service: TestClient, operator: Client, netboot: Netboot, test_session: Any
    ) -> None:
        operator.post(f"/api/v1/sessions/{test_session['session']['id']}/stop")
        assert service.get(self.url(netboot, test_session)).status_code == 404
        assert service.post(f"{self.url(netboot, test_session)}/events/boot_success").status_code == 404

    def test_firmware_asks_for_the_size_and_fetches(self, service: TestClient, netboot: Netboot) -> None:
        folder = netboot.settings.tftp_root / "boot"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "snponly.efi").write_bytes(b"a program")
        size = service.head("/api/v1/ipxe/boot/snponly.efi")
        assert (size.status_code, size.headers["Content-Length"], size.content) == (200, "9", b"")
        assert service.get("/api/v1/ipxe/boot/snponly.efi").content == b"a program"
        assert service.head("/api/v1/ipxe/boot/other.efi").status_code == 404

    def test_a_token_has_a_rate_limit_of_its_own(
        self, service: TestClient, netboot: Netboot, test_session: Any
    ) -> None:
        answers = [service.get(self.url(netboot, test_session)) for _ in range(61)]
        assert [answer.status_code for answer in answers] == [200] * 60 + [429]
        assert int(answers[-1].headers["Retry-After"]) > 0
        assert service.get("/api/v1/ipxe/generic").status_code == 200


def test_a_nul_in_a_clients_message_is_a_space(operator: Client, test_session: dict[str, Any]) -> None:
    url = test_session["ipxe_script_url"].partition("8000")[2]
    assert operator.post(f"{url}/events/boot_failed", json={"message": "no\0disk"}).status_code == 204
    events = operator.get("/monitoring/boot-events?type=boot_failed").json()["events"]
    assert [event["message"] for event in events] == ["no disk"]


@pytest.mark.parametrize("header", ["9" * 30, "9" * 5000, "-1", "x"])
def test_an_odd_last_event_id_is_not_used(viewer: Client, netboot: Netboot, header: str) -> None:
    netboot.stopping.set()  # the stream ends at once
    assert viewer.get("/api/v1/sessions/events/stream", headers={"Last-Event-ID": header}).status_code == 200
