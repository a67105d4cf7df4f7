"""What a node says of recorders that do not do what they should."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from labyard.desktops.adapters.agent import AgentRefused, RecordSpec
from labyard.desktops.recorder import recorders
from labyard.desktops.recorder.recorders import Recorders


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


def test_one_without_a_picture_is_ended_and_said_to_be_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorders, "FIRST_FRAME", 0.1)
    idle = Idle()
    node = Recorders(tmp_path / "run", tmp_path / "spool", idle, idle)
    spec = RecordSpec("sess-00000000000000e1", {"kind": "display"}, 5, 640, 480, "high", None, False, False, 0.5)
    with pytest.raises(AgentRefused, match="no frame of sess-00000000000000e1") as refused:
        node.start(spec)
    assert refused.value.code == "AGENT_TIMEOUT"
    assert not idle.running and node.sessions() == ()
