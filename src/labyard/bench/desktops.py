"""The desktops service on its lab host, over HTTPS. Scores and payouts that it is measured with stay on its records."""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import httpx

from labyard.bench.bench import Bench, Measure, MeasureError
from labyard.client.http import trust
from labyard.desktops.cli_where import Where

TOKEN = "labyard-desktops token issue --sub bench --roles node_operator,session_manager,rdp_operator --ttl 1h"
READS = ("/nodes", "/nodes/statistics", "/poot/statistics", "/poot/history?limit=20", "/sessions", "/rdp/servers")
RATE = 100  # requests a second
SECONDS = 20
BATCH, BATCHES = 100, 3
PAID = 300


@cache
def _how(inventory: Path) -> dict[str, Any]:
    """How clients of the lab's service are made, with a token of their own."""
    where = Where(inventory, "", "")
    url, certificate = where.place
    headers = {"Authorization": f"Bearer {where.issue(TOKEN)}"}
    return {"base_url": f"{url}/api/v1", "headers": headers, "verify": trust(certificate), "timeout": 60}


@contextmanager
def _http(bench: Bench) -> Iterator[httpx.Client]:
    with httpx.Client(**_how(bench.inventory)) as client:
        yield client


def _good(answer: httpx.Response) -> httpx.Response:
    if not answer.is_success:
        raise MeasureError(f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text[:200]}")
    return answer


def api_p95(bench: Bench) -> float:
    """95th percentile, in ms, of reads that come 100 a second, whatever the ones before take."""
    taken = asyncio.run(_reads(_how(bench.inventory)))
    p95 = statistics.quantiles(taken, n=20)[-1]
    bench.say(f"{len(taken)} reads: median {statistics.median(taken):.1f} ms, 95 % within {p95:.1f} ms")
    return p95


async def _reads(how: dict[str, Any]) -> list[float]:
    taken: list[float] = []
    async with httpx.AsyncClient(**how) as client:

        async def one(path: str) -> None:
            began = time.perf_counter()
            _good(await client.get(path))
            taken.append((time.perf_counter() - began) * 1000)

        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(RATE * SECONDS):
                await asyncio.sleep(max(0.0, begun + number / RATE - time.perf_counter()))
                group.create_task(one(READS[number % len(READS)]))
    return taken


def poot_batch(bench: Bench) -> float:
    """Median, in ms, of the validation of 100 PoOT in one call."""
    with _http(bench) as client:
        taken = [_validated(client, _submitted(client, BATCH)) for _ in range(BATCHES)]
    bench.say(f"batches of {BATCH}: {', '.join(f'{ms:.0f}' for ms in taken)} ms")
    return statistics.median(taken)


def payouts(bench: Bench) -> float:
    """Payouts a second, in one batch."""
    with _http(bench) as client:
        ids = _submitted(client, PAID)
        for first in range(0, PAID, BATCH):
            _validated(client, ids[first : first + BATCH])
        began = time.perf_counter()
        _good(client.post("/poot/batch/payout", json={"poot_ids": ids, "wallet_address": "bench"}))
        return PAID / (time.perf_counter() - began)


def _submitted(client: httpx.Client, count: int) -> list[str]:
    ids = []
    for number in range(count):
        body = {
            "node_id": f"bench-{number % 10}",
            "output_data": secrets.token_hex(16),
            "timestamp": datetime.now(UTC).isoformat(),
            "nonce": secrets.token_hex(16),
        }
        ids.append(str(_good(client.post("/poot/submit", json=body)).json()["poot_id"]))
    return ids


def _validated(client: httpx.Client, ids: list[str]) -> float:
    """Milliseconds. MeasureError when one is not valid."""
    began = time.perf_counter()
    answer = _good(client.post("/poot/batch/validate", json={"poot_ids": ids}))
    taken = (time.perf_counter() - began) * 1000
    if (valid := answer.json()["summary"]["valid"]) != len(ids):
        raise MeasureError(f"of {len(ids)} PoOT {valid} are valid")
    return taken


MEASURES: dict[str, Measure] = {
    "desktops.api_p95_ms": api_p95,
    "desktops.poot_batch_ms": poot_batch,
    "desktops.payouts_per_s": payouts,
}
