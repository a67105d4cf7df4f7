"""What the recorder must know of an X display beside its picture: how large it is now."""

from __future__ import annotations

from contextlib import suppress

from Xlib import display
from Xlib.error import ConnectionClosedError, DisplayError, XError

from labyard.desktops.recorder.errors import NoPicture


class Screen:
    """A connection to the display `:number`. The cookie comes from XAUTHORITY in the environment."""

    def __init__(self, number: int) -> None:
        self._number = number
        try:
            self._display = display.Display(f":{number}")
        except (DisplayError, OSError) as error:
            raise NoPicture(f"display :{number} does not answer: {error}") from None

    def size(self) -> tuple[int, int]:
        """Width and height in pixels, now. NoPicture when the display is gone."""
        try:
            geometry = self._display.screen().root.get_geometry()
        except (ConnectionClosedError, XError, OSError) as error:
            raise NoPicture(f"display :{self._number} is gone: {error}") from None
        return geometry.width, geometry.height

    def close(self) -> None:
        with suppress(ConnectionClosedError, OSError):  # the display went first
            self._display.close()
