"""Recorders that do not do what they should, or were killed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from labyard.desktops.adapters.agent import AgentRefused, RecordSpec
from labyard.desktops.evidence.objects import Slice
from labyard.desktops.recorder import recorders
from labyard.desktops.recorder.program import Program
from labyard.desktops.recorder.recorders import Recorders
from labyard.desktops.recorder.spool import Spool
from labyard.desktops.recorder.state import State


class Idle:
    """Units whose recorders do nothing, and displays."""

    def __init__(self) -> None:
        self.running: set[str] = set()

    def start(self, name: str, folder: Path) -> None:
        self.running.add(name)

    def stop(self, name: str) -> None:
        self.running.discard(name)

    def is_active(self, name: str) -> bool:
        return name in self.running

    def open(self, session_id: str, target: Mapping[str, Any]) -> tuple[int, None]:
        return 10, None

    def close(self, session_id: str) -> None:
        pass


SPEC = RecordSpec("sess-00000000000000e1", {"kind": "display"}, 5, 640, 480, "high", None, False, False, 0.5)


def test_one_without_a_picture_is_ended_and_said_to_be_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorders, "FIRST_FRAME", 0.1)
    idle = Idle()
    node = Recorders(tmp_path / "run", tmp_path / "spool", idle, idle)
    with pytest.raises(AgentRefused, match="no frame of sess-00000000000000e1") as refused:
        node.start(SPEC)
    assert refused.value.code == "AGENT_TIMEOUT"
    assert not idle.running and node.sessions() == ()


@pytest.mark.parametrize("acknowledged", [1, 2])
def test_one_that_was_killed_before_it_wrote_down_its_last_slice_goes_on_after_that(
    tmp_path: Path, acknowledged: int
) -> None:
    """The service may have taken the slice meanwhile, and another of its number would be lost."""
    spool = Spool(tmp_path / "spool", tmp_path / "spool.key")
    for number, second in ((1, 10), (2, 11)):
        started = f"2026-01-01T00:00:{second}.000000Z"
        spool.put(Slice(SPEC.session_id, number, started, 500, 640, 480, 3), b"media")
    State(SPEC.session_id, 10, ended_at="2026-01-01T00:00:10.500000Z", frames=3, segments=1).save(
        tmp_path / "state.json"
    )
    spool.drop(acknowledged)
    state = Program(SPEC, 10, tmp_path, spool).status()
    assert (state.segments, state.frames, state.ended_at) == (2, 6, "2026-01-01T00:00:11.500000Z")
    assert [each.sequence for each in spool.after(acknowledged)] == [2][: 2 - acknowledged]
