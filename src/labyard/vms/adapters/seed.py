"""The NoCloud seed of a machine (contract section 8; cloud-init reference, "NoCloud")."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from labyard.core.seed import write_image

LABEL = "cidata"
NOTHING = "#cloud-config\n{}\n"


@dataclass(frozen=True)
class Seed:
    """What a guest is told. `user_data` is the user's own text, as it is."""

    vm_id: str
    mac: str
    hostname: str
    ssh_keys: tuple[str, ...]
    user_data: str | None


class Seeds(Protocol):
    def write(self, path: Path, seed: Seed) -> None:
        """Make the image anew. OSError when it cannot be written."""


class SeedImages:
    """Seeds as ISO images."""

    def write(self, path: Path, seed: Seed) -> None:
        write_image(path, LABEL, seed_files(seed))


def seed_files(seed: Seed) -> dict[str, bytes]:
    """The keys are in meta-data, which every kind of user-data leaves alone."""
    meta = {"instance-id": seed.vm_id, "local-hostname": seed.hostname, "public-keys": list(seed.ssh_keys)}
    card = {"match": {"macaddress": seed.mac}, "dhcp4": True}
    return {
        "meta-data": _yaml(meta),
        "user-data": (seed.user_data or NOTHING).encode(),
        "network-config": _yaml({"version": 2, "ethernets": {"lab": card}}),
    }


def _yaml(content: dict[str, Any]) -> bytes:
    return yaml.safe_dump(content, sort_keys=False, width=1000).encode()
