"""Who may call a route: `Viewer`, `Operator`, `Admin` as parameters of a route function (contract section 4, Roles)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from labyard.core.auth import Auth, Principal
from labyard.core.context import set_username
from labyard.core.errors import forbidden, unauthenticated
from labyard.core.models import Role

__all__ = ["Admin", "Operator", "Principal", "TheAuth", "Viewer"]

_bearer = HTTPBearer(
    auto_error=False, bearerFormat="JWT", description="The access_token that POST /auth/login answers."
)


async def _auth(request: Request) -> Auth:
    found: Auth = request.app.state.auth
    return found


TheAuth = Annotated[Auth, Depends(_auth)]


# Async, and only the query in a thread: what a dependency sets in the context must outlive the dependency.
async def _principal(
    auth: TheAuth, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Principal:
    if credentials is None or not credentials.credentials:
        raise unauthenticated("No authentication token provided")
    principal = await run_in_threadpool(auth.verify, credentials.credentials)
    set_username(principal.username)
    return principal


def _at_least(role: Role) -> Callable[..., Awaitable[Principal]]:
    async def check(request: Request, auth: TheAuth, principal: Annotated[Principal, Depends(_principal)]) -> Principal:
        if principal.role.rank < role.rank:
            await run_in_threadpool(auth.denied, principal, role, f"{request.method} {request.url.path}")
            raise forbidden(role)
        return principal

    return check


Viewer = Annotated[Principal, Depends(_at_least(Role.VIEWER))]
Operator = Annotated[Principal, Depends(_at_least(Role.OPERATOR))]
Admin = Annotated[Principal, Depends(_at_least(Role.ADMIN))]
