"""Requests and answers of RDP servers (contract section 6)."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, SecretStr, model_validator

from labyard.desktops.fields import Answer, Body, Line, Moment, Name, Prose
from labyard.desktops.schemas.nodes import UsageOut

_RESOLUTION = re.compile(r"(\d{3,5})x(\d{3,5})")
LEAST, MOST = (640, 480), (7680, 4320)


def _resolution(value: str) -> str:
    found = _RESOLUTION.fullmatch(value)
    if not found:
        raise ValueError("must be WIDTHxHEIGHT, such as 1920x1080")
    size = int(found[1]), int(found[2])
    if not all(least <= side <= most for least, side, most in zip(LEAST, size, MOST, strict=True)):
        raise ValueError("must be between 640x480 and 7680x4320")
    return value


def _hundredths(value: float) -> float:
    if round(value, 2) != value:
        raise ValueError("must have at most 2 decimals")
    return value


class Configuration(Body):
    """Stored as it was sent: what it leaves out gets its default at each start. A word that is not here is wrong."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    desktop_environment: Literal["xfce", "gnome", "kde", "lxde", "icewm"] = "xfce"
    resolution: Annotated[str, AfterValidator(_resolution)] = "1920x1080"
    color_depth: Literal[16, 24, 32] = 24
    use_tls: bool = True
    audio: bool = False
    clipboard: bool = True
    drive_redirection: bool = False
    printer_redirection: bool = False


class Resources(Body):
    """Cores, MiB, MiB, Mbit/s."""

    cpu_limit: Annotated[float, AfterValidator(_hundredths)] = Field(ge=0.1, le=8.0)
    memory_limit: int = Field(ge=512, le=16384)
    disk_limit: int = Field(ge=1024, le=102400)
    network_bandwidth: int = Field(ge=100, le=10000)


class RdpIn(Body):
    name: Name = Field(min_length=1, max_length=255)
    description: Prose = Field(default="", max_length=1000)
    user_id: Line = Field(min_length=1, max_length=255)
    configuration: Configuration = Configuration()
    resources: Resources


class Credentials(Body):
    """Both or neither."""

    username: Line | None = Field(default=None, min_length=1, max_length=255)
    password: SecretStr | None = Field(default=None, min_length=1, max_length=255)

    @model_validator(mode="after")
    def _both(self) -> Credentials:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password belong together")
        return self


class ResourcesOut(Answer):
    cpu_limit: Annotated[float, Field(json_schema_extra={"description": "cores"})]
    memory_limit: int
    disk_limit: int
    network_bandwidth: int

    @classmethod
    def of(cls, cpu: Decimal, memory: int, disk: int, network: int) -> ResourcesOut:
        return cls(cpu_limit=float(cpu), memory_limit=memory, disk_limit=disk, network_bandwidth=network)


class ServerOut(Answer):
    server_id: str
    name: str
    description: str
    user_id: str
    status: str
    host: str
    port: int
    node_id: str
    configuration: dict[str, Any]
    resources: ResourcesOut
    created_at: Moment
    updated_at: Moment
    last_started_at: Moment | None
    last_stopped_at: Moment | None
    desktop_effective: str | None
    enforcement: dict[str, Any] | None
    restart_required: bool


class ServersOut(Answer):
    servers: list[ServerOut]
    total: int
    limit: int
    offset: int
    has_next: bool
    has_previous: bool


class ServerStarted(Answer):
    server_id: str
    status: str
    started_at: Moment | None
    port: int


class ServerStopped(Answer):
    server_id: str
    status: str
    stopped_at: Moment | None


class ServiceStatusOut(Answer):
    server_id: str
    xrdp_status: str
    xrdp_sesman_status: str
    xorg_status: str
    since: Moment | None
    main_pid: int | None
    restarts: int


class LoginOut(Answer):
    attempted: bool
    succeeded: bool
    reason: str | None


class ConnectionOut(Answer):
    server_id: str
    connection_available: bool
    port_open: bool
    tls: dict[str, Any] | None
    protocol: str | None
    login: LoginOut
    latency_ms: float | None


class ServerUsageOut(UsageOut):
    server_id: str


class ServerUsageHistoryOut(Answer):
    server_id: str
    usage_history: list[UsageOut]


class ActiveSession(Answer):
    session_id: str
    name: str
    status: str
    started_at: Moment | None


class Connection(Answer):
    peer: str
    connected_at: Moment


class ServerSessionsOut(Answer):
    server_id: str
    active_sessions: list[ActiveSession]
    connections: list[Connection]


class CredentialsOut(Answer):
    server_id: str
    host: str
    port: int
    username: str
    password: str
    certificate_sha256: str | None
