from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labyard.evse.rapi import Checksum, Frame, LineReader, decode, encode

EXAMPLES = """
$GV^35
$GS^30
$GE^26
$GC^20
$GU^36
$GG^24
$GP^33
$GA^22
$GF^25
$GI^2A
$GH^2B
$GT^37
$GD^27
$FE^27
$FS^31
$FD^26
$SC 16^13
$SC 16 V^65
$OK^20
$NK^21
$OK 8.2.1 5.0.1^2F
$OK 01 0 01 0000^10
$OK 32 0001^20
$AB 00 8.2.1^1C
$AT 03 03 16 0140^33
"""


@pytest.mark.parametrize("line", EXAMPLES.strip().splitlines())
def test_the_contract_s_lines_both_ways(line: str) -> None:
    frame = decode(line.encode())
    assert frame.checksum is Checksum.GOOD
    assert encode(*frame.tokens) == line.encode() + b"\r"


def test_sequence_ids() -> None:
    assert encode("GS", sequence="41") == b"$GS :41^2F\r"
    assert encode("NK", sequence="41") == b"$NK :41^3E\r"
    assert decode(b"$GS :4a^5F").sequence == "4A"
    assert decode(b"$GS :00").tokens == ("GS", ":00"), "00 is no sequence id"


def test_checksums() -> None:
    assert decode(b"$GS^31").checksum is Checksum.WRONG
    assert decode(b"$GS") == Frame(("GS",))
    assert decode(b"$GS*BE").checksum is Checksum.GOOD
    assert decode(b"$GS*BF").checksum is Checksum.WRONG
    assert decode(b"$FP 0 0 a^b").tokens[-1] == "a^b"


def test_a_stream_is_cut_into_lines() -> None:
    reader = LineReader(limit=32)
    assert list(reader.feed(b"noise\r\n$GS^3")) == []
    assert list(reader.feed(b"0\r$GV^35\n\r\n$G$GE^26\r")) == [b"$GS^30", b"$GV^35", b"$GE^26"]
    assert list(reader.feed(b"$" + b"x" * 31 + b"\r")) == [b"$" + b"x" * 31]
    assert list(reader.feed(b"$" + b"x" * 32 + b"\r$GV\r")) == [b"$GV"], "an overlong line is dropped"
    assert list(reader.feed(b"$FP")) == []
    reader.clear()
    assert list(reader.feed(b" 1\r")) == []


@given(st.lists(st.binary(max_size=40)), st.binary(max_size=200))
def test_it_does_not_matter_where_the_stream_is_cut(pieces: list[bytes], tail: bytes) -> None:
    whole = b"".join(pieces) + tail
    cut = LineReader(limit=32)
    assert [line for piece in [*pieces, tail] for line in cut.feed(piece)] == list(LineReader(limit=32).feed(whole))


@given(
    st.lists(
        st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="$^*:\x85"), min_size=1),
        min_size=1,
    )
)
def test_what_is_encoded_is_decoded(tokens: list[str]) -> None:
    line = encode(*tokens, sequence="7F").removesuffix(b"\r")
    assert decode(line) == Frame(tuple(tokens), "7F", Checksum.GOOD)
