"""Session disks: qcow2 overlays that one qemu-storage-daemon exports as raw files by FUSE (contract section 9)."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labyard.core.adapter import AdapterError
from labyard.netboot.adapters.disks import OverlaySeen, OverlaySpec
from labyard.netboot.adapters.qmp import Command, Qmp, Talk
from labyard.netboot.names import TARGET_ID

DRIVERS = {"raw": "raw", "qcow2": "qcow2", "vhdx": "vhdx", "vhd": "vpc", "vmdk": "vmdk", "vdi": "vdi"}
SECTOR = 512
PIECE = 4096
BLANK = "labyard-blank"
MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class _Base:
    """An image, opened once for all its overlays. A file that was replaced is another image, hence the node's name."""

    path: Path
    driver: str
    node: str

    @classmethod
    def of(cls, path: Path, driver: str) -> _Base:
        try:
            stat = path.stat()
        except OSError as error:
            raise AdapterError(f"the image {path} cannot be read: {error.strerror}") from error
        identity = f"{path}|{driver}|{stat.st_dev}|{stat.st_ino}|{stat.st_size}|{stat.st_mtime_ns}"
        return cls(path, driver, "base-" + hashlib.sha256(identity.encode()).hexdigest()[:12])

    @property
    def add(self) -> Command:
        file = {"driver": "file", "filename": str(self.path), "read-only": True}
        return "blockdev-add", {"driver": self.driver, "node-name": self.node, "read-only": True, "file": file}


@dataclass(frozen=True)
class _Blank:
    """A new overlay's bytes, all but the zeros. The same for every overlay on one image."""

    length: int
    pieces: tuple[tuple[int, bytes], ...]

    @classmethod
    def read(cls, path: Path) -> _Blank:
        data = path.read_bytes()
        pieces = ((at, data[at : at + PIECE]) for at in range(0, len(data), PIECE))
        return cls(len(data), tuple((at, piece) for at, piece in pieces if piece.strip(b"\0")))

    def write(self, path: Path) -> None:
        """By another name first: a file with the overlay's name is always whole."""
        new = path.with_name(f"{path.name}.new")
        with new.open("wb", buffering=0) as file:
            os.fchmod(file.fileno(), 0o600)
            for at, piece in self.pieces:
                os.pwrite(file.fileno(), piece, at)
            file.truncate(self.length)
        new.rename(path)


