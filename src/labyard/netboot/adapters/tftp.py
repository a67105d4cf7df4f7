"""Boot scripts in the TFTP server's folder (contract section 8). Plain files: the server needs no word from us.

No link is followed and nothing outside TFTP_ROOT is touched: folders are opened without following links, and files are
named relative to them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from labyard.core.adapter import AdapterError
from labyard.netboot.adapters.services import unit_running
from labyard.netboot.names import mac_of_script
from labyard.netboot.settings import Settings

T = TypeVar("T")

MACHINES, BOOT = "machines", "boot"
MARKER = "# Labyard netboot: "  # second line of a script of ours
MAX_SCRIPT_BYTES = 64 * 1024


@dataclass(frozen=True)
class ScriptSeen:
    """A machine's script as it lies there. `ours` is False for one that someone else wrote."""

    filename: str
    size: int
    modified: datetime
    mac: str
    text: str
    ours: bool


@dataclass(frozen=True)
class TftpStatus:
    """Facts for GET /tftp/status; None or False with the reason in `error`."""

    service_running: bool | None
    tftp_root_exists: bool
    machines_dir_exists: bool
    boot_dir_exists: bool
    machine_scripts_count: int | None
    boot_files_count: int | None
    error: str | None


class Scripts:
    """`machines/<mac>.ipxe` and the generic `boot.ipxe` below `settings.tftp_root`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._root = settings.tftp_root

    def prepare(self, generic: str) -> None:
        """Make the folders, and the generic script that machines without a session get. AdapterError."""
        try:
            for folder in (self._root, self._root / MACHINES, self._root / BOOT):
                if not folder.exists():
                    folder.mkdir(parents=True, exist_ok=True)
                    folder.chmod(0o755)  # the TFTP server reads as another user, whatever this process's umask
            with _folder(self._root) as root:
                if _read(root, "boot.ipxe") != generic:
                    _write(root, "boot.ipxe", generic)
        except OSError as error:
            raise _failed("prepare", error) from error

    def apply(self, filename: str, text: str) -> None:
        """Write a machine's script: temporary name, then rename; mode 0644. Others' scripts stay. AdapterError."""
        name = _basename(filename)
        try:
            with _folder(self._root / MACHINES) as folder:
                there = _read(folder, name)
                if there == text:
                    return
                if there is not None and not _is_ours(there):
                    raise AdapterError(
                        f"TFTP: {filename} was not written by this service; take the machine out of the inventory's "
                        "ipxe_machines (lab_machines with `disk: session`), or remove the file"
                    )
                _write(folder, name, text)
        except OSError as error:
            raise _failed(f"write {filename}", error) from error

    def remove(self, filename: str) -> None:
        """Delete a machine's script if it is ours. Absent is fine. AdapterError."""
        name = _basename(filename)
        try:
            with _folder(self._root / MACHINES) as folder:
                there = _read(folder, name)
                if there is not None and _is_ours(there):
                    os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _failed(f"delete {filename}", error) from error

    def observed(self) -> Mapping[str, ScriptSeen]:
        """All machine scripts by file name (`machines/….ipxe`), others' included. AdapterError."""
        try:
            with _folder(self._root / MACHINES) as folder:
                return {seen.filename: seen for seen in _scripts(folder)}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise _failed("list machines/", error) from error

    def read(self, filename: str) -> str | None:
        """Text of one machine's script, None when there is none. AdapterError."""
        try:
            with _folder(self._root / MACHINES) as folder:
                return _read(folder, _basename(filename))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failed(f"read {filename}", error) from error

    def boot_file(self, path: str) -> bool:
        """Is there a plain file of this path below boot/, reached without a link?"""
        descriptor = self.open_boot_file(path)
        if descriptor is None:
            return False
        os.close(descriptor)
        return True

    def open_boot_file(self, path: str) -> int | None:
        """Descriptor of a plain file below boot/ (`path` relative to it), or None."""
        parts = path.split("/")
        if not all(parts) or any(part in (".", "..") for part in parts):
            return None
        with contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(_folder(self._root / BOOT))
                for part in parts[:-1]:
                    folder = os.open(part, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_RDONLY, dir_fd=folder)
                    stack.callback(os.close, folder)
                descriptor = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
            except (OSError, ValueError):
                return None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return None
        return descriptor

    def read_boot_file(self, path: str) -> str:
        """Text of a small file below boot/ on one line; empty when there is none."""
        descriptor = self.open_boot_file(path)
        if descriptor is None:
            return ""
        with os.fdopen(descriptor, "rb") as file:
            return " ".join(file.read(MAX_SCRIPT_BYTES).decode(errors="replace").split())

    def status(self) -> TftpStatus:
        """Never raises."""
        problems: list[str] = []
        folders = {name: (self._root / name).is_dir() for name in ("", MACHINES, BOOT)}
        problems += [f"{self._root / name} is not there" for name, there in folders.items() if not there]

        def fact(find: Callable[[], T]) -> T | None:
            try:
                return find()
            except (OSError, AdapterError) as error:
                problems.append(str(error))
                return None

        scripts = fact(lambda: len(self.observed())) if folders[MACHINES] else 0
        boot_files = fact(self._count_boot_files) if folders[BOOT] else 0
        running = fact(lambda: unit_running(self._settings, self._settings.tftp_unit))
        return TftpStatus(
            running, folders[""], folders[MACHINES], folders[BOOT], scripts, boot_files, "; ".join(problems) or None
        )

    def _count_boot_files(self) -> int:
        with os.scandir(self._root / BOOT) as entries:
            return sum(1 for entry in entries if entry.is_file(follow_symlinks=False))


def extract_mac_from_filename(filename: str) -> str | None:
    """`machines/00-11-22-33-44-55.ipxe` -> `00:11:22:33:44:55`; None for any other form (contract section 3)."""
    return mac_of_script(filename)


def _basename(filename: str) -> str:
    if mac_of_script(filename) is None:
        raise AdapterError(f"TFTP: {filename!r} is not the name of a machine's script")
    return filename.removeprefix(f"{MACHINES}/").lower()


def _is_ours(text: str) -> bool:
    return text.splitlines()[1:2] != [] and text.splitlines()[1].startswith(MARKER)


@contextlib.contextmanager
def _folder(path: os.PathLike[str]) -> Iterator[int]:
    descriptor = os.open(path, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read(folder: int, name: str) -> str | None:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, f"{name} is not a plain file")
        return file.read(MAX_SCRIPT_BYTES).decode(errors="replace")


def _write(folder: int, name: str, text: str) -> None:
    temporary = f".{name}.{secrets.token_hex(4)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text.encode())
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise


def _scripts(folder: int) -> Iterator[ScriptSeen]:
    for name in os.listdir(folder):
        mac = mac_of_script(name)
        if mac is None:
            continue
        try:
            text = _read(folder, name)
            facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError:
            continue  # a link, or gone meanwhile
        if text is not None:
            modified = datetime.fromtimestamp(facts.st_mtime, UTC)
            yield ScriptSeen(f"{MACHINES}/{name}", facts.st_size, modified, mac, text, _is_ours(text))


def _failed(what: str, error: OSError) -> AdapterError:
    return AdapterError(f"TFTP: cannot {what}: {error.strerror or error}")
