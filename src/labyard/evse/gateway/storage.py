"""Files of one gateway, JSON, in one directory; a reader never sees half of one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger(__name__)


class Storage:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self, name: str) -> Any:
        """What was written under that name; None if nothing was, or if it cannot be read (which is logged)."""
        try:
            return json.loads((self._directory / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as problem:
            log.error("stored file is not readable, starting without it", file=name, problem=str(problem))
            return None

    def write(self, name: str, content: Any) -> None:
        """Replace the file. It is the owner's alone: it may hold secrets. A failure is logged: the gateway goes on
        with what it has in memory."""
        # Always the same name: what a kill leaves behind is overwritten by the next write.
        temporary = self._directory / f".{name}.new"
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=1)
            temporary.replace(self._directory / name)
        except OSError as problem:
            log.error("cannot write to the storage directory", file=name, problem=str(problem))
            temporary.unlink(missing_ok=True)

    def restore(self, name: str, take: Callable[[Any], None]) -> None:
        """Give `take` what was written; that it makes no sense, `take` says with a ValueError."""
        content = self.read(name)
        if content is None:
            return
        try:
            take(content)
        except ValueError as problem:
            log.error("stored file makes no sense, starting without it", file=name, problem=str(problem))

    def remove(self, name: str) -> None:
        try:
            (self._directory / name).unlink(missing_ok=True)
        except OSError as problem:
            log.error("cannot remove from the storage directory", file=name, problem=str(problem))
