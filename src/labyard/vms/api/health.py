"""The route /health (contract section 4.2), open to all, and /openapi.yaml."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import yaml
from fastapi import APIRouter, Request, Response

from labyard.core.adapter import AdapterError
from labyard.core.health import Check, Facts, Health, Status
from labyard.vms.service.manager import VmManager

NAME = "labyard-vms"
SKIPPED = "skipped (dry run)"
QEMU = ("qemu-system-x86_64", "qemu-kvm")
TIMEOUT = 5.0  # seconds that each check gets


def health_router(service: VmManager) -> APIRouter:
    router = APIRouter(tags=["health"])
    required = {"database", "storage", "qemu", "qemu-img", "libvirt"}
    health = Health([Check(name, call, TIMEOUT) for name, call in _checks(service).items()])

    # Async, so that it answers even when every thread is busy.
    @router.get("/health", responses={503: {"description": "Machines cannot be run now"}})
    async def look(response: Response) -> dict[str, object]:
        """What the service stands on. `degraded` when machines cannot be run."""
        results = await health.run()
        bad = [name for name in required if results[name]["status"] != Status.HEALTHY]
        response.status_code = 503 if bad else 200
        values = {name: found.get("value") or f"error: {found['detail']}" for name, found in results.items()}
        return {"status": "degraded" if bad else "ok", "service": NAME, "checks": values}

    @router.get("/openapi.yaml", include_in_schema=False)
    def openapi(request: Request) -> Response:
        text = yaml.safe_dump(request.app.openapi(), sort_keys=False, allow_unicode=True)
        return Response(text, media_type="text/yaml")

    return router


def _checks(service: VmManager) -> dict[str, Callable[[], Facts]]:
    settings, hypervisor = service.settings, service.shared.hypervisor

    def value(text: str, healthy: bool = True) -> Facts:
        return {"value": text, "status": Status.HEALTHY if healthy else Status.UNHEALTHY}

    def found(*programs: str) -> Facts:
        there = any(shutil.which(program) for program in programs)
        return value("available" if there else "not found", there)

    def database() -> Facts:
        service.database.ping()
        return value("ok")

    def storage() -> Facts:
        for folder in (settings.storage_path, settings.disks_dir, settings.vms_dir):
            if not os.access(folder, os.W_OK | os.X_OK):
                raise AdapterError(f"{folder} is not a folder that can be written")
        return value("ok")

    def libvirt() -> Facts:
        if settings.dry_run:
            return value(SKIPPED)
        hypervisor.ping()
        return value("ok")

    def accel() -> Facts:
        return value(f"{hypervisor.domain_type} ({hypervisor.domain_type_reason})")

    def network() -> Facts:
        if settings.dry_run:
            return value(SKIPPED)
        if not settings.leased:
            return value(f"not configured (mode {settings.network_mode})")
        service.network.ensure()
        return value("ok")

    def metadata() -> Facts:
        if settings.dry_run:
            return value(SKIPPED)
        return value(service.metadata_server.status if settings.metadata_enabled else "disabled")

    def observer() -> Facts:
        return value(service.observer.status.replace("_", " "))

    return {
        "database": database,
        "storage": storage,
        "qemu": lambda: found(*QEMU),
        "qemu-img": lambda: found("qemu-img"),
        "observer": observer,
        "libvirt": libvirt,
        "accel": accel,
        "network": network,
        "metadata": metadata,
    }
