"""Background work on images: ingest and conversion (contract sections 5.3 and 9).

Each piece of work is in the image's row, with a lease, so that two workers never take one image and a restart after
`kill -9` takes it over.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import structlog
from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from labyard.core import audit
from labyard.core.adapter import AdapterError
from labyard.core.clock import now
from labyard.core.database import Database
from labyard.netboot.adapters import qemu_img
from labyard.netboot.adapters.qemu_img import ImageRefused, Stopped
from labyard.netboot.models import Image, ImageStatus
from labyard.netboot.service.images.files import safe_filename, sync
from labyard.netboot.service.images.rows import (
    AT_WORK,
    discard_output,
    fail,
    is_dead,
    locked,
    new_owner,
    note,
    ready,
)

log = structlog.get_logger(__name__)

WORKERS = 2
MAX_CRASHES = 3
LEASE = timedelta(seconds=60)
RENEW_SECONDS = 15
PIECES_WITHIN = timedelta(days=1)  # between two pieces of an upload
PROGRESS_SECONDS = 0.5
BLOCK = 4 * 1024**2
CONVERT_SHARE = 90  # percent of a conversion's progress that is qemu-img's; the rest is checksums


class _Lost(Exception):
    """Another worker holds the image now, or it is gone."""


class ImageWork:
    """Runs the work of this process, and picks up what dead ones left. Threads; `close` stops them."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        self._owner = new_owner()
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="image")
        self._mine: set[int] = set()
        self._stop = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="image-leases", daemon=True)

    def start(self) -> None:
        self.recover()
        self._keeper.start()

    def close(self) -> None:
        """Stop soon. What was under way is released, and the next start begins it again."""
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._database.write() as session:
            session.execute(
                update(Image).where(Image.lease_owner == self._owner).values(lease_owner=None, lease_until=None)
            )

    def take(self, image: Image) -> None:
        """Put this process's lease on a row, in the caller's transaction. Call `submit` after its commit."""
        image.lease_owner, image.lease_until = self._owner, now() + LEASE

    def submit(self, image_id: int) -> None:
        if self._stop.is_set():
            return
        self._mine.add(image_id)
        self._pool.submit(self._run, image_id)

    def recover(self) -> None:
        """Take over images whose worker is dead, and finish what it left behind."""
        for image_id in self._abandoned():
            try:
                with self._database.write() as session:
                    image = locked(session, image_id)
                    if image is None or image.status not in AT_WORK or not self._is_free(image):
                        continue
                    if image.processing_info.get("expected"):
                        Path(image.file_path).unlink(missing_ok=True)
                        fail(image, "The upload was not finished. Delete the image and upload it again")
                        continue
                    crashes = int(image.processing_info.get("crashes", 0)) + (image.lease_owner is not None)
                    note(image, crashes=crashes)
                    discard_output(image)
                    if crashes < MAX_CRASHES:
                        self.take(image)
                    else:
                        fail(image, f"The work on it was cut off {crashes} times. Convert it again, or delete it")
            except OSError as error:
                log.error("image not taken over", image=image_id, reason=str(error))
                continue
            if crashes < MAX_CRASHES:
                log.info("image work taken over", image=image_id)
                self.submit(image_id)
        self._remove_obsolete()

    def _abandoned(self) -> list[int]:
        with self._database.read() as session:
            rows = session.scalars(select(Image).where(Image.status.in_(AT_WORK)))
            return [image.id for image in rows if self._is_free(image)]

    def _is_free(self, image: Image) -> bool:
        if "expected" in image.processing_info:  # its client may send the next piece
            return image.updated_at < now() - PIECES_WITHIN
        if image.id in self._mine and image.lease_owner == self._owner:
            return False
        return image.lease_until is None or image.lease_until < now() or is_dead(image.lease_owner or "")

    def _keep(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            try:
                if self._mine:
                    with self._database.write() as session:
                        mine = or_(*(Image.id == image_id for image_id in self._mine.copy()))
                        owned = update(Image).where(Image.lease_owner == self._owner, mine)
                        session.execute(owned.values(lease_until=now() + LEASE, updated_at=Image.updated_at))
                self.recover()
            except Exception:
                log.exception("leases of images not renewed; trying again")

    def _run(self, image_id: int) -> None:
        try:
            if self._stop.is_set():
                return
            with self._database.read() as session:
                image = session.get(Image, image_id)
            if image is None or image.lease_owner != self._owner:
                return
            if image.processing_info.get("target_format"):
                self._convert(image)
            else:
                self._ingest(image)
        except _Lost:
            log.warning("image is in other hands", image=image_id)
        except Stopped:
            self._change(image_id, discard_output)
        except (ImageRefused, AdapterError, OSError) as error:
            self._failed(image_id, _plain(error))
        except Exception:
            log.exception("image work failed", image=image_id)
            self._failed(image_id, "The work on it failed unexpectedly; the service's log says why")
        finally:
            self._mine.discard(image_id)

    def _ingest(self, image: Image) -> None:
        path = Path(image.file_path)

        def begin(row: Image) -> None:
            row.status = ImageStatus.PROCESSING
            note(row, progress=0)

        self._change(image.id, begin)
        if not path.is_file():
            raise ImageRefused("The upload was cut off. Delete the image and upload it again")
        virtual_size = qemu_img.inspect(path, image.format)
        before = path.stat()
        md5, sha256 = self._checksums(path, self._progress(image.id, 0, 100))

        def finish(row: Image) -> None:
            row.size_bytes, row.virtual_size_bytes = before.st_size, virtual_size
            row.checksum_md5, row.checksum_sha256 = md5, sha256
            ready(row, before.st_mtime_ns)

        self._change(image.id, finish)

    def _convert(self, image: Image) -> None:
        source = Path(image.file_path)
        target = str(image.processing_info["target_format"])
        output = self._folder / f"{source.stem}.{target}"
        if output.exists():
            output = self._folder / safe_filename(image.name, target)
        part = output.with_name(output.name + ".part")

        def begin(row: Image) -> None:
            row.status = ImageStatus.CONVERTING
            note(row, progress=0, output=str(output))  # on record first: a crash leaves nothing unknown behind

        self._change(image.id, begin)
        if not source.is_file():
            raise ImageRefused(f"Its file is gone: {source}")
        qemu_img.inspect(source, image.format)
        progress = self._progress(image.id, 0, CONVERT_SHARE)
        qemu_img.convert(source, image.format, part, target, progress, self._stop.is_set)
        virtual_size = qemu_img.inspect(part, target)
        md5, sha256 = self._checksums(part, self._progress(image.id, CONVERT_SHARE, 100))
        sync(part)
        part.chmod(0o640)
        part.rename(output)
        stat = output.stat()

        def swap(row: Image) -> None:
            old = {"format": row.format, "size_bytes": row.size_bytes}
            obsolete = row.file_path if row.managed else None
            row.file_path, row.filename, row.format, row.managed = str(output), output.name, target, True
            row.size_bytes, row.virtual_size_bytes = stat.st_size, virtual_size
            row.checksum_md5, row.checksum_sha256 = md5, sha256
            asked_by = row.processing_info.get("requested_by")
            ready(row, stat.st_mtime_ns)
            if obsolete:
                note(row, obsolete=obsolete)
            session = Session.object_session(row)
            assert session is not None
            audit.record(
                session,
                "image_converted",
                f"Image {row.name} converted to {target}",
                resource=("image", row.id),
                old=old,
                new={"format": target, "size_bytes": stat.st_size},
                username=asked_by,
            )

        self._change(image.id, swap)
        self._remove_obsolete()

    def _remove_obsolete(self) -> None:
        """Delete the files that conversions replaced: only after the commit that made the new ones count."""
        with self._database.read() as session:
            rows = session.scalars(select(Image).where(Image.status.in_((ImageStatus.READY, ImageStatus.ERROR))))
            ids = [image.id for image in rows if image.processing_info.get("obsolete")]
        for image_id in ids:
            with self._database.write() as session:
                image = locked(session, image_id)
                old = image.processing_info.get("obsolete") if image else None
                if image is None or not old or old == image.file_path:
                    continue
                try:
                    Path(old).unlink(missing_ok=True)
                except OSError as error:
                    log.error("replaced image file not removed; trying again later", file=old, reason=str(error))
                    continue
                note(image, obsolete=None)

    def _change(self, image_id: int, change: Callable[[Image], None]) -> None:
        with self._database.write() as session:
            image = locked(session, image_id)
            if image is None or image.lease_owner != self._owner or image.status not in AT_WORK:
                raise _Lost
            change(image)

    def _failed(self, image_id: int, reason: str) -> None:
        log.warning("image work failed", image=image_id, reason=reason)
        try:
            self._change(image_id, lambda row: fail(row, reason))
        except _Lost:
            return
        except Exception:
            log.exception("failure not recorded; the work will be taken over", image=image_id)

    def _progress(self, image_id: int, first: int, last: int) -> Callable[[int], None]:
        written = [time.monotonic(), first]

        def tell(percent: int) -> None:
            value = first + (last - first) * percent // 100
            moment = time.monotonic()
            if value != written[1] and moment - written[0] >= PROGRESS_SECONDS:
                written[:] = [moment, value]
                self._change(image_id, lambda row: note(row, progress=value))

        return tell

    def _checksums(self, path: Path, progress: Callable[[int], object]) -> tuple[str, str]:
        md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size or 1
            done = 0
            while block := file.read(BLOCK):
                if self._stop.is_set():
                    raise Stopped
                md5.update(block)
                sha256.update(block)
                done += len(block)
                progress(min(100, 100 * done // size))
        return md5.hexdigest(), sha256.hexdigest()


def _plain(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    return str(error)