class Overlays:
    """The DiskBackend on a qemu-storage-daemon. Threads and processes may use it side by side: see Qmp."""

    def __init__(self, folder: Path, socket: Path, timeout: float = 10.0) -> None:
        """`folder`: OVERLAY_DIR. `socket`: the daemon's QMP socket. `timeout`: seconds for each verb."""
        self._folder = folder
        self._qmp = Qmp(socket, timeout)
        self._blanks: dict[str, _Blank] = {}  # by the image's node name, which changes when the image does

    def overlay_path(self, target_id: str) -> Path:
        return self._folder / f"{target_id}.qcow2"

    def export_path(self, target_id: str) -> Path:
        return self._folder / f"{target_id}.raw"

    def apply(self, spec: OverlaySpec) -> None:
        """Create the overlay if there is none, and export it. An existing overlay keeps its data. AdapterError."""
        overlay = self.overlay_path(_checked(spec.target_id))
        if spec.base_format not in DRIVERS:
            raise AdapterError(f"no image format {spec.base_format!r}; there are {', '.join(DRIVERS)}")
        base = _Base.of(spec.base.absolute(), DRIVERS[spec.base_format])
        with _os_errors(), self._qmp.talk() as talk:
            backing = _backing_file(overlay)
            if backing is None:
                self._blank(talk, base).write(overlay)
            elif backing[0] != base.path:
                raise AdapterError(
                    f"the overlay {overlay} was made on {backing[0]}, not on {base.path}: remove it first"
                )
            if self._export(talk, spec.target_id, base, is_new=backing is None):
                # The image is not open yet, or something of this name is left from a crash, of the daemon's or ours.
                self._withdraw(talk, spec.target_id)
                opened = talk.run(base.add)[0]
                if problem := self._export(talk, spec.target_id, base, is_new=backing is None):
                    reason = problem if base.node in self._nodes(talk) else opened.error
                    raise AdapterError(f"qemu-storage-daemon cannot export {overlay}: {reason}")

    def remove(self, target_id: str, keep: bool = False) -> None:
        """End the export and delete the overlay, or move it to `kept/`. Absent is fine. AdapterError."""
        overlay = self.overlay_path(_checked(target_id))
        with _os_errors(), self._qmp.talk() as talk:
            self._withdraw(talk, target_id, truncate=not keep)
            if keep and overlay.exists():
                kept = self._folder / "kept"
                kept.mkdir(mode=0o700, exist_ok=True)
                overlay.rename(kept / overlay.name)
            for path in (self.export_path(target_id), overlay, overlay.with_name(f"{overlay.name}.new")):
                path.unlink(missing_ok=True)

    def observed(self) -> Mapping[str, OverlaySeen]:
        """Overlays and exports with names of the service's form, by target_id; also what a crash left. AdapterError."""
        with _os_errors(), self._qmp.talk() as talk:
            exports = {e["id"] for e in talk.do("query-block-exports") if not e["shutting-down"]}
            names = (path.name.partition(".") for path in self._folder.iterdir())
            files = {stem for stem, _, ending in names if ending in ("qcow2", "qcow2.new", "raw")}
            seen = {}
            for target_id in filter(TARGET_ID.fullmatch, exports | files):
                backing = _backing_file(self.overlay_path(target_id))
                served = self._is_mounted(self.export_path(target_id)) and target_id in exports
                seen[target_id] = OverlaySeen(backing is not None, served, backing[0] if backing else None)
            return seen

    def size(self, target_id: str) -> int:
        """Virtual size of an exported disk in bytes. AdapterError when it is not exported."""
        path = self.export_path(_checked(target_id))
        with _os_errors():
            if not self._is_mounted(path):
                raise AdapterError(f"{path} is not exported")
            return path.stat().st_size

    def ping(self) -> None:
        """AdapterError when the daemon does not answer."""
        with self._qmp.talk(patience=0):
            pass

    def _export(self, talk: Talk, target_id: str, base: _Base, is_new: bool) -> str:
        """Have the overlay open and exported; returns what went wrong, or nothing. What is so already is fine, except
        for a new overlay: then it is open on a file of the same name that was deleted."""
        file = {"driver": "file", "filename": str(self.overlay_path(target_id)), "discard": "unmap"}
        disk = {"driver": "qcow2", "node-name": target_id, "file": file, "backing": base.node, "discard": "unmap"}
        mountpoint = self.export_path(target_id)
        export = {
            "type": "fuse",
            "id": target_id,
            "node-name": target_id,
            "mountpoint": str(mountpoint),
            "writable": True,
        }
        if not self._is_mounted(mountpoint):
            mountpoint.touch(mode=0o600)
        added, exported = talk.run(("blockdev-add", disk), ("block-export-add", export))
        if self._is_mounted(mountpoint) and not (is_new and (added.error or exported.error)):
            return ""
        return added.error or exported.error or "it is not mounted"

    def _withdraw(self, talk: Talk, target_id: str, truncate: bool = False) -> None:
        """End the export, close the overlay, and close the image if this was its last overlay."""
        if talk.run(("block-export-del", {"id": target_id, "mode": "hard"}))[0].error is None:
            talk.wait("BLOCK_EXPORT_DELETED", id=target_id)
        while self._is_mounted(self.export_path(target_id)):
            _unmount(self.export_path(target_id))
        overlay = self.overlay_path(target_id)
        backing = _backing_file(overlay)
        if truncate:
            # Closing flushes: without this, all that the machine wrote would first go to the disk.
            with suppress(FileNotFoundError):
                os.truncate(overlay, 0)
        closing: list[Command] = [("blockdev-del", {"node-name": target_id})]
        if backing and backing[0].exists():
            closing.append(("blockdev-del", {"node-name": _Base.of(*backing).node}))  # refused while others use it
        error = talk.run(*closing)[0].error
        if error and target_id in self._nodes(talk):
            raise AdapterError(f"qemu-storage-daemon cannot close {overlay}: {error}")

    def _blank(self, talk: Talk, base: _Base) -> _Blank:
        """A new overlay on the image, made by the daemon once and copied after: five times quicker than making each."""
        if base.node not in self._blanks:
            opened = talk.run(base.add)[0]
            nodes = self._nodes(talk)
            if base.node not in nodes:
                raise AdapterError(f"qemu-storage-daemon cannot open the image {base.path}: {opened.error}")
            # Images that a crash left open. Those in use refuse to be closed.
            talk.run(*(("blockdev-del", {"node-name": n}) for n in nodes if n.startswith("base-") and n != base.node))
            size = -(-nodes[base.node]["image"]["virtual-size"] // SECTOR) * SECTOR
            while len(self._blanks) >= 64:
                del self._blanks[next(iter(self._blanks))]
            self._blanks[base.node] = self._make_blank(talk, base, size)
        return self._blanks[base.node]

    def _make_blank(self, talk: Talk, base: _Base, size: int) -> _Blank:
        path = self._folder / ".blank.qcow2"
        path.write_bytes(b"")
        node, job = {"node-name": BLANK}, {"id": BLANK}
        # Extended L2 entries: a small first write copies 4 KB of the image instead of 64, five times quicker.
        options = {"driver": "qcow2", "file": BLANK, "size": size, "cluster-size": 131072, "extended-l2": True}
        options |= {"backing-file": str(base.path), "backing-fmt": base.driver}
        try:
            talk.run(("job-dismiss", job), ("blockdev-del", node))  # what a crash may have left
            talk.do("blockdev-add", {"driver": "file", "filename": str(path), "cache": {"no-flush": True}} | node)
            talk.do("blockdev-create", {"job-id": BLANK, "options": options})
            while (made := next(j for j in talk.do("query-jobs") if j["id"] == BLANK))["status"] != "concluded":
                talk.wait("JOB_STATUS_CHANGE", id=BLANK, status="concluded")
            talk.run(("job-dismiss", job), ("blockdev-del", node))
            if "error" in made:
                raise AdapterError(f"qemu-storage-daemon cannot create an overlay on {base.path}: {made['error']}")
            return _Blank.read(path)
        finally:
            path.unlink()

    def _nodes(self, talk: Talk) -> dict[str, Any]:
        """Open nodes by name. With 100 sessions it takes the daemon 7 ms, so no verb asks for it every time."""
        return {node["node-name"]: node for node in talk.do("query-named-block-nodes", {"flat": True})}

    def _is_mounted(self, path: Path) -> bool:
        """Whether an export is there and alive. One that a killed daemon left is unmounted."""
        while True:
            try:
                if path.stat().st_dev == self._folder.stat().st_dev:
                    return False
                os.statvfs(path)  # asks the daemon; what stat says is remembered by the kernel for a second
                return True
            except FileNotFoundError:
                return False
            except OSError as error:
                if error.errno not in (errno.ENOTCONN, errno.ECONNABORTED):
                    raise
                _unmount(path)


def _unmount(path: Path) -> None:
    if _libc.umount2(os.fsencode(path), MNT_DETACH) and (code := ctypes.get_errno()) != errno.EINVAL:
        raise OSError(code, os.strerror(code), str(path))


def _checked(target_id: str) -> str:
    if not TARGET_ID.fullmatch(target_id):
        raise AdapterError(f"{target_id!r} is no target_id: it must be machine-<number>-<8 hexadecimal digits>")
    return target_id


def _backing_file(overlay: Path) -> tuple[Path, str] | None:
    """Path and driver of the image an overlay was made on, from its header (docs/interop/qcow2.txt in QEMU's source).

    None when the file is no overlay, or none that is whole. Reading does not disturb the daemon, which has it locked.
    """
    try:
        with overlay.open("rb", buffering=0) as file:
            head = file.read(PIECE)
    except FileNotFoundError:
        return None
    if len(head) < 104 or head[:4] != b"QFI\xfb":
        return None
    name_at, name_length = struct.unpack_from(">QI", head, 8)
    (at,) = struct.unpack_from(">I", head, 100)
    while at + 8 <= len(head):
        kind, length = struct.unpack_from(">II", head, at)
        if kind == 0xE2792ACA:  # the backing format's name
            name = head[name_at : name_at + name_length]
            return Path(os.fsdecode(name)), head[at + 8 : at + 8 + length].decode()
        if kind == 0:
            break
        at += 8 + -(-length // 8) * 8
    return None


@contextmanager
def _os_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AdapterError(f"overlays: {error}") from error
