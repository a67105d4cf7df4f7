"""Users: who may log in, with which roles."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from labyard.core.database import Database
from labyard.core.passwords import hash_password
from labyard.desktops import audit
from labyard.desktops.errors import Refusal
from labyard.desktops.models import User
from labyard.desktops.roles import Role
from labyard.desktops.service.auth import Auth


class Users:
    def __init__(self, database: Database, auth: Auth) -> None:
        self._database = database
        self._auth = auth

    def everybody(self) -> list[User]:
        with self._database.read() as session:
            return list(session.scalars(select(User).order_by(User.username)))

    def create(self, username: str, password: str, roles: list[Role]) -> User:
        """409 when the name is taken."""
        user = User(username=username, password_hash=hash_password(password), roles=_sorted(roles))
        try:
            with self._database.transaction() as session:
                session.add(user)
                session.flush()
                audit.record(session, "user", "create", resource=("user", username), details={"roles": user.roles})
        except IntegrityError:
            raise Refusal("USER_EXISTS", f"There is a user {username} already") from None
        return user

    def update(self, username: str, password: str | None, roles: list[Role] | None, is_active: bool | None) -> User:
        """What is None stays. A new password, other roles and is_active = false end the user's logins at once."""
        hashed = hash_password(password) if password else None
        with self._database.transaction() as session:
            user = session.get(User, username, with_for_update=True)
            if user is None:
                raise _unknown(username)
            if hashed:
                user.password_hash = hashed
            if roles is not None:
                user.roles = _sorted(roles)
            if is_active is not None:
                user.is_active = is_active
            revoked = self._auth.end_all(session, username, "the user was changed")
            details = {"roles": user.roles, "is_active": user.is_active, "new_password_set": bool(hashed)}
            audit.record(session, "user", "update", resource=("user", username), details=details)
        self._auth.publish(revoked)
        return user

    def delete(self, username: str) -> None:
        with self._database.transaction() as session:
            user = session.get(User, username, with_for_update=True)
            if user is None:
                raise _unknown(username)
            revoked = self._auth.end_all(session, username, "the user was deleted")
            session.delete(user)
            audit.record(session, "user", "delete", resource=("user", username))
        self._auth.publish(revoked)


def _sorted(roles: list[Role]) -> list[str]:
    return sorted({str(role) for role in roles})


def _unknown(username: str) -> Refusal:
    return Refusal("NOT_FOUND", f"There is no user {username}")
