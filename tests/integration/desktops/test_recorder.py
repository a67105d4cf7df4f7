"""The recorder, a program of its own, on a real X server."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from itertools import groupby, pairwise
from pathlib import Path

import pytest

from labyard.desktops.adapters.agent import AgentRefused, RecordSpec, Segment
from labyard.desktops.recorder.recorders import Recorders
from labyard.testing.waiting import PATIENCE, wait_until

from .display import Display, display, needs_display
from .media import colours, is_colour, without_stalls
from .units import KnownDisplays, ProcessUnits

pytestmark = needs_display


class Node:
    """Recorders on one display."""

    def __init__(self, folder: Path, screen: Display) -> None:
        self.folder = folder
        self.screen = screen
        self.units = ProcessUnits(folder / "log")
        self.displays = KnownDisplays(desk=screen)
        self.recorders = Recorders(self.units.runtime, folder / "spool", self.units, self.displays)

    def spec(self, **more: object) -> RecordSpec:
        values: dict[str, object] = {
            "session_id": f"sess-{secrets.token_hex(8)}",
            "target": {"kind": "display", "display": self.screen.number, "server_id": "desk"},
            "frame_rate": 10,
            "width": 1920,
            "height": 1080,
            "quality": "high",
            "bitrate": None,
            "cursor": False,
            "audio": False,
            "slice_seconds": 0.5,
        }
        return RecordSpec(**{**values, **more})  # type: ignore[arg-type]

    def kill(self, session_id: str) -> None:
        self.units.kill(session_id.removeprefix("sess-"))

    def wait(self, session_id: str, upto: int) -> list[Segment]:
        """All segments, as soon as there are so many."""
        return wait_until(
            lambda: found if len(found := list(self.recorders.segments(session_id, 0))) >= upto else None,
            f"{upto} segments of {session_id}",
        )

    def wait_for_more(self, session_id: str, count: int) -> list[Segment]:
        """All segments, as soon as there are so many more than now."""
        return self.wait(session_id, len(list(self.recorders.segments(session_id, 0))) + count)


def at(text: str) -> float:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text)
    return datetime.fromisoformat(text).timestamp()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    # Of a number that another worker's display does not take while this one is away.
    with display(tmp_path, number=1000 + os.getpid() % 10_000) as screen:
        node = Node(tmp_path, screen)
        try:
            yield node
        finally:
            node.units.close()


class TestRecording:
    def test_start_to_stop(self, node: Node) -> None:
        node.screen.paint("#d02040")
        before = time.time()
        spec = node.spec(audio=True)
        started = node.recorders.start(spec)
        assert (started.state, started.width, started.height) == ("recording", 640, 480)
        assert started.first_frame_at and before < at(started.first_frame_at) <= time.time()
        node.wait(spec.session_id, 2)
        node.screen.paint("#20a0e0")
        node.wait_for_more(spec.session_id, 2)
        wait_until(lambda: node.recorders.status(spec.session_id).frames > 10, "more than ten frames")
        stopped = node.recorders.stop(spec.session_id)
        assert node.recorders.stop(spec.session_id) == stopped
        segments = list(node.recorders.segments(spec.session_id, 0))

        assert stopped.state == "stopped"
        assert stopped.cpu_seconds and stopped.memory_bytes
        assert stopped.audio == {"requested": True, "captured": False, "reason": "the desktop has no audio source"}
        assert [segment.sequence for segment in segments] == list(range(1, stopped.segments + 1))
        assert sum(segment.frame_count for segment in segments) == stopped.frames > 10
        shown = [colours(segment.data) for segment in segments]
        assert [len(frames) for frames in shown] == [segment.frame_count for segment in segments]
        assert is_colour(shown[0][0], "#d02040")
        assert is_colour(shown[-1][-1], "#20a0e0")
        assert all(segment.duration_ms <= 2000 for segment in segments)
        assert (segments[0].started_at, without_stalls(stopped.gaps)) == (started.first_frame_at, [])
        stalls = {at(gap["to"]): at(gap["from"]) for gap in stopped.gaps}
        for one, two in pairwise(segments):
            begun = at(two.started_at)
            assert stalls.get(begun, begun) == pytest.approx(at(one.started_at) + one.duration_ms / 1000, abs=0.01)

    def test_what_is_acknowledged_is_forgotten(self, node: Node) -> None:
        spec = node.spec()
        node.recorders.start(spec)
        node.wait(spec.session_id, 2)
        node.recorders.acknowledge(spec.session_id, 1)
        assert next(node.recorders.segments(spec.session_id, 0)).sequence == 2
        assert node.recorders.sessions() == (spec.session_id,)
        last = node.recorders.stop(spec.session_id).segments
        node.recorders.acknowledge(spec.session_id, last)
        assert node.recorders.stop(spec.session_id).segments == last
        node.recorders.acknowledge(spec.session_id, last + 1)
        assert node.recorders.sessions() == ()
        with pytest.raises(AgentRefused):
            node.recorders.status(spec.session_id)

    def test_no_plain_media_on_the_disk(self, node: Node) -> None:
        spec = node.spec()
        node.recorders.start(spec)
        segment = node.wait(spec.session_id, 1)[0]
        node.recorders.stop(spec.session_id)
        files = [path.read_bytes() for path in (node.folder / "spool").rglob("*") if path.is_file()]
        assert files
        assert not any(segment.data[4:60] in data or b"ftyp" in data for data in files)

    def test_a_larger_display_is_scaled_down_and_one_frame_a_second_is_kept(self, node: Node) -> None:
        spec = node.spec(width=320, height=320, frame_rate=1)
        started = node.recorders.start(spec)
        assert (started.width, started.height) == (320, 240)
        segments = node.wait(spec.session_id, 3)
        node.recorders.stop(spec.session_id)
        assert {segment.frame_count for segment in segments} <= {1, 2}

    def test_again_is_the_recorder_that_runs(self, node: Node) -> None:
        spec = node.spec()
        first = node.recorders.start(spec)
        assert node.recorders.start(spec).first_frame_at == first.first_frame_at
        assert len(node.units.processes) == 1


class TestPause:
    def test_nothing_is_captured_meanwhile(self, node: Node) -> None:
        spec = node.spec()
        node.recorders.start(spec)
        node.wait(spec.session_id, 1)
        assert node.recorders.pause(spec.session_id).state == "paused"
        paused = node.recorders.status(spec.session_id)
        node.screen.paint("#00ff00")
        green = time.time()
        time.sleep(1)  # in which nothing may happen
        again = node.recorders.status(spec.session_id)
        assert (again.state, again.frames, again.segments) == (paused.state, paused.frames, paused.segments)
        node.screen.paint("#0000ff")
        assert node.recorders.resume(spec.session_id).state == "recording"
        node.wait(spec.session_id, paused.segments + 1)
        stopped = node.recorders.stop(spec.session_id)
        shown = [colour for piece in node.recorders.segments(spec.session_id, 0) for colour in colours(piece.data)]
        assert is_colour(shown[-1], "#0000ff")
        assert not any(is_colour(colour, "#00ff00", by=60) for colour in shown)
        assert not [gap for gap in stopped.gaps if at(gap["from"]) <= green <= at(gap["to"])]


class TestTrouble:
    def test_no_display(self, node: Node) -> None:
        node.screen.kill()
        spec = node.spec()
        with pytest.raises(AgentRefused, match="does not answer") as refused:
            node.recorders.start(spec)
        assert refused.value.code == "SES_NO_RDP_TARGET"
        assert node.recorders.sessions() == ()

    def test_without_the_displays_cookie(self, node: Node, tmp_path: Path) -> None:
        (tmp_path / "empty").touch()
        node.displays.displays["desk"] = replace(node.screen, cookie=tmp_path / "empty")
        with pytest.raises(AgentRefused):
            node.recorders.start(node.spec())

    def test_a_killed_recorder_goes_on_with_its_hole_on_record(self, node: Node) -> None:
        spec = node.spec()
        node.recorders.start(spec)
        node.wait(spec.session_id, 2)
        earliest = time.time()
        node.kill(spec.session_id)
        latest = time.time()
        after = node.wait_for_more(spec.session_id, 3)
        stopped = node.recorders.stop(spec.session_id)
        assert [segment.sequence for segment in after] == list(range(1, len(after) + 1))
        (gap,) = without_stalls(stopped.gaps)
        assert gap["reason"] == "recorder_restarted"
        assert at(gap["from"]) <= latest and earliest < at(gap["to"]) < latest + PATIENCE
        assert any(segment.started_at == gap["to"] for segment in after)
        assert colours(after[-1].data)

    def test_a_recorder_that_was_killed_while_paused_stays_paused(self, node: Node) -> None:
        spec = node.spec()
        node.recorders.start(spec)
        node.wait(spec.session_id, 1)
        paused = node.recorders.pause(spec.session_id)
        killed = node.units.processes[spec.session_id.removeprefix("sess-")]
        node.kill(spec.session_id)
        wait_until(
            lambda: node.units.processes[spec.session_id.removeprefix("sess-")] is not killed, "another recorder runs"
        )
        wait_until(lambda: node.recorders.status(spec.session_id).state == "paused", "it is paused again")
        assert node.recorders.stop(spec.session_id).segments == paused.segments

    def test_a_display_that_comes_back(self, node: Node, tmp_path: Path) -> None:
        spec = node.spec()
        node.recorders.start(spec)
        node.wait(spec.session_id, 1)
        node.screen.kill()
        wait_until(
            lambda: (status := node.recorders.status(spec.session_id)).error and status.state == "starting",
            "the loss is told",
        )
        (tmp_path / "again").mkdir()
        with display(tmp_path / "again", number=node.screen.number) as again:
            node.screen.cookie.write_bytes(again.cookie.read_bytes())
            back = wait_until(
                lambda: s if (s := node.recorders.status(spec.session_id)).state == "recording" else None,
                "it records again",
            )
            assert back.error is None
            stopped = node.recorders.stop(spec.session_id)
        assert [gap["reason"] for gap in without_stalls(stopped.gaps)] == ["display_lost"]

    def test_a_display_that_does_not_come_back(self, node: Node) -> None:
        spec = node.spec()
        node.recorders.start(spec)
        node.wait(spec.session_id, 1)
        node.screen.kill()
        wait_until(lambda: node.recorders.status(spec.session_id).error, "the loss is told")
        stopped = node.recorders.stop(spec.session_id)
        assert stopped.state == "stopped"
        assert [gap["reason"] for gap in without_stalls(stopped.gaps)] == ["display_lost"]

    @pytest.mark.parametrize("sizes", [[(800, 600), (400, 300)], [(400, 300), (800, 600)]], ids=["smaller", "larger"])
    def test_another_size_begins_another_segment(self, tmp_path: Path, sizes: list[tuple[int, int]]) -> None:
        with display(tmp_path, "800x600") as screen:
            node = Node(tmp_path, screen)
            screen.resize(*sizes[0])
            spec = node.spec()
            node.recorders.start(spec)
            node.wait(spec.session_id, 1)
            screen.resize(*sizes[1])
            wait_until(lambda: node.recorders.status(spec.session_id).width == sizes[1][0], "the other size is seen")
            node.recorders.stop(spec.session_id)
            recorded = [(piece.width, piece.height) for piece in node.recorders.segments(spec.session_id, 0)]
            node.units.close()
        assert [size for size, _ in groupby(recorded)] == sizes

    def test_no_path_from_a_session_id(self, node: Node) -> None:
        with pytest.raises(AgentRefused, match="no session id"):
            node.recorders.start(node.spec(session_id="sess-../../../../etc"))
