"""User accounts (contract section 5.1). Deactivating or deleting a user revokes the user's tokens at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from labyard.core import audit
from labyard.core.database import Database
from labyard.core.errors import conflict, invalid, not_found
from labyard.core.models import LoginFailure, Role, Token, User, UserStatus
from labyard.core.paging import Page, fetch
from labyard.core.passwords import hash_password


class Users:
    """Every method that takes an id raises 404 when there is no such user."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    def get(self, user_id: int) -> User:
        with self._database.read() as session:
            return _get(session, user_id)

    def page(self, page: Page) -> tuple[list[User], int]:
        """One page of users, newest first, and the number of all."""
        with self._database.read() as session:
            return fetch(session, select(User).order_by(User.created_at.desc(), User.id.desc()), page)

    def create(self, username: str, password: str, email: str | None, role: Role, is_active: bool) -> User:
        """422 when the name or the email is taken."""
        hashed = hash_password(password)
        with self._writing() as session:
            if session.scalar(select(User.id).where(User.username == username)):
                raise invalid("username", f"there is a user {username} already; choose another name", username)
            _check_email(session, email, None)
            user = User(
                username=username, email=email, password_hash=hashed, role=role, is_active=is_active,
                status=_status(is_active), created_at=self._clock(),
            )  # fmt: skip
            session.add(user)
            session.flush()
            audit.record(
                session, "user_created", f"Made the user {username}", resource=("user", user.id), new=_facts(user)
            )
        return user

    def update(self, user_id: int, changes: dict[str, Any]) -> User:
        """`changes` may hold email (None clears it), role, is_active. 422 when no active admin would be left."""
        with self._writing() as session:
            user = _get(session, user_id)
            before = _facts(user)
            if "email" in changes:
                _check_email(session, changes["email"], user_id)
                user.email = changes["email"]
            if "role" in changes:
                user.role = changes["role"]
            if "is_active" in changes:
                user.is_active, user.status = changes["is_active"], _status(changes["is_active"])
            if not user.is_active:
                session.execute(delete(Token).where(Token.user_id == user_id))
            session.flush()
            if before["role"] == Role.ADMIN and not _has_admin(session):
                field = "role" if "role" in changes else "is_active"
                raise invalid(field, "this is the last active administrator; make another one first", changes[field])
            after = _facts(user)
            old = {key: value for key, value in before.items() if after[key] != value}
            if old:
                new = {key: after[key] for key in old}
                audit.record(
                    session, "user_updated", f"Changed the user {user.username}",
                    resource=("user", user_id), old=old, new=new,
                )  # fmt: skip
        return user

    def delete(self, user_id: int, by: int) -> None:
        """422 when the user `by` deletes oneself. 409 when other records need the user."""
        with self._writing("the user has made things that are still there; set is_active to false instead") as session:
            user = _get(session, user_id)
            if user_id == by:
                raise invalid("id", "you cannot delete yourself; another administrator can", user_id)
            session.execute(delete(Token).where(Token.user_id == user_id))
            session.execute(delete(LoginFailure).where(LoginFailure.username == user.username))
            session.delete(user)
            audit.record(
                session, "user_deleted", f"Deleted the user {user.username}",
                resource=("user", user_id), old=_facts(user),
            )  # fmt: skip

    @contextmanager
    def _writing(self, needed: str = "") -> Iterator[Session]:
        # Between check and commit another process may have taken the name (PostgreSQL only; SQLite has one writer).
        try:
            with self._database.write() as session:
                yield session
        except IntegrityError:
            if needed:
                raise conflict(needed) from None
            raise invalid("username", "the user name or the email is taken; choose another") from None


def _get(session: Session, user_id: int) -> User:
    user = session.get(User, user_id) if 0 < user_id < 2**31 else None
    if user is None:
        raise not_found(f"User with ID {user_id} not found")
    return user


def _check_email(session: Session, email: str | None, own: int | None) -> None:
    if email and session.scalar(select(User.id).where(User.email == email, User.id != (own or 0))):
        raise invalid("email", "another user has this email", email)


def _has_admin(session: Session) -> bool:
    admins = select(func.count()).where(
        User.role == Role.ADMIN, User.is_active.is_(True), User.status == UserStatus.ACTIVE
    )
    return bool(session.scalar(admins))


def _status(is_active: bool) -> UserStatus:
    return UserStatus.ACTIVE if is_active else UserStatus.INACTIVE


def _facts(user: User) -> dict[str, Any]:
    return {"username": user.username, "email": user.email, "role": str(user.role), "is_active": user.is_active}
