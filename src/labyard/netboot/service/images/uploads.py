"""Receives an image by multipart/form-data (RFC 7578) straight into the image folder, a piece at a time.

Starlette's own form parser spools files to /tmp first, where a large image has no room.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import structlog
from anyio import to_thread
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from labyard.core.errors import ServiceError, invalid

log = structlog.get_logger(__name__)

PIECE = 1024**2
MAX_FIELD = 4096
MAX_FIELDS = 16
FORM_ALLOWANCE = 64 * 1024  # what a request may have beyond the file: boundaries, headers, other fields
IDLE_SECONDS = 120
_PREFIX, _SUFFIX = ".upload-", ".part"


@dataclass
class Upload:
    """A file that arrived whole, under a temporary name. `filename` is the client's, without any folder."""

    path: Path
    filename: str = ""
    size: int = 0
    fields: dict[str, str] = field(default_factory=dict)


@asynccontextmanager
async def receive(
    request: Request, folder: Path, max_size: int, check: Callable[[str, dict[str, str]], object]
) -> AsyncIterator[Upload]:
    """The upload of a request; its temporary file is gone afterwards unless it was renamed.

    `check(filename, fields so far)` is called in a thread before the file's first byte is kept, to refuse early.
    ServiceError 422 for what the client did wrong, 500 storage_error when the folder cannot take it.
    """
    _check_length(request, folder, max_size)
    _, options = parse_options_header(request.headers.get("content-type", ""))
    if not options.get(b"boundary"):
        raise invalid("file", "Send the image as multipart/form-data with the fields file and name")
    form = await to_thread.run_sync(_Form, folder, options[b"boundary"], max_size, check)
    try:
        await pump(request, form.feed)
        await to_thread.run_sync(form.finish)
        yield form.upload
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(form.close)


async def pump(request: Request, take: Callable[[bytes], object]) -> None:
    """Hand the body of a request to `take` in threads, in pieces of about 1 MiB. ServiceError when it stops coming."""
    pieces = bytearray()
    stream = request.stream()
    try:
        while True:
            with anyio.fail_after(IDLE_SECONDS):
                chunk = await anext(stream, None)
            if chunk is None:
                break
            pieces += chunk
            if len(pieces) >= PIECE:
                await to_thread.run_sync(take, bytes(pieces))
                pieces.clear()
        await to_thread.run_sync(take, bytes(pieces))
    except ClientDisconnect:
        raise ServiceError(400, "image_error", "The client went away before the upload was complete") from None
    except TimeoutError:
        raise invalid("file", f"The upload stood still for {IDLE_SECONDS} s and was given up; send it again") from None


def _check_length(request: Request, folder: Path, max_size: int) -> None:
    length = request.headers.get("content-length", "")
    if not length.isdigit():
        return
    if int(length) > max_size + FORM_ALLOWANCE:
        raise too_big(max_size)
    check_room(folder, int(length) - FORM_ALLOWANCE)


def check_room(folder: Path, size: int) -> None:
    """Refuse what will not fit, before it travels. ServiceError 500 storage_error."""
    try:
        free = os.statvfs(folder)
    except OSError as error:
        raise storage_error(error, folder) from None
    if size > free.f_bavail * free.f_frsize:
        raise storage_error(OSError(errno.ENOSPC, ""), folder)


class _Form:
    """Parses and writes; called in threads, one call at a time."""

    def __init__(
        self, folder: Path, boundary: bytes, max_size: int, check: Callable[[str, dict[str, str]], object]
    ) -> None:
        self._folder = folder
        self._max_size = max_size
        self._check = check
        self._header = [b"", b""]
        self._disposition = b""
        self._name = ""
        self._in_file = self._had_file = self._ended = False
        self._value = bytearray()
        try:
            self._fd, path = _open_locked(folder)
        except OSError as error:
            raise storage_error(error, folder) from None
        self.upload = Upload(path)
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_begin,
                    "on_header_field": lambda data, start, end: self._header_part(0, data[start:end]),
                    "on_header_value": lambda data, start, end: self._header_part(1, data[start:end]),
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_part_data": self._part_data,
                    "on_part_end": self._part_end,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            self.close()
            raise _bad_form(error) from None

    def feed(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _bad_form(error) from None
        except OSError as error:
            raise storage_error(error, self._folder) from None

    def finish(self) -> None:
        if not self._ended:
            raise invalid("file", "The form ends in the middle; send it again")
        if not self._had_file:
            raise invalid("file", "Field required")
        if not self.upload.size:
            raise invalid("file", "The file is empty", self.upload.filename)
        try:
            os.fsync(self._fd)
            os.fchmod(self._fd, 0o640)
        except OSError as error:
            raise storage_error(error, self._folder) from None

    def close(self) -> None:
        try:
            self.upload.path.unlink(missing_ok=True)
        except OSError as error:
            log.error("temporary upload not removed", file=str(self.upload.path), reason=str(error))
        os.close(self._fd)

    def _part_begin(self) -> None:
        self._disposition, self._header = b"", [b"", b""]
        self._value.clear()

    def _header_part(self, which: int, data: bytes) -> None:
        self._header[which] += data

    def _header_end(self) -> None:
        if self._header[0].lower() == b"content-disposition":
            self._disposition = self._header[1]
        self._header = [b"", b""]

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode(errors="replace")
        self._in_file = self._name == "file"
        if not self._in_file:
            if len(self.upload.fields) >= MAX_FIELDS:
                raise invalid("file", f"The form has more than {MAX_FIELDS} fields")
            return
        if self._had_file:
            raise invalid("file", "One file at a time")
        self._had_file = True
        self.upload.filename = plain_filename(options.get(b"filename", b"").decode(errors="replace"))
        self._check(self.upload.filename, self.upload.fields)

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self.upload.size += end - start
            if self.upload.size > self._max_size:
                raise too_big(self._max_size)
            piece = memoryview(data)[start:end]
            while piece:
                piece = piece[os.write(self._fd, piece) :]
        else:
            self._value += data[start:end]
            if len(self._value) > MAX_FIELD:
                raise invalid(self._name[:50], f"is longer than {MAX_FIELD} bytes")

    def _part_end(self) -> None:
        if not self._in_file:
            try:
                self.upload.fields[self._name] = self._value.decode()
            except UnicodeDecodeError:
                raise invalid(self._name[:50], "is not UTF-8 text") from None

    def _end(self) -> None:
        self._ended = True


def plain_filename(given: str) -> str:
    """The last part of a client's file name, on whatever system it was made."""
    return given.replace("\\", "/").rsplit("/", 1)[-1].strip()


def storage_error(error: OSError, folder: Path) -> ServiceError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        detail = f"No space left in {folder}. Delete images that are not needed or make room there, then try again"
    else:
        detail = f"The image folder {folder} cannot be written: {error.strerror or error}"
    return ServiceError(500, "storage_error", detail)


def remove_stale(folder: Path) -> None:
    """Delete the temporary files of uploads that died with their process. One that is under way holds its lock."""
    for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
        except BlockingIOError:
            continue
        except OSError as error:
            log.error("stale upload not removed", file=str(path), reason=str(error))


def _open_locked(folder: Path) -> tuple[int, Path]:
    while True:
        path = folder / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:  # else remove_stale of another process was quicker
            return fd, path
        os.close(fd)


def too_big(max_size: int) -> ServiceError:
    """422, as the contract has it for an upload's size."""
    return invalid("file", f"The file is larger than {max_size} bytes, the most that this service takes")


def _bad_form(error: Exception) -> ServiceError:
    return invalid("file", f"The body is not valid multipart/form-data: {error}")
