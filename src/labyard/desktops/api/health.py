"""/health, /ready and /metrics (contract section 2)."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from labyard.core.context import caller
from labyard.core.health import Check, Facts, Health, Status, overall
from labyard.core.metrics import Metrics
from labyard.desktops.api.gate import Gate
from labyard.desktops.errors import Refusal
from labyard.desktops.keyring import read_private
from labyard.desktops.moments import now_text
from labyard.desktops.names import LOCAL_NODE
from labyard.desktops.roles import AUDIT
from labyard.desktops.service import Desktops

NAME = "labyard-desktops"
TIMEOUT = 2.0  # seconds that each check gets
Look = Callable[[], Facts]


def timed(look: Look) -> Look:
    def call() -> Mapping[str, Any]:
        began = time.perf_counter()
        facts = look() or {}
        return {"latency_ms": round((time.perf_counter() - began) * 1000, 2), **facts}

    return call


def checks(service: Desktops) -> list[Check]:
    """What the service stands on. Without a required one it is not ready."""

    def redis() -> Facts:
        if service.live.ping():
            return None
        return {"status": Status.DEGRADED, "detail": "Redis does not answer; the service goes on without it"}

    def key_file() -> Facts:
        read_private(service.settings.keys / "key-encryption.json")
        return None

    def ledger() -> Facts:
        service.sessions.ledger.ping()
        return None

    def agent() -> Facts:
        if service.settings.agent_socket is None:
            return {"status": Status.DISABLED, "detail": "this host has no agent"}
        service.shared.agents.of(LOCAL_NODE).ping()
        return None

    return [
        Check("postgresql", timed(service.database.ping), TIMEOUT, required=True),
        Check("redis", timed(redis), TIMEOUT),
        Check("key_file", timed(key_file), TIMEOUT, required=True),
        Check("ledger", timed(ledger), TIMEOUT, required=True),
        # Without it no server starts and no session is recorded; all else goes on.
        Check("agent", timed(agent), TIMEOUT),
    ]


def health_router(health: Health, metrics: Metrics, version: str) -> APIRouter:
    # Async, so that they answer even when every thread is busy.
    router = APIRouter(tags=["health"])

    @router.get("/health", summary="Does the process answer")
    async def alive() -> dict[str, str]:
        return {"status": Status.HEALTHY, "service": NAME, "version": version, "timestamp": now_text()}

    @router.get("/ready", summary="Can it do its work now", responses={503: {"description": "Not now"}})
    async def ready(response: Response) -> dict[str, Any]:
        results = await health.run()
        state = "ready"
        if overall(results) != Status.HEALTHY:
            state = "degraded"
        if not await health.ready():
            state, response.status_code = "not_ready", 503
            response.headers["Retry-After"] = "5"
        return {"status": state, "checks": results}

    @router.get("/metrics", response_class=Response, summary="Metrics in Prometheus' text format")
    async def show(request: Request) -> Response:
        """From this host, or for an auditor."""
        if not _is_loopback(caller().address):
            gate: Gate = request.app.state.gate
            who = await gate.admit(request)
            if not who.may(AUDIT):
                raise Refusal("AUTH_FORBIDDEN", "This needs one of the roles admin, auditor")
        return await run_in_threadpool(metrics.answer)

    return router


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
