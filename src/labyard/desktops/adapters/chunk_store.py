"""Chunk objects on disk: `<session>/<chunk id>.lyck` in the store, its backup and its archive."""

from __future__ import annotations

import shutil
from pathlib import Path

from labyard.desktops.adapters.files import sync_folder, write_durably

SUFFIX = ".lyck"


class ChunkStore:
    """Ids are the service's own, never a client's text."""

    def __init__(self, root: Path, backup: Path | None = None, archive: Path | None = None) -> None:
        self._root = root
        self.backup = backup
        self.archive = archive
        self.make()

    def make(self) -> None:
        """The folders are there. Idempotent."""
        for folder in (self._root, self.backup, self.archive):
            if folder:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def write(self, chunk_id: str, data: bytes, backed_up: bool = False) -> None:
        """Whole and durable when it returns. OSError when a disk does not take it."""
        for root in (self._root, self.backup if backed_up else None):
            if root:
                folder = _folder(root, chunk_id)
                if not folder.is_dir():
                    folder.mkdir(mode=0o700, exist_ok=True)
                    sync_folder(root)
                write_durably(folder / f"{chunk_id}{SUFFIX}", data)

    def read(self, chunk_id: str) -> bytes:
        """From the store, or the archive once it is there. OSError when it is in neither."""
        name = f"{chunk_id}{SUFFIX}"
        try:
            return (_folder(self._root, chunk_id) / name).read_bytes()
        except FileNotFoundError:
            if self.archive is None:
                raise
            return (_folder(self.archive, chunk_id) / name).read_bytes()

    def remove_session(self, session_id: str) -> None:
        """From everywhere. Absent is fine."""
        for root in (self._root, self.backup, self.archive):
            if root:
                shutil.rmtree(root / session_id, ignore_errors=True)

    def archive_session(self, session_id: str) -> None:
        """Move it out of the store. Done again it goes on where it was cut off."""
        if self.archive is None:
            raise ValueError("there is no archive store")
        source, target = self._root / session_id, self.archive / session_id
        target.mkdir(mode=0o700, exist_ok=True)
        for path in sorted(source.glob(f"*{SUFFIX}")):
            write_durably(target / path.name, path.read_bytes())
            path.unlink()
        shutil.rmtree(source, ignore_errors=True)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self._root).free


def _folder(root: Path, chunk_id: str) -> Path:
    return root / chunk_id.rpartition("-c")[0]
