"""Routes of /sessions (contract section 5.5)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from sqlalchemy import func, select

from labyard.core.access import Operator, Principal, Viewer
from labyard.core.clock import as_text
from labyard.core.models import Role
from labyard.core.paging import Paging
from labyard.netboot.api.deps import Service
from labyard.netboot.models import BootEvent, BootSession, EventSource
from labyard.netboot.schemas import (
    HIDDEN,
    BootEventAnswer,
    BootEventCreate,
    IdFilter,
    SessionAnswer,
    SessionStart,
    SessionStatusIn,
    SessionStop,
)
from labyard.netboot.service import Netboot
from labyard.netboot.service.sessions import Parts, duration_seconds, require
from labyard.netboot.service.start import Started

router = APIRouter(prefix="/sessions", tags=["sessions"])

STREAM_POLL_SECONDS = 0.3


def answer(boot: BootSession) -> SessionAnswer:
    boot.duration_seconds = duration_seconds(boot)  # type: ignore[attr-defined]
    return SessionAnswer.model_validate(boot)


@router.post("/start", status_code=201)
def start(body: SessionStart, who: Operator, service: Service) -> dict[str, Any]:
    """Boot a machine from an image. When this answers 201 the machine can be switched on; with `power` it was."""
    return _started(service, service.starts.start(body, who.id, who.username))


def _started(service: Netboot, started: Started) -> dict[str, Any]:
    parts, provision = started.parts, service.provision
    target = parts.target
    assert target is not None
    suffix = target.target_id.rsplit("-", 1)[1]
    export = str(provision.adapters.disks.export_path(target.target_id))
    backstore = {
        "name": service.names.backstore(parts.machine.id, suffix),
        "type": "fileio",
        "file_path": export,
        "size": parts.image.virtual_size_bytes or parts.image.size_bytes,
    }
    return {
        "session": answer(parts.boot),
        "target_info": {
            "target_id": target.target_id,
            "iqn": target.iqn,
            "backstore": backstore,
            "lun": {"lun_id": target.lun_id, "iqn": target.iqn, "backstore_path": export},
            "acl": {"iqn": target.iqn, "initiator_iqn": target.initiator_iqn},
            "portal": {"iqn": target.iqn, "ip": service.settings.portal_ip, "port": service.settings.portal_port},
            "image_path": target.image_path,
            "initiator_iqn": target.initiator_iqn,
            "created_at": as_text(target.created_at),
        },
        "boot_script": started.script,
        "ipxe_script_url": provision.script_url(parts.boot),
        "iscsi_details": provision.iscsi_details(target),
    }


@router.post("/{session_id}/stop")
def stop(session_id: int, who: Operator, service: Service, body: SessionStop | None = None) -> dict[str, Any]:
    """Take the disk away: reservation, script, target and overlay go. `keep_overlay` keeps what the machine wrote.

    With `power`, `power_error` says why the machine could not be switched off first; its disk is gone all the same.
    """
    asked = body or SessionStop()
    stopped = service.stops.stop(session_id, keep_overlay=asked.keep_overlay, power=asked.power)
    boot = stopped.boot
    answer = {"message": "Session stopped successfully", "session_id": boot.id, "machine_id": boot.machine_id}
    if boot.power_off:
        answer |= {"powered_off": stopped.power_error is None, "power_error": stopped.power_error}
    return answer


@router.get("")
def list_sessions(
    who: Viewer,
    service: Service,
    page: Paging,
    status: SessionStatusIn | None = None,
    machine_id: IdFilter = None,
    image_id: IdFilter = None,
) -> dict[str, Any]:
    found, total = service.sessions.list(page, status=status, machine_id=machine_id, image_id=image_id)
    return page.envelope("sessions", [answer(boot) for boot in found], total)


@router.get("/stats")
def stats(who: Viewer, service: Service) -> dict[str, Any]:
    return service.sessions.stats()


@router.get("/events/stream")
async def stream(request: Request, who: Viewer, service: Service, session_id: IdFilter = None) -> StreamingResponse:
    """Boot events as they come (text/event-stream), of one session or of all; `Last-Event-ID` goes on from there."""
    if session_id is not None:
        await to_thread.run_sync(service.sessions.get, session_id)
    header = request.headers.get("last-event-id", "")
    # 18 digits always fit the database's integer; no event has more.
    last = int(header) if header.isdecimal() and len(header) <= 18 else await to_thread.run_sync(_last_event, service)
    return StreamingResponse(
        _events(service, last, session_id), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


def _last_event(service: Netboot) -> int:
    with service.database.read() as session:
        return session.scalar(select(func.max(BootEvent.id))) or 0


async def _events(service: Netboot, last: int, session_id: int | None) -> AsyncIterator[str]:
    def newer() -> list[BootEvent]:
        query = select(BootEvent).where(BootEvent.id > last).order_by(BootEvent.id).limit(200)
        if session_id is not None:
            query = query.where(BootEvent.session_id == session_id)
        with service.database.read() as session:
            return list(session.scalars(query))

    quiet = 0.0
    while not service.stopping.is_set():
        for event in await to_thread.run_sync(newer):
            last, quiet = event.id, 0.0
            body = json.dumps(BootEventAnswer.model_validate(event).model_dump(mode="json"))
            yield f"id: {event.id}\nevent: {event.type}\ndata: {body}\n\n"
        await asyncio.sleep(STREAM_POLL_SECONDS)
        quiet += STREAM_POLL_SECONDS
        if quiet >= 15:  # keeps proxies from closing a quiet stream
            quiet = 0.0
            yield ": waiting\n\n"


@router.get("/machine/{machine_id}/active")
def active(machine_id: int, who: Viewer, service: Service) -> SessionAnswer:
    return answer(service.sessions.active_of(machine_id).boot)


@router.get("/machine/{machine_id}/boot-script")
def boot_script(machine_id: int, who: Viewer, service: Service) -> dict[str, Any]:
    """The script of the machine's active session: for operators byte for byte what TFTP serves."""
    parts = service.sessions.active_of(machine_id)
    assert parts.target is not None
    script = service.sessions.script(parts)
    url = service.provision.script_url(parts.boot)
    return {
        "machine_id": machine_id,
        "script_content": _without_secrets(service, parts, who, script),
        "script_url": _without_secrets(service, parts, who, url),
        "iscsi_details": service.provision.iscsi_details(parts.target),
    }


def _without_secrets(service: Netboot, parts: Parts, who: Principal, text: str) -> str:
    if who.role.rank >= Role.OPERATOR.rank:
        return text
    assert parts.target is not None
    for secret in (service.box.open(parts.target.chap_secret), parts.boot.boot_token):
        text = text.replace(secret or HIDDEN, HIDDEN)
    return text


@router.get("/{session_id}")
def get(session_id: int, who: Viewer, service: Service) -> SessionAnswer:
    return answer(service.sessions.get(session_id))


@router.get("/{session_id}/events")
def events(session_id: int, who: Viewer, service: Service, page: Paging) -> dict[str, Any]:
    service.sessions.get(session_id)
    found, total = service.boots.list(page, session_id=session_id)
    return page.envelope("events", [BootEventAnswer.model_validate(event) for event in found], total)


@router.post("/{session_id}/events", status_code=201, response_model=BootEventAnswer)
def add_event(session_id: int, body: BootEventCreate, who: Operator, service: Service) -> BootEvent:
    """Record a boot event by hand, for machines that cannot report themselves."""
    with service.database.write() as session:
        boot = require(session, session_id)
        return service.boots.record(session, boot, body.type, EventSource.OPERATOR, message=body.message)
