"""Routes of /images (contract section 5.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError

from labyard.core.access import Admin, Viewer
from labyard.core.errors import ServiceError
from labyard.core.fields import Fold, fold
from labyard.core.paging import Paging, Search
from labyard.netboot.api.deps import Service
from labyard.netboot.models import Image, ImageFormat, ImageStatus, ImageType
from labyard.netboot.schemas import Answer, Text500, Time, check_name
from labyard.netboot.service.images import Images, pieces
from labyard.netboot.service.images.uploads import Upload, receive


def _target_format(value: object) -> object:
    value = fold(value)
    return "vhd" if value == "vpc" else value


def _trimmed(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


Name = Annotated[str, BeforeValidator(_trimmed), AfterValidator(check_name)]
Type = Annotated[ImageType, Fold]
Format = Annotated[ImageFormat, BeforeValidator(_target_format)]


class ImageFields(BaseModel):
    """What an upload says of its image, beside the file."""

    name: Name
    description: Text500 = None
    image_type: Type = ImageType.SYSTEM


class ImageImport(ImageFields):
    path: str = Field(max_length=1024, description="Absolute path on the server, below IMAGES_DIR or IMPORT_DIRS")


class ImagePieces(ImageFields):
    filename: str = Field(max_length=1024, description="Its extension names the format")
    size_bytes: int = Field(ge=1, lt=2**62)


class ImageUpdate(BaseModel):
    """An omitted field stays; an explicit null clears the description (decision D13)."""

    name: Name | None = None
    description: Text500 = None
    image_type: Type | None = None


class Conversion(BaseModel):
    target_format: Format = ImageFormat.RAW


class ImageAnswer(Answer):
    id: int
    name: str
    description: str | None
    filename: str
    file_path: str
    format: str
    size_bytes: int
    virtual_size_bytes: int | None
    status: str
    image_type: str
    checksum_md5: str | None
    checksum_sha256: str | None
    error_message: str | None
    created_at: Time
    updated_at: Time
    created_by: int
    created_by_username: str | None = None


class ConversionStatus(Answer):
    """`processing_info.progress` is 0 to 100, for ingest as well."""

    image_id: int = Field(validation_alias="id")
    name: str
    status: str
    format: str
    size_bytes: int
    virtual_size_bytes: int | None
    error_message: str | None
    processing_info: dict[str, Any]
    created_at: Time
    updated_at: Time


# What of processing_info is told; the rest is the workers' own.
TOLD = ("progress", "target_format")
_FORM = {
    "type": "object",
    "required": ["file", "name"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "name": {"type": "string"},
        "description": {"type": "string"},
        "image_type": {"type": "string", "enum": [str(value) for value in ImageType], "default": "system"},
    },
}


router = APIRouter(prefix="/images", tags=["images"])


def _answers(images: Images, rows: Sequence[Image]) -> list[ImageAnswer]:
    names = images.usernames(rows)
    found = [ImageAnswer.model_validate(row) for row in rows]
    for answer in found:
        answer.created_by_username = names.get(answer.created_by)
    return found


def _keep(images: Images, upload: Upload, who: int) -> ImageAnswer:
    fields = _fields(upload.fields)
    return _answers(images, [images.add(upload, fields.name, fields.description, fields.image_type, who)])[0]


@router.post(
    "/upload",
    status_code=201,
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}},
)
async def upload_image(request: Request, who: Admin, service: Service) -> ImageAnswer:
    """Upload an image. It is checked in the background: GET /{id}/conversion-status shows the progress.

    Put the field `name` before `file`, and a bad or taken name is refused before the file travels.
    """
    images = service.images

    def check(filename: str, fields: dict[str, str]) -> None:
        images.check_new(filename, _fields(fields).name if "name" in fields else None)

    async with receive(request, images.folder, images.max_size, check) as upload:
        return await to_thread.run_sync(_keep, images, upload, who.id)


@router.post("/uploads", status_code=201)
def begin_upload(given: ImagePieces, who: Admin, service: Service) -> ImageAnswer:
    """Begin an upload in pieces, which can go on after a cut. Send them with PUT /images/upload/{id}?offset=…."""
    fields = (given.filename, given.size_bytes, given.name, given.description, given.image_type)
    return _answers(service.images, [service.images.begin_pieces(*fields, who.id)])[0]


@router.put(
    "/upload/{image_id}",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def upload_piece(
    request: Request, image_id: int, who: Admin, service: Service, offset: Annotated[int, Query(ge=0, lt=2**62)]
) -> pieces.Received:
    """The bytes from `offset` on, as many as you like at a time. The last piece begins the checks."""
    return await pieces.append(request, service.images, image_id, offset)


@router.get("/upload/{image_id}")
def upload_progress(image_id: int, who: Viewer, service: Service) -> pieces.Received:
    """How much of an upload in pieces is here: the offset of the next one."""
    return pieces.received(service.images, image_id)


@router.post("/import", status_code=201)
def import_image(given: ImageImport, who: Admin, service: Service, response: Response) -> ImageAnswer:
    """Register an image that is on the server already, without copying. Its file is never deleted by the service.

    200 instead of 201 when it is registered already; a file that changed since is checked again.
    """
    image, changed = service.images.import_file(given.name, given.path, given.description, given.image_type, who.id)
    response.status_code = 201 if changed else 200
    return _answers(service.images, [image])[0]


@router.get("")
def list_images(
    who: Viewer,
    service: Service,
    page: Paging,
    response: Response,
    image_type: Annotated[Type | None, Query()] = None,
    status: Annotated[ImageStatus | None, Fold, Query()] = None,
    search: Search = None,
) -> list[ImageAnswer]:
    """Newest first; deleted images only with status=deleted. `search` looks in name, description and file name."""
    rows, total = service.images.list(page, image_type=image_type, status=status, search=search)
    response.headers["X-Total-Count"] = str(total)
    return _answers(service.images, rows)


@router.get("/{image_id}")
def get_image(image_id: int, who: Viewer, service: Service) -> ImageAnswer:
    return _answers(service.images, [service.images.get(image_id)])[0]


@router.put("/{image_id}")
def update_image(image_id: int, given: ImageUpdate, who: Admin, service: Service) -> ImageAnswer:
    return _answers(service.images, [service.images.update(image_id, given.model_dump(exclude_unset=True))])[0]


@router.delete("/{image_id}")
def delete_image(image_id: int, who: Admin, service: Service) -> dict[str, str]:
    """Deletes the file too, but not one that was imported. 409 while a live session or target uses it."""
    image = service.images.delete(image_id)
    kept = "" if image.managed else f"; its file {image.file_path} was imported and stays"
    return {"message": f"Image {image.name} deleted{kept}"}


@router.post("/{image_id}/convert")
def convert_image(image_id: int, who: Admin, service: Service, given: Conversion | None = None) -> dict[str, str | int]:
    """Begin a conversion; the old file stays in place until the new one is whole."""
    service.images.convert(image_id, (given or Conversion()).target_format)
    return {"message": "Conversion triggered successfully", "image_id": image_id}


@router.get("/{image_id}/conversion-status")
def conversion_status(image_id: int, who: Viewer, service: Service) -> ConversionStatus:
    """How far ingest or conversion is."""
    found = ConversionStatus.model_validate(service.images.get(image_id))
    found.processing_info = {key: found.processing_info[key] for key in TOLD if key in found.processing_info}
    found.processing_info.setdefault("progress", 0)
    return found


def _fields(given: dict[str, str]) -> ImageFields:
    try:
        return ImageFields.model_validate(given)
    except ValidationError as error:
        detail = [
            {"type": item["type"], "loc": ["body", *item["loc"]], "msg": item["msg"], "input": item["input"]}
            for item in error.errors(include_url=False)
        ]
        raise ServiceError(422, "validation_error", detail) from None
