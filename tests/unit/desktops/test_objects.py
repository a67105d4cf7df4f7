"""Chunk objects: what is packed comes back, and nothing that was changed does."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from labyard.desktops.evidence import objects
from labyard.desktops.evidence.compression import Compression, decompress
from labyard.desktops.evidence.objects import BadObject, Cipher, Key

from .evidence import KEY, NOON, SESSION, piece

MEDIA = b"pixel" * 200


@pytest.mark.parametrize("key", [KEY, None], ids=["encrypted", "plain"])
@pytest.mark.parametrize("method", Compression)
class TestPack:
    def test_comes_back(self, method: Compression, key: Key | None) -> None:
        data = objects.pack(piece(1), MEDIA, method, key)
        header, media = objects.unpack(data, key)
        assert media == MEDIA
        assert (header.session_id, header.sequence_number, header.started_at) == (SESSION, 1, NOON)
        assert header.plaintext_bytes == len(MEDIA)
        assert header.cipher is (Cipher.AES_256_GCM if key else Cipher.NONE)
        assert (header.key_id is None) == (header.nonce is None) == (key is None)

    def test_sizes_are_those_of_the_bytes(self, method: Compression, key: Key | None) -> None:
        data = objects.pack(piece(1), MEDIA, method, key)
        length = int.from_bytes(data[5:9], "big")
        assert objects.payload_bytes(data) == len(data) - 9 - length - (16 if key else 0)
        assert (objects.payload_bytes(data) == len(MEDIA)) == (method is Compression.NONE)


class TestLayout:
    def test_is_what_the_contract_says(self) -> None:
        data = objects.pack(piece(7), MEDIA, Compression.NONE, KEY)
        length = int.from_bytes(data[5:9], "big")
        header = data[9 : 9 + length]
        values = json.loads(header)
        assert data[:5] == b"LYCK\x01"
        assert list(values) == sorted(values)
        assert b" " not in header
        assert AESGCM(KEY.material).decrypt(bytes.fromhex(values["nonce"]), data[9 + length :], header) == MEDIA

    def test_media_is_not_in_the_object(self) -> None:
        assert b"pixel" not in objects.pack(piece(1), MEDIA, Compression.NONE, KEY)

    def test_nonces_are_fresh(self) -> None:
        nonces = {objects.read_header(objects.pack(piece(1), b"", Compression.NONE, KEY)).nonce for _ in range(50)}
        assert len(nonces) == 50

    def test_a_key_is_not_shown(self) -> None:
        assert KEY.material.hex() not in repr(KEY)
        assert repr(KEY.material) not in repr(KEY)


class TestBad:
    def test_flipped_bits_of_an_encrypted_object_are_noticed(self) -> None:
        data = objects.pack(piece(1), b"picture", Compression.ZSTD, KEY)
        for bit in range(0, len(data) * 8, 3):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            with pytest.raises(BadObject):
                objects.unpack(bytes(changed), KEY)

    @given(st.integers(0, 200))
    def test_what_is_cut_off_is_noticed(self, length: int) -> None:
        data = objects.pack(piece(1), b"picture", Compression.ZSTD, KEY)
        with pytest.raises(BadObject):
            objects.unpack(data[: min(length, len(data) - 1)], KEY)

    @given(st.binary(max_size=300))
    def test_anything_is_read_without_another_error(self, data: bytes) -> None:
        for start in (b"", b"LYCK\x01", b"LYCK\x01" + len(data).to_bytes(4, "big")):
            with pytest.raises(BadObject):
                objects.unpack(start + data, None)

    def test_another_key_does_not_open_it(self) -> None:
        data = objects.pack(piece(1), MEDIA, Compression.NONE, KEY)
        for key in (None, Key("dk-other", KEY.material), Key(KEY.key_id, bytes(32))):
            with pytest.raises(BadObject):
                objects.unpack(data, key)

    @pytest.mark.parametrize("method", [Compression.ZSTD, Compression.LZ4, Compression.GZIP])
    def test_no_more_is_unpacked_than_was_said(self, method: Compression) -> None:
        bomb = objects.pack(piece(1), bytes(10_000_000), method, None)
        packed = bomb[9 + int.from_bytes(bomb[5:9], "big") :]
        with pytest.raises(ValueError, match="another size"):
            decompress(packed, method, 1000)


def test_an_object_of_today_is_read_tomorrow() -> None:
    """The bytes of version 1: an object that was written once stays readable, bit for bit."""
    data = objects.pack(piece(1), b"picture", Compression.NONE, KEY, nonce=bytes(12))
    stored = Path(__file__).with_name("chunk-v1.lyck").read_bytes()
    assert hashlib.sha256(data).hexdigest() == hashlib.sha256(stored).hexdigest()
    assert objects.unpack(stored, KEY)[1] == b"picture"
