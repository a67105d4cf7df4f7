"""Figures of the desktops service, for `python -m labyard.bench --only desktops`, which reads what they record.

They assert that the work was done, never how long it took. Runs of the suite do not collect them.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from itertools import cycle, islice
from typing import Any

import httpx
import pytest

from integration import postgresql as pg
from integration import redis_server
from labyard.bench.figure import p95

from .service_process import ServiceProcess
from .test_desktops_nodes import HEARD, node_like
from .test_desktops_poot import poot_like
from .test_recording_chain import Caller
from .test_sessions import created

NODES, SESSIONS, POOTS = 50, 100, 50
RATE, SECONDS = 100, 20
BATCH, PAID = 100, 1000
LISTS = ("/sessions", "/rdp/servers", "/nodes", "/poot/history")
NORMAL, DOUBLE, LOADED = 50, 100, 10
USERS = 5  # whose clients they are: a user may ask 100 times a second
ROLES = "session_manager,rdp_operator,node_operator"
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
    return Caller(process, process.token(ROLES))


def made(answer: Any) -> Any:
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


@dataclass
class Rows:
    """Ids of what is there while it is measured."""

    nodes: list[str]
    sessions: list[str]
    poots: list[str]


@pytest.fixture(scope="module")
def rows(who: Any) -> Rows:
    nodes = [made(who.post("/nodes", json=node_like(name=f"node {number}")))["node_id"] for number in range(NODES)]
    sessions = [created(who, rdp_config={"provisioning": "none"}) for _ in range(SESSIONS)]
    poots = [made(who.post("/poot/submit", json=poot_like(node_id=nodes[0])))["poot_id"] for _ in range(POOTS)]
    made(who.post("/poot/batch/validate", json={"poot_ids": poots}))
    return Rows(nodes, sessions, poots)


def test_reads(process: ServiceProcess, rows: Rows, record_property: Record) -> None:
    paths = [
        *LISTS, f"/sessions/{rows.sessions[0]}", f"/sessions/{rows.sessions[-1]}/statistics", f"/nodes/{rows.nodes[0]}",
        "/nodes/statistics", "/nodes/pools/pool_workers/statistics", f"/poot/{rows.poots[0]}", "/poot/statistics",
    ]  # fmt: skip
    _read(process, paths, record_property)


def test_usage(process: ServiceProcess, who: Any, rows: Rows, record_property: Record) -> None:
    for node in rows.nodes:
        made(who.post(f"/nodes/{node}/start"))
    paths = [f"/nodes/{node}/{what}" for node in rows.nodes for what in ("usage", "usage/history")]
    _read(process, paths, record_property)


def _read(process: ServiceProcess, paths: list[str], record_property: Record) -> None:
    headers = {"Authorization": f"Bearer {process.token(ROLES)}"}
    taken = asyncio.run(_asked(process, headers, list(islice(cycle(paths), RATE * SECONDS))))
    record_property("p95_ms", p95(taken))
    told = f"{len(taken)} reads, {RATE} a second: median {statistics.median(taken):.0f} ms, worst {max(taken):.0f} ms"
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


def test_load(process: ServiceProcess, rows: Rows, record_property: Record) -> None:
    tokens = [process.token(ROLES, f"user{number}") for number in range(USERS)]
    found = {clients: _loaded(process, tokens, clients) for clients in (NORMAL, DOUBLE)}
    for answers in found.values():
        assert set(answers) <= {200, 429, 503}, answers
    record_property("lists_per_s", found[NORMAL][200] / LOADED)
    for name, answers in (("normal", found[NORMAL]), ("double", found[DOUBLE])):
        record_property(f"{name}_pct", 100 * answers[200] / answers.total())
    said = (f"{clients} clients: {answers[200] / LOADED:.0f} lists/s" for clients, answers in found.items())
    record_property("say", "; ".join(said))


def _loaded(process: ServiceProcess, tokens: list[str], clients: int) -> Counter[int]:
    """How many answers of each status clients get, each of which asks again when it was answered."""
    until = time.monotonic() + LOADED

    def ask(number: int) -> Counter[int]:
        http = HTTPConnection("127.0.0.1", process.port, timeout=60)
        headers = {"Authorization": f"Bearer {tokens[number % USERS]}"}
        answers: Counter[int] = Counter()
        for path in islice(cycle(LISTS), number, None):
            if time.monotonic() > until:
                break
            http.request("GET", f"/api/v1{path}", headers=headers)
            answer = http.getresponse()
            answer.read()
            answers[answer.status] += 1
        http.close()
        return answers

    with ThreadPoolExecutor(clients) as threads:
        return sum(threads.map(ask, range(clients)), Counter())


def test_changes(who: Any, rows: Rows, record_property: Record) -> None:
    taken: dict[str, list[float]] = {}

    @contextmanager
    def clock(name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        taken.setdefault(name, []).append((time.perf_counter() - began) * 1000)

    for _ in range(SESSIONS):
        with clock("session made"):
            created(who)
    for number in range(NODES):
        body = node_like(name=f"further node {number}")
        with clock("node registered"):
            node = made(who.post("/nodes", json=body))["node_id"]
        with clock("moved"):
            moved = made(who.put(f"/nodes/{node}/pool", json={"pool_id": "pool_storage"}))
        assert moved["pool_id"] == "pool_storage"
        made(who.post(f"/nodes/{node}/start"))
        with clock("heard"):
            made(who.post(f"/nodes/{node}/heartbeat", json=HEARD))
        made(who.post(f"/nodes/{node}/stop"))
    for _ in range(POOTS):
        body = poot_like(node_id=rows.nodes[0])
        with clock("PoOT submitted"):
            poot = made(who.post("/poot/submit", json=body))["poot_id"]
        with clock("validated"):
            answer = made(who.post(f"/poot/{poot}/validate"))
        assert answer["is_valid"]
    slowest = {name: p95(values) for name, values in taken.items()}
    record_property("session_ms", slowest["session made"])
    record_property("node_ms", max(slowest[name] for name in ("node registered", "moved", "heard")))
    record_property("poot_ms", max(slowest[name] for name in ("PoOT submitted", "validated")))
    record_property("say", ", ".join(f"{name}: {value:.0f} ms" for name, value in slowest.items()))


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
