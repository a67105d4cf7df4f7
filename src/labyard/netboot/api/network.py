"""Routes of /dhcp, /tftp and /monitoring (contract sections 5.7 and 5.8), and of the observer."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from labyard.core.access import Admin, Operator, Viewer
from labyard.core.errors import invalid, not_found
from labyard.core.paging import Paging
from labyard.netboot.api.deps import Service
from labyard.netboot.names import mac_of_script
from labyard.netboot.schemas import BootEventAnswer, BootEventTypeIn, IdFilter

dhcp = APIRouter(prefix="/dhcp", tags=["dhcp"])
tftp = APIRouter(prefix="/tftp", tags=["tftp"])
monitoring = APIRouter(prefix="/monitoring", tags=["monitoring"])
observer = APIRouter(prefix="/observer", tags=["observer"])


@dhcp.get("/status")
def dhcp_status(who: Viewer, service: Service) -> dict[str, Any]:
    """Facts; what cannot be found out is null, and `error` says why."""
    return service.network.dhcp_status()


@dhcp.get("/reservations")
def reservations(who: Viewer, service: Service) -> list[dict[str, Any]]:
    """What the DHCP server carries for live sessions."""
    return service.network.reservations()


@dhcp.post("/apply")
def apply(who: Admin, service: Service) -> dict[str, Any]:
    """Render the reservations from the database again."""
    return service.network.apply()


@tftp.get("/status")
def tftp_status(who: Viewer, service: Service) -> dict[str, Any]:
    return service.network.tftp_status()


@tftp.get("/scripts")
def scripts(who: Viewer, service: Service) -> list[dict[str, Any]]:
    return service.network.scripts()


@tftp.get("/scripts/{filename:path}", response_class=PlainTextResponse)
def script(filename: str, who: Operator, service: Service) -> PlainTextResponse:
    if mac_of_script(filename) is None:
        raise invalid("filename", "must be six pairs of hex digits with dashes and .ipxe", filename)
    text = service.network.script(filename)
    if text is None:
        raise not_found(f"There is no script {filename}")
    return PlainTextResponse(text, headers={"Cache-Control": "no-store"})


@monitoring.get("/boot-events")
def boot_events(
    who: Viewer,
    service: Service,
    page: Paging,
    machine_id: IdFilter = None,
    session_id: IdFilter = None,
    type: BootEventTypeIn | None = None,
) -> dict[str, Any]:
    found, total = service.boots.list(page, session_id=session_id, machine_id=machine_id, kind=type)
    return page.envelope("events", [BootEventAnswer.model_validate(event) for event in found], total)


@monitoring.get("/network-services")
def network_services(who: Viewer, service: Service) -> dict[str, Any]:
    return {"services": service.network.services()}


@observer.get("/report")
def report(who: Viewer, service: Service) -> dict[str, Any]:
    """What the observer found at its last look."""
    return service.network.report(service.observer.last)


@observer.post("/check")
def check(who: Operator, service: Service, repair: bool = False) -> dict[str, Any]:
    """Look now; with `repair=true`, also mend what is found."""
    return service.network.report(service.observer.check(repair))
