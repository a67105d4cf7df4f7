"""Logging in and out, tokens, and the lock after wrong passwords (contract sections 4 and 5.1).

A token is a JWT (RFC 7519) that counts as long as its `jti` has a row in the database: so logout works at once, in all
processes, and tokens survive a restart. The `jti` of one session's tokens begin alike: `<session>.<random>`.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import anyio
import jwt
from sqlalchemy import bindparam, delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from labyard.core import audit
from labyard.core.clock import now
from labyard.core.context import caller, set_username
from labyard.core.database import Database
from labyard.core.errors import invalid, unauthenticated
from labyard.core.models import LoginFailure, Role, Severity, Token, User, UserStatus
from labyard.core.passwords import hash_password, password_matches
from labyard.core.settings import ServiceSettings
from labyard.core.users import Users

MAX_FAILURES = 5
LOCK = timedelta(minutes=30)
# Rows of wrong logins that are kept. Beyond it those that lock nobody go, then the oldest locks.
MAX_FAILURE_ROWS = 5000
TIDY_EVERY = timedelta(minutes=10)
ALGORITHM = "HS256"
ACCESS, REFRESH = "access", "refresh"

_LIVE = (
    select(User.id, User.username, User.role)
    .join(Token, Token.user_id == User.id)
    .where(
        Token.jti == bindparam("jti"),
        Token.type == bindparam("type"),
        User.is_active.is_(True),
        User.status == UserStatus.ACTIVE,
    )
)


@dataclass(frozen=True)
class Principal:
    """The logged-in user of a request. `jti` is that of the access token."""

    id: int
    username: str
    role: Role
    jti: str


@dataclass(frozen=True)
class TokenPair:
    """`expires_in` is seconds, of the access token."""

    access_token: str
    refresh_token: str
    expires_in: int


class Auth:
    """`issuer` is the `iss` of the tokens. `clock` gives the time, aware and in UTC."""

    def __init__(
        self, database: Database, settings: ServiceSettings, issuer: str, clock: Callable[[], datetime] = now
    ) -> None:
        self.users = Users(database, clock)
        # Logins wait for each other here and not in the threads that the other requests need.
        self.login_gate = anyio.CapacityLimiter(2)
        self._database = database
        self._issuer = issuer
        self._clock = clock
        # Prepared once: preparing costs more than checking a token does.
        secret = base64.urlsafe_b64encode(settings.secret_key.get_secret_value().encode()).rstrip(b"=").decode()
        self._key = jwt.PyJWK({"kty": "oct", "k": secret}, ALGORITHM)
        self._admin_password = settings.admin_password.get_secret_value()
        self._access = timedelta(minutes=settings.access_token_minutes)
        self._refresh = timedelta(days=settings.refresh_token_days)
        self._tidied: datetime | None = None

    def ensure_admin(self) -> None:
        """First start: the user `admin` with the password from the settings. Later, only a password that was changed in
        the settings since is taken over: what the administrator has changed over the API stays."""
        with self._database.read() as session:
            admin = session.scalar(select(User).where(User.configured_hash.is_not(None)))
            anybody = session.scalar(select(func.count()).select_from(User))
        if (anybody and not admin) or (admin and password_matches(admin.configured_hash, self._admin_password)):
            return
        hashed = hash_password(self._admin_password)
        try:
            with self._database.write() as session:
                if admin:
                    user = session.get_one(User, admin.id)
                    user.password_hash = user.configured_hash = hashed
                    session.execute(delete(Token).where(Token.user_id == user.id))
                    action, message = "password_changed", "Took the administrator's password from the settings"
                else:
                    if session.scalar(select(func.count()).select_from(User)):
                        return
                    user = User(username="admin", password_hash=hashed, role=Role.ADMIN, created_at=self._clock())
                    user.configured_hash = hashed
                    session.add(user)
                    action, message = "user_created", "Made the first administrator"
                session.flush()
                audit.record(session, action, message, resource=("user", user.id))
        except IntegrityError:  # another process was quicker
            return

    # Logging in and out

    def login(self, username: str, password: str) -> TokenPair:
        """401 for an unknown name, a wrong password, a locked or inactive user: one answer, in the same time."""
        name, client = username.replace("\0", "")[:100], caller().address[:64]
        with self._database.read() as session:
            user = session.scalar(select(User).where(User.username == username)) if name == username else None
            stored = user.password_hash if user else None
        right = password_matches(stored, password)
        with self._database.write() as session:
            # Read again: five other wrong passwords, or an administrator, may have come first.
            user = session.get(User, user.id) if user else None
            unchanged = user is not None and user.password_hash == stored
            reason = self._refusal(session, user, name, client, right and unchanged)
            pair = None
            if user and not reason:
                sid = secrets.token_hex(12)
                user.last_login = self._clock()
                pair = TokenPair(
                    self._issue(session, user, sid, ACCESS, self._access),
                    self._issue(session, user, sid, REFRESH, self._refresh),
                    int(self._access.total_seconds()),
                )
                audit.record(session, "login", "Logged in", resource=("user", user.id), username=name, status_code=200)
                self._tidy(session)
            else:
                who = ("user", user.id) if user else None
                audit.record(
                    session,
                    "login_failed",
                    reason,
                    severity=Severity.WARNING,
                    resource=who,
                    username=name or None,
                    status_code=401,
                )
        if pair is None:
            raise unauthenticated()
        return pair

    def refresh(self, refresh_token: str) -> TokenPair:
        """A new access token. The refresh token and its end stay as they are (contract 11.14). 401 when not valid."""
        principal = self._live(refresh_token, REFRESH)
        with self._database.write() as session:
            user = session.get(User, principal.id)
            # A logout may have come between the two.
            if user is None or session.get(Token, principal.jti) is None:
                raise unauthenticated()
            access = self._issue(session, user, _session_of(principal.jti), ACCESS, self._access)
            self._tidy(session)
        return TokenPair(access, refresh_token, int(self._access.total_seconds()))

    def verify(self, access_token: str) -> Principal:
        """Who an access token speaks for. 401 when it is not ours, expired, revoked, or its user is not active."""
        return self._live(access_token, ACCESS)

    def logout(self, principal: Principal) -> None:
        """Revoke all tokens of this session at once: the access tokens and the refresh token."""
        with self._database.write() as session:
            session.execute(
                delete(Token).where(
                    Token.user_id == principal.id, Token.jti.startswith(f"{_session_of(principal.jti)}.")
                )
            )
            audit.record(session, "logout", "Logged out", resource=("user", principal.id))

    def change_password(self, principal: Principal, current: str, new: str) -> None:
        """Other sessions of the user end, this one stays. 422 when `current` is wrong; it counts as a wrong login."""
        with self._database.read() as session:
            user = session.get(User, principal.id)
            stored = user.password_hash if user else None
        right = password_matches(stored, current)
        hashed = hash_password(new) if right else ""
        client = caller().address[:64]
        with self._database.write() as session:
            user = session.get(User, principal.id)
            if user is None:
                raise unauthenticated()
            reason = self._refusal(session, user, user.username, client, right)
            resource = ("user", user.id)
            if reason:
                audit.record(
                    session, "login_failed", f"Password not changed: {reason}", severity=Severity.WARNING,
                    resource=resource, status_code=422,
                )  # fmt: skip
            else:
                user.password_hash = hashed
                mine = Token.jti.startswith(f"{_session_of(principal.jti)}.")
                session.execute(delete(Token).where(Token.user_id == user.id, ~mine))
                audit.record(session, "password_changed", "Changed the password", resource=resource)
        if reason:
            raise invalid("current_password", "is not the current password, or was given wrongly too often; try later")

    def denied(self, principal: Principal, needed: Role, what: str) -> None:
        """Put on record that a user was refused for want of a role."""
        set_username(principal.username)
        with self._database.write() as session:
            audit.record(
                session, "permission_denied", f"{what} needs the role {needed}; the user is {principal.role}",
                severity=Severity.WARNING, resource=("user", principal.id), status_code=403,
            )  # fmt: skip

    def failures(self, username: str) -> tuple[int, datetime | None]:
        """Wrong passwords in a row over all client addresses, and the end of the longest lock in force, if any."""
        with self._database.read() as session:
            rows = session.scalars(select(LoginFailure).where(LoginFailure.username == username)).all()
        live = [row for row in rows if row.locked_until is None or row.locked_until > self._clock()]
        return sum(row.count for row in live), max((row.locked_until for row in live if row.locked_until), default=None)

    # Inside

    def _live(self, token: str, kind: str) -> Principal:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key,
                algorithms=[ALGORITHM],
                issuer=self._issuer,
                # The time is checked below, against our own clock.
                options={
                    "require": ["sub", "exp", "iat", "iss", "jti", "type"],
                    "verify_exp": False,
                    "verify_iat": False,
                },
            )
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise unauthenticated() from None
        if claims["type"] != kind or not isinstance(claims["exp"], int) or claims["exp"] <= self._clock().timestamp():
            raise unauthenticated()
        with self._database.engine.connect() as connection:
            row = connection.execute(_LIVE, {"jti": claims["jti"], "type": kind}).one_or_none()
        if row is None:
            raise unauthenticated()
        return Principal(row.id, row.username, Role(row.role), claims["jti"])

    def _issue(self, session: Session, user: User, sid: str, kind: str, lifetime: timedelta) -> str:
        moment = self._clock()
        jti = f"{sid}.{secrets.token_hex(12)}"
        session.add(Token(jti=jti, user_id=user.id, type=kind, expires_at=moment + lifetime))
        claims = {
            "sub": str(user.id),
            "username": user.username,
            "iat": int(moment.timestamp()),
            "exp": int((moment + lifetime).timestamp()),
            "iss": self._issuer,
            "jti": jti,
            "type": kind,
        }
        return jwt.encode(claims, self._key, ALGORITHM)

    def _refusal(self, session: Session, user: User | None, name: str, client: str, right: bool) -> str:
        """Why a password is not taken, or nothing; keeps count. A lock holds against the right password, too."""
        moment = self._clock()
        key = (name, client)
        row = session.get(LoginFailure, key, with_for_update=True)
        if row and row.locked_until:
            if row.locked_until > moment:
                return "Locked after too many wrong passwords"
            row.count, row.locked_until = 0, None
        if right and user:
            if not user.is_active or user.status != UserStatus.ACTIVE:
                return "The user is not active"
            if row:
                session.delete(row)
            return ""
        if row is None:
            self._make_room(session, moment)
            row = LoginFailure(username=name, client=client, count=0)
            try:
                with session.begin_nested():
                    session.add(row)
            except IntegrityError:  # another process was quicker (PostgreSQL; SQLite has one writer)
                row = session.get_one(LoginFailure, key, with_for_update=True)
        row.count += 1
        if row.count < MAX_FAILURES:
            return "Wrong user name or password"
        row.locked_until = moment + LOCK
        return f"Wrong user name or password; locked for {LOCK.total_seconds() / 60:g} minutes"

    def _make_room(self, session: Session, moment: datetime) -> None:
        def full() -> bool:
            return (session.scalar(select(func.count()).select_from(LoginFailure)) or 0) >= MAX_FAILURE_ROWS

        if full():
            locked = LoginFailure.locked_until
            session.execute(delete(LoginFailure).where(locked.is_(None) | (locked <= moment)))
            if full():
                first = session.scalar(select(func.min(locked)))
                session.execute(delete(LoginFailure).where(locked <= first))

    def _tidy(self, session: Session) -> None:
        """Remove tokens that have expired and locks that have ended, now and then."""
        moment = self._clock()
        if self._tidied and moment - self._tidied < TIDY_EVERY:
            return
        self._tidied = moment
        session.execute(delete(Token).where(Token.expires_at <= moment))
        session.execute(delete(LoginFailure).where(LoginFailure.locked_until <= moment))


def _session_of(jti: str) -> str:
    return jti.partition(".")[0]
