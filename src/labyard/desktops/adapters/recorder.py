"""What captures a display (contract 5.5). The node's agent runs it; the service reaches it through AgentClient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from labyard.desktops.adapters.agent import RecordSpec, RecordStatus, Segment


class Recorder(Protocol):
    """Recorders of one node. They outlive the process that started them. AgentRefused when one cannot."""

    def start(self, spec: RecordSpec) -> RecordStatus:
        """Returns when the first frame was captured. Again with the same spec: the recorder that runs."""

    def stop(self, session_id: str) -> RecordStatus:
        """Closes the open slice and ends the recorder. Again: what it was stopped with."""

    def pause(self, session_id: str) -> RecordStatus: ...

    def resume(self, session_id: str) -> RecordStatus: ...

    def status(self, session_id: str) -> RecordStatus: ...

    def sessions(self) -> tuple[str, ...]:
        """Those that have a recorder or segments on this node."""

    def segments(self, session_id: str, after: int) -> Iterator[Segment]: ...

    def acknowledge(self, session_id: str, upto: int) -> None: ...
