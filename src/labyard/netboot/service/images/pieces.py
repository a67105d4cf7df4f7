"""Uploads in pieces, which go on where they stopped: begin, send each piece with its offset, ask how far it is.

The bytes go straight to the image's file, whose size is the place to go on from; so nothing is left over anywhere else.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from anyio import to_thread
from fastapi import Request

from labyard.core.errors import ServiceError, conflict, invalid
from labyard.netboot.models import Image, ImageStatus
from labyard.netboot.service.images import Images
from labyard.netboot.service.images.uploads import pump, storage_error


@dataclass(frozen=True)
class Received:
    """How much of an upload is here, in bytes."""

    image_id: int
    status: str
    received: int
    size_bytes: int


def received(images: Images, image_id: int) -> Received:
    """Where to go on. 404; 400 when the image is not being uploaded in pieces."""
    image, expected = _expected(images, image_id)
    return Received(image.id, image.status, _size(Path(image.file_path)), expected)


async def append(request: Request, images: Images, image_id: int, offset: int) -> Received:
    """Keep the body of a request as the piece that begins at `offset`. The last piece begins the ingest.

    What arrived of a piece that was cut off is kept. 409 with the right offset for a wrong one, and while another
    piece is on its way; 422 for more than was announced; 500 storage_error.
    """
    piece = await to_thread.run_sync(_Piece, images, image_id, offset)
    try:
        await pump(request, piece.write)
    finally:
        await to_thread.run_sync(piece.close)
    return await to_thread.run_sync(piece.end)


class _Piece:
    """Called in threads, one call at a time."""

    def __init__(self, images: Images, image_id: int, offset: int) -> None:
        self._images = images
        image, self._expected = _expected(images, image_id)
        self._id = image.id
        try:
            self._fd = os.open(image.file_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise storage_error(error, images.folder) from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._at = os.fstat(self._fd).st_size
            if self._at != offset:
                raise conflict(f"The next byte is {self._at}: send the piece that begins there, with offset={self._at}")
        except BlockingIOError:
            os.close(self._fd)
            raise conflict("Another piece of this image is on its way; send one at a time") from None
        except ServiceError:
            os.close(self._fd)
            raise

    def write(self, data: bytes) -> None:
        if self._at + len(data) > self._expected:
            raise invalid("body", f"The upload was announced with {self._expected} bytes; this would be more")
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise storage_error(error, self._images.folder) from None
        self._at += len(data)

    def close(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise storage_error(error, self._images.folder) from None
        finally:
            os.close(self._fd)

    def end(self) -> Received:
        image = self._images.arrived(self._id, self._at)
        return Received(image.id, image.status, self._at, self._expected)


def _expected(images: Images, image_id: int) -> tuple[Image, int]:
    image = images.get(image_id)
    expected = image.processing_info.get("expected")
    if image.status != ImageStatus.UPLOADING or expected is None:
        detail = f"Image {image_id} is not being uploaded in pieces. Current status: {image.status}"
        raise ServiceError(400, "image_error", detail)
    return image, int(expected)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
