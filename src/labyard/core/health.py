"""Routes of /health (contract section 5.8): is it alive, is it ready, and what of each thing it stands on."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil
import structlog
from fastapi import APIRouter, Response

from labyard.core.adapter import AdapterError
from labyard.core.clock import as_text, now

log = structlog.get_logger(__name__)

FULL_PERCENT = 95.0
TIMEOUT = 2.0  # s that a check has, unless it is given another time

Facts = Mapping[str, Any] | None


class Status(StrEnum):
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    DISABLED = "disabled"


@dataclass(frozen=True)
class Check:
    """One thing the service stands on.

    `call`, a function or a coroutine function, returns None or a mapping with facts for the answer, and may set
    `status` in it. What it raises makes the thing unhealthy, and so does silence for `timeout` seconds. While a
    `required` one is unhealthy the service is not ready.
    """

    name: str
    call: Callable[[], Facts] | Callable[[], Awaitable[Facts]]
    timeout: float = field(default_factory=lambda: TIMEOUT)
    required: bool = False


class Health:
    """Runs the checks side by side, each at most once at a time."""

    def __init__(self, checks: Sequence[Check]) -> None:
        self._checks = checks
        self._pool = ThreadPoolExecutor(max_workers=len(checks) + 1, thread_name_prefix="health")
        self._running: dict[str, Future[Any]] = {}
        self._lock = threading.Lock()

    async def run(self, only_required: bool = False) -> dict[str, dict[str, Any]]:
        checks = [check for check in self._checks if check.required or not only_required]
        results = await asyncio.gather(*(self._one(check) for check in checks))
        return {check.name: result for check, result in zip(checks, results, strict=True)}

    async def ready(self) -> bool:
        return all(result["status"] != Status.UNHEALTHY for result in (await self.run(only_required=True)).values())

    async def _one(self, check: Check) -> dict[str, Any]:
        try:
            facts: Facts = await asyncio.wait_for(self._begin(check), check.timeout)
        except TimeoutError:
            return {"status": Status.UNHEALTHY, "detail": f"no answer within {check.timeout:g} s"}
        except Exception as error:
            # Anybody may read this: only what an adapter says for people goes out.
            text = str(error) if isinstance(error, AdapterError) else "the check failed; the service's log says why"
            log.warning("health check failed", check=check.name, error=str(error) or type(error).__name__)
            return {"status": Status.UNHEALTHY, "detail": text}
        return {"status": Status.HEALTHY, **(facts or {})}

    def _begin(self, check: Check) -> Awaitable[Any]:
        if inspect.iscoroutinefunction(check.call):
            started: Awaitable[Any] = check.call()
            return started
        with self._lock:
            future = self._running.get(check.name)
            # One that hangs keeps its thread; those who ask again wait for the same one.
            if future is None or future.done():
                future = self._running[check.name] = self._pool.submit(check.call)
        return asyncio.shield(asyncio.wrap_future(future))


def overall(checks: Mapping[str, Mapping[str, Any]]) -> Status:
    """The worst status of all; what is disabled does not count."""
    found = {check["status"] for check in checks.values()}
    return next((status for status in (Status.UNHEALTHY, Status.DEGRADED) if status in found), Status.HEALTHY)


def system_check(folder: Path) -> Check:
    """Use of processor, memory and of the disk that holds `folder`, in percent."""
    psutil.cpu_percent()  # the first call has nothing to compare with and answers 0

    def look() -> Mapping[str, Any]:
        place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        memory, disk = psutil.virtual_memory().percent, psutil.disk_usage(str(place)).percent
        full = [name for name, used in (("memory", memory), ("disk", disk)) if used >= FULL_PERCENT]
        facts = {"cpu_percent": psutil.cpu_percent(), "memory_percent": memory, "disk_percent": disk}
        if full:
            return {"status": Status.DEGRADED, "detail": f"{' and '.join(full)} nearly full", **facts}
        return facts

    return Check("system", look)


def health_router(name: str, version: str, health: Health) -> APIRouter:
    # Async, so that they answer even when every thread is busy.
    router = APIRouter(prefix="/health", tags=["health"])

    def _base(status: str) -> dict[str, Any]:
        return {"status": status, "timestamp": as_text(now()), "service": name, "version": version}

    @router.get("", summary="Is the service there")
    async def basic() -> dict[str, Any]:
        return _base(Status.HEALTHY)

    @router.get("/detailed", summary="What the service stands on, each with its status")
    async def detailed() -> dict[str, Any]:
        checks = await health.run()
        return {**_base(overall(checks)), "checks": checks}

    @router.get("/ready", summary="Can it do its work now", responses={503: {"description": "Not now"}})
    async def ready(response: Response) -> dict[str, str]:
        if await health.ready():
            return {"status": "ready"}
        response.status_code = 503
        return {"status": "not_ready"}

    @router.get("/live", summary="Does the process answer")
    async def live() -> dict[str, str]:
        return {"status": "alive"}

    return router
