"""The four stages of a session's pipeline, with sums over what each has worked on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, bindparam, func, select, update
from sqlalchemy.orm import Session

from labyard.core.clock import now
from labyard.desktops import names
from labyard.desktops.adapters.agent import RecordStatus
from labyard.desktops.errors import Refusal
from labyard.desktops.models import DeskSession, SessionError, SessionStage, SessionStatus

RECORDING, PROCESSING, STORAGE, ANCHORING = STAGES = ("recording", "processing", "storage", "anchoring")
INACTIVE, ACTIVE, PAUSED, ERROR, STOPPED = "inactive", "active", "paused", "error", "stopped"
MAX_RETRIES = 3


# By the table and not by the model: it is run for every chunk.
_DONE = (
    update(SessionStage.__table__)  # type: ignore[arg-type]
    .where(SessionStage.session_id == bindparam("of"), SessionStage.stage_name == bindparam("name"))
    .values(
        items_processed=SessionStage.items_processed + 1,
        processing_time_ms=SessionStage.processing_time_ms + bindparam("time"),
        cpu_time_ms=SessionStage.cpu_time_ms + bindparam("cpu"),
        # NULL is passed over.
        memory_bytes=func.greatest(SessionStage.memory_bytes, bindparam("memory", type_=BigInteger)),
        last_processed=bindparam("moment"),
        status=ACTIVE,
        error_message=None,
        retry_count=0,
    )
)


@dataclass
class Work:
    """What one piece of work took: milliseconds by the clock, milliseconds of a core, the most bytes held."""

    time_ms: float = 0.0
    cpu_ms: float = 0.0
    memory_bytes: int | None = None


@contextmanager
def measured() -> Iterator[Work]:
    """Measures what is done within it, in this thread."""
    work = Work()
    clock, cpu = time.perf_counter(), time.thread_time()
    try:
        yield work
    finally:
        work.time_ms = (time.perf_counter() - clock) * 1000
        work.cpu_ms = (time.thread_time() - cpu) * 1000


def make(session: Session, session_id: str) -> None:
    session.add_all(SessionStage(session_id=session_id, stage_name=name) for name in STAGES)


def enter(session: Session, session_id: str, status: str, stages: Sequence[str] = STAGES) -> None:
    session.execute(_of(session_id, stages).values(status=status))


def done(session: Session, session_id: str, works: Mapping[str, Work]) -> None:
    """One item more for each of these stages. A stage that was in error works again."""
    moment = now()
    rows = [
        {"of": session_id, "name": name, "time": work.time_ms, "cpu": work.cpu_ms, "memory": work.memory_bytes,
         "moment": moment}
        for name, work in works.items()
    ]  # fmt: skip
    session.connection().execute(_DONE, rows)


def own(session: Session, session_id: str, status: RecordStatus) -> None:
    """What the recorder itself takes, which is no work of this process."""
    values: dict[str, Any] = {}
    if status.cpu_seconds is not None:
        values["cpu_time_ms"] = status.cpu_seconds * 1000
    if status.memory_bytes is not None:
        values["memory_bytes"] = status.memory_bytes
    if values:
        session.execute(_of(session_id, [RECORDING]).values(values))


def failed(session: Session, session_id: str, stage: str, code: str, message: str, retries: int) -> None:
    """The stage is in error, and the session says why."""
    session.execute(
        _of(session_id, [stage]).values(
            status=ERROR,
            errors_count=SessionStage.errors_count + 1,
            retry_count=retries,
            error_message=message,
        )
    )
    add_error(session, session_id, code, message, stage)


def add_error(session: Session, session_id: str, code: str, message: str, stage: str | None = None) -> None:
    session.add(
        SessionError(error_id=names.made("err"), session_id=session_id, code=code, message=message, stage=stage)
    )


def recovered(session: Session, session_id: str) -> None:
    """What went wrong so far is over."""
    session.execute(update(SessionError).where(SessionError.session_id == session_id).values(recovered=True))


def _of(session_id: str, stages: Sequence[str]) -> Any:
    return update(SessionStage).where(SessionStage.session_id == session_id, SessionStage.stage_name.in_(stages))


def shown(session: Session, row: DeskSession) -> list[dict[str, Any]]:
    """The stages in their order. Rates are over the time since the first frame; None before it."""
    found = {
        stage.stage_name: stage
        for stage in session.scalars(select(SessionStage).where(SessionStage.session_id == row.session_id))
    }
    seconds = _seconds(row.started_at, row.stopped_at)
    return [_stage(found[name], seconds) for name in STAGES]


def one(session: Session, row: DeskSession, name: str) -> dict[str, Any]:
    if name not in STAGES:
        raise Refusal("STAGE_NOT_FOUND", f"There is no stage {name[:50]}; stages are {', '.join(STAGES)}")
    return next(stage for stage in shown(session, row) if stage["stage_name"] == name)


def pipeline(session: Session, row: DeskSession) -> dict[str, Any]:
    stages = shown(session, row)
    metrics = [stage["metrics"] for stage in stages]
    memory = [each["memory_usage_bytes"] for each in metrics if each["memory_usage_bytes"] is not None]
    cpu = [each["cpu_usage_percent"] for each in metrics if each["cpu_usage_percent"] is not None]
    return {
        "session_id": row.session_id,
        "pipeline_status": _overall(row.status, [stage["status"] for stage in stages]),
        "stages": stages,
        "overall_metrics": {
            # What went through the whole of it: chunks in the store.
            "items_processed": metrics[STAGES.index(STORAGE)]["items_processed"],
            "errors_count": sum(each["errors_count"] for each in metrics),
            "processing_time_ms": sum(each["processing_time_ms"] for each in metrics),
            "throughput_per_second": metrics[STAGES.index(STORAGE)]["throughput_per_second"],
            "memory_usage_bytes": sum(memory) if memory else None,
            "cpu_usage_percent": round(sum(cpu), 3) if cpu else None,
        },
    }


def _overall(status: str, stages: list[str]) -> str:
    if status == SessionStatus.STOPPED:
        return STOPPED
    if ERROR in stages or status == SessionStatus.FAILED:
        return ERROR
    if status == SessionStatus.PAUSED:
        return PAUSED
    return ACTIVE if status in (SessionStatus.RECORDING, SessionStatus.STOPPING) else INACTIVE


def _stage(stage: SessionStage, seconds: float | None) -> dict[str, Any]:
    used = stage.items_processed > 0 and seconds
    return {
        "stage_name": stage.stage_name,
        "status": stage.status,
        "last_processed": stage.last_processed,
        "metrics": {
            "items_processed": stage.items_processed,
            "errors_count": stage.errors_count,
            "processing_time_ms": round(stage.processing_time_ms, 3),
            "throughput_per_second": round(stage.items_processed / seconds, 4) if used and seconds else None,
            "memory_usage_bytes": stage.memory_bytes,
            "cpu_usage_percent": round(stage.cpu_time_ms / seconds / 10, 3) if used and seconds else None,
        },
        "error_message": stage.error_message,
        "retry_count": stage.retry_count,
        "max_retries": MAX_RETRIES,
    }


def _seconds(start: datetime | None, end: datetime | None) -> float | None:
    return max(0.001, ((end or now()) - start).total_seconds()) if start else None
