"""Image archives in all their shapes: docker save old and new, docker-archive, OCI layout (contract section 6)."""

from __future__ import annotations

import io
import json
import platform
import posixpath
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from labyard.faas.errors import ImageError
from labyard.faas.image.compression import BROKEN, decompressed
from labyard.faas.image.layers import disk_error
from labyard.faas.image.tarstream import PIECE, Budget, Random, Section, members

MAX_LAYERS = 256
MAX_DOCUMENT = 8 << 20
HEX_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class Image:
    """What an archive holds: its configuration, and its layers in order."""

    def __init__(self, files: Files, config_name: str | None, layers: list[str]) -> None:
        if len(layers) > MAX_LAYERS:
            raise ImageError(f"it has {len(layers)} layers; at most {MAX_LAYERS} are taken")
        self._files = files
        self._config_name = config_name
        self.layers = [files.section(name) for name in layers]

    def config(self) -> dict[str, Any]:
        """The image's configuration document. ImageError when there is none."""
        if self._config_name is None:
            raise ImageError("the manifest names no Config")
        document: dict[str, Any] = self._files.document(self._config_name, dict)
        return document

    def diff_ids(self) -> list[str]:
        """SHA-256 of each uncompressed layer as the configuration claims it; empty text where it claims none."""
        if self._config_name is None or not self._files.has(self._config_name):
            return []
        rootfs = self.config().get("rootfs")
        claimed = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
        if not isinstance(claimed, list):
            return []
        matches = [HEX_DIGEST.fullmatch(text) if isinstance(text, str) else None for text in claimed]
        if any(matches) and len(claimed) != len(self.layers):
            raise ImageError(f"its configuration names {len(claimed)} layers, and it has {len(self.layers)}")
        return [match[1] if match else "" for match in matches]


class Files:
    """The members of the outer archive by name. Links among them are followed: older `docker save` makes such."""

    def __init__(self, file: IO[bytes], max_entries: int) -> None:
        self._file = file
        self._sections: dict[str, Section] = {}
        self._links: dict[str, str] = {}
        budget = Budget(0, max_entries)
        for _, member in members(Random(file)):
            budget.entry()
            name = _normal(member.name)
            self._sections.pop(name, None)
            self._links.pop(name, None)
            if member.issym():
                self._links[name] = _normal(posixpath.join(posixpath.dirname(name), member.linkname))
            elif member.islnk():
                self._links[name] = _normal(member.linkname)
            elif member.isreg() and not member.issparse():
                self._sections[name] = Section(file, member.offset_data, member.size)

    def has(self, name: str) -> bool:
        return self._follow(name) in self._sections

    def section(self, name: str) -> Section:
        """A member's bytes. ImageError when it is not there, or is a blob whose name is not its digest."""
        found = self._follow(name)
        section = self._sections.get(found)
        if section is None:
            raise ImageError(f"{name!r} is not in the archive")
        blob = BLOB.fullmatch(found)
        if blob and section.sha256() != blob[1]:
            raise ImageError(f"the digest of {name!r} is wrong")
        return section

    def document(self, name: str, kind: type) -> Any:
        section = self.section(name)
        if section.size > MAX_DOCUMENT:
            raise ImageError(f"{name!r} is too large")
        try:
            document = json.loads(section.fresh().read())
        except (ValueError, RecursionError):
            raise ImageError(f"{name!r} is not JSON") from None
        if not isinstance(document, kind):
            raise ImageError(f"{name!r} is not a JSON {'object' if kind is dict else 'list'}")
        return document

    def _follow(self, name: str) -> str:
        name = _normal(name)
        for _ in range(MAX_LAYERS):
            if name not in self._links:
                return name
            name = self._links[name]
        raise ImageError(f"{name!r} is a link to itself")


def _normal(name: str) -> str:
    return posixpath.normpath("/" + name).lstrip("/")


