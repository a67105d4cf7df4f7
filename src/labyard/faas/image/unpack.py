"""An archive unpacked into a directory: all layers, digests checked, at its place only when it is whole."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import IO

from labyard.faas.errors import ImageError
from labyard.faas.image.archive import Image, open_image
from labyard.faas.image.config import read_process
from labyard.faas.image.layers import Unpacker
from labyard.faas.image.tarstream import Budget

# Bounds for the two functions that are called without a daemon and its settings.
MAX_UNPACKED = 8 << 30
MAX_ENTRIES = 500_000


def unpack(image: Image, target: Path, budget: Budget, scratch: Path) -> None:
    """Write the image's tree to `target`, an empty directory. ImageError, FaasError 507: the caller clears up."""
    unpacker = Unpacker(target, budget, scratch)
    claimed = image.diff_ids()
    for number, layer in enumerate(image.layers):
        digest = unpacker.apply(layer)
        if claimed and claimed[number] and digest != claimed[number]:
            raise ImageError(f"layer {number + 1} is not the one that its configuration names (digest {digest})")
    unpacker.finish()


def extract_docker_image(fileobj: IO[bytes], rootfs_path: str) -> None:
    """Unpack an image archive to a directory, which is replaced. ImageError; then what was there is untouched."""
    target = Path(rootfs_path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target and not in the temporary folder: what is whole is renamed into place.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch_name:
        scratch = Path(scratch_name)
        fresh = scratch / "tree"
        fresh.mkdir(mode=0o755)
        with open_image(fileobj, scratch, MAX_UNPACKED, MAX_ENTRIES) as image:
            unpack(image, fresh, Budget(MAX_UNPACKED, MAX_ENTRIES), scratch)
        if target.is_symlink() or target.exists():
            target.rename(scratch / "old")
        fresh.rename(target)
        shutil.rmtree(scratch / "old", ignore_errors=True)


def get_image_entrypoint(fileobj: IO[bytes]) -> list[str]:
    """The command of an image archive: Entrypoint and Cmd, or `/bin/sh`. ImageError."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        open_image(fileobj, Path(scratch), MAX_UNPACKED, MAX_ENTRIES) as image,
    ):
        return list(read_process(image.config()).cmd)
