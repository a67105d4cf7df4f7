"""Compression, told by content and never by name: none, gzip, bzip2, xz, zstd."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from labyard.faas.errors import ImageError

# Of bzip2 so much that no member's name, with which a tar archive begins, is taken for it.
MAGIC = {
    "gzip": rb"\x1f\x8b",
    "bzip2": rb"BZh[1-9](1AY&|\x17rE8)",
    "xz": rb"\xfd7zXZ\x00",
    "zstd": rb"\x28\xb5\x2f\xfd",
}
# What the decoders raise for bytes that are not theirs.
BROKEN = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)
COPY = 1 << 20


def compression_of(first: bytes) -> str | None:
    """The name of the compression that a file with these first bytes has; None for none."""
    return next((name for name, magic in MAGIC.items() if re.match(magic, first)), None)


@contextmanager
def decompressed(file: Any, first: bytes, scratch: Path) -> Iterator[IO[bytes]]:
    """The file, read from its start, uncompressed. `file` has `read`; `first` are its first bytes.

    ImageError when the compression is one that this host cannot read.
    """
    kind = compression_of(first)
    if kind is None:
        yield file
    elif kind == "gzip":
        with gzip.GzipFile(fileobj=file) as opened:
            yield opened  # type: ignore[misc]
    elif kind == "bzip2":
        with bz2.BZ2File(file) as opened_bzip2:
            yield opened_bzip2
    elif kind == "xz":
        with lzma.LZMAFile(file) as opened_xz:
            yield opened_xz
    else:
        with _zstd(file, scratch) as opened_zstd:
            yield opened_zstd


@contextmanager
def _zstd(file: Any, scratch: Path) -> Iterator[IO[bytes]]:
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]  # Python 3.14 and newer
    except ImportError:
        pass
    else:
        try:
            with zstd.ZstdFile(file) as opened:
                yield opened
        except zstd.ZstdError as error:
            raise ImageError(f"it cannot be decompressed ({error})") from None
        return
    program = shutil.which("zstd")
    if program is None:
        raise ImageError("unsupported layer compression zstd")
    # The program wants a file of its own: a part of the archive cannot be its standard input.
    with tempfile.TemporaryFile(dir=scratch) as copy:
        while piece := file.read(COPY):
            copy.write(piece)
        copy.seek(0)
        with subprocess.Popen(
            [program, "-dcq"], stdin=copy, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdout is not None
            try:
                yield process.stdout
                if process.stdout.read(1) == b"" and process.wait() != 0:
                    raise ImageError("a zstd layer is broken")
            finally:
                process.kill()
