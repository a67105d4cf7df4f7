"""Routes of /rdp/servers."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Any

from fastapi import Body, Depends, Query
from fastapi.concurrency import run_in_threadpool

from labyard.desktops import roles
from labyard.desktops.api.deps import Anyone, RdpReader, RdpUser, Service
from labyard.desktops.api.routes import guarded, shared
from labyard.desktops.fields import Duration, Line
from labyard.desktops.models import RdpStatus
from labyard.desktops.paging import Paging
from labyard.desktops.schemas.nodes import AlertsOut
from labyard.desktops.schemas.rdp import (
    Configuration,
    ConnectionOut,
    Credentials,
    CredentialsOut,
    RdpIn,
    ResourcesOut,
    ServerOut,
    ServerSessionsOut,
    ServersOut,
    ServerStarted,
    ServerStopped,
    ServerUsageHistoryOut,
    ServerUsageOut,
    ServiceStatusOut,
)
from labyard.desktops.service import rdp_rows, samples

router = guarded("/rdp/servers", "rdp")

Word = Annotated[Line | None, Query(max_length=255)]


async def _server_id(server_id: str, service: Service, who: Anyone) -> str:
    if not await run_in_threadpool(service.rdp.visible, server_id, who):
        raise rdp_rows.unknown(server_id)
    return server_id


ServerId = Annotated[str, Depends(_server_id)]


@router.post("", response_model=ServerOut, status_code=201)
def create(who: RdpUser, service: Service, body: RdpIn) -> dict[str, Any]:
    """Makes a server, with a port that stays its own. It is stopped until it is started."""
    return service.rdp.create(body, who).shown()


@router.get("", response_model=ServersOut)
@shared(roles.RDP_SEE_ALL)
def list_servers(
    who: RdpReader,
    service: Service,
    page: Paging,
    status: RdpStatus | None = None,
    user_id: Word = None,
    node_id: Word = None,
) -> dict[str, Any]:
    found, total = service.rdp.page(page, who, status, user_id, node_id)
    return page.envelope("servers", [server.shown() for server in found], total)


@router.get("/{server_id}", response_model=ServerOut)
def get(who: RdpReader, server_id: ServerId, service: Service) -> dict[str, Any]:
    return service.rdp.get(server_id).shown()


@router.delete("/{server_id}", status_code=204)
def delete(who: RdpUser, server_id: ServerId, service: Service, force: bool = False) -> None:
    """With all that it has on its node. 409 while it is recorded, unless an admin forces it."""
    service.rdp.delete(server_id, force, who)


@router.post("/{server_id}/start", response_model=ServerStarted)
def start(who: RdpUser, server_id: ServerId, service: Service) -> dict[str, Any]:
    """Answers when a client can connect."""
    view = service.rdp.start(server_id)
    return view.shown() | {"started_at": view.server.last_started_at}


@router.post("/{server_id}/stop", response_model=ServerStopped)
def stop(who: RdpUser, server_id: ServerId, service: Service, force: bool = False) -> dict[str, Any]:
    """Answers when no process of it is left. 409 while it is recorded, unless forced."""
    view = service.rdp.stop(server_id, force)
    return view.shown() | {"stopped_at": view.server.last_stopped_at}


@router.post("/{server_id}/restart", response_model=ServerStarted)
def restart(who: RdpUser, server_id: ServerId, service: Service, force: bool = False) -> dict[str, Any]:
    """Takes a changed configuration into use."""
    view = service.rdp.restart(server_id, force)
    return view.shown() | {"started_at": view.server.last_started_at}


@router.get("/{server_id}/service-status", response_model=ServiceStatusOut)
def service_status(who: RdpReader, server_id: ServerId, service: Service) -> dict[str, Any]:
    """What systemd says of the server's units."""
    found = asdict(service.rdp.service_status(server_id))
    return found | {f"{name}_status": found[part] for name, part in _UNITS.items()}


_UNITS = {"xrdp": "xrdp", "xrdp_sesman": "sesman", "xorg": "xorg"}


@router.get("/{server_id}/resources", response_model=ResourcesOut)
def resources(who: RdpReader, server_id: ServerId, service: Service) -> ResourcesOut:
    return rdp_rows.resources(service.rdp.get(server_id).server)


@router.post("/{server_id}/test-connection", response_model=ConnectionOut)
def test_connection(
    who: RdpUser, server_id: ServerId, service: Service, body: Annotated[Credentials | None, Body()] = None
) -> dict[str, Any]:
    """A real negotiation, and a login with these credentials or with the server's own."""
    given = body or Credentials()
    password = given.password.get_secret_value() if given.password else None
    return {"server_id": server_id, **service.rdp.test_connection(server_id, given.username, password)}


@router.get("/{server_id}/usage", response_model=ServerUsageOut)
@shared(roles.RDP_SEE_ALL)
def usage(who: RdpReader, server_id: ServerId, service: Service) -> dict[str, Any]:
    """cpu in percent of one core, networks in bytes per second. 409 while it does not run."""
    return {"server_id": server_id, **samples.shown(service.rdp_usage.current(server_id))}


@router.get("/{server_id}/usage/history", response_model=ServerUsageHistoryOut)
@shared(roles.RDP_SEE_ALL)
def usage_history(
    who: RdpReader, server_id: ServerId, service: Service, duration: Duration = timedelta(hours=1)
) -> dict[str, Any]:
    found = service.rdp_usage.history(server_id, duration)
    return {"server_id": server_id, "usage_history": [samples.shown(usage) for usage in found]}


@router.get("/{server_id}/alerts", response_model=AlertsOut)
def alerts(who: RdpReader, server_id: ServerId, service: Service) -> dict[str, Any]:
    return service.rdp_usage.alerts.of(server_id)


@router.get("/{server_id}/sessions", response_model=ServerSessionsOut)
def sessions(who: RdpReader, server_id: ServerId, service: Service) -> dict[str, Any]:
    """The recordings that are bound to it, and the RDP clients that are connected."""
    return {
        "server_id": server_id,
        "active_sessions": service.rdp.sessions(server_id),
        "connections": service.rdp_usage.connections(server_id),
    }


@router.get("/{server_id}/configuration")
def configuration(who: RdpReader, server_id: ServerId, service: Service) -> dict[str, Any]:
    """As it was sent."""
    return service.rdp.get(server_id).server.configuration


@router.put("/{server_id}/configuration")
def configure(who: RdpUser, server_id: ServerId, service: Service, body: Configuration) -> dict[str, Any]:
    """In the place of the one before, from the next start on."""
    return service.rdp.configure(server_id, body)


@router.get("/{server_id}/credentials", response_model=CredentialsOut)
def credentials(who: RdpUser, server_id: ServerId, service: Service) -> dict[str, Any]:
    """Who may log in, on the audit log."""
    return service.rdp.credentials(server_id)
