"""Load on the netboot service, run on the probe host with its plain Python: prints one JSON object.

Arguments: URL, password, what to do (JSON): {"do": "burst", "machines": [ids], "image": id} starts a session for each
machine at once, then stops all at once; {"do": "sustain", …, "seconds": s, "rate": n} starts and stops one after the
other at a steady rate; {"do": "single", …} one after the other, alone.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

_local = threading.local()
HOST = urlsplit(sys.argv[1])
TOKEN = ""


def call(method: str, path: str, body: Any = None) -> tuple[int, Any, float]:
    """Status, JSON and milliseconds of one request; the connection of this thread is kept."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {TOKEN}"} if TOKEN else {})
    began = time.perf_counter()
    for attempt in (1, 2):
        try:
            if getattr(_local, "connection", None) is None:
                _local.connection = http.client.HTTPConnection(HOST.hostname or "", HOST.port, timeout=60)
            _local.connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = _local.connection.getresponse()
            text = answer.read()
            break
        except (http.client.HTTPException, OSError):  # the server closed a kept connection
            _local.connection = None
            if attempt == 2:
                return 0, None, (time.perf_counter() - began) * 1000
    milliseconds = (time.perf_counter() - began) * 1000
    return answer.status, json.loads(text) if text else None, milliseconds


def start(machine: int, image: int) -> tuple[int, int, float]:
    status, answer, milliseconds = call(
        "POST", "/api/v1/sessions/start", {"machine_id": machine, "image_id": image, "session_type": "testing"}
    )
    return status, answer["session"]["id"] if status == 201 else 0, milliseconds


def stop(session: int) -> tuple[int, float]:
    status, _, milliseconds = call("POST", f"/api/v1/sessions/{session}/stop")
    return status, milliseconds


def burst(machines: list[int], image: int) -> dict[str, Any]:
    gate = threading.Barrier(len(machines))

    def together(run: Any, *given: int) -> Any:
        call("GET", "/health/live")  # connected before the clock runs
        gate.wait()
        return run(*given)

    with ThreadPoolExecutor(len(machines)) as pool:
        started = list(pool.map(lambda machine: together(start, machine, image), machines))
        stopped = list(pool.map(lambda one: together(stop, one[1]), started))
    return {
        "start_ms": [row[2] for row in started],
        "stop_ms": [row[1] for row in stopped],
        "errors": sum(row[0] != 201 for row in started) + sum(row[0] != 200 for row in stopped),
    }


def single(machines: list[int], image: int) -> dict[str, Any]:
    starts, stops, scripts, errors = [], [], [], 0
    for machine in machines:
        status, session, milliseconds = start(machine, image)
        starts.append(milliseconds)
        script, _, took = call("GET", f"/api/v1/sessions/machine/{machine}/boot-script")
        scripts.append(took)
        stopped, took = stop(session)
        stops.append(took)
        errors += (status != 201) + (script != 200) + (stopped != 200)
    return {"start_ms": starts, "stop_ms": stops, "script_ms": scripts, "errors": errors}


def sustain(machines: list[int], image: int, seconds: float, rate: float) -> dict[str, Any]:
    """Each request is due at its time; one that is late shows in the rate that was reached."""
    began, lock, done = time.perf_counter(), threading.Lock(), []
    turns = iter(range(int(seconds * rate / 2)))

    def work(mine: list[int]) -> None:
        while True:
            with lock:
                turn = next(turns, None)
            if turn is None:
                return
            time.sleep(max(0.0, began + turn * 2 / rate - time.perf_counter()))
            status, session, took = start(mine[turn % len(mine)], image)
            stopped, took_stop = stop(session)
            done.append((status == 201, stopped == 200, took, took_stop))

    workers = 8
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, [machines[i::workers] for i in range(workers)]))
    elapsed = time.perf_counter() - began
    return {
        "requests": len(done) * 2,
        "seconds": elapsed,
        "errors": sum((not one) + (not two) for one, two, _, _ in done),
        "start_ms": [row[2] for row in done],
        "stop_ms": [row[3] for row in done],
    }


def main() -> None:
    global TOKEN
    status, answer, _ = call("POST", "/auth/login", {"username": "admin", "password": sys.argv[2]})
    if status != 200:
        sys.exit(f"login answered {status}")
    TOKEN = answer["access_token"]
    given = json.loads(sys.argv[3])
    do: dict[str, Any] = {"burst": burst, "single": single, "sustain": sustain}
    print(json.dumps(do[given.pop("do")](**given)))


main()
