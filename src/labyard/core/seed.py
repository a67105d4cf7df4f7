"""The ISO 9660 image of a NoCloud seed, which cloud-init reads its data from (cloud-init reference, "NoCloud")."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import pycdlib


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
    """Rock Ridge for Linux, Joliet for the others; both carry the names as they are."""
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=label)
    for name, content in files.items():
        plain = f"/{name.upper().replace('-', '_')}.;1"
        iso.add_fp(BytesIO(content), len(content), plain, rr_name=name, joliet_path=f"/{name}")
    image = BytesIO()
    iso.write_fp(image)
    iso.close()
    return image.getvalue()
