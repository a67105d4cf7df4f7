"""Key files: made at the first start, readable by the service only, never in the database.

`Keyring` holds the key-encryption keys: it seals data keys and passwords (contract 5.6).
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE = 12  # bytes


class KeyFileError(RuntimeError):
    """A key file that others can read, or that is no key file: the service does not start."""


def read_private(path: Path) -> bytes | None:
    """The bytes of a key file; None when there is none. KeyFileError when others may read it."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    if stat.S_IMODE(facts.st_mode) & 0o077:
        raise KeyFileError(f"{path} can be read by others: chmod 0400 {path}")
    if facts.st_uid != os.geteuid():
        raise KeyFileError(f"{path} belongs to another user than the service")
    return path.read_bytes()


def write_private(path: Path, content: bytes, replace: bool = False) -> None:
    """Write a key file, mode 0400, whole or not at all. FileExistsError when it is there, unless `replace`."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            new.replace(path)
        else:
            path.hardlink_to(new)  # unlike rename it fails where the file is there already
    finally:
        new.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Keyring:
    """The key-encryption keys of `path`. The newest one seals, all of them open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        content = read_private(path)
        if content is None:
            with suppress(FileExistsError):  # another process was quicker
                write_private(path, _fresh({}))
            content = read_private(path)
        self._load(content or b"")

    def _load(self, content: bytes) -> None:
        try:
            found = json.loads(content)
            self._keys = {name: AESGCM(base64.b64decode(key)) for name, key in found["keys"].items()}
            self.current: str = found["current"]
            self._keys[self.current]
        except (ValueError, KeyError, TypeError):
            raise KeyFileError(f"{self._path} is no key file of this service") from None

    def rotate(self) -> str:
        """Add a key and seal with it from now on. Its id."""
        content = json.loads(read_private(self._path) or b"{}")
        write_private(self._path, _fresh(content["keys"]), replace=True)
        self._load(read_private(self._path) or b"")
        return self.current

    def seal(self, secret: bytes, context: str) -> str:
        """Text that only `open` with the same `context` makes readable: <key id>:<base64 of nonce and ciphertext>."""
        nonce = os.urandom(NONCE)
        sealed = nonce + self._keys[self.current].encrypt(nonce, secret, context.encode())
        return f"{self.current}:{base64.b64encode(sealed).decode()}"

    def open(self, sealed: str, context: str) -> bytes:
        """ValueError when it was sealed with an unknown key or another context, or was altered."""
        name, _, text = sealed.partition(":")
        if name not in self._keys:  # another process may have added it
            self._load(read_private(self._path) or b"")
        if name not in self._keys:
            raise ValueError(f"sealed with the key {name}, which is not in {self._path.name}")
        raw = base64.b64decode(text)
        try:
            return self._keys[name].decrypt(raw[:NONCE], raw[NONCE:], context.encode())
        except InvalidTag:
            raise ValueError("altered, or sealed for something else") from None


def _fresh(keys: dict[str, str]) -> bytes:
    name = f"kek-{secrets.token_hex(6)}"
    keys = {**keys, name: base64.b64encode(os.urandom(32)).decode()}
    return json.dumps({"current": name, "keys": keys}).encode()
