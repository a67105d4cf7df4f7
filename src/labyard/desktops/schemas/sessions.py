"""Requests and answers of sessions and of the ledger (contract section 5)."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from labyard.desktops.fields import Answer, Body, Line, Moment, Name, Prose

MOST_EXTRAS = 20
_SIZE = re.compile(r"([1-9][0-9]{2,3})x([1-9][0-9]{2,3})")
Provisioning = Literal["attach", "auto", "none"]
Text255 = Annotated[Line, Field(min_length=1, max_length=255)]


def size_of(text: str) -> tuple[int, int]:
    """Width and height. ValueError unless it is WxH within 320x240 and 7680x4320."""
    match = _SIZE.fullmatch(text)
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (320 <= width <= 7680 and 240 <= height <= 4320):
        raise ValueError("must be WIDTHxHEIGHT, within 320x240 and 7680x4320")
    return width, height


def _size(text: str) -> str:
    size_of(text)
    return text


class RdpConfig(Body):
    host: str = Field(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9.-]+$")
    port: int = Field(default=3389, ge=1, le=65535)
    username: Text255
    domain: Text255 | None = None
    password: str | None = Field(default=None, min_length=1, max_length=255)
    use_tls: bool = True
    ignore_cert: bool = False
    provisioning: Provisioning | None = None


class RecordingConfig(Body):
    frame_rate: int = Field(default=30, ge=1, le=120)
    resolution: Annotated[str, AfterValidator(_size)] = "1920x1080"
    quality: Literal["low", "medium", "high", "ultra"] = "high"
    compression: Literal["none", "zstd", "lz4", "gzip"] = "zstd"
    bitrate: int | None = Field(default=None, ge=1000, le=50_000_000)
    audio_enabled: bool = False
    cursor_enabled: bool = True


class StorageConfig(Body):
    retention_days: int = Field(default=30, ge=1, le=365)
    max_size_gb: int = Field(default=10, ge=1, le=1000)
    encryption_enabled: bool = True
    compression_enabled: bool = True
    backup_enabled: bool = False
    archive_enabled: bool = False


class MetadataChange(Body):
    """Any part of it. Up to 20 further fields, with texts, are kept, too."""

    model_config = Body.model_config | {"extra": "allow"}

    project: Annotated[Line, Field(max_length=255)] | None = None
    environment: Annotated[Line, Field(max_length=255)] | None = None
    tags: list[Annotated[Line, Field(min_length=1, max_length=50)]] = Field(default_factory=list, max_length=10)
    owner: Annotated[Line, Field(max_length=255)] | None = None
    priority: Literal["low", "normal", "high", "critical"] = "normal"

    @model_validator(mode="after")
    def _extras_are_texts(self) -> MetadataChange:
        extras = self.model_extra or {}
        if len(extras) > MOST_EXTRAS:
            raise ValueError(f"has more than {MOST_EXTRAS} fields of your own")
        for name, value in extras.items():
            if not name.isprintable() or len(name) > 64:
                raise ValueError("has a field whose name is not 1 to 64 printable characters")
            if not isinstance(value, str) or len(value) > 255 or not value.isprintable():
                raise ValueError(f"{name} must be a text of up to 255 printable characters")
        return self

    def given(self) -> dict[str, Any]:
        return self.model_dump(exclude_unset=True)


class SessionIn(Body):
    name: Name = Field(min_length=1, max_length=255)
    description: Prose = Field(default="", max_length=500)
    rdp_config: RdpConfig
    recording_config: RecordingConfig = Field(default_factory=RecordingConfig)
    storage_config: StorageConfig = Field(default_factory=StorageConfig)
    metadata: MetadataChange = Field(default_factory=MetadataChange)


class SessionSummary(Answer):
    session_id: str
    name: str
    description: str
    owner: str
    status: str
    rdp_config: dict[str, Any]
    recording_config: dict[str, Any]
    storage_config: dict[str, Any]
    metadata: dict[str, Any]
    provisioning: dict[str, Any]
    binding: dict[str, Any] | None
    node_id: str | None
    started_at: Moment | None
    stopped_at: Moment | None
    stop_reason: str | None
    degraded: bool
    gaps: list[Any]
    audio: dict[str, Any] | None
    poot_references: list[str]
    poot_id: str | None
    created_at: Moment
    updated_at: Moment


class SessionOut(SessionSummary):
    statistics: dict[str, Any]


class SessionsOut(Answer):
    sessions: list[SessionSummary]
    total: int
    limit: int
    offset: int
    has_next: bool
    has_previous: bool


class AnchoringOut(Answer):
    session_id: str
    status: str
    transaction_hash: str | None
    block_height: int | None
    merkle_root: str | None
    chunk_count: int | None
    anchored_at: str | None
    ledger_key_id: str | None


class StartedOut(Answer):
    session_id: str
    status: str
    started_at: Moment
    binding: dict[str, Any]


class StoppedOut(Answer):
    session_id: str
    status: str
    stopped_at: Moment
    stop_reason: str
    final_statistics: dict[str, Any]
    anchoring: AnchoringOut


class StateOut(Answer):
    session_id: str
    status: str


class ChunkOut(Answer):
    chunk_id: str
    session_id: str
    sequence_number: int
    timestamp: Moment
    status: str
    size_bytes: int
    compressed_size_bytes: int
    stored_size_bytes: int
    duration_seconds: float
    frame_count: int
    width: int
    height: int
    merkle_hash: str
    compression_ratio: float
    encryption_key_id: str | None
    created_at: Moment
    processed_at: Moment | None


class ChunksOut(Answer):
    chunks: list[ChunkOut]
    total: int
    limit: int
    offset: int
    has_next: bool
    has_previous: bool


class StageMetrics(Answer):
    items_processed: int
    errors_count: int
    processing_time_ms: float
    throughput_per_second: float | None
    memory_usage_bytes: int | None
    cpu_usage_percent: float | None


class StageOut(Answer):
    stage_name: str
    status: str
    last_processed: Moment | None
    metrics: StageMetrics
    error_message: str | None
    retry_count: int
    max_retries: int


class PipelineOut(Answer):
    session_id: str
    pipeline_status: str
    stages: list[StageOut]
    overall_metrics: StageMetrics


class ErrorOut(Answer):
    error_id: str
    code: str
    message: str
    stage: str | None
    occurred_at: Moment
    recovered: bool


class ErrorsOut(Answer):
    session_id: str
    errors: list[ErrorOut]


class LedgerEntriesOut(Answer):
    entries: list[dict[str, Any]]
    total: int


class LedgerVerifiedOut(Answer):
    valid: bool
    entries: int
    first_bad: str | None
    reason: str | None


class LedgerKeyOut(Answer):
    ledger_key_id: str
    public_key: str
