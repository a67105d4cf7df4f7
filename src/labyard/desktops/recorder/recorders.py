"""The recorders of a node: what its agent does for `record.*` and `segments.*` (contract section 2)."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from labyard.desktops.adapters.agent import AgentRefused, AgentTimeout, RecordSpec, RecordStatus, Segment
from labyard.desktops.adapters.files import write_durably
from labyard.desktops.evidence.objects import BadObject
from labyard.desktops.recorder import state as states
from labyard.desktops.recorder.control import ask
from labyard.desktops.recorder.spool import Spool
from labyard.desktops.recorder.state import State

FIRST_FRAME = 20.0  # seconds
ANSWER = 15.0  # seconds; a pause waits for the open slice
POLL = 0.02
_SESSION = re.compile(r"sess-([0-9a-f]{16})")


class RecorderUnits(Protocol):
    """Runs `python -m labyard.desktops.recorder FOLDER` as labyard-recorder@<name>, again within 5 s when it ends with
    another status than 0."""

    def start(self, name: str, folder: Path) -> None: ...

    def stop(self, name: str) -> None:
        """Not again from now on. Absent is fine."""

    def is_active(self, name: str) -> bool:
        """Runs, or will again."""


class Displays(Protocol):
    """Where a target's picture is."""

    def open(self, session_id: str, target: Mapping[str, Any]) -> tuple[int, Path | None]:
        """Display number and cookie file. AgentRefused when there is none."""

    def close(self, session_id: str) -> None:
        """End what `open` made for this session. Nothing is fine."""