@contextmanager
def open_image(file: IO[bytes], scratch: Path, max_unpacked: int, max_entries: int) -> Iterator[Image]:
    """The image in an archive, itself compressed or not. ImageError says what is wrong with it."""
    with _plain_file(file, scratch, max_unpacked) as plain:
        files = Files(plain, max_entries)
        if files.has("manifest.json"):
            yield _docker(files)
        elif files.has("index.json"):
            yield _oci(files)
        else:
            raise ImageError("manifest.json not found")


@contextmanager
def _plain_file(file: IO[bytes], scratch: Path, limit: int) -> Iterator[IO[bytes]]:
    """The archive as an uncompressed file with a descriptor. The given file is used where it is one."""
    start = file.tell() if file.seekable() else 0
    first = file.read(8)
    if file.seekable():
        file.seek(start)
        first_read: Any = file
    else:
        first_read = _Joined(first, file)
    budget = Budget(limit, 1)
    try:
        with decompressed(first_read, first, scratch) as plain:
            if plain is file and start == 0 and _is_on_disk(file):
                yield file
                return
            with tempfile.TemporaryFile(dir=scratch) as copy:
                while piece := plain.read(PIECE):
                    budget.read(len(piece))
                    copy.write(piece)
                copy.flush()
                yield copy
    except BROKEN as error:
        raise ImageError(f"it cannot be decompressed ({error})") from None
    except OSError as error:
        raise disk_error(error) from None
    finally:
        if file.seekable():
            file.seek(start)


class _Joined:
    """The bytes that were read to look at them, and then the rest."""

    def __init__(self, first: bytes, rest: IO[bytes]) -> None:
        self._first, self._rest = first, rest

    def read(self, size: int = -1) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        return self._rest.read(size)


def _is_on_disk(file: IO[bytes]) -> bool:
    """Are the bytes of its descriptor its own? Those of a gzip.GzipFile are not."""
    return isinstance(getattr(file, "raw", file), io.FileIO)


def _docker(files: Files) -> Image:
    manifest = files.document("manifest.json", list)
    if not manifest or not isinstance(manifest[0], dict):
        raise ImageError("manifest.json names no image")
    entry = manifest[0]
    layers, config = entry.get("Layers"), entry.get("Config")
    if not isinstance(layers, list) or not all(isinstance(name, str) for name in layers):
        raise ImageError("manifest.json: Layers is not a list of names")
    if config is not None and not isinstance(config, str):
        raise ImageError("manifest.json: Config is not a name")
    return Image(files, config, layers)


def _oci(files: Files) -> Image:
    document = files.document("index.json", dict)
    for _ in range(8):
        if "layers" in document or "config" in document:
            layers = document.get("layers")
            if not isinstance(layers, list):
                raise ImageError("the manifest has no list of layers")
            return Image(files, _blob(document.get("config")), [_blob(layer) for layer in layers])
        document = files.document(_blob(_choose(document)), dict)
    raise ImageError("its indexes are nested too deep")


def _choose(index: dict[str, Any]) -> Any:
    """The entry for Linux and this architecture, else the first."""
    entries = index.get("manifests")
    if not isinstance(entries, list) or not entries:
        raise ImageError("its index names no manifest")
    ours = ARCHITECTURES.get(platform.machine(), platform.machine())
    for entry in entries:
        wanted = entry.get("platform") if isinstance(entry, dict) else None
        if isinstance(wanted, dict) and (wanted.get("os"), wanted.get("architecture")) == ("linux", ours):
            return entry
    return entries[0]


def _blob(descriptor: Any) -> str:
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    algorithm, colon, value = digest.partition(":") if isinstance(digest, str) else ("", "", "")
    if not colon or not re.fullmatch(r"[a-z0-9]+", algorithm) or not re.fullmatch(r"[0-9A-Za-z]+", value):
        raise ImageError("a descriptor has no digest")
    return f"blobs/{algorithm}/{value}"
