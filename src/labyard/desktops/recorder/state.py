"""What a recorder knows of itself. It lies beside its control socket, so that it can go on after it was killed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from labyard.desktops.adapters.agent import RecordStatus
from labyard.desktops.adapters.files import write_durably

STARTING, RECORDING, PAUSED, STOPPED, FAILED = "starting", "recording", "paused", "stopped", "failed"
NO_AUDIO = "the desktop has no audio source"


@dataclass
class State:
    """Times are RFC 3339. `ended_at` is where the last segment ends. `paused` is what it was told, also across a
    restart."""

    session_id: str
    display: int
    state: str = STARTING
    paused: bool = False
    width: int | None = None
    height: int | None = None
    first_frame_at: str | None = None
    last_frame_at: str | None = None
    ended_at: str | None = None
    frames: int = 0
    dropped_frames: int = 0
    segments: int = 0
    gaps: list[dict[str, Any]] = field(default_factory=list)
    audio_requested: bool = False
    error: str | None = None
    # What the recorder takes: seconds of a core since it was started last, and bytes.
    cpu_seconds: float | None = None
    memory_bytes: int | None = None

    def status(self) -> RecordStatus:
        audio = {"requested": True, "captured": False, "reason": NO_AUDIO} if self.audio_requested else None
        return RecordStatus(
            session_id=self.session_id,
            state=self.state,
            display=self.display,
            width=self.width,
            height=self.height,
            first_frame_at=self.first_frame_at,
            last_frame_at=self.last_frame_at,
            frames=self.frames,
            dropped_frames=self.dropped_frames,
            segments=self.segments,
            gaps=tuple(self.gaps),
            audio=audio,
            error=self.error,
            cpu_seconds=self.cpu_seconds,
            memory_bytes=self.memory_bytes,
        )

    def save(self, path: Path) -> None:
        write_durably(path, json.dumps(asdict(self)).encode())

    @classmethod
    def load(cls, path: Path) -> State | None:
        """None when there is none. ValueError when it is not one."""
        try:
            return cls(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except TypeError as error:
            raise ValueError(f"{path} is not the state of a recorder: {error}") from None
