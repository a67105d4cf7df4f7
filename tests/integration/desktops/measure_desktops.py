"""Figures of the desktops service, for `python -m labyard.bench --only desktops`, which reads what they record.

They assert that the work was done, never how long it took. Runs of the suite do not collect them.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx
import pytest

from integration import postgresql as pg
from integration import redis_server
from labyard.core.clock import as_text, now
from labyard.core.database import Database
from labyard.desktops.adapters.agent import ServerStatus, Usage

from .display import display, needs_display
from .media import colours, is_colour
from .node import Desk, add_desk, recording_agent
from .service_process import ServiceProcess
from .test_desktops_nodes import node_like
from .test_desktops_poot import poot_like
from .test_recording_chain import Caller, agent_on
from .test_sessions import created, started, stopped, until

NODES, SESSIONS, POOTS = 50, 100, 50
RATE, SECONDS = 100, 20
BATCH, PAID = 100, 1000
DISPLAYS, FRAME_RATE, RECORDED = 3, 5, 20
SEEN = ("#e0e020", "#2020e0", "#e020e0", "#20e0e0", "#e02020")
# As where a server is not a test's.
DURABLE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with pg.server(**DURABLE) as postgresql, redis_server.server() as redis, postgresql.database() as url:
        running = ServiceProcess(tmp_path_factory.mktemp("service"), url, redis.url)
        yield running
        running.stop()


@pytest.fixture(scope="module")
def who(process: ServiceProcess) -> Any:
    return Caller(process, process.token("session_manager,rdp_operator,node_operator"))


def made(answer: Any) -> Any:
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


def test_reads(process: ServiceProcess, who: Any, record_property: Record) -> None:
    nodes = [made(who.post("/nodes", json=node_like(name=f"node {number}")))["node_id"] for number in range(NODES)]
    sessions = [created(who, rdp_config={"provisioning": "none"}) for _ in range(SESSIONS)]
    poots = [made(who.post("/poot/submit", json=poot_like(node_id=nodes[0])))["poot_id"] for _ in range(POOTS)]
    made(who.post("/poot/batch/validate", json={"poot_ids": poots}))
    paths = cycle(
        [
            "/sessions", f"/sessions/{sessions[0]}", f"/sessions/{sessions[-1]}/statistics", "/rdp/servers", "/nodes",
            f"/nodes/{nodes[0]}", "/nodes/statistics", "/nodes/pools/pool_workers/statistics", "/poot/history",
            f"/poot/{poots[0]}", "/poot/statistics",
        ]
    )  # fmt: skip
    headers = {"Authorization": f"Bearer {process.token('session_manager,rdp_operator,node_operator')}"}
    taken = asyncio.run(_asked(process, headers, list(islice(paths, RATE * SECONDS))))
    taken.sort()
    record_property("p95_ms", taken[int(len(taken) * 0.95)])
    told = f"{len(taken)} reads, {RATE} a second: median {statistics.median(taken):.0f} ms, worst {taken[-1]:.0f} ms"
    record_property("say", told)


async def _asked(process: ServiceProcess, headers: dict[str, str], paths: list[str]) -> list[float]:
    """How long each took, in ms, from when it was due: one that had to wait for others counts its waiting."""
    limits = httpx.Limits(max_connections=50)
    base = f"http://127.0.0.1:{process.port}/api/v1"
    async with httpx.AsyncClient(base_url=base, headers=headers, limits=limits, timeout=60) as http:
        began = time.perf_counter()

        async def ask(number: int, path: str) -> float:
            due = began + number / RATE
            await asyncio.sleep(due - time.perf_counter())
            answer = await http.get(path)
            assert answer.status_code == 200, f"{path}: {answer.text}"
            return (time.perf_counter() - due) * 1000

        return list(await asyncio.gather(*(ask(number, path) for number, path in enumerate(paths))))


def test_poot(who: Any, record_property: Record) -> None:
    poots = [made(who.post("/poot/submit", json=poot_like(node_id=f"n{number}")))["poot_id"] for number in range(PAID)]
    batches = []
    for at in range(0, PAID, BATCH):
        began = time.perf_counter()
        answer = made(who.post("/poot/batch/validate", json={"poot_ids": poots[at : at + BATCH]}))
        batches.append((time.perf_counter() - began) * 1000)
        assert answer["summary"]["valid"] == BATCH
    began = time.perf_counter()
    paid = made(who.post("/poot/batch/payout", json={"poot_ids": poots, "wallet_address": "W"}))
    seconds = time.perf_counter() - began
    assert len(paid["results"]) == PAID
    record_property("batch_ms", statistics.median(batches))
    record_property("payouts_per_s", PAID / seconds)
    record_property("say", f"{PAID} paid in {seconds:.2f} s; batches of {BATCH}: worst {max(batches):.0f} ms")


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


@needs_display
def test_recording(tmp_path: Path, record_property: Record) -> None:
    desks = Desks()
    with ExitStack() as stack:
        postgresql = stack.enter_context(pg.server(**DURABLE))
        redis = stack.enter_context(redis_server.server())
        url = stack.enter_context(postgresql.database())
        agent = stack.enter_context(recording_agent(tmp_path / "node"))
        stack.enter_context(agent_on(tmp_path / "agent.sock", tmp_path / "agent", desks, agent))
        process = ServiceProcess(tmp_path, url, redis.url, DESKTOPS_AGENT_SOCKET=str(tmp_path / "agent.sock"))
        stack.callback(process.stop)
        who: Any = Caller(process, process.token("session_manager"))
        until(lambda: process.http.get("/ready").status_code == 200)
        database = Database(url)
        stack.callback(database.close)
        for number in range(DISPLAYS):
            (tmp_path / f"x{number}").mkdir()
            screen = stack.enter_context(display(tmp_path / f"x{number}", "1280x720"))
            desk = add_desk(database, agent, screen, "cli", 33890 + number)
            desks.all[desk.server_id] = desk
        ports = [desk.port for desk in desks.all.values()]
        how = {"frame_rate": FRAME_RATE}
        sessions = [
            started(who, rdp_config={"host": "127.0.0.1", "port": port}, recording_config=how) for port in ports
        ]
        colours = cycle(["#203040", "#a04020", "#40a020"])
        until_then = time.monotonic() + RECORDED
        while time.monotonic() < until_then:
            colour = next(colours)
            for desk in desks.all.values():
                desk.display.paint(colour)
            time.sleep(0.5)
        (first, *_), (session_id, *_) = desks.all.values(), sessions
        late = [_seen_after(who, session_id, first, colour) for colour in SEEN]
        found = [stopped(who, session_id)["final_statistics"]["recording_stats"] for session_id in sessions]
    record_property("end_to_end_s", statistics.median(late))
    frames, dropped = (sum(one[name] for one in found) for name in ("total_frames", "dropped_frames"))
    assert frames
    record_property("drop_pct", 100 * dropped / (frames + dropped))
    told = ", ".join(f"{seconds:.1f}" for seconds in late)
    record_property(
        "say", f"{frames} frames of {DISPLAYS} displays, {dropped} dropped; a change committed after {told} s"
    )


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

    until(seen)
    return time.perf_counter() - began
