"""Where a server's files are: one folder, which only root can enter. Its units see parts of it, at other paths."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from labyard.desktops.adapters.agent import ServerSpec
from labyard.desktops.agent.rdp import config

_ID = re.compile(r"rdp-([0-9a-f]{16})")


def hex_of(server_id: str) -> str:
    """The part of a server's id that is in the names of its units. ValueError when it is no such id."""
    found = _ID.fullmatch(server_id)
    if not found:
        raise ValueError(f"{server_id[:64]!r} is no id of an RDP server")
    return found[1]


@dataclass(frozen=True)
class Made:
    """What a server was started with, and what came of it; kept beside its files, so that a new agent knows too."""

    port: int
    cpu_limit: float
    memory_limit: int  # MiB
    disk_limit: int  # MiB
    network_bandwidth: int  # Mbps
    use_tls: bool
    resolution: str
    depth: int
    certificate_sha256: str | None = None
    desktop_effective: str | None = None
    display: int | None = None
    enforcement: dict[str, Any] | None = None

    @classmethod
    def of(cls, spec: ServerSpec) -> Made:
        return cls(
            port=spec.port,
            cpu_limit=spec.cpu_limit,
            memory_limit=spec.memory_limit,
            disk_limit=spec.disk_limit,
            network_bandwidth=spec.network_bandwidth,
            use_tls=bool(spec.configuration.get("use_tls", True)),
            resolution=str(spec.configuration.get("resolution", "1920x1080")),
            depth=config.depth(spec.configuration),
        )

    def stopped(self) -> Made:
        return replace(self, display=None)


class Place:
    """The folder of one server."""

    def __init__(self, servers_dir: Path, server_id: str) -> None:
        self.hex = hex_of(server_id)
        self.server_id = server_id
        self.root = servers_dir / self.hex
        self.etc = self.root / "etc"  # /etc/xrdp of its units
        self.run = self.root / "run"  # /run/xrdp
        self.log = self.root / "log"  # /var/log/xrdp
        self.home = self.root / "home"  # /home/<account>
        self.pam = self.root / "pam"  # /etc/pam.d/xrdp-sesman
        self.image = self.root / "home.img"  # the file system of its home, where loop devices work
        self._made = self.root / "made.json"

    def exists(self) -> bool:
        return self.root.exists()

    def make(self) -> None:
        for folder, mode in ((self.root, 0o700), (self.etc, 0o755), (self.run, 0o755), (self.log, 0o755)):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(mode)
        self.home.mkdir(exist_ok=True)

    def made(self) -> Made | None:
        """None when the server was not made here, or only half."""
        try:
            return Made(**json.loads(self._made.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def note(self, made: Made) -> None:
        new = self._made.with_suffix(".new")
        new.write_text(json.dumps(asdict(made)))
        new.replace(self._made)

    def remove(self) -> None:
        """OSError when something in it cannot go."""
        if self.exists():
            shutil.rmtree(self.root)


def places(servers_dir: Path) -> dict[str, Place]:
    """Every server that has a folder, by its id."""
    found = {}
    if servers_dir.exists():
        for folder in sorted(servers_dir.iterdir()):
            server_id = f"rdp-{folder.name}"
            if _ID.fullmatch(server_id):
                found[server_id] = Place(servers_dir, server_id)
    return found
