"""The service behind a route: `Service` is a parameter of a route function."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from labyard.vms.service.manager import VmManager


async def _service(request: Request) -> VmManager:
    found: VmManager = request.app.state.vms
    return found


Service = Annotated[VmManager, Depends(_service)]
