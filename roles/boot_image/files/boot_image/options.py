# Part of the role boot_image
"""What the command line asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from boot_image.tools import MIB

FAT_START = MIB
SCRATCH_SIZE = MIB


@dataclass(frozen=True)
class Options:
    """Inputs, outputs and sizes. The disk is: table, FAT with boot loaders, root, scratch area."""

    cache: Path
    output: Path
    scripts: Path
    busybox: Path
    systemd_boot: Path
    mbr: Path
    phone_home_url: str
    size_mb: int
    root_mb: int
    kernel_options: str
    compress: str
    modules: tuple[str, ...]
    formats: tuple[str, ...]
    publish: tuple[Path, ...]
    check: bool

    @property
    def stamp(self) -> Path:
        return self.output.with_name(self.output.name + ".stamp")

    def format_path(self, name: str) -> Path:
        """Where the image of a format lies: the raw one's name with another ending."""
        return self.output if name == "raw" else self.output.with_suffix(f".{name}")

    @property
    def command_line(self) -> str:
        """Kernel command line of the boot loaders, and of those who boot the published files."""
        words = self.kernel_options
        if self.phone_home_url:
            words += f" labyard.phone_home={self.phone_home_url}"
        return " ".join(words.split())

    @property
    def size(self) -> int:
        return self.size_mb * MIB

    @property
    def scratch_start(self) -> int:
        return self.size - SCRATCH_SIZE

    @property
    def root_start(self) -> int:
        return self.scratch_start - self.root_mb * MIB
