"""What was measured of a session (contract 5.7). What was not measured is null."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from labyard.core.clock import now
from labyard.desktops.models import DeskSession, SessionChunk, SessionStage, UsageSample
from labyard.desktops.moments import as_text, from_text
from labyard.desktops.service.sessions.stages import PROCESSING, STORAGE


def statistics(session: Session, row: DeskSession) -> dict[str, Any]:
    """Until now, or as they were when the session was sealed."""
    if row.final_statistics is not None:
        return row.final_statistics
    end = row.stopped_at or (now() if row.started_at else None)
    return {
        "session_id": row.session_id,
        "time_range": {"start": _text(row.started_at), "end": _text(end)},
        "recording_stats": _recording(row, end),
        **_chunks(session, row),
        "rdp_resource_usage": _server(session, row, end),
        "node_performance": _node(session, row, end),
    }


def _recording(row: DeskSession, end: datetime | None) -> dict[str, Any]:
    """Durations run from the first captured frame, never from the creation."""
    if row.started_at is None or end is None:
        total = paused = holes = 0.0
    else:
        total = (end - row.started_at).total_seconds()
        paused = _length(row.pauses, end)
        holes = _length(row.gaps, end)
    active = max(0.0, total - paused - holes)
    return {
        "total_duration_seconds": round(total, 6),
        "active_duration_seconds": round(active, 6),
        "paused_duration_seconds": round(paused, 6),
        "total_frames": row.frames,
        "dropped_frames": row.dropped_frames,
        "average_fps": round(row.frames / active, 3) if active else None,
    }


def _length(spans: Iterable[Mapping[str, Any]], end: datetime) -> float:
    """Seconds of all spans {from, to}; one that is open lasts until the end."""
    return sum(
        ((from_text(span["to"]) if span["to"] else end) - from_text(span["from"])).total_seconds() for span in spans
    )


def _chunks(session: Session, row: DeskSession) -> dict[str, Any]:
    count, plain, packed, mean, most, least = session.execute(
        select(
            func.count(),
            func.coalesce(func.sum(SessionChunk.size_bytes), 0),
            func.coalesce(func.sum(SessionChunk.compressed_size_bytes), 0),
            func.avg(SessionChunk.processing_time_ms),
            func.max(SessionChunk.processing_time_ms),
            func.min(SessionChunk.processing_time_ms),
        ).where(SessionChunk.session_id == row.session_id)
    ).one()
    errors = (
        session.scalar(
            select(func.sum(SessionStage.errors_count)).where(
                SessionStage.session_id == row.session_id, SessionStage.stage_name.in_((PROCESSING, STORAGE))
            )
        )
        or 0
    )
    plain, packed = int(plain), int(packed)
    return {
        "storage_stats": {
            "total_size_bytes": plain,
            "compressed_size_bytes": packed,
            "compression_ratio": round(plain / packed, 4) if packed else None,
            "chunks_count": count,
            "average_chunk_size_bytes": round(plain / count, 1) if count else None,
        },
        "performance_stats": {
            "average_processing_time_ms": _rounded(mean),
            "max_processing_time_ms": _rounded(most),
            "min_processing_time_ms": _rounded(least),
            "error_rate": round(errors / (count + errors), 6) if count + errors else None,
        },
    }


@dataclass(frozen=True)
class _Use:
    """What samples say of a node or a server while it was recorded. None: there is no sample."""

    samples: int = 0
    cpu_avg: float | None = None
    cpu_max: float | None = None
    memory_avg: float | None = None
    memory_max: float | None = None
    received: float | None = None  # bytes per second
    sent: float | None = None
    last: UsageSample | None = None


def _use(session: Session, kind: str, subject: str | None, row: DeskSession, end: datetime | None) -> _Use:
    if subject is None or row.started_at is None or end is None:
        return _Use()
    sample = UsageSample
    these = (sample.kind == kind, sample.subject_id == subject, sample.at >= row.started_at, sample.at <= end)
    count, cpu, cpu_max, memory, memory_max, received, sent = session.execute(
        select(
            func.count(),
            func.avg(sample.cpu_percent),
            func.max(sample.cpu_percent),
            func.avg(sample.memory_percent),
            func.max(sample.memory_percent),
            func.avg(sample.network_in),
            func.avg(sample.network_out),
        ).where(*these)
    ).one()
    last = session.scalar(select(sample).where(*these).order_by(sample.at.desc()).limit(1))
    return _Use(count, cpu, cpu_max, memory, memory_max, received, sent, last)


def _server(session: Session, row: DeskSession, end: datetime | None) -> dict[str, Any]:
    server_id = (row.binding or {}).get("server_id")
    use = _use(session, "rdp", server_id, row, end)
    seconds = (end - row.started_at).total_seconds() if row.started_at and end else 0.0
    return {
        "server_id": server_id,
        "samples": use.samples,
        "cpu_percent_avg": _rounded(use.cpu_avg),
        "cpu_percent_max": _rounded(use.cpu_max),
        "memory_percent_avg": _rounded(use.memory_avg),
        "memory_percent_max": _rounded(use.memory_max),
        # Samples are rates: their mean over the session's time.
        "network_in_bytes": None if use.received is None else round(use.received * seconds),
        "network_out_bytes": None if use.sent is None else round(use.sent * seconds),
    }


def _node(session: Session, row: DeskSession, end: datetime | None) -> dict[str, Any]:
    use = _use(session, "node", row.node_id, row, end)
    cpu: Mapping[str, Any] = (use.last.detail.get("cpu") or {}) if use.last else {}
    return {
        "node_id": row.node_id,
        "cpu_percent_avg": _rounded(use.cpu_avg),
        "memory_percent_avg": _rounded(use.memory_avg),
        "load_average": cpu.get("load"),
        "samples": use.samples,
        "source": use.last.source if use.last else None,
    }


def _rounded(value: Any) -> float | None:
    return None if value is None else round(float(value), 3)


def _text(moment: datetime | None) -> str | None:
    return as_text(moment) if moment else None
