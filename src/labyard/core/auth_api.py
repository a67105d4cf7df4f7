"""Routes of /auth (contract section 5.1)."""

from __future__ import annotations

from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Response

from labyard.core.access import Admin, TheAuth, Viewer
from labyard.core.auth import Auth, TokenPair
from labyard.core.auth_schemas import (
    ChangePasswordIn,
    LoginIn,
    MeIn,
    MessageOut,
    RefreshIn,
    TokensOut,
    UserChangeIn,
    UserDetailOut,
    UserIn,
    UserOut,
)
from labyard.core.models import User
from labyard.core.paging import Paging

router = APIRouter(prefix="/auth", tags=["auth"])


def _detail(auth: Auth, user: User) -> UserDetailOut:
    answer = UserDetailOut.model_validate(UserOut.model_validate(user).model_dump())
    answer.failed_login_attempts, answer.locked_until = auth.failures(user.username)
    return answer


# Async for the gate: hashing for many logins must not take the threads of the other requests.
@router.post("/login", response_model=TokensOut)
async def login(body: LoginIn, auth: TheAuth) -> TokenPair:
    """Tokens for a user name and a password. Five wrong ones in a row lock the name for this client for 30 minutes."""
    return await to_thread.run_sync(auth.login, body.username, body.password, limiter=auth.login_gate)


@router.post("/refresh", response_model=TokensOut)
def refresh(body: RefreshIn, auth: TheAuth) -> TokenPair:
    """A new access token. The refresh token stays the same and keeps its end."""
    return auth.refresh(body.refresh_token)


@router.post("/logout", response_model=MessageOut)
def logout(auth: TheAuth, who: Viewer) -> dict[str, str]:
    """Revokes the access tokens and the refresh token of this session, at once."""
    auth.logout(who)
    return {"message": "Logged out"}


@router.get("/me", response_model=UserOut)
def me(auth: TheAuth, who: Viewer) -> User:
    return auth.users.get(who.id)


@router.put("/me", response_model=UserOut)
def change_me(body: MeIn, auth: TheAuth, who: Viewer) -> User:
    return auth.users.update(who.id, body.model_dump(exclude_unset=True))


@router.post("/change-password", response_model=MessageOut)
async def change_password(body: ChangePasswordIn, auth: TheAuth, who: Viewer) -> dict[str, str]:
    """Ends the user's other sessions; this one stays."""
    await to_thread.run_sync(
        auth.change_password, who, body.current_password, body.new_password, limiter=auth.login_gate
    )
    return {"message": "Password changed"}


@router.get("/users", response_model=list[UserOut])
def users(auth: TheAuth, who: Admin, page: Paging, response: Response) -> list[User]:
    """Newest first; the header X-Total-Count holds the number of all."""
    rows, total = auth.users.page(page)
    response.headers["X-Total-Count"] = str(total)
    return rows


@router.post("/users", response_model=UserOut, status_code=201)
def create_user(body: UserIn, auth: TheAuth, who: Admin) -> User:
    return auth.users.create(body.username, body.password, body.email, body.role, body.is_active)


@router.get("/users/{id}", response_model=UserDetailOut)
def user(id: int, auth: TheAuth, who: Admin) -> UserDetailOut:
    return _detail(auth, auth.users.get(id))


@router.put("/users/{id}", response_model=UserDetailOut)
def change_user(id: int, body: UserChangeIn, auth: TheAuth, who: Admin) -> UserDetailOut:
    """is_active = false ends the user's sessions at once."""
    return _detail(auth, auth.users.update(id, body.changes()))


@router.delete("/users/{id}", response_model=MessageOut)
def delete_user(id: int, auth: TheAuth, who: Admin) -> dict[str, Any]:
    auth.users.delete(id, who.id)
    return {"message": "User deleted"}
