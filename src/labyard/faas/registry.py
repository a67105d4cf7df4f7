"""Which functions there are: `registry.json`, valid at every moment (contract section 2)."""

from __future__ import annotations

import ipaddress
import json
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labyard.faas.limits import Limits
from labyard.faas.log import log
from labyard.faas.names import NAME

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Function:
    """One registered function. `user` is uid and gid; `limits` holds only what the deploy named."""

    name: str
    ip: str
    rootfs: str
    cmd: tuple[str, ...]
    env: tuple[str, ...] = (f"PATH={DEFAULT_PATH}",)
    workdir: str = "/"
    user: tuple[int, int] = (0, 0)
    groups: tuple[int, ...] = ()
    key: str = ""  # of its tree in the content store; empty for what an older daemon unpacked
    limits: dict[str, Any] = field(default_factory=dict)
    created_at: str = ""

    def allowed(self, defaults: Limits) -> Limits:
        return defaults.with_changes(self.limits)

    def as_entry(self) -> dict[str, Any]:
        return {
            "ip": self.ip,
            "rootfs": self.rootfs,
            "cmd": list(self.cmd),
            "env": list(self.env),
            "workdir": self.workdir,
            "user": [*self.user, *self.groups],
            "key": self.key,
            "limits": self.limits,
            "created_at": self.created_at,
        }


def read_entry(name: str, entry: dict[str, Any], defaults: Limits) -> Function:
    """A function from its entry; the three core keys are enough. ValueError says what is wrong with it."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a function")
    for key in ("ip", "rootfs", "cmd"):
        if key not in entry:
            raise ValueError(f"{name}: {key} is missing")
    try:
        ip = str(ipaddress.IPv4Address(entry["ip"]))
        uid, gid, *groups = (int(number) for number in entry.get("user") or (0, 0))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from None
    cmd, env = entry["cmd"], entry.get("env") or Function.env
    for key, words in (("cmd", cmd), ("env", env)):
        if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"{name}: {key} is not a list of texts")
    limits = entry.get("limits") or {}
    try:
        defaults.with_changes(limits)
    except Exception as error:
        raise ValueError(f"{name}: {error}") from None
    return Function(
        name=name,
        ip=ip,
        rootfs=str(entry["rootfs"]),
        cmd=tuple(cmd) or ("/bin/sh",),
        env=tuple(env),
        workdir=str(entry.get("workdir") or "/"),
        user=(uid, gid),
        groups=tuple(groups),
        key=str(entry.get("key") or ""),
        limits=dict(limits),
        created_at=str(entry.get("created_at") or ""),
    )


class Registry:
    """The functions, in memory and in the file. Each change is in the file when the call returns."""

    def __init__(self, path: str | Path, defaults: Limits | None = None) -> None:
        self.path = Path(path)
        self._defaults = defaults or Limits(512 * 1024**2, 1.0, 64, 64 * 1024**2, 30.0, 16, 0)
        self._lock = threading.Lock()
        self._functions: dict[str, Function] = {}
        self.damaged = False  # the file could not be used when it was last read

    def load(self) -> None:
        """Read the file. None means no functions; one that cannot be read is kept under another name."""
        with self._lock:
            self._functions = self._read()

    def reload(self) -> None:
        """Read the file again. ValueError, OSError when it cannot be used; then nothing has changed."""
        with self._lock:
            self._functions = self._parse()

    def _parse(self) -> dict[str, Function]:
        try:
            entries = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
            raise ValueError("it is not an object of objects")
        functions = {name: read_entry(name, entry, self._defaults) for name, entry in entries.items()}
        if len({function.ip for function in functions.values()}) < len(functions):
            raise ValueError("two functions have one address")
        return functions

    def _read(self) -> dict[str, Function]:
        self.damaged = False
        try:
            return self._parse()
        except (ValueError, OSError) as error:
            kept = self.path.with_name(f"{self.path.name}.bad-{time.strftime('%Y%m%dT%H%M%S')}")
            log("init", f"{self.path} cannot be used ({error}); kept as {kept.name}; starting without functions")
            self.path.rename(kept)
            self.damaged = True
            return {}

    # The two that read take no lock: a change replaces the dictionary, and its write to the disk holds up no request.
    def all(self) -> dict[str, Function]:
        return dict(self._functions)

    def get(self, name: str) -> Function | None:
        return self._functions.get(name)

    def save(self) -> None:
        """Write the file as it is in memory. OSError."""
        with self._lock:
            self._write(self._functions)

    def put(self, function: Function) -> None:
        """Add or replace. OSError when the file cannot be written; then nothing has changed."""
        with self._lock:
            self._write({**self._functions, function.name: function})

    def remove(self, name: str) -> Function | None:
        """The function that was there; None when there was none. OSError as in `put`."""
        with self._lock:
            rest = dict(self._functions)
            gone = rest.pop(name, None)
            if gone:
                self._write(rest)
            return gone

    def as_entries(self) -> dict[str, dict[str, Any]]:
        return {name: function.as_entry() for name, function in self.all().items()}

    def _write(self, functions: dict[str, Function]) -> None:
        text = json.dumps({name: function.as_entry() for name, function in functions.items()}, indent=2) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_name(f".{self.path.name}.new")
        try:
            with scratch.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            scratch.rename(self.path)
        except OSError:
            scratch.unlink(missing_ok=True)
            raise
        self._functions = functions
