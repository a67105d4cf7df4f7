"""Ids, as the contract gives them their forms."""

from __future__ import annotations

import secrets

LOCAL_NODE = "node_local"  # the service's own host


def session_id() -> str:
    return f"sess-{secrets.token_hex(8)}"


def chunk_id(session: str, sequence: int) -> str:
    """`sequence` counts from 1."""
    return f"{session}-c{sequence:06d}"


def server_id() -> str:
    return f"rdp-{secrets.token_hex(8)}"


def node_id() -> str:
    return f"node_{secrets.token_hex(6)}"


def made(kind: str) -> str:
    """An id of any other kind: `poot-…`, `pay-…`, `batch-…`, `wd-…`, `alert-…`, `err-…`."""
    return f"{kind}-{secrets.token_hex(8)}"
