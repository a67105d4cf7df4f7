"""Desktops as an HTTP app: contract section 3."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from anyio import to_thread
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from sqlalchemy import make_url
from starlette.middleware.cors import CORSMiddleware

from labyard.core.app import THREADS
from labyard.core.database import Database
from labyard.core.health import Health
from labyard.core.metrics import Metrics
from labyard.core.middleware import API, Around
from labyard.core.settings import networks
from labyard.desktops.adapters.agent import Agents
from labyard.desktops.adapters.agents import KnownAgents
from labyard.desktops.adapters.live import Live
from labyard.desktops.api import admin, agents, audit, auth, ledger, nodes, poot, rdp, sessions
from labyard.desktops.api.answers import crash, handle_errors, plain_error
from labyard.desktops.api.gate import Gate
from labyard.desktops.api.health import checks, health_router
from labyard.desktops.authority import Authority
from labyard.desktops.metrics import PREFIX, Standing
from labyard.desktops.service import Desktops
from labyard.desktops.settings import Settings

PACKAGE = "labyard.desktops"
DESCRIPTION = (
    "Recorded remote-desktop sessions, RDP servers on demand, nodes and pools, PoOT scores and payouts. "
    "Get a token with POST /api/v1/auth/token, then Authorize with the access_token."
)
MAX_BODY = 2 * 1024 * 1024  # bytes
# PostgreSQL takes 100 connections as it comes, and a request that finds none free must not wait long to hear it.
CONNECTIONS: dict[str, Any] = {
    "pool_size": 20,
    "max_overflow": 30,
    "pool_timeout": 1.5,
    "connect_args": {"options": "-c lock_timeout=10000 -c idle_in_transaction_session_timeout=20000"},
}
CONNECT_TIMEOUT = 2  # seconds
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
# What is asked most comes first: they are looked through in order.
ROUTERS = (
    sessions.router, rdp.router, nodes.router, poot.router, poot.payouts, ledger.router, audit.router, auth.public,
    auth.private, auth.users, agents.public, admin.router,
)  # fmt: skip


def connect(settings: Settings) -> Database:
    # In the address, where whoever sets that may name another one.
    address = make_url(settings.database_url)
    address = address.set(query={"connect_timeout": str(CONNECT_TIMEOUT), **address.query})
    return Database(address.render_as_string(hide_password=False), plain_reads=True, **CONNECTIONS)


def _document(app: FastAPI) -> dict[str, Any]:
    """OpenAPI, without the 422 that FastAPI puts everywhere: bad input is 400 here."""
    if app.openapi_schema is None:
        found = FastAPI.openapi(app)
        for operations in found["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            found["components"]["schemas"].pop(name, None)
        app.openapi_schema = found
    return app.openapi_schema


def known_agents(settings: Settings, database: Database) -> KnownAgents:
    tls = Authority(settings.keys).client_context()
    return KnownAgents(database, settings.agent_deadline, settings.agent_socket, tls)


def build(settings: Settings, agents: Agents | None = None) -> FastAPI:
    """The app. The tables are brought up to date."""
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = connect(settings)
    database.migrate(PACKAGE)
    live = Live(settings.redis_url, settings.env)
    service = Desktops(settings, database, live, agents or known_agents(settings, database))
    metrics = Metrics(PREFIX)
    metrics.registry.register(Standing(database))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        await to_thread.run_sync(service.start)
        try:
            yield
        finally:
            await to_thread.run_sync(service.stop)
            await live.close_async()
            await to_thread.run_sync(database.close)

    app = FastAPIOffline(
        title="Labyard desktops",
        description=DESCRIPTION,
        version=version("labyard"),
        lifespan=lifespan,
        redirect_slashes=False,
        strict_content_type=False,  # a body without a type is JSON
        swagger_ui_parameters={"validatorUrl": None, "persistAuthorization": True},
    )
    app.state.desktops = service
    app.state.idempotency = service.idempotency
    app.state.gate = Gate(settings, live, service.auth, service.enrolment, database)
    for router in ROUTERS:
        app.include_router(router, prefix=API)
    app.include_router(health_router(Health(checks(service)), metrics, version("labyard")))
    handle_errors(app)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key"],
        )
    app.add_middleware(
        Around,
        metrics=metrics,
        limiter=None,
        proxies=networks(settings.trusted_proxies),
        rooted=(),
        body_limits={"": MAX_BODY},
        headers=HEADERS,
        quiet=re.compile(r"/(?:health|ready|metrics)"),
        answer_error=plain_error,
        answer_crash=crash,
    )
    return app
