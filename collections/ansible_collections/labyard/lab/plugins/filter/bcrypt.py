# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Jinja filter: a bcrypt hash that is the same at each run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

from ansible.errors import AnsibleFilterError

try:
    import bcrypt as library
except ImportError:
    library = None

# 2^10 rounds are about 60 ms; the emulator pays them at each request.
COST = 10
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_BCRYPT = b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def bcrypt(password: str, owner: str) -> str:
    """The password's hash, with a salt made of `owner`: whose password it is, and where.

    A random salt would make a file that holds it another one at each run. The salt is no secret and has to differ
    between owners only; it is not made of the password, since it would then be a quick way to try passwords.
    """
    if library is None:
        raise AnsibleFilterError(
            "the Python package bcrypt is not installed on the control machine; make lab installs it"
        )
    salt = base64.b64encode(hashlib.sha256(owner.encode()).digest()[:16]).rstrip(b"=")
    settings = b"$2b$%02d$%s" % (COST, salt.translate(bytes.maketrans(_BASE64, _BCRYPT)))
    try:
        return str(library.hashpw(password.encode(), settings).decode("ascii"))
    except ValueError as error:  # longer than 72 bytes: bcrypt would not read the rest
        raise AnsibleFilterError(f"a password cannot be hashed: {error}") from error


class FilterModule:
    """Found by Ansible under this name."""

    def filters(self) -> dict[str, Callable[[str, str], str]]:
        return {"bcrypt": bcrypt}
