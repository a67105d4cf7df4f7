"""Public boot routes (contract section 5.6): no login, the session's token is the key."""

from __future__ import annotations

import json
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse

from labyard.core.access import Operator
from labyard.core.context import caller
from labyard.core.errors import ServiceError, not_found
from labyard.netboot.adapters.ipxe import generate_generic_script, validate
from labyard.netboot.api.deps import Service
from labyard.netboot.models import BootEventType, EventSource
from labyard.netboot.schemas import ScriptCheck
from labyard.netboot.service import Netboot

router = APIRouter(prefix="/ipxe", tags=["boot"])

CLIENT_EVENTS = (BootEventType.IPXE_LOAD, BootEventType.BOOT_SUCCESS, BootEventType.BOOT_FAILED)
MAX_MESSAGE_BYTES = 4096


class Text(PlainTextResponse):
    def __init__(self, content: Any = "", status_code: int = 200) -> None:
        super().__init__(content, status_code, {"Cache-Control": "no-store"})


@router.get("/script/{token}", response_class=PlainTextResponse)
def script(token: str, service: Service) -> Response:
    """The machine script of a running session."""
    with service.database.read() as session:
        boot = service.boots.by_token(session, token)
    return Text(service.sessions.script(service.sessions.parts(boot.id)))


@router.get("/generic", response_class=PlainTextResponse)
def generic() -> Response:
    """What a machine without a session gets."""
    return Text(generate_generic_script())


# Firmware asks for the size with HEAD before it fetches a boot program.
@router.head("/boot/{path:path}", include_in_schema=False)
@router.get("/boot/{path:path}", response_class=FileResponse)
def boot_file(path: str, service: Service) -> Response:
    """A boot program, kernel or initrd of the TFTP folder boot/, for clients that boot over HTTP."""
    if not service.provision.adapters.scripts.boot_file(path):
        raise not_found(f"There is no boot file {path}")
    return FileResponse(service.settings.tftp_root / "boot" / path, media_type="application/octet-stream")


@router.get("/script/{token}/events/{kind}", status_code=204)
def event(token: str, kind: str, service: Service) -> Response:
    """iPXE tells how far it has come."""
    return _record(service, token, kind, None)


@router.post("/script/{token}/events/{kind}", status_code=204)
async def event_with_message(token: str, kind: str, request: Request, service: Service) -> Response:
    """The booted system phones home; cloud-init's phone_home posts a form, which is fine too."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_MESSAGE_BYTES:
            break
    return await to_thread.run_sync(_record, service, token, kind, _message(body[:MAX_MESSAGE_BYTES]))


def _message(body: bytes) -> str | None:
    try:
        given = json.loads(body)
    except ValueError:
        return None
    text = given.get("message") if isinstance(given, dict) else None
    return " ".join(text.replace("\0", " ").split())[:500] or None if isinstance(text, str) else None


def _record(service: Netboot, token: str, kind: str, message: str | None) -> Response:
    try:
        type_ = BootEventType(kind.lower())
    except ValueError:
        type_ = None
    if type_ not in CLIENT_EVENTS:
        allowed = ", ".join(CLIENT_EVENTS)
        raise ServiceError(
            422,
            "validation_error",
            [{"type": "enum", "loc": ["path", "type"], "msg": f"a client may send {allowed}", "input": kind}],
        )
    with service.database.write() as session:
        boot = service.boots.by_token(session, token)
        before = boot.ready_time
        service.boots.record(
            session, boot, type_, EventSource.CLIENT, message=message, client_ip=caller().address or None
        )
        if type_ == BootEventType.BOOT_SUCCESS and boot.ready_time != before:
            service.metrics.boots.labels("success").inc()
            service.metrics.boot_seconds.observe(boot.boot_duration_seconds or 0)
        elif type_ == BootEventType.BOOT_FAILED:
            service.metrics.boots.labels("failure").inc()
    # iPXE waits 2 s for the body of a 204 unless the connection is closed.
    return Response(status_code=204, headers={"Cache-Control": "no-store", "Connection": "close"})


@router.post("/validate")
def check(body: ScriptCheck, who: Operator) -> dict[str, Any]:
    """Is this a script that our machines can run? Every error with its line."""
    errors = validate(body.script)
    return {
        "valid": not errors,
        "errors": [{"line": error.line, "code": error.code, "message": error.message} for error in errors],
    }
