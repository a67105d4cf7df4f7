"""The recorder of one session: captures a display into slices, spools them, and answers on a socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import structlog

from labyard.desktops.adapters.agent import RecordSpec
from labyard.desktops.evidence.objects import Slice
from labyard.desktops.recorder import state as states
from labyard.desktops.recorder.capture import Frame, frames
from labyard.desktops.recorder.encoder import Look, SliceEncoder
from labyard.desktops.recorder.errors import NoPicture
from labyard.desktops.recorder.spool import Spool
from labyard.desktops.recorder.state import State

log = structlog.get_logger(__name__)

LONGEST = 2.0  # seconds that a slice may last (contract D8)
RETRY = 0.5  # seconds between two attempts at a display that went away, or a disk that is full
GIVE_UP = 10.0  # seconds that a full disk is given when the recorder is to stop


class Program:
    """`runtime` is a folder in memory, for the state; the spool is on disk. A display that is not there at the very
    start is a failure, one that goes away later is waited for: who started the recorder decides for how long."""

    def __init__(self, spec: RecordSpec, display: int, runtime: Path, spool: Spool) -> None:
        self._spec = spec
        self._spool = spool
        self._file = runtime / "state.json"
        self._look = Look(spec.width, spec.height, spec.frame_rate, spec.quality, spec.bitrate)
        # Not shorter than a frame: each slice has one.
        self._slice = min(LONGEST, max(spec.slice_seconds, 1 / spec.frame_rate))
        self._state = State.load(self._file) or State(spec.session_id, display, audio_requested=spec.audio)
        self._state.display = display
        self._state.error = None
        self._take_over(spool.newest())
        # What was recorded last: after a restart there is a hole from there on.
        self._hole_from = _seconds(self._state.ended_at)
        self._hole_reason = "recorder_restarted"
        self._encoder: SliceEncoder | None = None
        self._changed = threading.Condition()
        self._self = psutil.Process()
        self._stopping = False
        self.interrupted: str | None = None

    def _take_over(self, newest: Slice | None) -> None:
        """The slice that was spooled last: one who was killed right then had no time to write down that it was."""
        if newest and newest.sequence_number > self._state.segments:
            self._state.segments = newest.sequence_number
            self._state.frames += newest.frame_count
            ended = datetime.fromisoformat(newest.started_at) + timedelta(milliseconds=newest.duration_ms)
            self._state.ended_at = _text(ended.timestamp())

    # What the socket asks for; from other threads than `run`.

    def status(self) -> State:
        with self._changed:
            self._measure()
            return self._state

    def _measure(self) -> None:
        used = self._self.cpu_times()
        self._state.cpu_seconds = used.user + used.system
        self._state.memory_bytes = self._self.memory_info().rss

    def pause(self) -> None:
        """Returns when the open slice is closed."""
        self._tell(paused=True)

    def resume(self) -> None:
        """Returns when frames are captured again, or cannot be."""
        self._tell(paused=False)

    def stop(self) -> None:
        """Returns at once; `run` ends when the open slice is in the spool."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def interrupt(self, reason: str) -> None:
        """The picture is not to be believed any more: `run` ends without the open slice, and is to be run again."""
        with self._changed:
            self.interrupted = reason
            self._stopping = True
            self._changed.notify_all()

    def _tell(self, paused: bool) -> None:
        with self._changed:
            self._state.paused = paused
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._stopping or (self._state.state == states.PAUSED) == paused, timeout=10)

    # The recording itself.

    def run(self) -> None:
        """Until it is told to stop or interrupted, or the display was not there at the start (state `failed`)."""
        while not self._stopping:
            if self._state.paused:
                self._enter(states.PAUSED)
                with self._changed:
                    self._changed.wait_for(lambda: self._stopping or not self._state.paused)
                # A pause is no hole: who paused it knows of it.
                self._hole_from = None
                continue
            try:
                self._record()
            except NoPicture as error:
                self._lost(str(error))
                if self._state.first_frame_at is None:
                    return
        if self.interrupted:
            self._state.error = self.interrupted
            self._enter(states.STARTING)
            return
        if self._hole_from is not None:
            self._hole(time.time())
        self._enter(states.STOPPED)

    def _record(self) -> None:
        """Frames until something else is wanted, or the display has another size, or is gone."""
        try:
            for frame in self._wanted(frames(self._state.display, self._spec.frame_rate, self._spec.cursor)):
                self._take(frame)
        finally:
            if self.interrupted:
                self._drop_slice()
            self._close_slice()

    def _drop_slice(self) -> None:
        if self._encoder:
            self._state.frames -= self._encoder.frame_count
            self._encoder = None

    def _wanted(self, source: Iterator[Frame]) -> Iterator[Frame]:
        for frame in source:
            if self._stopping or self._state.paused:
                return
            yield frame

    def _take(self, frame: Frame) -> None:
        if self._hole_from is not None:
            self._hole(frame.at)
        if self._encoder and frame.at - self._encoder.started_at >= self._slice:
            self._close_slice(frame.at)
        if self._encoder is None:
            size = (frame.picture.width, frame.picture.height)
            self._encoder = SliceEncoder(self._look, size, frame.at)
        self._encoder.add(frame.picture, frame.at)
        with self._changed:
            self._state.frames += 1
            self._state.dropped_frames += frame.dropped
            self._state.last_frame_at = _text(frame.at)
            self._state.first_frame_at = self._state.first_frame_at or self._state.last_frame_at
            self._state.width, self._state.height = self._encoder.width, self._encoder.height
        if self._state.state != states.RECORDING:
            self._enter(states.RECORDING)

    def _close_slice(self, next_frame: float | None = None) -> None:
        """Spool the open slice, if there is one. It lasts until the next frame, or until now."""
        encoder, self._encoder = self._encoder, None
        if encoder is None:
            return
        ended = next_frame or time.time()
        if ended - encoder.started_at > LONGEST:
            # The machine stood still: what was not captured is a hole, not a long picture.
            self._hole_from, self._hole_reason = encoder.started_at + LONGEST, "no_frames"
            ended = self._hole_from
            if next_frame:
                self._hole(next_frame)
        media = encoder.close(ended)
        piece = Slice(
            session_id=self._spec.session_id,
            sequence_number=self._state.segments + 1,
            started_at=_text(encoder.started_at),
            duration_ms=round((ended - encoder.started_at) * 1000),
            width=encoder.width,
            height=encoder.height,
            frame_count=encoder.frame_count,
        )
        if self._spooled(piece, media):
            with self._changed:
                self._state.segments += 1
                self._state.ended_at = _text(ended)
        else:
            self._gap(encoder.started_at, ended, "spool_full")
        self._state.save(self._file)

    def _spooled(self, piece: Slice, media: bytes) -> bool:
        """Wait for a full disk: nothing is captured meanwhile, and that is a hole. False when it must stop first."""
        waited = 0.0
        while True:
            try:
                self._spool.put(piece, media)
            except OSError as error:
                self._state.error = f"the spool takes nothing: {error.strerror}"
                log.error("the spool takes nothing", error=str(error))
                if self._stopping and waited >= GIVE_UP:
                    return False
                time.sleep(RETRY)
                waited += RETRY
            else:
                self._state.error = None
                return True

    def _lost(self, reason: str) -> None:
        log.warning("no picture", reason=reason)
        with self._changed:
            self._state.error = reason
            if self._hole_from is None:
                self._hole_from, self._hole_reason = _seconds(self._state.ended_at), "display_lost"
            elif self._hole_reason == "no_frames":  # the last slice stood open for too long, since there was no display
                self._hole_reason = "display_lost"
        if self._state.first_frame_at is None:
            self._enter(states.FAILED)
            return
        self._enter(states.STARTING)
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, timeout=RETRY)

    def _hole(self, until: float) -> None:
        if self._hole_from is not None and until > self._hole_from:
            self._gap(self._hole_from, until, self._hole_reason)
        self._hole_from = None
        self._state.error = None

    def _gap(self, start: float, end: float, reason: str) -> None:
        with self._changed:
            self._state.gaps = [*self._state.gaps, {"from": _text(start), "to": _text(end), "reason": reason}]

    def _enter(self, state: str) -> None:
        with self._changed:
            self._state.state = state
            self._measure()
            self._state.save(self._file)
            self._changed.notify_all()


def _text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _seconds(text: str | None) -> float | None:
    return datetime.fromisoformat(text).timestamp() if text else None
