"""Routes of /targets (contract section 5.4)."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from labyard.core.access import Admin, Viewer
from labyard.core.paging import Paging
from labyard.netboot.api.deps import Service
from labyard.netboot.models import Target
from labyard.netboot.schemas import IdFilter, TargetAnswer, TargetCreate, TargetStatusIn

router = APIRouter(prefix="/targets", tags=["targets"])


@router.post("", status_code=201, response_model=TargetAnswer)
def create(body: TargetCreate, who: Admin, service: Service) -> Target:
    """A disk for a machine, without a session."""
    return service.targets.create(body, who.id)


@router.get("")
def list_targets(
    who: Viewer,
    service: Service,
    page: Paging,
    status: TargetStatusIn | None = None,
    machine_id: IdFilter = None,
) -> dict[str, Any]:
    found, total = service.targets.list(page, status=status, machine_id=machine_id)
    return page.envelope("targets", [TargetAnswer.model_validate(target) for target in found], total)


@router.get("/machine/{machine_id}", response_model=TargetAnswer)
def of_machine(machine_id: int, who: Viewer, service: Service) -> Target:
    """The machine's target that is not yet inactive."""
    return service.targets.of_machine(machine_id)


@router.get("/{target_id}", response_model=TargetAnswer)
def get(target_id: int, who: Viewer, service: Service) -> Target:
    return service.targets.get(target_id)


@router.get("/{target_id}/status")
def status(target_id: int, who: Viewer, service: Service) -> dict[str, Any]:
    """What the iSCSI daemon has, asked of it now: LUNs, rules, portals, connected clients."""
    return service.targets.daemon_status(target_id)


@router.delete("/{target_id}", status_code=204)
def delete(target_id: int, who: Admin, service: Service) -> None:
    """409 while a live session uses it."""
    service.targets.delete(target_id)


@router.post("/{target_id}/restart")
def restart(target_id: int, who: Admin, service: Service) -> dict[str, Any]:
    """Rebuild the iSCSI side with the same IQN, overlay and secret."""
    target = service.targets.restart(target_id)
    return {"message": "Target restarted successfully", "target_id": target.target_id, "iqn": target.iqn}
