"""Frames of a real X display, by ffmpeg's x11grab."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import av
from av.error import FFmpegError

from labyard.desktops.recorder.errors import NoPicture
from labyard.desktops.recorder.screen import Screen

# Grabs a second at the least: so often does a recorder look whether it is to stop, also at one frame a second.
LEAST_GRABS = 5
SIZE_INTERVAL = 0.5  # seconds between two looks at the size of the display


@dataclass(frozen=True)
class Frame:
    """`at` is seconds since 1970; `dropped` is how many frames that were due before it were not captured."""

    at: float
    picture: av.VideoFrame
    dropped: int


def frames(number: int, rate: int, cursor: bool) -> Iterator[Frame]:
    """Frames of display `:number`, `rate` a second as well as the machine can, until the display changes its size.

    NoPicture when there is no such display, or it goes away.
    """
    screen = Screen(number)
    try:
        size = screen.size()
        with _open(number, max(rate, LEAST_GRABS), cursor) as source:
            slots = _Slots(rate)
            look = time.monotonic() + SIZE_INTERVAL
            for picture in source.decode(video=0):
                if time.monotonic() >= look:
                    if screen.size() != size:
                        return
                    look = time.monotonic() + SIZE_INTERVAL
                if picture.pts is None or picture.time_base is None:
                    raise NoPicture(f"display :{number} gives pictures without a time")
                at = float(picture.pts * picture.time_base)
                dropped = slots.take(at)
                if dropped is not None:
                    yield Frame(at, picture, dropped)
    except FFmpegError as error:
        # A display that becomes smaller is an error to x11grab, too.
        if screen.size() != size:
            return
        raise NoPicture(f"display :{number} gives no picture: {error}") from None
    finally:
        screen.close()


def _open(number: int, rate: int, cursor: bool) -> av.container.InputContainer:
    try:
        return av.open(
            f":{number}",
            format="x11grab",
            options={
                "framerate": str(rate),
                "draw_mouse": "1" if cursor else "0",
                # There is nothing to find out about raw pictures; probing would cost the first ones.
                "probesize": "32",
                "analyzeduration": "0",
                "fpsprobesize": "0",
            },
        )
    except FFmpegError as error:
        raise NoPicture(f"display :{number} cannot be opened: {error}") from None


class _Slots:
    """Time in steps of one frame. A frame belongs to the nearest step; a step without a frame is a dropped one."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._first: float | None = None
        self._last = 0

    def take(self, at: float) -> int | None:
        """How many steps before this frame's went without one. None when its step has one already."""
        if self._first is None:
            self._first = at
            return 0
        step = round((at - self._first) * self._rate)
        if step <= self._last:
            return None
        dropped = step - self._last - 1
        self._last = step
        return dropped
