"""What an image says of the process to start: command, environment, directory, user (contract section 5)."""

from __future__ import annotations

import os
import posixpath
import stat
from dataclasses import dataclass
from typing import Any

from labyard.faas.errors import ImageError
from labyard.faas.image.tree import Tree, split_path
from labyard.faas.registry import DEFAULT_PATH

MAX_ACCOUNTS = 1 << 20  # bytes of passwd and group that are read


@dataclass(frozen=True)
class Process:
    cmd: tuple[str, ...]
    env: tuple[str, ...]
    workdir: str
    user: str


def read_process(config: dict[str, Any]) -> Process:
    """What to start. ImageError names the key that cannot be used."""
    inner = config.get("config") or {}
    if not isinstance(inner, dict):
        raise ImageError("its configuration's `config` is not an object")
    env = _texts(inner, "Env")
    if any("=" not in item for item in env):
        raise ImageError("Env has an entry without =")
    if not any(item.startswith("PATH=") for item in env):
        env = (f"PATH={DEFAULT_PATH}", *env)
    user, workdir = inner.get("User") or "", inner.get("WorkingDir") or "/"
    if not isinstance(user, str) or not isinstance(workdir, str) or "\0" in user + workdir:
        raise ImageError("User or WorkingDir is not a text")
    return Process(
        cmd=_texts(inner, "Entrypoint") + _texts(inner, "Cmd") or ("/bin/sh",),
        env=env,
        workdir=posixpath.normpath("/" + workdir.lstrip("/")),
        user=user,
    )


def _texts(inner: dict[str, Any], key: str) -> tuple[str, ...]:
    value = inner.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str) and "\0" not in item for item in value):
        raise ImageError(f"{key} is not a list of texts")
    return tuple(value)


def find_user(tree: Tree, user: str) -> tuple[tuple[int, int], tuple[int, ...]]:
    """uid and gid, and further groups, of `USER[:GROUP]`, numbers or names. ImageError for a name that is not there."""
    name, _, group = user.partition(":")
    accounts = _accounts(tree, "etc/passwd")
    groups = _accounts(tree, "etc/group")
    name = name or "0"
    account = next((row for row in accounts if len(row) > 3 and name in (row[0], row[2])), None)
    if account:
        uid, gid = _number(account[2]), _number(account[3])
    elif name.isdigit():
        uid, gid = _number(name), 0
    else:
        raise ImageError(f"user {name!r} is not in its /etc/passwd")
    if group:
        row = next((row for row in groups if len(row) > 2 and group in (row[0], row[2])), None)
        if row is None and not group.isdigit():
            raise ImageError(f"group {group!r} is not in its /etc/group")
        return (uid, _number(row[2] if row else group)), ()
    login = account[0] if account else None
    further = {_number(row[2]) for row in groups if len(row) > 3 and login in row[3].split(",")}
    return (uid, gid), tuple(sorted(further - {gid}))


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 2**32 - 2:
        raise ImageError(f"{text!r} is not the number of a user or group")
    return int(text)


def _accounts(tree: Tree, name: str) -> list[list[str]]:
    try:
        parts = tree.resolve_parent(split_path(name))
    except ImageError:
        return []
    if tree.kind(parts) != stat.S_IFREG:
        return []
    descriptor = os.open(tree.path(parts), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        text = file.read(MAX_ACCOUNTS).decode("utf-8", "replace")
    return [line.split(":") for line in text.splitlines() if line and not line.startswith("#")]
