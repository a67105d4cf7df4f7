"""The picture that `labyard desktops servers screenshot` takes: by a real RDP client, of a real display."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from labyard.desktops.agent.rdp.negotiate import negotiate
from labyard.desktops.picture import picture_of
from labyard.desktops.recorder.errors import NoPicture
from labyard.testing.waiting import wait_until

from .display import Display
from .media import is_colour
from .test_external import pytestmark as needs_client
from .test_external import rdp_server, screen

__all__ = ["screen"]
pytestmark = needs_client


def test_a_client_takes_it_and_trusts_the_servers_own_certificate_only(screen: Display, tmp_path: Path) -> None:
    with rdp_server(screen, tmp_path) as port:
        certificate = negotiate("127.0.0.1", port, True, 10).certificate_sha256
        access: dict[str, Any] = {"host": "127.0.0.1", "port": port, "username": "somebody", "password": "Tr0ub4dor"}
        shape = {"resolution": "640x480"}

        def centre() -> tuple[int, ...]:
            picture = Image.open(io.BytesIO(picture_of(access | {"certificate_sha256": certificate}, shape)))
            assert picture.size == (640, 480)
            return picture.getpixel((320, 240))  # type: ignore[return-value]

        # A server that pauses within the first picture, on a busy machine, looks as if that were all of it.
        wait_until(lambda: is_colour(centre(), "#30a060"), lambda: f"the display's colour is shown: {centre()}")
        with pytest.raises(NoPicture, match="ended"):
            picture_of(access | {"certificate_sha256": "00" * 32}, shape)
