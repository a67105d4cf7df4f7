"""The app factory: what makes a service out of its routers."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog
from anyio import to_thread
from fastapi import APIRouter, FastAPI
from fastapi_offline import FastAPIOffline

from labyard.core import auth_api
from labyard.core.answers import handle_errors
from labyard.core.auth import Auth
from labyard.core.database import Database
from labyard.core.health import Check, Health, health_router, system_check
from labyard.core.metrics import Metrics
from labyard.core.middleware import API, Around
from labyard.core.ratelimit import RateLimiter, Rule
from labyard.core.settings import ServiceSettings, networks

log = structlog.get_logger(__name__)

# 100 session starts run side by side, each in a thread; the rest is for what is asked meanwhile.
THREADS = 200
ROOTED = ("auth", "health", "metrics")


@dataclass(frozen=True)
class ServiceInfo:
    """`name` is in the health answer and in tokens (`labyard-netboot`); `metrics_prefix` begins metrics' names."""

    name: str
    title: str
    description: str
    version: str
    metrics_prefix: str
    tags: Sequence[Mapping[str, str]] = field(default_factory=tuple)


def create_app(
    service: ServiceInfo,
    settings: ServiceSettings,
    database: Database,
    auth: Auth,
    routers: Sequence[APIRouter],
    *,
    rooted: Collection[str] = (),
    rules: Sequence[Rule] = (),
    checks: Sequence[Check] = (),
    metrics: Metrics | None = None,
    body_limits: Mapping[str, int] | None = None,
    on_start: Sequence[Callable[[], object]] = (),
    on_stop: Sequence[Callable[[], object]] = (),
) -> FastAPI:
    """An app with `routers` under /api/v1, and /auth, /health and /metrics.

    `rooted` are the first parts of paths that are served at the root as well (contract 1.3). `rules` are rate limits
    beside those of /auth. `body_limits` are bytes by path below which they hold; elsewhere 1 MiB, and 0 means that
    the route sees to it. `on_start` runs in
    order before the first request, when the tables are there and the first administrator is made; `on_stop` runs after
    the last one, all of it, whatever fails. ValueError when a route ends with a slash.
    """
    metrics = metrics or Metrics(service.metrics_prefix)
    limiter = RateLimiter(rules, settings.redis_url, service.name)
    health = Health(
        [
            Check("database", database.ping, required=True),
            Check("redis", limiter.health),
            system_check(settings.state_dir),
            *checks,
        ]
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        for start in (auth.ensure_admin, *on_start):
            await to_thread.run_sync(start)
        gc.freeze()  # what lives as long as the process need not be looked through again and again
        try:
            yield
        finally:
            for stop in on_stop:
                try:
                    await to_thread.run_sync(stop)
                except Exception:
                    log.exception("could not stop cleanly")

    app = FastAPIOffline(
        title=service.title,
        description=service.description,
        version=service.version,
        openapi_tags=[dict(tag) for tag in service.tags] or None,
        lifespan=lifespan,
        redirect_slashes=False,
        swagger_ui_parameters={"validatorUrl": None, "persistAuthorization": True},
    )
    app.state.auth = auth
    app.state.metrics = metrics
    for router in (*routers, auth_api.router, health_router(service.name, service.version, health), metrics.router()):
        _refuse_final_slashes(router)
        app.include_router(router, prefix=API)
    handle_errors(app)
    app.add_middleware(
        Around,
        metrics=metrics,
        limiter=limiter,
        proxies=networks(settings.trusted_proxies),
        rooted={*ROOTED, *rooted},
        body_limits=body_limits or {},
    )
    return app


def _refuse_final_slashes(router: APIRouter) -> None:
    """The middleware takes a final slash off, so a route with one would never be found."""
    for route in router.routes:
        path: Any = getattr(route, "path", "")
        if path.endswith("/"):
            raise ValueError(f"the route {path} ends with a slash; declare it without, both forms are served")
