"""Settings of a node's agent: environment variables with the prefix DESKTOP_AGENT_."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from labyard.core.settings import Served

HIGHEST_DISPLAY = 999  # sesman probes TCP ports that it makes of the number


class Settings(Served):
    """Paths are absolute, times seconds."""

    model_config = SettingsConfigDict(env_prefix="DESKTOP_AGENT_", extra="ignore", env_ignore_empty=True)
    bind_fields: ClassVar[tuple[str, str]] = ("tls_host", "tls_port")

    node_id: str = Field(default="node_local", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    socket: Path = Path("/run/labyard/desktop-agent.sock")
    socket_group: str = Field(default="", description="Who may call the agent over its socket, besides root.")
    tls_host: str = Field(default="", description="Where the service reaches the agent over HTTPS. Empty: nowhere.")
    tls_port: int = Field(default=8444, ge=0, le=65535)
    certificate: Path | None = Field(default=None, description="The agent's certificate, bound to its node's id.")
    key: Path | None = None
    authority: Path | None = Field(default=None, description="Who signs the certificates of agents and service.")
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    state_dir: Path = Path("/var/lib/labyard/desktop-agent")
    unit_prefix: str = Field(default="labyard", pattern=r"^[a-z][a-z0-9]{0,15}$")
    rdp_first_port: int = Field(default=33890, ge=1024, le=65535)
    rdp_last_port: int = Field(default=33999, ge=1024, le=65535)
    rdp_sesman_offset: int = Field(default=10_000, description="A server's sesman listens on its port plus this.")
    rdp_first_display: int = Field(default=100, ge=1, le=HIGHEST_DISPLAY)
    rdp_displays: int = Field(default=5, ge=2, description="Display numbers kept for each server.")
    rdp_start_timeout: float = Field(default=20, gt=0)
    rdp_idle_timeout: int = Field(default=1800, ge=60, le=7200, description="An idle client is disconnected.")
    rdp_session_timeout: int = Field(
        default=3600, ge=300, le=86400, description="A client is disconnected after this; above the idle timeout."
    )

    @property
    def runtime_dir(self) -> Path:
        """In memory: what recorders are told, their states and sockets, display cookies, the keys of their spools."""
        return Path("/run") / f"{self.unit_prefix}-desktop-agent"

    @property
    def spool_dir(self) -> Path:
        """Segments until the service has them."""
        return self.state_dir / "spool"

    @property
    def servers_dir(self) -> Path:
        return self.state_dir / "rdp"

    def display(self, port: int) -> int:
        """The first display number of the server on this port."""
        return self.rdp_first_display + self.rdp_displays * (port - self.rdp_first_port)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.rdp_last_port < self.rdp_first_port:
            raise ValueError("DESKTOP_AGENT_RDP_LAST_PORT is below DESKTOP_AGENT_RDP_FIRST_PORT")
        if self.rdp_idle_timeout >= self.rdp_session_timeout:
            raise ValueError("DESKTOP_AGENT_RDP_IDLE_TIMEOUT must be below DESKTOP_AGENT_RDP_SESSION_TIMEOUT")
        if self.display(self.rdp_last_port) + self.rdp_displays - 1 > HIGHEST_DISPLAY:
            raise ValueError(
                f"the last port's displays would be above {HIGHEST_DISPLAY}: fewer ports, or fewer displays"
            )
        if self.tls_host and not (self.certificate and self.key and self.authority):
            raise ValueError(
                "DESKTOP_AGENT_TLS_HOST needs DESKTOP_AGENT_CERTIFICATE, DESKTOP_AGENT_KEY and DESKTOP_AGENT_AUTHORITY"
            )
        return self
