"""Logging in, refreshing, revoking (contract 4.1). A revoked token never passes, with Redis or without."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import anyio
from sqlalchemy import delete, exists, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from labyard.core.clock import now
from labyard.core.context import set_username
from labyard.core.database import Database
from labyard.core.passwords import password_matches
from labyard.desktops import audit
from labyard.desktops.adapters.live import Live
from labyard.desktops.errors import Refusal
from labyard.desktops.models import RefreshFamily, TokenRevocation, User
from labyard.desktops.roles import ADMIN, Principal, Role
from labyard.desktops.service.tokens import ACCESS, REFRESH, Claims, Tokens
from labyard.desktops.settings import Settings

MAX_AUTOMATION = timedelta(hours=24)


@dataclass(frozen=True)
class TokenPair:
    """`expires_in` is seconds, of the access token."""

    access_token: str
    refresh_token: str
    expires_in: int
    token_type: str = "Bearer"


class Auth:
    def __init__(self, settings: Settings, database: Database, live: Live, clock: Callable[[], datetime] = now) -> None:
        self.tokens = Tokens(settings, clock)
        # Logins wait for each other here and not in the threads that the other requests need.
        self.login_gate = anyio.CapacityLimiter(2)
        self._database = database
        self._live = live
        self._clock = clock
        self._access = timedelta(minutes=settings.access_token_minutes)
        self._refresh = timedelta(days=settings.refresh_token_days)
        self._families = settings.refresh_families

    def login(self, username: str, password: str) -> TokenPair:
        """401 for an unknown name, a wrong password or an inactive user: one answer, in the same time."""
        with self._database.read() as session:
            user = session.get(User, username)
            stored = user.password_hash if user else None
        right = password_matches(stored, password)
        set_username(username)
        with self._database.transaction() as session:
            user = session.get(User, username, with_for_update=True) if right else None
            if user and user.is_active and user.password_hash == stored:
                moment = self._clock()
                user.last_login = moment
                family = RefreshFamily(
                    family_id=secrets.token_hex(12), username=username, current_jti="",
                    created_at=moment, expires_at=moment + self._refresh,
                )  # fmt: skip
                pair = self._pair(user, family)
                session.add(family)
                session.flush()
                revoked = self._drop_oldest(session, username)
                audit.record(session, "login", "login", resource=("user", username))
            else:
                audit.record(session, "login", "login", resource=("user", username), result="refused")
                pair, revoked = None, []
        self.publish(revoked)
        if pair is None:
            raise Refusal("AUTH_INVALID", "Wrong user name or password, or the user is not active")
        return pair

    def refresh(self, refresh_token: str) -> TokenPair:
        """A new pair. The refresh token counts once: used again, its whole family is revoked."""
        claims = self.tokens.read(refresh_token, REFRESH)
        set_username(claims.subject)
        pair, published = None, []
        with self._database.transaction() as session:
            family = session.get(RefreshFamily, claims.family, with_for_update=True)
            user = session.get(User, claims.subject)
            usable = family is not None and family.revoked_at is None and user is not None and user.is_active
            if family and user and usable and family.current_jti == claims.jti:
                pair = self._pair(user, family, until=family.expires_at)
                audit.record(session, "login", "refresh", resource=("user", claims.subject))
            else:
                if family and usable:
                    published = self._end(session, [family], "a refresh token was used again")
                audit.record(session, "login", "refresh", resource=("user", claims.subject), result="refused")
        self.publish(published)
        if pair is None:
            raise Refusal("AUTH_REVOKED", "The refresh token was used before, or revoked; log in again")
        return pair

    def revoke(self, who: Principal, token: str | None) -> None:
        """Revoke `token`, or without one the caller's own. Of a login, all its tokens. 403 for another's token."""
        if token is None:
            claims = Claims(who.subject, who.roles, ACCESS, who.jti, self._clock() + MAX_AUTOMATION)
        else:
            try:
                claims = self.tokens.read(token, None, even_expired=True)
            except Refusal:
                raise Refusal(
                    "VALIDATION_FAILED",
                    "token: is no token of this service",
                    [("token", "is no token of this service")],
                ) from None
        if claims.subject != who.subject and not who.may(ADMIN):
            raise Refusal("AUTH_FORBIDDEN", "The token is another user's")
        with self._database.transaction() as session:
            family = session.get(RefreshFamily, claims.family, with_for_update=True)
            published = self._end(session, [family] if family else [], "revoked by its owner")
            if not family:
                published += self._revoke(
                    session, claims.jti, claims.subject, claims.expires_at, "revoked by its owner"
                )
            audit.record(session, "token", "revoke", resource=("user", claims.subject))
        self.publish(published)

    def end_all(self, session: Session, username: str, reason: str) -> list[tuple[str, datetime]]:
        """Revoke every login of a user, in the caller's transaction; hand the answer to `publish` after it."""
        families = session.scalars(
            select(RefreshFamily).where(RefreshFamily.username == username, RefreshFamily.revoked_at.is_(None))
        ).all()
        return self._end(session, list(families), reason)

    def publish(self, revoked: list[tuple[str, datetime]]) -> None:
        """After the commit. Where Redis cannot take it, it must not be asked until it has all of them again."""
        for jti, until in revoked:
            if not self._live.revoke(jti, (until - self._clock()).total_seconds()):
                self._live.forget_loaded()

    def issue(self, subject: str, roles: list[Role], lifetime: timedelta) -> str:
        """An access token for automation, audited. ValueError beyond 24 h."""
        if not timedelta(0) < lifetime <= MAX_AUTOMATION:
            raise ValueError("a token lives at most 24 h")
        token, jti = self.tokens.issue(
            subject, [str(role) for role in roles], ACCESS, lifetime, f"cli{secrets.token_hex(10)}"
        )
        with self._database.transaction() as session:
            details = {
                "for": subject,
                "roles": [str(role) for role in roles],
                "jti": jti,
                "seconds": lifetime.total_seconds(),
            }
            audit.record(session, "token", "issue", resource=("user", subject), details=details)
        return token

    def is_revoked(self, claims: Claims) -> bool:
        """Asked of PostgreSQL: where Redis cannot say. Redis is given all of them again on the way."""
        with self._database.read() as session:
            found = session.scalar(select(exists().where(TokenRevocation.jti.in_([claims.jti, claims.family]))))
        self.load()
        return bool(found)

    def load(self) -> None:
        """Give Redis all revocations that still matter."""
        moment, missed = self._clock(), self._live.missed
        with self._database.read() as session:
            rows = session.execute(
                select(TokenRevocation.jti, TokenRevocation.expires_at).where(TokenRevocation.expires_at > moment)
            ).all()
        self._live.load_revocations({row.jti: (row.expires_at - moment).total_seconds() for row in rows}, missed)

    def tidy(self) -> None:
        """Remove what has expired."""
        with self._database.transaction() as session:
            session.execute(delete(TokenRevocation).where(TokenRevocation.expires_at <= self._clock()))
            session.execute(delete(RefreshFamily).where(RefreshFamily.expires_at <= self._clock()))

    # Inside

    def _pair(self, user: User, family: RefreshFamily, until: datetime | None = None) -> TokenPair:
        left = until - self._clock() if until else self._refresh
        access, _ = self.tokens.issue(user.username, user.roles, ACCESS, self._access, family.family_id)
        refresh, family.current_jti = self.tokens.issue(user.username, user.roles, REFRESH, left, family.family_id)
        return TokenPair(access, refresh, int(self._access.total_seconds()))

    def _drop_oldest(self, session: Session, username: str) -> list[tuple[str, datetime]]:
        families = session.scalars(
            select(RefreshFamily)
            .where(RefreshFamily.username == username, RefreshFamily.revoked_at.is_(None))
            .order_by(RefreshFamily.created_at.desc(), RefreshFamily.family_id)
        ).all()
        return self._end(session, list(families[self._families :]), "too many logins")

    def _end(self, session: Session, families: list[RefreshFamily], reason: str) -> list[tuple[str, datetime]]:
        moment, gone = self._clock(), []
        for family in families:
            family.revoked_at = moment
            # Its last access token may end after its refresh token does.
            gone += self._revoke(session, family.family_id, family.username, family.expires_at + self._access, reason)
        return gone

    def _revoke(
        self, session: Session, jti: str, subject: str, until: datetime, reason: str
    ) -> list[tuple[str, datetime]]:
        row = {"jti": jti, "subject": subject, "expires_at": until, "reason": reason, "revoked_at": self._clock()}
        session.execute(insert(TokenRevocation).values(row).on_conflict_do_nothing())
        return [(jti, until)]
