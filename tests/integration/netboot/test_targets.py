"""Targets without a session: contract sections 2.2 and 5.4."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from labyard.core.models import AuditLog
from labyard.netboot.adapters.fake import Fault
from labyard.netboot.models import Image
from labyard.netboot.service import Netboot

from .conftest import Client

TARGETS = "/api/v1/targets"
BODY = {"machine_id": 1, "image_id": 1}


def audited(netboot: Netboot) -> list[tuple[str, int | None]]:
    with netboot.database.read() as session:
        rows = session.scalars(select(AuditLog).where(AuditLog.resource_type == "target").order_by(AuditLog.id))
        return [(row.action, row.status_code) for row in rows]


def test_each_change_is_on_record_once(admin: Client, netboot: Netboot, test_machine: Any, test_image: Image) -> None:
    made = admin.post(TARGETS, json=BODY)
    assert made.status_code == 201, made.text
    path = f"{TARGETS}/{made.json()['id']}"
    assert admin.post(f"{path}/restart").status_code == 200
    assert admin.delete(path).status_code == 204
    assert audited(netboot) == [("target_created", 201), ("target_updated", 200), ("target_deleted", 204)]


def test_deleting_again_touches_nothing(admin: Client, netboot: Netboot, test_machine: Any, test_image: Image) -> None:
    first, second = (f"{TARGETS}/{number}" for number in (1, 2))
    assert admin.post(TARGETS, json=BODY).status_code == 201
    assert admin.delete(first).status_code == 204
    assert admin.post(TARGETS, json=BODY).status_code == 201
    netboot.provision.adapters.iscsi.faults["remove"] = Fault.RAISE  # type: ignore[attr-defined]
    assert admin.delete(first).status_code == 204
    assert [admin.get(path).json()["status"] for path in (first, second)] == ["inactive", "active"]
    assert [action for action, _ in audited(netboot)].count("target_deleted") == 1


@pytest.mark.parametrize("adapter", ["disks", "iscsi"])
def test_a_target_that_could_not_be_made_is_not_on_record(
    admin: Client, netboot: Netboot, test_machine: Any, test_image: Image, adapter: str
) -> None:
    fake = getattr(netboot.provision.adapters, adapter)
    fake.faults["apply"] = Fault.RAISE
    answer = admin.post(TARGETS, json=BODY)
    assert answer.status_code == 500 and answer.json()["detail"].startswith("Target creation failed: ")
    assert admin.get(TARGETS).json()["total"] == 0 and not fake.observed()
    assert audited(netboot) == []
    fake.faults.clear()
    assert admin.post(TARGETS, json=BODY).status_code == 201


@pytest.mark.parametrize("number", [0, -1, 2, 2**31, 2**63, 10**30])
def test_unknown_is_404(admin: Client, number: int) -> None:
    for answer in (
        admin.get(f"{TARGETS}/{number}"),
        admin.get(f"{TARGETS}/{number}/status"),
        admin.delete(f"{TARGETS}/{number}"),
        admin.post(f"{TARGETS}/{number}/restart"),
    ):
        assert (answer.status_code, answer.json()["detail"]) == (404, f"Target with ID {number} not found")
    of_machine = admin.get(f"{TARGETS}/machine/{number}")
    assert (of_machine.status_code, of_machine.json()["detail"]) == (404, f"No target found for machine {number}")
