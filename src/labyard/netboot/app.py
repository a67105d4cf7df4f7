"""The netboot service as an HTTP app: contract sections 1 and 4."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI
from pydantic import SecretStr

from labyard.core.app import ServiceInfo, create_app
from labyard.core.auth import Auth
from labyard.core.database import Database
from labyard.core.health import Check
from labyard.core.metrics import Metrics
from labyard.core.ratelimit import Rule
from labyard.core.secretbox import kept_key
from labyard.netboot.adapters.factory import Adapters, make_adapters
from labyard.netboot.api import images, ipxe, machines, network, sessions, targets
from labyard.netboot.metrics import PREFIX
from labyard.netboot.service import Netboot
from labyard.netboot.settings import Settings

SERVICE = ServiceInfo(
    name="labyard-netboot",
    title="Labyard netboot",
    description="Diskless-boot sessions: give a machine a disk over the network, and take it away again. "
    "Log in with POST /auth/login, then Authorize with the access_token.",
    version=version("labyard"),
    metrics_prefix=PREFIX,
)
ROOTED = ("machines", "images", "monitoring")
RULES = (
    Rule("POST", "/api/v1/images/upload", 5, 60),
    Rule("*", "/api/v1/ipxe/script/{token}", 60, 60, key="token"),
)
ROUTERS = (
    machines.router,
    images.router,
    targets.router,
    sessions.router,
    ipxe.router,
    network.dhcp,
    network.tftp,
    network.monitoring,
    network.observer,
)


def build(settings: Settings, adapters: Adapters | None = None) -> FastAPI:
    """The app, with `adapters` or those that the settings name. The tables are brought up to date."""
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    if settings.key_is_fresh:
        key = kept_key(settings.state_dir / "secret-key", settings.secret_key.get_secret_value())
        settings.secret_key = SecretStr(key)
    database = Database(settings.database_url)
    database.migrate("labyard.netboot")
    metrics = Metrics(PREFIX)
    netboot = Netboot(settings, database, adapters or make_adapters(settings), metrics.registry)
    app = create_app(
        SERVICE,
        settings,
        database,
        Auth(database, settings, SERVICE.name),
        ROUTERS,
        rooted=ROOTED,
        rules=RULES,
        checks=checks(netboot),
        metrics=metrics,
        body_limits={"/api/v1/images/upload": 0},  # the route counts
        on_start=(netboot.start,),
        on_stop=(netboot.stop, database.close),
    )
    app.state.netboot = netboot
    return app


def checks(netboot: Netboot) -> tuple[Check, ...]:
    adapters = netboot.provision.adapters

    def tftp() -> dict[str, str] | None:
        status = adapters.scripts.status()
        ok = status.service_running is not False and status.machines_dir_exists
        return None if ok else {"status": "unhealthy", "detail": status.error or "not running"}

    return (
        Check("storage", adapters.disks.ping),
        Check("iscsi", adapters.iscsi.ping),
        Check("dhcp", adapters.dhcp.ping),
        Check("tftp", tftp),
    )
