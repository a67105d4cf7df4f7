"""The ISO 9660 image of a NoCloud seed, which cloud-init reads its data from (cloud-init reference, "NoCloud")."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import pycdlib

SECTOR = 2048  # bytes, of ISO 9660


def write_image(path: Path, label: str, files: Mapping[str, bytes]) -> None:
    """Write the image, mode 0600, by another name first. OSError when it cannot be written."""
    image = _image(label, files)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # makes it 0600
    new = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(image)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _image(label: str, files: Mapping[str, bytes]) -> bytes:
    skeleton, begins = _skeleton(label, tuple((name, len(content)) for name, content in files.items()))
    image = bytearray(skeleton)
    for name, content in files.items():
        image[begins[name] : begins[name] + len(content)] = content
    return bytes(image)


def _plain(name: str) -> str:
    return f"/{name.upper().replace('-', '_')}.;1"


@lru_cache(maxsize=256)
def _skeleton(label: str, files: tuple[tuple[str, int], ...]) -> tuple[bytes, dict[str, int]]:
    """An image with room for files of these names and lengths, and where in it each begins. Seeds differ in little
    else, and laying one out costs far more than filling it. Rock Ridge for Linux, Joliet for the others; both carry
    the names as they are."""
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=label)
    for name, length in files:
        iso.add_fp(BytesIO(bytes(length)), length, _plain(name), rr_name=name, joliet_path=f"/{name}")
    image = BytesIO()
    iso.write_fp(image)
    begins = {name: iso.get_record(iso_path=_plain(name)).extent_location() * SECTOR for name, _ in files}
    iso.close()
    return image.getvalue(), begins
