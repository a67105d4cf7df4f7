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

from .display import Display
from .test_external import pytestmark as needs_client
from .test_external import rdp_server, screen

__all__ = ["screen"]
pytestmark = needs_client


def test_a_client_takes_it_and_trusts_the_servers_own_certificate_only(screen: Display, tmp_path: Path) -> None:
    with rdp_server(screen, tmp_path) as port:
        certificate = negotiate("127.0.0.1", port, True, 10).certificate_sha256
        access: dict[str, Any] = {"host": "127.0.0.1", "port": port, "username": "somebody", "password": "Tr0ub4dor"}
        shape = {"resolution": "640x480"}
        picture = Image.open(io.BytesIO(picture_of(access | {"certificate_sha256": certificate}, shape)))
        assert picture.size == (640, 480)
        red, green, blue = picture.getpixel((320, 240))  # type: ignore[misc]
        assert abs(red - 0x30) + abs(green - 0xA0) + abs(blue - 0x60) < 30
        with pytest.raises(NoPicture, match="ended"):
            picture_of(access | {"certificate_sha256": "00" * 32}, shape)
