"""The filter that hashes the passwords of the Redfish emulator, which takes nothing but bcrypt."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import bcrypt
import pytest
from ansible.errors import AnsibleFilterError


@pytest.fixture(scope="module")
def hashed(load_module: Callable[..., ModuleType]) -> Callable[[str, str], str]:
    made: Callable[[str, str], str] = load_module("bcrypt", "filter").FilterModule().filters()["bcrypt"]
    return made


def test_hash_opens_to_its_password_only(hashed: Callable[[str, str], str]) -> None:
    made = hashed("correct horse", "vmhost1/labyard").encode()
    assert made.startswith(b"$2b$10$") and len(made) == 60
    assert bcrypt.checkpw(b"correct horse", made) and not bcrypt.checkpw(b"correct horsf", made)


def test_it_is_the_same_at_each_run_and_another_for_each_owner(hashed: Callable[[str, str], str]) -> None:
    made = [hashed("correct horse", owner) for owner in ("a/x", "a/x", "a/y", "b/x")]
    assert made[0] == made[1] and len(set(made)) == 3


def test_what_bcrypt_would_cut_off_is_refused(hashed: Callable[[str, str], str]) -> None:
    with pytest.raises(AnsibleFilterError, match="72 bytes"):
        hashed("x" * 73, "a/x")
