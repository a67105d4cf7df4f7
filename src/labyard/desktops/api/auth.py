"""Routes of /auth and /users."""

from __future__ import annotations

from anyio import to_thread
from fastapi import Response

from labyard.desktops.api.deps import Admin, Anyone, Service
from labyard.desktops.api.routes import guarded, open_to_all
from labyard.desktops.models import User
from labyard.desktops.roles import Role
from labyard.desktops.schemas.access import (
    LoginIn,
    RefreshIn,
    RevokeIn,
    TokensOut,
    UserChangeIn,
    UserIn,
    UserOut,
    UsersOut,
)
from labyard.desktops.service.auth import TokenPair

public = open_to_all("/auth", "auth")
private = guarded("/auth", "auth")
users = guarded("/users", "users")


# Async for the gate: hashing for many logins must not take the threads of the other requests.
@public.post("/token", response_model=TokensOut)
async def token(body: LoginIn, service: Service, response: Response) -> TokenPair:
    """Tokens for a user name and a password."""
    response.headers["Cache-Control"] = "no-store"
    return await to_thread.run_sync(service.auth.login, body.username, body.password, limiter=service.auth.login_gate)


@public.post("/refresh", response_model=TokensOut)
def refresh(body: RefreshIn, service: Service, response: Response) -> TokenPair:
    """A new pair of tokens. The old refresh token counts no more: who uses it again ends the login."""
    response.headers["Cache-Control"] = "no-store"
    return service.auth.refresh(body.refresh_token)


@private.post("/revoke", status_code=204)
def revoke(service: Service, who: Anyone, body: RevokeIn | None = None) -> None:
    """Revokes `token`, or without a body the one that asks, with all tokens of the same login, at once."""
    service.auth.revoke(who, body.token if body else None)


@users.get("", response_model=UsersOut)
def list_users(service: Service, who: Admin) -> dict[str, list[User]]:
    return {"users": service.users.everybody()}


@users.post("", response_model=UserOut, status_code=201)
def create_user(service: Service, who: Admin, body: UserIn) -> User:
    return service.users.create(body.username, body.password, [Role(role) for role in body.roles])


@users.put("/{username}", response_model=UserOut)
def change_user(username: str, service: Service, who: Admin, body: UserChangeIn) -> User:
    """What is absent stays. Ends the user's logins."""
    roles = None if body.roles is None else [Role(role) for role in body.roles]
    return service.users.update(username, body.password, roles, body.is_active)


@users.delete("/{username}", status_code=204)
def delete_user(username: str, service: Service, who: Admin) -> None:
    service.users.delete(username)
