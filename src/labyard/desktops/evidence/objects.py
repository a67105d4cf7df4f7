"""Chunk objects: how a slice of a recording lies on disk (contract 5.6).

    LYCK | version, 1 byte | length of the header, 4 bytes, big endian | header | payload | tag, 16 bytes

The header is canonical JSON (RFC 8785) and the additional data of AES-256-GCM, so it cannot be changed without notice.
Without encryption the payload stands as it is, and no tag follows.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from labyard.desktops.evidence.compression import Compression, compress, decompress

MAGIC = b"LYCK"
VERSION = 1
NONCE_BYTES = 12
TAG_BYTES = 16
MAX_HEADER = 64 * 1024
# A slice lasts 2 s at most and at most 50 Mbit/s are asked for. More than this is no chunk.
MAX_PLAINTEXT = 256 * 1024 * 1024
_PREFIX = len(MAGIC) + 1 + 4


class Cipher(StrEnum):
    NONE = "none"
    AES_256_GCM = "aes-256-gcm"


class BadObject(ValueError):
    """These bytes are no chunk object, or not the one that was written."""


@dataclass(frozen=True)
class Slice:
    """What a recorder says of one slice. `started_at` is RFC 3339 in UTC, sizes are pixels of the encoded picture."""

    session_id: str
    sequence_number: int
    started_at: str
    duration_ms: int
    width: int
    height: int
    frame_count: int


@dataclass(frozen=True)
class Header(Slice):
    """The header of an object. `nonce` (hex) and `key_id` are null without encryption."""

    compression: Compression
    cipher: Cipher
    key_id: str | None
    nonce: str | None
    plaintext_bytes: int

    def canonical(self) -> bytes:
        return rfc8785.dumps(asdict(self))


@dataclass(frozen=True)
class Key:
    """A data key: its name, and 32 bytes. The bytes are never shown."""

    key_id: str
    material: bytes

    def __repr__(self) -> str:
        return f"Key({self.key_id})"


def chunk_id(session_id: str, sequence_number: int) -> str:
    return f"{session_id}-c{sequence_number:06d}"


def fresh_nonce() -> bytes:
    return os.urandom(NONCE_BYTES)


def pack(piece: Slice, media: bytes, compression: Compression, key: Key | None, nonce: bytes | None = None) -> bytes:
    """The object for one slice: compressed, and encrypted when there is a key.

    `nonce` is for tests; without it a fresh one is drawn.
    """
    payload = compress(media, compression)
    header = Header(
        **asdict(piece),
        compression=compression,
        cipher=Cipher.AES_256_GCM if key else Cipher.NONE,
        key_id=key.key_id if key else None,
        nonce=(nonce or fresh_nonce()).hex() if key else None,
        plaintext_bytes=len(media),
    )
    canonical = header.canonical()
    if key and header.nonce:
        payload = AESGCM(key.material).encrypt(bytes.fromhex(header.nonce), payload, canonical)
    return MAGIC + bytes([VERSION]) + len(canonical).to_bytes(4, "big") + canonical + payload


def read_header(data: bytes) -> Header:
    """What the object says of itself. Nothing is proven by it. BadObject when it cannot be read."""
    return _take_apart(data)[0]


def payload_bytes(data: bytes) -> int:
    """Length of the compressed slice in it, without the tag."""
    header, _, payload = _take_apart(data)
    return len(payload) - (TAG_BYTES if header.cipher is Cipher.AES_256_GCM else 0)


def unpack(data: bytes, key: Key | None) -> tuple[Header, bytes]:
    """Header and media. BadObject when a byte was changed, or the key is another."""
    header, canonical, payload = _take_apart(data)
    if header.cipher is Cipher.AES_256_GCM:
        if key is None or key.key_id != header.key_id or header.nonce is None:
            raise BadObject(f"encrypted with the key {header.key_id}, which was not given")
        try:
            payload = AESGCM(key.material).decrypt(bytes.fromhex(header.nonce), payload, canonical)
        except InvalidTag:
            raise BadObject("changed since it was written, or encrypted with another key") from None
    try:
        return header, decompress(payload, header.compression, header.plaintext_bytes)
    except ValueError as error:
        raise BadObject(str(error)) from None


def _take_apart(data: bytes) -> tuple[Header, bytes, bytes]:
    """Header, its canonical bytes, and what follows it."""
    if len(data) < _PREFIX or data[:4] != MAGIC:
        raise BadObject("does not begin with LYCK")
    if data[4] != VERSION:
        raise BadObject(f"of version {data[4]}; this program reads version {VERSION}")
    length = int.from_bytes(data[5:_PREFIX], "big")
    if length > MAX_HEADER or len(data) < _PREFIX + length:
        raise BadObject("cut off within its header")
    canonical = data[_PREFIX : _PREFIX + length]
    header = _parse(canonical)
    payload = data[_PREFIX + length :]
    if header.cipher is Cipher.AES_256_GCM and len(payload) < TAG_BYTES:
        raise BadObject("cut off within its tag")
    return header, canonical, payload


_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("session_id", "started_at", "compression", "cipher"), str),
    **dict.fromkeys(("key_id", "nonce"), (str, type(None))),
}


def _parse(canonical: bytes) -> Header:
    try:
        values: dict[str, Any] = json.loads(canonical)
        if set(values) != {field.name for field in fields(Header)}:
            raise BadObject("its header has not the fields that it should have")
        for name, value in values.items():
            if not isinstance(value, _TYPES.get(name, int)) or isinstance(value, bool):
                raise BadObject(f"{name} in its header is of the wrong type")
        header = Header(
            **{**values, "compression": Compression(values["compression"]), "cipher": Cipher(values["cipher"])}
        )
        if header.cipher is Cipher.AES_256_GCM and len(bytes.fromhex(header.nonce or "")) != NONCE_BYTES:
            raise BadObject("its nonce has not 12 bytes")
        if not 0 <= header.plaintext_bytes <= MAX_PLAINTEXT:
            raise BadObject("its size is not one of a chunk")
        if header.canonical() != canonical:
            raise BadObject("its header is not canonical JSON")
    except BadObject:
        raise
    except (ValueError, TypeError, RecursionError) as error:
        raise BadObject(f"its header cannot be read: {error}") from None
    return header
