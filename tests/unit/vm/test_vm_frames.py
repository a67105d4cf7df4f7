"""Frames, however the stream is cut, and whatever is in it besides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labyard.testing.vm.client import pieces
from labyard.testing.vm.guest.frames import CHUNK, MAGIC, PREFIX, Frames, pack

HEADERS = st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=20) | st.none(), max_size=4)


@given(st.lists(st.tuples(HEADERS, st.binary(max_size=200)), max_size=6), st.integers(1, 60))
def test_frames_come_out_as_they_went_in(sent, step):
    stream = b"".join(pack(header, payload) for header, payload in sent)
    frames = Frames()
    got = [frame for at in range(0, len(stream), step) for frame in frames.feed(stream[at : at + step])]
    assert got == sent


@given(st.binary(max_size=100).filter(lambda noise: MAGIC not in noise), st.integers(1, 7))
def test_bytes_that_belong_to_no_frame_are_dropped(noise, step):
    # Noise may end with a part of the magic, which then is none.
    stream = noise + b"\0" + pack({"id": 7}, b"payload")
    frames = Frames()
    got = [frame for at in range(0, len(stream), step) for frame in frames.feed(stream[at : at + step])]
    assert got == [({"id": 7}, b"payload")]


@pytest.mark.parametrize(
    "broken",
    [
        PREFIX.pack(MAGIC, 0xFFFFFFFF, 0),
        PREFIX.pack(MAGIC, 2, CHUNK + 1),
        PREFIX.pack(MAGIC, 4, 0) + b"nope",
        PREFIX.pack(MAGIC, 2, 0) + b"[]",
        PREFIX.pack(MAGIC, 2, 0) + b"\xff\xfe",
        MAGIC,
    ],
    ids=["long header", "long payload", "no JSON", "no object", "no text", "magic alone"],
)
def test_a_broken_frame_costs_none_that_follows(broken):
    # The magic alone takes its lengths from what follows: the first whole frame after it is the second.
    stream = broken + pack({"id": 1}) + pack({"id": 2})
    assert [header["id"] for header, _ in Frames().feed(stream)][-1] == 2


def test_what_is_over_a_limit_is_refused():
    with pytest.raises(ValueError, match="over"):
        pack({}, bytes(CHUNK + 1))


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_pieces_are_the_whole_and_only_the_last_says_so(size):
    data = bytes(size)
    cut = pieces(data)
    assert b"".join(piece for piece, _ in cut) == data
    assert [more for _, more in cut] == [True] * (len(cut) - 1) + [False]
