"""Routes of /sessions."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from labyard.desktops import roles
from labyard.desktops.api.deps import Anyone, Service, SessionManager, SessionOperator, SessionReader
from labyard.desktops.api.routes import guarded, shared
from labyard.desktops.fields import Line
from labyard.desktops.models import SessionStatus
from labyard.desktops.paging import Paging
from labyard.desktops.schemas.sessions import (
    AnchoringOut,
    ChunkOut,
    ChunksOut,
    ErrorsOut,
    MetadataChange,
    PipelineOut,
    SessionIn,
    SessionOut,
    SessionsOut,
    StageOut,
    StartedOut,
    StateOut,
    StoppedOut,
)

router = guarded("/sessions", "sessions")

Word = Annotated[Line | None, Query(max_length=255)]
VIDEO: dict[int | str, dict[str, Any]] = {200: {"content": {"video/mp4": {}}}}
OBJECT: dict[int | str, dict[str, Any]] = {200: {"content": {"application/octet-stream": {}}}}


async def _session_id(session_id: str, service: Service, who: Anyone) -> str:
    await run_in_threadpool(service.sessions.records.exists, session_id, who)
    return session_id


SessionId = Annotated[str, Depends(_session_id)]


@router.post("", response_model=SessionOut, status_code=201)
def create(who: SessionOperator, service: Service, body: SessionIn) -> dict[str, Any]:
    """Records nothing yet. `provisioning` says whether there is an RDP server to record."""
    return service.sessions.records.create(body, who)


@router.get("", response_model=SessionsOut)
@shared(roles.SESSION_SEE_ALL)
def list_sessions(
    who: SessionReader,
    service: Service,
    page: Paging,
    status: SessionStatus | None = None,
    project: Word = None,
    environment: Word = None,
    owner: Word = None,
) -> dict[str, Any]:
    """Newest first."""
    found, total = service.sessions.records.page(page, who, status, project, environment, owner)
    return page.envelope("sessions", found, total)


@router.get("/{session_id}", response_model=SessionOut)
def get(who: SessionReader, session_id: SessionId, service: Service) -> dict[str, Any]:
    return service.sessions.records.get(session_id, who)


@router.delete("/{session_id}", status_code=204)
def delete(who: SessionManager, session_id: SessionId, service: Service) -> None:
    """Its data key is destroyed: nobody reads its chunks any more. 409 while it is recorded."""
    service.sessions.records.delete(session_id, who)


@router.post("/{session_id}/start", response_model=StartedOut)
def start(who: SessionOperator, session_id: SessionId, service: Service) -> dict[str, Any]:
    """Answers when the first frame was captured. `binding` says what is recorded."""
    return service.sessions.recordings.start(session_id, who)


@router.post("/{session_id}/stop", response_model=StoppedOut)
def stop(who: SessionOperator, session_id: SessionId, service: Service) -> dict[str, Any]:
    """Answers when every slice is stored and the session is anchored in the ledger."""
    return service.sessions.recordings.stop(session_id, who)


@router.post("/{session_id}/pause", response_model=StateOut)
def pause(who: SessionOperator, session_id: SessionId, service: Service) -> dict[str, Any]:
    return service.sessions.recordings.pause(session_id, who)


@router.post("/{session_id}/resume", response_model=StateOut)
def resume(who: SessionOperator, session_id: SessionId, service: Service) -> dict[str, Any]:
    return service.sessions.recordings.resume(session_id, who)


@router.get("/{session_id}/pipeline", response_model=PipelineOut)
def pipeline(who: SessionReader, session_id: SessionId, service: Service) -> dict[str, Any]:
    return service.sessions.records.pipeline(session_id, who)


@router.get("/{session_id}/pipeline/stages/{stage}", response_model=StageOut)
def stage(who: SessionReader, session_id: SessionId, service: Service, stage: str) -> dict[str, Any]:
    return service.sessions.records.stage(session_id, who, stage)


@router.get("/{session_id}/chunks", response_model=ChunksOut)
def chunks(who: SessionReader, session_id: SessionId, service: Service, page: Paging) -> dict[str, Any]:
    """Committed chunks, by their sequence."""
    found, total = service.sessions.chunks.page(session_id, who, page)
    return page.envelope("chunks", found, total)


@router.get("/{session_id}/chunks/{chunk_id}", response_model=ChunkOut)
def chunk(who: SessionReader, session_id: SessionId, service: Service, chunk_id: str) -> dict[str, Any]:
    return service.sessions.chunks.get(session_id, who, chunk_id)


@router.get("/{session_id}/chunks/{chunk_id}/proof")
def chunk_proof(who: SessionReader, session_id: SessionId, service: Service, chunk_id: str) -> dict[str, Any]:
    """For `labyard-verify chunk`. 409 before the session is stopped."""
    return service.sessions.chunks.proof(session_id, who, chunk_id)


@router.get("/{session_id}/chunks/{chunk_id}/object", response_class=Response, responses=OBJECT)
def chunk_object(who: SessionReader, session_id: SessionId, service: Service, chunk_id: str) -> Response:
    """The chunk as it is stored, encrypted: what `labyard-verify` checks."""
    data = service.sessions.chunks.stored(session_id, who, chunk_id)
    return Response(data, media_type="application/octet-stream")


@router.get("/{session_id}/chunks/{chunk_id}/content", response_class=Response, responses=VIDEO)
def chunk_content(who: SessionManager, session_id: SessionId, service: Service, chunk_id: str) -> Response:
    """The chunk's video, decrypted: it plays alone."""
    return Response(service.sessions.chunks.content(session_id, who, chunk_id), media_type="video/mp4")


@router.get("/{session_id}/export", response_class=Response, responses=VIDEO)
def export(who: SessionManager, session_id: SessionId, service: Service) -> Response:
    """The whole recording as one video, decrypted, without pauses and holes."""
    name = f'attachment; filename="{session_id}.mp4"'
    pieces = service.sessions.chunks.export(session_id, who)
    return StreamingResponse(pieces, media_type="video/mp4", headers={"Content-Disposition": name})


@router.get("/{session_id}/proof")
def proof(who: SessionReader, session_id: SessionId, service: Service) -> dict[str, Any]:
    """The bundle for `labyard-verify session`. 409 before the session is stopped."""
    return service.sessions.chunks.bundle(session_id, who)


@router.get("/{session_id}/statistics")
def statistics(who: SessionReader, session_id: SessionId, service: Service) -> dict[str, Any]:
    return service.sessions.records.statistics(session_id, who)


@router.get("/{session_id}/anchoring", response_model=AnchoringOut)
def anchoring(who: SessionReader, session_id: SessionId, service: Service) -> dict[str, Any]:
    return service.sessions.recordings.anchoring(session_id, who)


@router.get("/{session_id}/errors", response_model=ErrorsOut)
def errors(who: SessionReader, session_id: SessionId, service: Service) -> dict[str, Any]:
    return {"session_id": session_id, "errors": service.sessions.records.errors(session_id, who)}


@router.get("/{session_id}/metadata")
def metadata(who: SessionReader, session_id: SessionId, service: Service) -> dict[str, Any]:
    return service.sessions.records.metadata(session_id, who)


@router.put("/{session_id}/metadata")
def change_metadata(
    who: SessionOperator, session_id: SessionId, service: Service, body: MetadataChange
) -> dict[str, Any]:
    """What is given is put in place of what was; the rest stays."""
    return service.sessions.records.change_metadata(session_id, who, body)
