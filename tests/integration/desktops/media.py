"""What is to be seen in recorded media."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

import av


def colours(media: bytes) -> list[tuple[int, int, int]]:
    """One pixel of every frame, decoded from these bytes alone. Not in the middle: there is the pointer."""
    with av.open(io.BytesIO(media)) as opened:
        assert opened.streams.video[0].codec_context.name == "h264"
        return [frame.to_image().getpixel((frame.width // 4, frame.height // 4)) for frame in opened.decode(video=0)]


def is_colour(found: tuple[int, ...], wanted: str, by: int = 12) -> bool:
    """`wanted` is `#rrggbb`; H.264 does not keep it to the bit."""
    parts = bytes.fromhex(wanted[1:])
    return all(abs(have - want) <= by for have, want in zip(found, parts, strict=True))


def without_stalls(gaps: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The holes of a recording but for those of a machine that stood still for longer than a slice may last."""
    return [gap for gap in gaps if gap["reason"] != "no_frames"]
