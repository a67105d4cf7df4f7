"""A picture of a desktop, by way of a real FreeRDP client in an X server without a screen."""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from Xlib import X, display
from Xlib.error import DisplayError, XError

from labyard.desktops.recorder.errors import NoPicture
from labyard.desktops.recorder.external import external_desktop

PAINTED = 10.0  # seconds that a desktop gets to show something and to stand still
POLL = 0.1


def picture_of(access: Mapping[str, Any], configuration: Mapping[str, Any]) -> bytes:
    """What a desktop shows, as a PNG. `access` is what the service says of credentials. NoPicture."""
    with connected(access, configuration) as number:
        deadline = time.monotonic() + PAINTED
        seen = screen(number)
        while time.monotonic() < deadline:
            time.sleep(POLL)
            before, seen = seen, screen(number)
            if is_painted(seen) and seen.tobytes() == before.tobytes():
                break
        written = io.BytesIO()
        seen.save(written, "PNG")
        return written.getvalue()


@contextmanager
def connected(access: Mapping[str, Any], configuration: Mapping[str, Any]) -> Iterator[int]:
    """A client that is logged in, and the number of the X display that shows it. NoPicture.

    The X cookie of the last one is this process's: of several, one after the other is looked at as it comes.
    """
    target = {
        "host": access["host"],
        "port": access["port"],
        "username": access["username"],
        "password": access["password"],
        "use_tls": configuration.get("use_tls", True),
        "ignore_cert": False,
        "certificate_sha256": access["certificate_sha256"],
    }
    width, height = (int(side) for side in configuration.get("resolution", "1920x1080").split("x"))
    cookie = os.environ.get("XAUTHORITY")
    with tempfile.TemporaryDirectory(prefix="labyard-rdp-") as folder:
        try:
            with external_desktop(target, (width, height), Path(folder)) as shown:
                yield shown.display
        finally:
            if cookie is None:
                os.environ.pop("XAUTHORITY", None)
            else:
                os.environ["XAUTHORITY"] = cookie


def screen(number: int) -> Image.Image:
    """What the display shows now. NoPicture."""
    try:
        connection = display.Display(f":{number}")
        try:
            root = connection.screen().root
            size = root.get_geometry()
            raw = root.get_image(0, 0, size.width, size.height, X.ZPixmap, 0xFFFFFFFF)
        finally:
            connection.close()
    except (DisplayError, XError, OSError) as error:
        raise NoPicture(f"the display of the client is gone: {error}") from None
    return Image.frombytes("RGB", (size.width, size.height), raw.data, "raw", "BGRX")


def is_painted(picture: Image.Image) -> bool:
    """Whether anything is there: a client shows black until the desktop comes."""
    return any(highest > 0 for _, highest in picture.getextrema())  # type: ignore[misc]
