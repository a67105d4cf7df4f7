"""The node itself: who it is, what it has, what it uses."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from labyard.desktops.adapters.agent import Usage
from labyard.desktops.adapters.host import HostMeter, hardware
from labyard.desktops.keyring import KeyFileError, read_private, write_private

SOURCE = "agent"


class NodeFacts:
    """Signs with an Ed25519 key that is made at the first start. KeyFileError when the key file is none."""

    def __init__(self, node_id: str, state_dir: Path) -> None:
        self._node_id = node_id
        self._state_dir = state_dir
        self._key = _key(state_dir / "identity.key")
        self._meter = HostMeter(state_dir)

    def ping(self) -> Mapping[str, Any]:
        public = base64.b64encode(self._key.public_key().public_bytes_raw()).decode()
        return {"version": version("labyard"), "node_id": self._node_id, "public_key": public}

    def hardware(self) -> Mapping[str, Any]:
        return hardware(self._state_dir)

    def metrics(self) -> Usage:
        return self._meter.sample(SOURCE)

    def sign(self, payload: bytes) -> str:
        return base64.b64encode(self._key.sign(payload)).decode()


def _key(path: Path) -> Ed25519PrivateKey:
    with suppress(FileExistsError):
        if read_private(path) is None:
            write_private(path, Ed25519PrivateKey.generate().private_bytes_raw())
    try:
        return Ed25519PrivateKey.from_private_bytes(read_private(path) or b"")
    except ValueError:
        raise KeyFileError(f"{path} is no key file of an agent") from None
