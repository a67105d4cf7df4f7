"""Password hashes and the password rule (contract section 2.3)."""

from __future__ import annotations

import os
import threading

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

# OWASP's smallest memory for Argon2id, and one pass more, which makes it about 30 ms on a small machine.
_hasher = PasswordHasher(time_cost=3, memory_cost=19 * 1024, parallelism=1)
# Each hash takes 19 MiB and a core: more of them at once than cores would only cost memory.
_slots = threading.BoundedSemaphore(os.cpu_count() or 1)

RULE = "must have at least 8 characters, and 3 of these: upper case, lower case, digit, special character"


def hash_password(password: str) -> str:
    with _slots:
        return _hasher.hash(password)


# What a login with an unknown user name is checked against, so that it takes as long as one with a known name.
_NOBODY = hash_password(os.urandom(16).hex())


def password_matches(stored: str | None, password: str) -> bool:
    """Whether `password` is the one that was hashed. `stored` is None for an unknown user: False, in the same time."""
    try:
        with _slots:
            return _hasher.verify(stored or _NOBODY, password) and stored is not None
    except (Argon2Error, InvalidHashError):
        return False


def follows_rule(password: str) -> bool:
    """At least 8 characters and 3 of: upper, lower, digit, special."""
    kinds = (
        any(c.isupper() for c in password),
        any(c.islower() for c in password),
        any(c.isdigit() for c in password),
        any(not c.isalnum() for c in password),
    )
    return len(password) >= 8 and sum(kinds) >= 3
