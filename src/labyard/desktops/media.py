"""Slices of a recording joined to one video that plays (MP4 in fragments, so that it can be sent while it is made)."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Iterator
from fractions import Fraction
from typing import Any

import av
from av.video.reformatter import Interpolation

CLOCK = Fraction(1, 90_000)
OPTIONS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}


class _Sink(io.RawIOBase):
    """What the muxer wrote since it was last asked."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def join(slices: Iterable[bytes], sizes: Collection[tuple[int, int]]) -> Iterator[bytes]:
    """The video in pieces. Where the picture has one size it is the recorded stream, bit for bit; where the desktop was
    resized it is encoded again in the largest size."""
    sink = _Sink()
    with av.open(sink, "w", format="mp4", options=OPTIONS) as output:
        if len(sizes) == 1:
            pieces = _copied(slices, output)
        else:
            size = max(width for width, _ in sizes), max(height for _, height in sizes)
            pieces = _encoded(slices, output, size)
        for _ in pieces:
            if data := sink.take():
                yield data
    yield sink.take()


def _copied(slices: Iterable[bytes], output: av.container.OutputContainer) -> Iterator[None]:
    stream: av.VideoStream | None = None
    start = 0
    for media in slices:
        with av.open(io.BytesIO(media), "r") as opened:
            source = opened.streams.video[0]
            if stream is None:
                stream = output.add_stream_from_template(source)
                stream.time_base = CLOCK
            end = start
            for packet in opened.demux(source):
                if packet.pts is None or packet.dts is None:
                    continue  # the end of the slice
                scale = packet.time_base / CLOCK
                packet.pts, packet.dts = start + round(packet.pts * scale), start + round(packet.dts * scale)
                packet.duration = round((packet.duration or 0) * scale)
                packet.time_base = CLOCK
                packet.stream = stream
                end = max(end, packet.pts + max(1, packet.duration))
                output.mux(packet)
            start = end
        yield


def _encoded(slices: Iterable[bytes], output: av.container.OutputContainer, size: tuple[int, int]) -> Iterator[None]:
    stream = output.add_stream("libx264", rate=30, options={"preset": "veryfast", "crf": "20", "bf": "0"})
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = CLOCK
    start = 0
    for media in slices:
        with av.open(io.BytesIO(media), "r") as opened:
            source = opened.streams.video[0]
            end = start
            for frame in opened.decode(source):
                at = start + round((frame.pts or 0) * (frame.time_base or CLOCK) / CLOCK)
                picture = frame.reformat(*size, "yuv420p", interpolation=Interpolation.BILINEAR)
                picture.pts, picture.time_base = max(at, end), CLOCK
                end = picture.pts + 1
                output.mux(stream.encode(picture))
            length = round(opened.duration * Fraction(1, av.time_base) / CLOCK) if opened.duration else 0
            start = max(end, start + length)
        yield
    output.mux(stream.encode(None))
    yield
