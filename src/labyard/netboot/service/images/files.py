"""Files of images: their names, which may be imported, and whether they are still what was checked."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from labyard.core.adapter import AdapterError
from labyard.core.errors import invalid
from labyard.netboot.models import Image


def safe_filename(name: str, extension: str) -> str:
    """A file name of its own for an image: nothing of the user's but letters, digits and dashes."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60]
    return f"{slug}-{secrets.token_hex(4)}.{extension}"


def importable(given: str, folders: Sequence[Path]) -> Path:
    """The file behind a path, all links followed. 422 unless it is a regular file below one of the folders."""
    try:
        path = Path(given).resolve(strict=True)
        inside = any(path.is_relative_to(folder.resolve()) for folder in folders)
    except (OSError, ValueError, RuntimeError):
        path, inside = Path(given), False
    if not Path(given).is_absolute() or not inside or path.name.startswith("."):
        raise invalid("path", f"must be a file below {', '.join(str(folder) for folder in folders)}", given)
    if not path.is_file():
        raise invalid("path", "is not a regular file", given)
    return path


def file_problem(image: Image) -> str:
    """What is wrong with a ready image's file, or nothing. One `stat`, so it may be asked on every start."""
    path = Path(image.file_path)
    try:
        stat = path.stat()
    except OSError as error:
        return f"the file of image {image.name}, {path}, is gone ({error.strerror}). Put it back, or delete the image"
    if not path.is_file() or stat.st_size != image.size_bytes:
        return f"the file of image {image.name}, {path}, is not the one that was checked. Import or upload it again"
    return ""


def check_file(image: Image) -> None:
    """Before a disk is made on an image. AdapterError says what is wrong with its file, and the way out."""
    if problem := file_problem(image):
        raise AdapterError(problem)


def is_unchanged(image: Image) -> bool:
    """Whether the file is the one that was checked, by size and time of change."""
    return not file_problem(image) and Path(image.file_path).stat().st_mtime_ns == image.processing_info.get("mtime_ns")


def sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
