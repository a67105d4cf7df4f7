"""What exports of session disks take and tell. Backends: overlays.py (qemu-storage-daemon), fake.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class OverlaySpec:
    """A copy-on-write disk on a base image. `target_id` names its files (contract section 3)."""

    target_id: str
    base: Path
    base_format: str  # the contract's name: vhd is `vpc` to the tools


@dataclass(frozen=True)
class OverlaySeen:
    """`overlay`: the qcow2 file is there. `exported`: a healthy raw file is there to be served."""

    overlay: bool
    exported: bool
    base: Path | None = None


class DiskBackend(Protocol):
    def overlay_path(self, target_id: str) -> Path:
        """`<OVERLAY_DIR>/<target_id>.qcow2`."""

    def export_path(self, target_id: str) -> Path:
        """`<OVERLAY_DIR>/<target_id>.raw`: where the disk's bytes are served from."""

    def apply(self, spec: OverlaySpec) -> None:
        """Create the overlay if there is none, and export it. An existing overlay keeps its data. AdapterError."""

    def remove(self, target_id: str, keep: bool = False) -> None:
        """End the export and delete the overlay, or move it to `kept/`. Absent is fine. AdapterError."""

    def observed(self) -> Mapping[str, OverlaySeen]:
        """Overlays and exports with names of the service's form, by target_id."""

    def size(self, target_id: str) -> int:
        """Virtual size of an exported disk in bytes. AdapterError."""

    def ping(self) -> None:
        """AdapterError when the exporting daemon does not answer."""
