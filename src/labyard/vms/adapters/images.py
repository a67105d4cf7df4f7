"""What the service asks of the image tool. Sizes in GiB."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Images(Protocol):
    """Every verb raises AdapterError; a file with its final name is always whole."""

    def create(self, path: Path, size_gib: int) -> None:
        """An empty qcow2 disk, written under another name first."""

    def create_root(self, path: Path) -> None:
        """A root disk: on VMAN_DEFAULT_BOOT_DISK when it is set (overlay or copy), else empty."""
