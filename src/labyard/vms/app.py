"""The VM manager as an HTTP app: contract section 4."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from anyio import to_thread
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware

from labyard.core.app import THREADS
from labyard.vms.adapters.factory import Adapters
from labyard.vms.api import disks, network, observer, templates, vms
from labyard.vms.api.errors import Guard, handle_errors
from labyard.vms.api.health import health_router
from labyard.vms.service.manager import VmManager
from labyard.vms.settings import Settings

DESCRIPTION = (
    "Virtual machines on libvirt: templates, lifecycle, disks that are plugged in while a machine runs, addresses, "
    "console, guest metadata, and an observer. RAM is MiB, disk sizes are GiB."
)


def build(settings: Settings, adapters: Adapters | None = None) -> FastAPI:
    """The app, with `adapters` or those that the settings name. It takes the storage when it starts."""
    service = VmManager(settings, adapters)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        await to_thread.run_sync(service.start)
        try:
            yield
        finally:
            await to_thread.run_sync(service.stop)

    app = FastAPIOffline(
        title="Labyard VMs",
        description=DESCRIPTION,
        version=version("labyard"),
        lifespan=lifespan,
        redirect_slashes=False,
        swagger_ui_parameters={"validatorUrl": None},
    )
    app.state.vms = service
    for router in (
        templates.router,
        vms.router,
        disks.router,
        network.router,
        observer.router,
        health_router(service),
    ):
        app.include_router(router)
    handle_errors(app)
    app.add_middleware(Guard, token=settings.api_token.get_secret_value())
    if settings.origins:
        app.add_middleware(CORSMiddleware, allow_origins=settings.origins, allow_methods=["*"], allow_headers=["*"])
    return app
