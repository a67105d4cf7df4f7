"""What is in an image folder, and whether it is whole."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labyard.testing.vm.errors import VMUnavailable

DEFAULT_FOLDER = Path("build/vm")
MANIFEST = "manifest.json"
GUEST = Path(__file__).parents[1] / "guest"
WAY_OUT = "run `make vm-image` (or `labyard vm build`)"


def digest(*files: Path) -> str:
    """SHA-256 over the contents of files."""
    sha256 = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            sha256.update(hashlib.file_digest(opened, "sha256").digest())
    return sha256.hexdigest()


def guest_files() -> list[Path]:
    """What Labyard itself puts into the initramfs."""
    return [GUEST / "init", *sorted(GUEST.glob("fstab.*")), *sorted(GUEST.glob("*.py"))]


@dataclass(frozen=True)
class Image:
    """An image folder. `key` is another for each build."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def vmlinux(self) -> Path:
        return self.folder / "vmlinux"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd.cpio"

    @property
    def root(self) -> Path:
        return self.folder / "root.ext4"

    @property
    def kernel(self) -> str:
        return str(self.manifest["kernel"])

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(self.manifest["files"], sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the last build wrote; empty when there is nothing of use."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and "files" in found else {}


def is_whole(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether the files are those of the build, by size: hashing 400 MB each time would take longer than a boot."""
    try:
        return all((folder / name).stat().st_size == file["size"] for name, file in manifest["files"].items())
    except OSError:
        return False


def find_image(folder: Path) -> Image:
    """The image in a folder. VMUnavailable: there is none, or its agent is not that of this Labyard."""
    manifest = read_manifest(folder)
    if not manifest or not is_whole(folder, manifest):
        raise VMUnavailable(f"no VM image in {folder}: {WAY_OUT}")
    if manifest["guest"] != digest(*guest_files()):
        raise VMUnavailable(f"the VM image in {folder} is of another version of Labyard: {WAY_OUT}")
    return Image(folder.resolve(), manifest)
