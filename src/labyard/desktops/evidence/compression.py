"""The compressions of chunks (contract D9). Ratio = bytes before / bytes after."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from enum import StrEnum

import lz4.frame
import zstandard


class Compression(StrEnum):
    NONE = "none"
    ZSTD = "zstd"
    LZ4 = "lz4"
    GZIP = "gzip"


def compress(data: bytes, method: Compression) -> bytes:
    if method is Compression.ZSTD:
        return zstandard.ZstdCompressor(level=3).compress(data)
    if method is Compression.LZ4:
        packed: bytes = lz4.frame.compress(data, compression_level=1)
        return packed
    if method is Compression.GZIP:
        return gzip.compress(data, 6, mtime=0)
    return data


def decompress(data: bytes, method: Compression, size: int) -> bytes:
    """The `size` bytes that were compressed. ValueError when these are not they; never makes more of them."""
    try:
        plain = _READERS[method](data, size)
    except (zstandard.ZstdError, RuntimeError, OSError, EOFError) as error:
        raise ValueError(f"not {method} data: {error}") from None
    if len(plain) != size:
        raise ValueError(f"{method} data of another size than {size} bytes")
    return plain


def _read_zstd(data: bytes, size: int) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(data) as reader:
        return reader.read(size + 1)


def _read_lz4(data: bytes, size: int) -> bytes:
    with lz4.frame.open(io.BytesIO(data)) as reader:
        plain: bytes = reader.read(size + 1)
        return plain


def _read_gzip(data: bytes, size: int) -> bytes:
    with gzip.open(io.BytesIO(data)) as reader:
        return reader.read(size + 1)


_READERS: dict[Compression, Callable[[bytes, int], bytes]] = {
    Compression.NONE: lambda data, size: data,
    Compression.ZSTD: _read_zstd,
    Compression.LZ4: _read_lz4,
    Compression.GZIP: _read_gzip,
}
