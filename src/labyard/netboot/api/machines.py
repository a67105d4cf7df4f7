"""Routes of /machines (contract section 5.2)."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Response

from labyard.core.access import Operator, Viewer
from labyard.core.fields import NoNul
from labyard.core.paging import Paging, Search
from labyard.netboot.api.deps import Service
from labyard.netboot.models import Machine
from labyard.netboot.schemas import MachineAnswer, MachineCreate, MachineStatusIn, MachineUpdate

router = APIRouter(prefix="/machines", tags=["machines"])


@router.post("", status_code=201, response_model=MachineAnswer)
def create(body: MachineCreate, who: Operator, service: Service) -> Machine:
    """Register a machine. Its name gives its DHCP label; 409 for a name, label, MAC or address that is taken."""
    return service.machines.create(body, who.id)


@router.get("", response_model=list[MachineAnswer])
def list_machines(
    who: Viewer,
    service: Service,
    page: Paging,
    response: Response,
    status: MachineStatusIn | None = None,
    location: Annotated[str | None, NoNul] = None,
    room: Annotated[str | None, NoNul] = None,
    search: Search = None,
) -> list[Machine]:
    """Newest first; X-Total-Count: all of them. `search`: part of name, MAC, host name, location or asset tag."""
    found, total = service.machines.list(page, search, status=status, location=location, room=room)
    response.headers["X-Total-Count"] = str(total)
    return found


@router.get("/{machine_id}", response_model=MachineAnswer)
def get(machine_id: int, who: Viewer, service: Service) -> Machine:
    return service.machines.get(machine_id)


@router.put("/{machine_id}", response_model=MachineAnswer)
def update(machine_id: int, body: MachineUpdate, who: Operator, service: Service) -> Machine:
    """An omitted field stays, an explicit null clears. 409 for a new name or address while a session is live."""
    return service.machines.update(machine_id, body)


@router.delete("/{machine_id}")
def delete(machine_id: int, who: Operator, service: Service) -> dict[str, Any]:
    """409 while a live session or target exists."""
    service.machines.delete(machine_id)
    return {"message": "Machine deleted successfully", "machine_id": machine_id}