class Recorders:
    """`runtime` is a folder in memory (/run): specs, which may hold passwords, states, sockets, spool keys. `spool` is
    on disk. This is `adapters.recorder.Recorder`."""

    def __init__(self, runtime: Path, spool: Path, units: RecorderUnits, displays: Displays) -> None:
        self._runtime = runtime
        self._spool = spool
        self._units = units
        self._displays = displays
        for folder in (runtime, spool):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def start(self, spec: RecordSpec) -> RecordStatus:
        """Returns when the first frame was captured. Again with the same spec: the recorder that runs."""
        name = _name(spec.session_id)
        folder = self._runtime / name
        if self._units.is_active(name):
            return self.status(spec.session_id)
        if (folder / "state.json").exists():
            raise AgentRefused("this session was recorded already; it is over", "SES_STATE")
        try:
            self._launch(spec, folder)
            return self._first_frame(spec.session_id, folder)
        except BaseException:
            self._units.stop(name)
            self._forget(spec.session_id)
            raise

    def _launch(self, spec: RecordSpec, folder: Path) -> None:
        display, cookie = None, None  # an external desktop is opened by the recorder itself
        if spec.target.get("kind") != "external":
            display, cookie = self._displays.open(spec.session_id, spec.target)
        folder.mkdir(mode=0o700, exist_ok=True)
        told = {
            "spec": asdict(spec),
            "display": display,
            "xauthority": str(cookie) if cookie else None,
            "spool": str(self._spool / folder.name),
        }
        write_durably(folder / "spec.json", json.dumps(told).encode())
        self._units.start(folder.name, folder)

    def _first_frame(self, session_id: str, folder: Path) -> RecordStatus:
        deadline = time.monotonic() + FIRST_FRAME
        while time.monotonic() < deadline:
            state = _asked(folder, "status") or State.load(folder / "state.json")
            if state and state.state == states.FAILED:
                raise AgentRefused(state.error or "the recorder could not start", "SES_NO_RDP_TARGET")
            if state and state.first_frame_at:
                return state.status()
            time.sleep(POLL)
        raise AgentRefused(f"no frame of {session_id} within {FIRST_FRAME:g} s", AgentTimeout.code)

    def stop(self, session_id: str) -> RecordStatus:
        """Closes the open slice and ends the recorder. Again: what it was stopped with."""
        folder = self._known(session_id)
        _asked(folder, "stop")
        deadline = time.monotonic() + ANSWER
        while True:
            # In this order: what it wrote last is read after it has ended.
            active = self._units.is_active(folder.name)
            state = _read(folder)
            if state.state in (states.STOPPED, states.FAILED):
                break
            if not active or time.monotonic() > deadline:
                # It was killed, and what it had is in the spool.
                state.state = states.STOPPED
                break
            _asked(folder, "stop")  # one that was killed and started again has not heard it
            time.sleep(POLL)
        self._units.stop(folder.name)
        state.save(folder / "state.json")
        self._displays.close(session_id)
        return state.status()

    def pause(self, session_id: str) -> RecordStatus:
        return self._tell(session_id, "pause")

    def resume(self, session_id: str) -> RecordStatus:
        return self._tell(session_id, "resume")

    def status(self, session_id: str) -> RecordStatus:
        """Asked of the recorder; while it is being started again, `starting`; what is on record when it is over."""
        folder = self._known(session_id)
        if state := _asked(folder, "status"):
            return state.status()
        state = _read(folder)
        if state.state not in (states.STOPPED, states.FAILED):
            state.state = states.STARTING if self._units.is_active(folder.name) else states.FAILED
            state.error = state.error or "the recorder does not answer"
        return state.status()

    def sessions(self) -> tuple[str, ...]:
        """Those that have a recorder or segments on this node."""
        folders = {path.name for root in (self._runtime, self._spool) for path in root.iterdir() if path.is_dir()}
        return tuple(sorted(f"sess-{name}" for name in folders))

    def segments(self, session_id: str, after: int) -> Iterator[Segment]:
        folder = self._known(session_id)
        try:
            yield from self._spool_of(folder).after(after)
        except BadObject as error:
            raise AgentRefused(f"a segment of {session_id} is damaged: {error}", "INTERNAL") from None

    def acknowledge(self, session_id: str, upto: int) -> None:
        """Forget the segments up to this number; with a number above the last one, and the recorder over, everything.

        Where the machine went down meanwhile, the key of the segments went with it, and there is nothing but to forget.
        """
        folder = self._runtime / _name(session_id)
        if not (folder / "spec.json").exists():
            self._forget(session_id)
            return
        self._spool_of(folder).drop(upto)
        if not self._units.is_active(folder.name) and _read(folder).segments < upto:
            self._forget(session_id)

    def _spool_of(self, folder: Path) -> Spool:
        return Spool(self._spool / folder.name, folder / "spool.key")

    def _tell(self, session_id: str, verb: str) -> RecordStatus:
        folder = self._known(session_id)
        state = _asked(folder, verb)
        if state is None:
            raise AgentRefused(f"the recorder of {session_id} does not answer", "AGENT_UNREACHABLE")
        return state.status()

    def _known(self, session_id: str) -> Path:
        folder = self._runtime / _name(session_id)
        if not (folder / "spec.json").exists():
            raise AgentRefused(f"no recorder of {session_id} on this node", "SES_NOT_FOUND")
        return folder

    def _forget(self, session_id: str) -> None:
        name = _name(session_id)
        self._displays.close(session_id)
        shutil.rmtree(self._spool / name, ignore_errors=True)
        shutil.rmtree(self._runtime / name, ignore_errors=True)


def _asked(folder: Path, verb: str) -> State | None:
    """The recorder's answer; None when it does not give one."""
    try:
        return State(**ask(folder / "control.sock", verb, ANSWER))
    except (OSError, ValueError, TypeError):
        return None


def _read(folder: Path) -> State:
    state = State.load(folder / "state.json")
    if state is None:
        session_id = f"sess-{folder.name}"
        return State(session_id, display=-1, state=states.FAILED, error="the recorder has not begun")
    return state


def _name(session_id: str) -> str:
    """The unit's instance. The id goes into paths: only an id of ours does."""
    match = _SESSION.fullmatch(session_id)
    if match is None:
        raise AgentRefused("no session id", "VALIDATION_FAILED")
    return match[1]
