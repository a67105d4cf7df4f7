"""What a client may name things, and the paths that names become (contract sections 3.2 and 3.3)."""

from __future__ import annotations

import re

ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def is_id(text: str) -> bool:
    """Whether an id may become part of a path, XML or a command line. Rows of other programs may have any id."""
    return _ID.fullmatch(text) is not None


def no_control_characters(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("must not hold control characters")
    return text


# Device names of data disks. sdx is left for virtual media of Redfish.
TARGETS = tuple(f"sd{letter}" for letter in "abcdefghijklmnopqrstuvw")
