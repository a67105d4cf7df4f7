"""Routes of /network."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from labyard.vms.api.deps import Service
from labyard.vms.schemas import LeaseAnswer

router = APIRouter(prefix="/network", tags=["network"])


@router.get("/config")
def config(service: Service) -> dict[str, Any]:
    """The lab network and its addresses; `not_configured` where machines have no addresses of ours."""
    found, settings, network = service.network.config(), service.settings, service.shared.network
    if found is None:
        return {"status": "not_configured"}
    return {
        "vlan_id": settings.vlan_id,
        "bridge_name": settings.bridge_name,
        "subnet": str(settings.subnet),
        "gateway": str(settings.gateway_ip),
        "dns": settings.dns_servers,
        "allocated_ips": found.allocated,
        "available_ips": found.available,
        "network_name": settings.network_name,
        "mode": settings.network_mode,
        "vlan_applied": network.vlan_applied,
        "ip_mac_filter": network.ip_mac_filter,
    }


@router.get("/leases")
def leases(service: Service) -> list[LeaseAnswer]:
    return [LeaseAnswer.of(lease, seen) for lease, seen in service.network.leases()]
