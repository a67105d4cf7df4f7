"""One slice of a recording: H.264 in MP4, made in memory, decodable alone."""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction

import av
from av.video.reformatter import Interpolation

CRF = {"low": 34, "medium": 28, "high": 23, "ultra": 18}
CLOCK = 90_000  # steps a second


@dataclass(frozen=True)
class Look:
    """How a session is encoded. `width` and `height` are the most that its picture may have, in pixels; `bitrate`, in
    bits a second, takes the place of the quality."""

    width: int
    height: int
    frame_rate: int
    quality: str
    bitrate: int | None


class SliceEncoder:
    """Takes frames of one size. Its first frame is a keyframe, and needs nothing of the slice before."""

    def __init__(self, look: Look, size: tuple[int, int], started_at: float) -> None:
        self.started_at = started_at
        self.frame_count = 0
        self.width, self.height = fitted(size, (look.width, look.height))
        self._buffer = io.BytesIO()
        self._last = -1
        self._output = av.open(self._buffer, "w", format="mp4")
        stream = self._output.add_stream("libx264", rate=look.frame_rate)
        stream.width, stream.height = self.width, self.height
        stream.pix_fmt = "yuv420p"
        # ultrafast and zerolatency: 10 recordings share a machine, and a stop must not wait for frames to come.
        stream.options = {"preset": "ultrafast", "tune": "zerolatency"}
        if look.bitrate:
            stream.bit_rate = look.bitrate
        else:
            stream.options = {**stream.options, "crf": str(CRF[look.quality])}
        stream.thread_count = 2
        stream.codec_context.time_base = Fraction(1, CLOCK)
        self._stream = stream
        self._waiting: av.Packet[av.VideoStream] | None = None

    def add(self, picture: av.VideoFrame, at: float) -> None:
        frame = picture.reformat(self.width, self.height, "yuv420p", interpolation=Interpolation.BILINEAR)
        self._last = max(self._last + 1, round((at - self.started_at) * CLOCK)) if self.frame_count else 0
        frame.pts, frame.time_base = self._last, Fraction(1, CLOCK)
        for packet in self._stream.encode(frame):
            self._put(packet)
        self.frame_count += 1

    def close(self, ended_at: float) -> bytes:
        """The media. Its last frame is shown until `ended_at`."""
        for packet in self._stream.encode(None):
            self._put(packet)
        self._put(None, round((ended_at - self.started_at) * CLOCK))
        self._output.close()
        return self._buffer.getvalue()

    def _put(self, packet: av.Packet[av.VideoStream] | None, at: int = 0) -> None:
        """The one before it is written: only now it is known how long it is shown. `at`: where there is no next."""
        if self._waiting is not None:
            following = packet.pts if packet is not None and packet.pts is not None else at
            self._waiting.duration = max(1, following - (self._waiting.pts or 0))
            self._output.mux(self._waiting)
        self._waiting = packet


def fitted(size: tuple[int, int], limit: tuple[int, int]) -> tuple[int, int]:
    """The size scaled down, in proportion, until it is within the limit; never up, and even, as H.264 wants it."""
    scale = min(1.0, limit[0] / size[0], limit[1] / size[1])
    width, height = (max(2, int(side * scale) // 2 * 2) for side in size)
    return width, height
