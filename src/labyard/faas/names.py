"""Names of functions, containers and scratch files."""

from __future__ import annotations

import re
import uuid

from labyard.faas.errors import BadRequest

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
DOTTED_QUAD = re.compile(r"\d+\.\d+\.\d+\.\d+")
CONTAINER = re.compile(r"faas-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def check_name(name: str) -> str:
    """The name, or BadRequest. Callers take the first dotted quad that they see for the address: none in names."""
    if not NAME.fullmatch(name) or DOTTED_QUAD.search(name):
        raise BadRequest(f"Invalid image name {name!r}: letters, digits, . _ - are taken, 63 at most, and no address")
    return name


def new_container_id() -> str:
    return f"faas-{uuid.uuid4()}"


def is_container_id(name: str) -> bool:
    return CONTAINER.fullmatch(name) is not None


def is_request_socket(name: str) -> bool:
    return name.endswith(".sock") and is_container_id(name.removesuffix(".sock"))
