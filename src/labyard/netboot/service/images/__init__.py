"""Images: contract sections 5.3 and 9."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from labyard.core import audit
from labyard.core.context import caller
from labyard.core.database import Database
from labyard.core.errors import ServiceError, conflict, invalid, not_found
from labyard.core.models import User
from labyard.core.paging import Page, fetch
from labyard.netboot.models import Image, ImageStatus, ImageType
from labyard.netboot.service.images.files import check_file, importable, is_unchanged, safe_filename
from labyard.netboot.service.images.rows import AT_WORK, locked, note
from labyard.netboot.service.images.uploads import (
    Upload,
    check_room,
    plain_filename,
    remove_stale,
    storage_error,
    too_big,
)
from labyard.netboot.service.images.work import ImageWork
from labyard.netboot.service.lookups import in_use
from labyard.netboot.settings import Settings

__all__ = ["Images", "check_file", "require"]

SEARCHED = (Image.name, Image.description, Image.original_filename)


class Images:
    """The use cases. `start` before the first request, `close` after the last."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._db = database
        self._settings = settings
        self.folder = settings.images_dir
        self.max_size = settings.max_upload_size
        dirs = settings.import_dirs
        self._import_dirs = [self.folder, *(Path(part.strip()) for part in dirs.split(",") if part.strip())]
        self._work = ImageWork(database, self.folder)

    def start(self) -> None:
        """Clean up and go on where a dead process stopped."""
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_stale(self.folder)
        self._work.start()

    def close(self) -> None:
        self._work.close()

    def get(self, image_id: int) -> Image:
        with self._db.read() as session:
            return require(session, image_id)

    def list(
        self, page: Page, *, image_type: str | None = None, status: str | None = None, search: str | None = None
    ) -> tuple[list[Image], int]:
        """Newest first; deleted ones only when `status` asks for them. `search` is a literal part of a field."""
        query = select(Image).where(Image.status == status if status else Image.status != ImageStatus.DELETED)
        if image_type:
            query = query.where(Image.image_type == image_type)
        if search:
            query = query.where(or_(*(column.icontains(search, autoescape=True) for column in SEARCHED)))
        with self._db.read() as session:
            return fetch(session, query.order_by(Image.id.desc()), page)

    def usernames(self, images: Sequence[Image]) -> dict[int, str]:
        """Names of the users who made these images, by user id."""
        ids = {image.created_by for image in images}
        with self._db.read() as session:
            users = session.scalars(select(User).where(User.id.in_(ids)))
            return {user.id: user.username for user in users}

    def check_new(self, filename: str, name: str | None) -> str:
        """The format of a new image. 422 for a file name or an image name that will not do."""
        extension = filename.rpartition(".")[2].lower() if "." in filename else ""
        if extension not in self._settings.formats:
            raise invalid("file", f"The extension must be one of {', '.join(self._settings.formats)}", filename)
        if len(filename) > 255 or not filename.isprintable():
            raise invalid("file", "The file name must be printable and at most 255 characters long")
        if name is not None:
            with self._db.read() as session:
                _refuse_duplicate(session, name)
        return extension

    def add(self, upload: Upload, name: str, description: str | None, image_type: ImageType, created_by: int) -> Image:
        """Keep an upload, and begin its ingest. 422 duplicate name; 500 storage_error."""
        image = self._new(upload.filename, name, description, image_type, created_by)
        image.size_bytes = upload.size
        with self._db.write() as session:
            self._work.take(image)
            self._insert(session, image)
        try:
            # After the commit: a crash in between leaves a row that says so, never a file that nobody knows.
            upload.path.rename(image.file_path)
        except OSError as error:
            with self._db.write() as session:
                session.delete(session.get_one(Image, image.id))
                self._audit(session, image, "deleted", status_code=500)
            raise storage_error(error, self.folder) from None
        self._work.submit(image.id)
        return image

    def begin_pieces(
        self, filename: str, size: int, name: str, description: str | None, image_type: ImageType, created_by: int
    ) -> Image:
        """An image whose `size` bytes arrive in pieces. 422 duplicate name or too large; 500 storage_error."""
        if size > self.max_size:
            raise too_big(self.max_size)
        check_room(self.folder, size)
        image = self._new(plain_filename(filename), name, description, image_type, created_by)
        image.processing_info = {"progress": 0, "expected": size}
        with self._db.write() as session:
            self._insert(session, image)
        return image

    def arrived(self, image_id: int, size: int) -> Image:
        """So many bytes of an upload in pieces are here; when it is all, begin the ingest. 404."""
        with self._db.write() as session:
            image = require(session, image_id, lock=True)
            expected = image.processing_info.get("expected")
            if image.status != ImageStatus.UPLOADING or expected is None:
                return image
            image.size_bytes = size
            complete = size == expected
            if complete:
                self._work.take(image)
            note(image, progress=0 if complete else 100 * size // expected, expected=None if complete else expected)
        if complete:
            self._work.submit(image.id)
        return image

    def import_file(
        self, name: str, path: str, description: str | None, image_type: ImageType, created_by: int
    ) -> tuple[Image, bool]:
        """Register an image that is on the server already, where it lies; True when that changed anything.

        The same name and path again is fine, and begins a new ingest when the file is no longer the one that was
        registered. 422 outside IMAGES_DIR and IMPORT_DIRS; 409 when a changed file is in use.
        """
        found = importable(path, self._import_dirs)
        with self._db.write() as session:
            known = session.scalar(select(Image).where(Image.name == name, Image.status != ImageStatus.DELETED))
            if known is not None and known.file_path == str(found) and not known.managed:
                if known.status in AT_WORK or (known.status == ImageStatus.READY and is_unchanged(known)):
                    return known, False
                self._refuse_use(session, known)
                known.status, known.error_message = ImageStatus.PROCESSING, None
                known.processing_info = {"progress": 0}
                self._work.take(known)
                self._audit(session, known, "updated", new={"file_path": str(found)})
                image = known
            else:
                owner = session.scalar(
                    select(Image.name).where(Image.file_path == str(found), Image.status != ImageStatus.DELETED)
                )
                if owner is not None:
                    raise invalid("path", f"This file is image {owner!r} already", path)
                image = self._new(found.name, name, description, image_type, created_by)
                image.filename, image.file_path, image.managed = found.name, str(found), False
                image.status, image.size_bytes = ImageStatus.PROCESSING, found.stat().st_size
                self._work.take(image)
                self._insert(session, image)
        self._work.submit(image.id)
        return image, True

    def update(self, image_id: int, values: dict[str, Any]) -> Image:
        """Change name, description, image_type. 404; 422 duplicate name."""
        for field in ("name", "image_type"):
            if field in values and values[field] is None:
                raise invalid(field, "may not be null")
        with self._db.write() as session:
            image = require(session, image_id, lock=True)
            old = {field: getattr(image, field) for field in values if getattr(image, field) != values[field]}
            if "name" in old:
                _refuse_duplicate(session, values["name"])
            for field in old:
                setattr(image, field, values[field])
            _flush(session, image.name)
            self._audit(session, image, "updated", old=old, new={field: values[field] for field in old})
        return image

    def delete(self, image_id: int) -> Image:
        """Remove the file (not one that was imported) and hide the image. 404; 409 in use; 500 storage_error."""
        with self._db.write() as session:
            image = require(session, image_id, lock=True)
            self._refuse_use(session, image)
            files = [image.file_path] if image.managed else []
            files += [file for file in [image.processing_info.get("obsolete")] if file]
            image.status = ImageStatus.DELETED
            image.processing_info = {}
            self._audit(session, image, "deleted")
            session.flush()
            try:
                # Before the commit: deleting must work when the disk is full, and may be repeated when it fails.
                for file in files:
                    Path(file).unlink(missing_ok=True)
            except OSError as error:
                detail = f"The file {error.filename} cannot be removed: {error.strerror}"
                raise ServiceError(500, "storage_error", detail) from None
        return image

    def convert(self, image_id: int, target_format: str) -> Image:
        """Begin a conversion. 404; 409 in use; 422 unless the image is ready or in error."""
        if target_format not in self._settings.formats:
            raise invalid("target_format", f"must be one of {', '.join(self._settings.formats)}", target_format)
        with self._db.write() as session:
            image = require(session, image_id, lock=True)
            if image.status not in (ImageStatus.READY, ImageStatus.ERROR):
                raise ServiceError(422, "validation_error", "Image must be in READY or ERROR status")
            self._refuse_use(session, image)
            note(image, progress=0, target_format=target_format, was=image.status, requested_by=caller().username)
            image.status, image.error_message = ImageStatus.PROCESSING, None
            self._work.take(image)
        self._work.submit(image.id)
        return image

    def _new(self, filename: str, name: str, description: str | None, image_type: ImageType, created_by: int) -> Image:
        image_format = self.check_new(filename, None)
        path = self.folder / safe_filename(name, image_format)
        return Image(
            name=name,
            description=description,
            filename=path.name,
            original_filename=filename,
            file_path=str(path),
            managed=True,
            format=image_format,
            status=ImageStatus.UPLOADING,
            image_type=image_type,
            processing_info={"progress": 0},
            created_by=created_by,
        )

    def _insert(self, session: Session, image: Image) -> None:
        _refuse_duplicate(session, image.name)
        session.add(image)
        _flush(session, image.name)
        new = {"name": image.name, "format": image.format, "filename": image.filename}
        self._audit(session, image, "created", new=new, status_code=201)

    def _refuse_use(self, session: Session, image: Image) -> None:

        # An upload in pieces may be given up at any time: nobody works on it but its client.
        if image.status in AT_WORK and "expected" not in image.processing_info:
            raise conflict(f"Image {image.id} is {image.status}; wait until it is ready")
        if user := in_use(session, image_id=image.id):
            raise conflict(f"Image {image.id} is in use: {user}")

    def _audit(self, session: Session, image: Image, what: str, *, status_code: int = 200, **values: Any) -> None:
        message = f"image {image.name} {what}"
        resource = ("image", image.id)
        audit.record(session, f"image_{what}", message, resource=resource, status_code=status_code, **values)


def require(session: Session, image_id: int, *, lock: bool = False) -> Image:
    """404 for an unknown and for a deleted image. `lock` keeps other writers away until the transaction ends."""
    image = None
    if 0 < image_id < 2**31:
        image = locked(session, image_id) if lock else session.get(Image, image_id)
    if image is None or image.status == ImageStatus.DELETED:
        raise not_found(f"Image with ID {image_id} not found")
    return image


def _refuse_duplicate(session: Session, name: str) -> None:
    query = select(Image.id).where(Image.name == name, Image.status != ImageStatus.DELETED)
    if (other := session.scalar(query)) is not None:
        raise _duplicate(name, f"belongs to image {other}")


def _flush(session: Session, name: str) -> None:
    try:
        session.flush()
    except IntegrityError:
        raise _duplicate(name, "was just taken") from None


def _duplicate(name: str, reason: str) -> ServiceError:
    return invalid("name", f"the name {reason}; choose another", name)
