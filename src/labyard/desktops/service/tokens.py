"""Tokens: JWTs signed with Ed25519, the algorithm pinned (contract 4.1, D20)."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from labyard.core.clock import now
from labyard.desktops.errors import Refusal
from labyard.desktops.keyring import KeyFileError, read_private, write_private
from labyard.desktops.roles import GIVEN, Role
from labyard.desktops.settings import Settings

ALGORITHM = "EdDSA"
ACCESS, REFRESH = "access", "refresh"
CHECKED = 4096  # tokens
LEEWAY = 5  # seconds by which clocks of instances may differ


@dataclass(frozen=True)
class Claims:
    """What a good token says. `family` is the part of `jti` that all tokens of one login share."""

    subject: str
    roles: frozenset[Role]
    kind: str
    jti: str
    expires_at: datetime

    @property
    def family(self) -> str:
        return self.jti.partition(".")[0]


class TokenKeys:
    """The signing keys of `path`. The newest signs, all verify."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if read_private(path) is None:
            with suppress(FileExistsError):  # another process was quicker
                write_private(path, _fresh({}))
        self._load()

    def public(self, kid: str) -> Ed25519PublicKey | None:
        if kid not in self._public and self._path.stat().st_mtime_ns != self._read_at:
            self._load()  # another process has added one
        return self._public.get(kid)

    def rotate(self) -> str:
        """Add a key that signs from now on, in other processes from their next start on. Its id."""
        found = json.loads(read_private(self._path) or b"{}")
        write_private(self._path, _fresh(found["keys"]), replace=True)
        self._load()
        return self.current

    def _load(self) -> None:
        self._read_at = self._path.stat().st_mtime_ns
        try:
            found = json.loads(read_private(self._path) or b"")
            private = {
                kid: Ed25519PrivateKey.from_private_bytes(base64.b64decode(raw)) for kid, raw in found["keys"].items()
            }
            self.current: str = found["current"]
            self.signing = private[self.current]
        except (ValueError, KeyError, TypeError):
            raise KeyFileError(f"{self._path} is no file of token keys") from None
        self._public = {kid: key.public_key() for kid, key in private.items()}


def _fresh(keys: dict[str, str]) -> bytes:
    kid = f"jwt-{secrets.token_hex(6)}"
    raw = Ed25519PrivateKey.generate().private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    return json.dumps({"current": kid, "keys": {**keys, kid: base64.b64encode(raw).decode()}}).encode()


class Tokens:
    """Makes tokens and reads them. Whether one was revoked is for `Auth`."""

    def __init__(self, settings: Settings, clock: Callable[[], datetime] = now) -> None:
        self._keys = TokenKeys(settings.keys / "tokens.json")
        self._issuer, self._audience = settings.token_issuer, settings.token_audience
        self._clock = clock
        # A good signature stays good, and checking it is a large part of a small request. What it says of times and
        # kinds, and whether it was revoked, is looked at each time.
        self._signed = lru_cache(CHECKED)(self._check)

    def issue(self, subject: str, roles: list[str], kind: str, lifetime: timedelta, family: str) -> tuple[str, str]:
        """A token and its `jti`."""
        moment = self._clock()
        jti = f"{family}.{secrets.token_hex(12)}"
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": subject,
            "roles": roles,
            "type": kind,
            "iat": int(moment.timestamp()),
            "nbf": int(moment.timestamp()),
            "exp": int((moment + lifetime).timestamp()),
            "jti": jti,
        }
        return jwt.encode(claims, self._keys.signing, ALGORITHM, headers={"kid": self._keys.current}), jti

    def read(self, token: str, kind: str | None, *, even_expired: bool = False) -> Claims:
        """Refusal AUTH_INVALID or AUTH_EXPIRED. `kind` None: either."""
        claims = self._signed(token)
        moment = self._clock().timestamp()
        if claims["exp"] <= moment and not even_expired:
            raise Refusal("AUTH_EXPIRED", "The token has expired", headers=_challenge("The token has expired"))
        if claims["nbf"] > moment + LEEWAY:
            raise _bad("The token is not valid yet")
        if kind is not None and claims["type"] != kind:
            raise _bad(f"The token is no {kind} token")
        known = frozenset(Role(role) for role in claims["roles"] if role in GIVEN)
        return Claims(
            claims["sub"], known, claims["type"], claims["jti"], datetime.fromtimestamp(claims["exp"], now().tzinfo)
        )

    def _check(self, token: str) -> dict[str, Any]:
        """The claims of a token of ours, whatever its times. Refusal AUTH_INVALID."""
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") != ALGORITHM:
                raise _bad("The token is not signed with EdDSA")
            key = self._keys.public(str(header.get("kid")))
            if key is None:
                raise _bad("The token is signed with a key that is not this service's")
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                issuer=self._issuer,
                audience=self._audience,
                options={
                    "require": ["iss", "aud", "sub", "roles", "type", "iat", "nbf", "exp", "jti"],
                    # Times are checked below, against our own clock.
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except jwt.InvalidAudienceError:
            raise _bad("The token is for another audience") from None
        except (jwt.PyJWTError, ValueError, RecursionError, TypeError):
            raise _bad("The token is malformed or not this service's") from None
        if not _well_formed(claims):
            raise _bad("The token's claims are not of their kinds")
        return claims


def _well_formed(claims: dict[str, Any]) -> bool:
    return (
        all(isinstance(claims[name], int) for name in ("iat", "nbf", "exp"))
        and all(isinstance(claims[name], str) for name in ("sub", "type", "jti"))
        and isinstance(claims["roles"], list)
        and all(isinstance(role, str) for role in claims["roles"])
    )


def _challenge(why: str) -> dict[str, str]:
    return {"WWW-Authenticate": f'Bearer error="invalid_token", error_description="{why}"'}


def _bad(why: str) -> Refusal:
    return Refusal("AUTH_INVALID", why, headers=_challenge(why))
