"""Figures of recordings, for `python -m labyard.bench --only desktops`, which reads what they record.

They assert that the work was done, never how long it took. Runs of the suite do not collect them.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from integration import postgresql as pg
from integration import redis_server
from labyard.bench.figure import p95
from labyard.core.clock import as_text, now
from labyard.core.database import Database
from labyard.desktops.adapters.agent import ServerStatus, Usage
from labyard.desktops.service import Desktops
from labyard.testing.waiting import wait_until

from .display import display, needs_display
from .measure_desktops import DURABLE, Record, made
from .media import colours, is_colour
from .node import Desk, add_desk, recording_agent
from .service_process import ServiceProcess
from .test_intake import Line, Waiting
from .test_recording_chain import Caller, agent_on
from .test_sessions import chunks, created, stopped

pytestmark = needs_display

FRAME_RATE, RECORDED = 5, 20
TURNS = 10
WAITING, MEDIA = 300, 100_000
PAINTS = ("#203040", "#a04020", "#40a020")
SEEN = ("#e0e020", "#2020e0", "#e020e0", "#20e0e0", "#e02020")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[pg.Server]:
    """What `service` stands on here."""
    with pg.server(**DURABLE) as running:
        yield running


class Desks:
    """What the agent says of RDP servers: those that are there run."""

    def __init__(self) -> None:
        self.all: dict[str, Desk] = {}

    def known(self) -> tuple[str, ...]:
        return tuple(self.all)

    def status(self, server_id: str) -> ServerStatus:
        number = self.all[server_id].display.number
        return ServerStatus(server_id, "active", "active", "active", None, None, 0, number, "icewm", None, {})

    def usage(self, server_id: str) -> Usage:
        return Usage(as_text(now()), 1.0, 1.0, 1.0, 1.0, 1.0, "cgroup", {})


@contextmanager
def running(folder: Path, count: int) -> Iterator[tuple[Any, list[Desk]]]:
    """A caller of a service whose agent records, and desks to be recorded."""
    desks = Desks()
    with ExitStack() as stack:
        postgresql = stack.enter_context(pg.server(**DURABLE))
        redis = stack.enter_context(redis_server.server())
        url = stack.enter_context(postgresql.database())
        agent = stack.enter_context(recording_agent(folder / "node"))
        stack.enter_context(agent_on(folder / "agent.sock", folder / "agent", desks, agent))
        process = ServiceProcess(folder, url, redis.url, DESKTOPS_AGENT_SOCKET=str(folder / "agent.sock"))
        stack.callback(process.stop)
        who: Any = Caller(process, process.token("session_manager"))
        wait_until(lambda: process.http.get("/ready").status_code == 200, "the service is ready")
        database = Database(url)
        stack.callback(database.close)
        for number in range(count):
            (folder / f"x{number}").mkdir()
            screen = stack.enter_context(display(folder / f"x{number}", "1280x720"))
            desk = add_desk(database, agent, screen, "cli", 33890 + number)
            desks.all[desk.server_id] = desk
        yield who, list(desks.all.values())


def started_for(who: Any, desk: Desk) -> str:
    """The id of a new session that records it."""
    session_id = created_for(who, desk)
    assert made(who.post(f"/sessions/{session_id}/start"))["status"] == "recording"
    return session_id


def created_for(who: Any, desk: Desk) -> str:
    target = {"host": "127.0.0.1", "port": desk.port}
    return created(who, rdp_config=target, recording_config={"frame_rate": FRAME_RATE})


def paint(desks: list[Desk]) -> None:
    """Each anew, twice a second, for as long as is recorded."""
    end = time.monotonic() + RECORDED
    for colour in cycle(PAINTS):
        if time.monotonic() > end:
            return
        for desk in desks:
            desk.display.paint(colour)
        time.sleep(0.5)


def test_sessions(tmp_path: Path, record_property: Record) -> None:
    starts, stops = [], []
    with running(tmp_path, 1) as (who, (desk,)):
        for _ in range(TURNS):
            session_id = created_for(who, desk)
            began = time.perf_counter()
            assert made(who.post(f"/sessions/{session_id}/start"))["status"] == "recording"
            starts.append((time.perf_counter() - began) * 1000)
            chunks(who, session_id, 2)
            began = time.perf_counter()
            done = stopped(who, session_id)
            stops.append((time.perf_counter() - began) * 1000)
            assert done["anchoring"]["status"] == "anchored"
    record_property("start_ms", max(starts))
    record_property("stop_ms", max(stops))
    told = f"start: median {statistics.median(starts):.0f} ms; stop: median {statistics.median(stops):.0f} ms"
    record_property("say", told)


def test_three(tmp_path: Path, record_property: Record) -> None:
    with running(tmp_path, 3) as (who, desks):
        sessions = [started_for(who, desk) for desk in desks]
        paint(desks)
        late = [_seen_after(who, sessions[0], desks[0], colour) for colour in SEEN]
        found = [stopped(who, session_id)["final_statistics"]["recording_stats"] for session_id in sessions]
    record_property("end_to_end_s", statistics.median(late))
    frames, dropped = (sum(one[name] for one in found) for name in ("total_frames", "dropped_frames"))
    assert frames
    record_property("drop_pct", 100 * dropped / (frames + dropped))
    told = ", ".join(f"{seconds:.1f}" for seconds in late)
    record_property("say", f"{frames} frames of 3 displays, {dropped} dropped; a change committed after {told} s")


def test_ten(tmp_path: Path, record_property: Record) -> None:
    with running(tmp_path, 10) as (who, desks):
        sessions = [started_for(who, desk) for desk in desks]
        paint(desks)
        found = [stopped(who, session_id)["final_statistics"]["recording_stats"] for session_id in sessions]
        committed = [made(who.get(f"/sessions/{one}/chunks?limit=100"))["chunks"] for one in sessions]
        gaps = [made(who.get(f"/sessions/{one}"))["gaps"] for one in sessions]
    whole = [
        not holes
        and [chunk["sequence_number"] for chunk in its] == list(range(1, len(its) + 1))
        and sum(chunk["frame_count"] for chunk in its) == one["total_frames"] > 0
        for one, its, holes in zip(found, committed, gaps, strict=True)
    ]
    record_property("whole", sum(whole))
    late = [_committed_after(chunk) for its in committed for chunk in its]
    record_property("commit_ms", p95(late))
    frames, dropped = (sum(one[name] for one in found) for name in ("total_frames", "dropped_frames"))
    told = f"{len(late)} chunks of {len(whole)} displays; {frames} frames, {dropped} dropped"
    record_property("say", f"{told}; a chunk committed after {statistics.median(late):.0f} ms, worst {max(late):.0f}")


def _committed_after(chunk: dict[str, Any]) -> float:
    """Milliseconds from the end of what a chunk shows."""
    begun, done = (datetime.fromisoformat(chunk[name]) for name in ("timestamp", "processed_at"))
    return ((done - begun).total_seconds() - chunk["duration_seconds"]) * 1000


def test_intake(service: Desktops, record_property: Record) -> None:
    line = Line(service)
    agent = Waiting(line.session_id, WAITING)
    agent.waiting = [replace(segment, data=os.urandom(MEDIA)) for segment in agent.waiting]
    began = time.perf_counter()
    assert line.pull(agent) == WAITING
    seconds = time.perf_counter() - began
    assert [chunk.size_bytes for chunk in line.chunks()] == [MEDIA] * WAITING
    record_property("a_minute", 60 * WAITING / seconds)
    record_property("say", f"{WAITING} chunks of {MEDIA} bytes committed in {seconds:.1f} s")


def _seen_after(who: Any, session_id: str, desk: Desk, colour: str) -> float:
    """Seconds from the painting of a display until a committed chunk shows it."""
    newest = f"/sessions/{session_id}/chunks?limit=100"
    done = made(who.get(newest))["chunks"][-1]["sequence_number"]
    began = time.perf_counter()
    desk.display.paint(colour)

    def shows(chunk: dict[str, Any]) -> bool:
        media = who.get(f"/sessions/{session_id}/chunks/{chunk['chunk_id']}/content").content
        return is_colour(colours(media)[-1], colour)

    def seen() -> bool:
        nonlocal done
        fresh = [chunk for chunk in made(who.get(newest))["chunks"] if chunk["sequence_number"] > done]
        done += len(fresh)
        return any(shows(chunk) for chunk in fresh)

    wait_until(seen, f"a committed chunk shows {colour}", pause=0.1)
    return time.perf_counter() - began
