"""A machine's console, as far as it was logged (contract section 7)."""

from __future__ import annotations

from labyard.core.database import Database
from labyard.core.errors import ServiceError
from labyard.vms.adapters.console import Piece, read_range, read_tail
from labyard.vms.service.files import Files
from labyard.vms.service.lookups import vm_row

MAX_LIMIT = 1024 * 1024  # bytes


class Consoles:
    def __init__(self, database: Database, files: Files) -> None:
        self._db = database
        self._files = files

    def read(self, vm_id: str, offset: int | None, limit: int | None) -> Piece | None:
        """The end of the log, or a range of bytes when one is asked for. None when there is no log yet."""
        with self._db.read() as session:
            vm_row(session, vm_id)
        path = self._files.console(vm_id)
        try:
            if offset is None and limit is None:
                return read_tail(path)
            return read_range(path, offset or 0, limit or MAX_LIMIT)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ServiceError(500, "console_error", f"Failed to read console: {error.strerror or error}") from error
