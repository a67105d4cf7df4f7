"""Routes of /vms."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from labyard.vms.api.deps import Service
from labyard.vms.schemas import ConsoleAnswer, MetadataAnswer, MetadataUpdate, VmAnswer, VmCreate, VmStateFilter
from labyard.vms.service.console import MAX_LIMIT

router = APIRouter(prefix="/vms", tags=["vms"])

NO_CONSOLE = "Console file not found (VM may not have started yet)"


@router.post("", status_code=201)
def create(body: VmCreate, service: Service) -> VmAnswer:
    """Makes the machine with its root disk, not yet started. `name` is its id; without one the server makes it."""
    vm, template = service.vms.create(body)
    return VmAnswer.of(vm, template, service.domain_type)


@router.get("")
def list_vms(service: Service, state: VmStateFilter | None = None) -> list[VmAnswer]:
    return [VmAnswer.of(vm, template, service.domain_type) for vm, template in service.vms.list(state)]


@router.get("/{vm_id}")
def get(vm_id: str, service: Service) -> VmAnswer:
    vm, template = service.vms.get(vm_id)
    return VmAnswer.of(vm, template, service.domain_type)


@router.delete("/{vm_id}", status_code=204)
def delete(vm_id: str, service: Service) -> None:
    """Also while it runs. Its data disks become available, its root disk goes."""
    service.vms.delete(vm_id)


@router.post("/{vm_id}/actions/start", status_code=202)
def start(vm_id: str, service: Service) -> dict[str, str]:
    """Answers when the machine runs."""
    service.vms.start(vm_id)
    return {"status": "started"}


@router.post("/{vm_id}/actions/stop", status_code=202)
def stop(vm_id: str, service: Service, force: bool = False) -> dict[str, str]:
    """By ACPI, and after VMAN_STOP_TIMEOUT seconds, or at once with `force`, by power off. Answers when it is off."""
    service.vms.stop(vm_id, force)
    return {"status": "stopped"}


@router.post("/{vm_id}/actions/restart", status_code=202)
def restart(vm_id: str, service: Service) -> dict[str, str]:
    """Ends running, whatever the machine did before."""
    service.vms.restart(vm_id)
    return {"status": "restarted"}


@router.get("/{vm_id}/console")
def console(
    vm_id: str,
    service: Service,
    offset: Annotated[int | None, Query(ge=0, le=2**63 - 1)] = None,
    limit: Annotated[int | None, Query(ge=1, le=MAX_LIMIT)] = None,
) -> ConsoleAnswer:
    """The last 50 KiB; with `offset` or `limit` that range of bytes, and where to go on."""
    piece = service.consoles.read(vm_id, offset, limit)
    return ConsoleAnswer(
        vm_id=vm_id,
        console=piece.text if piece else "",
        size=len(piece.text) if piece else 0,
        file_size=piece.file_size if piece else 0,
        message=None if piece else NO_CONSOLE,
        next_offset=piece.next_offset if piece else 0,
    )


class Png(Response):
    media_type = "image/png"


@router.get("/{vm_id}/screenshot", response_class=Png)
def screenshot(vm_id: str, service: Service) -> Response:
    """What the screen of a running machine shows, as a PNG. There is none in dry run."""
    return Png(service.screens.png(vm_id))


@router.put("/{vm_id}/metadata")
def put_metadata(vm_id: str, body: MetadataUpdate, service: Service) -> MetadataAnswer:
    """A field that is absent or null stays, an empty text clears. A guest's seed has it from the next start on."""
    return MetadataAnswer.of(vm_id, service.metadata.update(vm_id, body))


@router.get("/{vm_id}/metadata")
def get_metadata(vm_id: str, service: Service) -> MetadataAnswer:
    return MetadataAnswer.of(vm_id, service.metadata.get(vm_id))


@router.delete("/{vm_id}/metadata", status_code=204)
def delete_metadata(vm_id: str, service: Service) -> None:
    service.metadata.delete(vm_id)
