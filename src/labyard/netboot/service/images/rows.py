"""An image's row while it is worked on: its lease, its notes, its end (contract section 9)."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from labyard.netboot.models import Image, ImageStatus

AT_WORK = (ImageStatus.UPLOADING, ImageStatus.PROCESSING, ImageStatus.CONVERTING)


def new_owner() -> str:
    """What a lease says of this process: enough to see that it is dead."""
    return f"{_host()}:{os.getpid()}:{_started(os.getpid())}:{secrets.token_hex(2)}"


def is_dead(owner: str) -> bool:
    """True when the process was on this host and is no more; a lease of another host must run out."""
    host, _, rest = owner.partition(":")
    pid, _, rest = rest.partition(":")
    return host == _host() and pid.isdigit() and _started(int(pid)) != rest.partition(":")[0]


def _host() -> str:
    return socket.gethostname()[:60]


def _started(pid: int) -> str:
    """When a process began, in clock ticks since the boot (proc(5), field 22 of stat); empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def locked(session: Session, image_id: int) -> Image | None:
    """The row, kept from other writers until the transaction ends."""
    return session.scalar(select(Image).where(Image.id == image_id).with_for_update())


def note(image: Image, **values: Any) -> None:
    """Change processing_info; None takes a key away."""
    merged = {**image.processing_info, **values}
    image.processing_info = {key: value for key, value in merged.items() if value is not None}


def ready(image: Image, mtime_ns: int) -> None:
    image.status, image.error_message = ImageStatus.READY, None
    image.processing_info = {"progress": 100, "mtime_ns": mtime_ns}
    image.lease_owner = image.lease_until = None


def fail(image: Image, reason: str) -> None:
    """A failed conversion leaves the image as it was; a failed ingest makes it unusable."""
    discard_output(image)
    target = image.processing_info.get("target_format")
    usable = image.processing_info.get("was") == ImageStatus.READY
    image.status = ImageStatus.READY if usable else ImageStatus.ERROR
    image.error_message = f"Conversion to {target} failed: {reason}" if target else reason
    note(image, target_format=None, was=None, requested_by=None, crashes=None, expected=None)
    image.lease_owner = image.lease_until = None


def discard_output(image: Image) -> None:
    """Remove a conversion's partial output. The row names it, and it is not yet the image's file."""
    output = image.processing_info.get("output")
    if output and output != image.file_path:
        for name in (output, output + ".part"):
            Path(name).unlink(missing_ok=True)
        note(image, output=None)
