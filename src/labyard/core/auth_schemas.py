"""Requests and answers of /auth (contract section 5.1)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from labyard.core.fields import Email, Fold, NewPassword
from labyard.core.models import Role, UserStatus


class LoginIn(BaseModel):
    username: str
    password: str


class RefreshIn(BaseModel):
    refresh_token: str


class TokensOut(BaseModel):
    """`expires_in` is seconds, of the access token."""

    model_config = ConfigDict(from_attributes=True)

    access_token: str
    refresh_token: str
    token_type: Literal["bearer"] = "bearer"
    expires_in: int


class ChangePasswordIn(BaseModel):
    current_password: str
    new_password: NewPassword


class MeIn(BaseModel):
    """A field that is left out stays; null clears the email."""

    email: Email = None


class UserIn(BaseModel):
    username: str = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]*$")
    email: Email = None
    password: NewPassword
    role: Annotated[Role, Fold] = Role.VIEWER
    is_active: bool = True


class UserChangeIn(BaseModel):
    """Fields that are left out stay; null clears the email."""

    email: Email = None
    role: Annotated[Role | None, Fold] = None
    is_active: bool | None = None

    @model_validator(mode="after")
    def _only_the_email_can_be_cleared(self) -> Self:
        for name in ("role", "is_active"):
            if name in self.model_fields_set and getattr(self, name) is None:
                raise ValueError(f"{name} cannot be null; leave it out to keep it")
        return self

    def changes(self) -> dict[str, Any]:
        return self.model_dump(exclude_unset=True)


class UserOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    username: str
    email: str | None
    role: Role
    status: UserStatus
    is_active: bool
    created_at: datetime
    last_login: datetime | None


class UserDetailOut(UserOut):
    """Counts wrong passwords in a row over all client addresses; `locked_until` is the end of the longest lock."""

    failed_login_attempts: int = 0
    locked_until: datetime | None = None


class MessageOut(BaseModel):
    message: str
