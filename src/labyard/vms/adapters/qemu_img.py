"""qemu-img: new disk images. A file gets its name when it is complete."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labyard.core.adapter import AdapterError

CREATE_SECONDS = 60
COPY_SECONDS = 600


@dataclass(frozen=True)
class ImageOptions:
    """Settings of section 2, by the names they have there without VMAN_. `root_disk_size` in GiB."""

    default_boot_disk: Path | None
    root_disk_size: int
    root_disk_clone: str  # overlay or copy


class QemuImages:
    """The `Images` of a real lab."""

    def __init__(self, options: ImageOptions) -> None:
        self._options = options

    def create(self, path: Path, size_gib: int) -> None:
        _whole(path, lambda part: _run(CREATE_SECONDS, "create", "-q", "-f", "qcow2", str(part), f"{size_gib}G"))

    def create_root(self, path: Path) -> None:
        base = self._options.default_boot_disk
        if base is None:
            self.create(path, self._options.root_disk_size)
        elif self._options.root_disk_clone == "copy":
            _whole(path, lambda part: _run(COPY_SECONDS, "convert", "-O", "qcow2", str(base), str(part)))
        else:
            # Absolute, because qemu-img takes a relative name as relative to the overlay.
            backing = base.absolute()
            _whole(path, lambda part: _create_overlay(part, backing))


def _create_overlay(part: Path, base: Path) -> None:
    image_format = json.loads(_run(CREATE_SECONDS, "info", "--output=json", str(base)))["format"]
    _run(CREATE_SECONDS, "create", "-q", "-f", "qcow2", "-b", str(base), "-F", image_format, str(part))


def _whole(path: Path, write: Callable[[Path], Any]) -> None:
    # Not *.qcow2: nobody is to take it for a disk. The same name each time: a crash leaves no more than one.
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)
        write(part)
        part.replace(path)
    except OSError as error:
        raise AdapterError(f"writing {path.name} failed: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def _run(seconds: float, *arguments: str) -> str:
    # pdeathsig: after a `kill -9` of the service no qemu-img goes on writing.
    command = ["setpriv", "--pdeathsig=KILL", "--", "qemu-img", *arguments]
    call = f"qemu-img {arguments[0]}"
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, env={**os.environ, "LC_ALL": "C"}
        )
    except FileNotFoundError as error:
        raise AdapterError(f"{call} failed: {error.filename} is not installed") from None
    except subprocess.TimeoutExpired:
        raise AdapterError(f"{call} failed: it did not end within {seconds:g} s") from None
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"it ended with status {done.returncode}"]
        raise AdapterError(f"{call} failed: {reason[0].removeprefix('qemu-img: ')[:500]}")
    return done.stdout
