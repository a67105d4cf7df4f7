# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""What faasd will make of an image archive, found out without it: the key of its tree, and the process.

The daemon's own reading is labyard.faas.image, which a host's Python does not have; tests hold the two together.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import platform
import posixpath
import tarfile
import zlib
from typing import Any

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
PIECE = 1 << 20


class Unreadable(Exception):
    """It is no image archive, or one that is compressed in a way that Python's tarfile does not know."""


def describe(path: str) -> dict[str, Any]:
    """`key`, `cmd`, `env` and `workdir` of an archive, as the daemon would register them; `user` as the image has it.

    Unreadable says what is wrong. Archives that the daemon refuses for other reasons may well pass.
    """
    try:
        with tarfile.open(path) as tar:
            members = {_normal(member.name): member for member in tar}
            config_name, layers = _names(tar, members)
            config = (_document(tar, members, config_name).get("config") or {}) if config_name else {}
            workdir = posixpath.normpath("/" + (config.get("WorkingDir") or "/").lstrip("/"))
            key = hashlib.sha256()
            for layer in layers:
                key.update(f"{_sha256(tar, members, layer)}\n".encode())
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise Unreadable(f"{path} is not an image archive ({error})") from error
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise Unreadable(f"{path} is not an image archive: it is a tar file, but {_words(error)}") from error
    key.update(workdir.encode("utf-8", "surrogateescape"))
    env = list(config.get("Env") or [])
    if not any(item.startswith("PATH=") for item in env):
        env.insert(0, f"PATH={DEFAULT_PATH}")
    return {
        "key": key.hexdigest(),
        "cmd": [*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])] or ["/bin/sh"],
        "env": env,
        "workdir": workdir,
        "user": config.get("User") or "",
    }


def _words(error: Exception) -> str:
    return (
        f"{error.args[0]} is not in it" if isinstance(error, KeyError) else f"its documents are not in order ({error})"
    )


def _normal(name: str) -> str:
    return posixpath.normpath("/" + name).lstrip("/")


def _member(members: dict[str, tarfile.TarInfo], name: str) -> tarfile.TarInfo:
    """The file of this name; links among them are followed. KeyError names what is not there."""
    name = _normal(name)
    for _ in range(256):
        member = members[name]
        if member.issym():
            name = _normal(posixpath.join(posixpath.dirname(name), member.linkname))
        elif member.islnk():
            name = _normal(member.linkname)
        else:
            return member
    raise KeyError(name)


def _document(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], name: str) -> Any:
    file = tar.extractfile(_member(members, name))
    if file is None:
        raise KeyError(name)
    return json.loads(file.read())


def _sha256(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], name: str) -> str:
    """Of a layer as it is stored, compressed or not."""
    file = tar.extractfile(_member(members, name))
    if file is None:
        raise KeyError(name)
    digest = hashlib.sha256()
    while piece := file.read(PIECE):
        digest.update(piece)
    return digest.hexdigest()


def _names(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo]) -> tuple[str | None, list[str]]:
    """Of the configuration and of the layers."""
    if "manifest.json" in members:
        entry = _document(tar, members, "manifest.json")[0]
        return entry.get("Config"), list(entry["Layers"])
    if "index.json" not in members:
        raise KeyError("manifest.json")
    document = _document(tar, members, "index.json")
    while "layers" not in document and "config" not in document:
        document = _document(tar, members, _blob(_choose(document["manifests"])))
    return _blob(document["config"]), [_blob(layer) for layer in document["layers"]]


def _choose(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The entry for Linux and this architecture, else the first."""
    ours = ("linux", ARCHITECTURES.get(platform.machine(), platform.machine()))
    for entry in entries:
        wanted = entry.get("platform") or {}
        if (wanted.get("os"), wanted.get("architecture")) == ours:
            return entry
    return entries[0]


def _blob(descriptor: dict[str, Any]) -> str:
    algorithm, _, digest = descriptor["digest"].partition(":")
    return f"blobs/{algorithm}/{digest}"
