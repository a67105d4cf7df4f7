"""Slices as the recorder makes them, and the video that they are joined to. No display is needed."""

from __future__ import annotations

import io
from itertools import pairwise

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from labyard.desktops.media import join
from labyard.desktops.recorder.capture import _Slots
from labyard.desktops.recorder.encoder import Look, SliceEncoder, fitted


def recorded(colour: tuple[int, int, int], size: tuple[int, int], count: int = 5, rate: int = 5) -> bytes:
    look = Look(1920, 1080, rate, "high", None)
    encoder = SliceEncoder(look, size, started_at=1000.0)
    for number in range(count):
        encoder.add(av.VideoFrame.from_image(Image.new("RGB", size, colour)), 1000.0 + number / rate)
    return encoder.close(1000.0 + count / rate)


def played(video: bytes) -> list[tuple[float, tuple[int, int], tuple[int, int, int]]]:
    """Time, size and colour of each frame."""
    with av.open(io.BytesIO(video)) as opened:
        return [
            (float(frame.pts * frame.time_base), (frame.width, frame.height), frame.to_image().getpixel((9, 9)))
            for frame in opened.decode(video=0)
        ]


class TestSlices:
    def test_each_is_decodable_alone(self) -> None:
        shown = played(recorded((200, 30, 60), (320, 240)))
        assert [round(at, 3) for at, *_ in shown] == [0, 0.2, 0.4, 0.6, 0.8]
        with av.open(io.BytesIO(recorded((200, 30, 60), (320, 240)))) as opened:
            assert opened.duration == pytest.approx(1_000_000, abs=1000)
        assert {size for _, size, _ in shown} == {(320, 240)}

    def test_a_bitrate_takes_the_place_of_the_quality(self) -> None:
        picture = Image.effect_noise((320, 240), 80).convert("RGB")

        def size(bitrate: int) -> int:
            encoder = SliceEncoder(Look(1920, 1080, 10, "ultra", bitrate), (320, 240), 0.0)
            for number in range(20):
                encoder.add(av.VideoFrame.from_image(picture.rotate(number)), number / 10)
            return len(encoder.close(2.0))

        assert size(50_000) < size(2_000_000)

    @given(st.integers(64, 7680), st.integers(64, 4320), st.integers(320, 7680), st.integers(240, 4320))
    def test_scaled_down_never_up_and_even(self, width: int, height: int, most_wide: int, most_high: int) -> None:
        found = fitted((width, height), (most_wide, most_high))
        assert found[0] <= min(width, most_wide) and found[1] <= min(height, most_high)
        assert found[0] % 2 == found[1] % 2 == 0
        if width <= most_wide and height <= most_high:
            assert width - found[0] < 2 and height - found[1] < 2


class TestSlots:
    def test_what_was_missed_is_counted_and_a_burst_is_not(self) -> None:
        slots = _Slots(10)
        taken = [slots.take(at) for at in (5.0, 5.101, 5.102, 5.199, 5.6, 5.61, 5.7)]
        assert taken == [0, 0, None, 0, 3, None, 0]

    @given(st.lists(st.floats(0, 100), min_size=1, max_size=60), st.integers(1, 60))
    def test_frames_and_drops_are_the_time_that_went_by(self, moments: list[float], rate: int) -> None:
        slots = _Slots(rate)
        moments.sort()
        taken = [found for at in moments if (found := slots.take(at)) is not None]
        assert len(taken) + sum(taken) == round((moments[-1] - moments[0]) * rate) + 1


class TestJoin:
    def test_one_size_is_the_recorded_stream(self) -> None:
        slices = [recorded((200, 30, 60), (320, 240)), recorded((20, 200, 60), (320, 240), 3)]
        shown = played(b"".join(join(iter(slices), {(320, 240)})))
        assert len(shown) == 8
        assert all(one[0] < two[0] for one, two in pairwise(shown))
        assert shown[5][0] == pytest.approx(1.0, abs=0.05)
        assert shown[0][2][0] > 150 and shown[7][2][1] > 150

    def test_where_the_desktop_was_resized_the_largest_size_holds(self) -> None:
        sizes = [(320, 240), (640, 480), (320, 240)]
        slices = [recorded((200, 30, 60), size) for size in sizes]
        shown = played(b"".join(join(iter(slices), set(sizes))))
        assert len(shown) == 15
        assert {size for _, size, _ in shown} == {(640, 480)}
        assert all(one[0] < two[0] for one, two in pairwise(shown))
        assert shown[-1][0] == pytest.approx(2.8, abs=0.2)
