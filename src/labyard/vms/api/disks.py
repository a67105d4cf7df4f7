"""Routes of /disks."""

from __future__ import annotations

from fastapi import APIRouter

from labyard.vms.api.deps import Service
from labyard.vms.schemas import DiskAnswer, DiskAttach, DiskCreate

router = APIRouter(prefix="/disks", tags=["disks"])


@router.post("", status_code=201)
def create(body: DiskCreate, service: Service) -> DiskAnswer:
    """An empty disk. Size is GiB; `mount_point` is a label of yours."""
    return DiskAnswer.of(service.disks.create(body))


@router.get("")
def list_disks(service: Service) -> list[DiskAnswer]:
    return [DiskAnswer.of(disk) for disk in service.disks.list()]


@router.get("/{disk_id}")
def get(disk_id: str, service: Service) -> DiskAnswer:
    return DiskAnswer.of(service.disks.get(disk_id))


@router.delete("/{disk_id}", status_code=204)
def delete(disk_id: str, service: Service) -> None:
    """400 while it is attached to a machine that is on."""
    service.disks.delete(disk_id)


@router.post("/{disk_id}/attach")
def attach(disk_id: str, body: DiskAttach, service: Service) -> dict[str, str]:
    """Plug it into a running machine. The guest finds it at the disk's `device_path`."""
    service.disks.attach(disk_id, body.vm_id)
    return {"status": "attached"}


@router.post("/{disk_id}/detach")
def detach(disk_id: str, service: Service) -> dict[str, str]:
    """Answers when the disk is really gone from the machine."""
    service.disks.detach(disk_id)
    return {"status": "detached"}
