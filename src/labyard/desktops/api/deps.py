"""Parameters of route functions: the service, and the caller with a role that may.

A route lists them in the contract's order, and FastAPI resolves them in it: the caller (403), the thing that the path
names (404), then the body (400).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool

from labyard.desktops import audit, roles
from labyard.desktops.errors import Refusal
from labyard.desktops.roles import Principal, Roles
from labyard.desktops.service import Desktops


async def _service(request: Request) -> Desktops:
    found: Desktops = request.app.state.desktops
    return found


Service = Annotated[Desktops, Depends(_service)]


def needs(allowed: Roles) -> Callable[..., Awaitable[Principal]]:
    """The caller, when one of its roles is allowed; else 403, on record."""

    async def check(request: Request, service: Service) -> Principal:
        who: Principal = request.state.principal
        if not who.may(allowed):
            await run_in_threadpool(
                audit.note, service.database, "authorisation", f"{request.method} {request.url.path}"[:200],
                result="forbidden",
            )  # fmt: skip
            names = ", ".join(sorted(allowed))
            raise Refusal("AUTH_FORBIDDEN", f"This needs one of the roles {names}")
        return who

    return check


async def _anyone(request: Request) -> Principal:
    found: Principal = request.state.principal
    return found


Anyone = Annotated[Principal, Depends(_anyone)]
Admin = Annotated[Principal, Depends(needs(roles.ADMIN))]
Auditor = Annotated[Principal, Depends(needs(roles.AUDIT))]
SessionReader = Annotated[Principal, Depends(needs(roles.SESSION_READ))]
SessionOperator = Annotated[Principal, Depends(needs(roles.SESSION_OPERATE))]
SessionManager = Annotated[Principal, Depends(needs(roles.SESSION_MANAGE))]
RdpReader = Annotated[Principal, Depends(needs(roles.RDP_READ))]
RdpUser = Annotated[Principal, Depends(needs(roles.RDP_USE))]
RdpOperator = Annotated[Principal, Depends(needs(roles.RDP_OPERATE))]
NodeReader = Annotated[Principal, Depends(needs(roles.NODE_READ))]
NodeOperator = Annotated[Principal, Depends(needs(roles.NODE_OPERATE))]
NodeReporter = Annotated[Principal, Depends(needs(roles.NODE_REPORT))]
PayoutReader = Annotated[Principal, Depends(needs(roles.PAYOUT_READ))]
PayoutOfficer = Annotated[Principal, Depends(needs(roles.WITHDRAW))]
WithdrawalReader = Annotated[Principal, Depends(needs(roles.WITHDRAWAL_READ))]
