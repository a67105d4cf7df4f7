"""The service behind a route: `Service` is a parameter of a route function."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from labyard.netboot.service import Netboot


async def _service(request: Request) -> Netboot:
    found: Netboot = request.app.state.netboot
    return found


Service = Annotated[Netboot, Depends(_service)]
