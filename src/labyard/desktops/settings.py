"""Settings of desktops: environment variables with the prefix DESKTOPS_, and LABYARD_ENV."""

from __future__ import annotations

import ipaddress
from decimal import Decimal
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from labyard.core.settings import Served, networks

QUANTUM = Decimal(1) / 64  # USDT


class Settings(Served):
    """Paths are absolute; times seconds unless the name says otherwise; rates requests a minute."""

    model_config = SettingsConfigDict(
        env_prefix="DESKTOPS_", extra="ignore", env_ignore_empty=True, populate_by_name=True
    )
    bind_fields: ClassVar[tuple[str, str]] = ("bind_host", "bind_port")

    env: str = Field(
        default="production", pattern=r"^[a-z][a-z0-9_-]{0,31}$", validation_alias="LABYARD_ENV",
        description="Only in `test` everything may be reset.",
    )  # fmt: skip
    bind_host: str = Field(default="127.0.0.1", description="Plain HTTP: a loopback address only, unless TLS is set.")
    bind_port: int = Field(default=8000, ge=0, le=65535)
    tls_host: str = Field(
        default="", description="Where HTTPS is served, beside plain HTTP on loopback. Empty: nowhere."
    )
    tls_port: int = Field(default=8443, ge=0, le=65535)
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    trusted_proxies: str = Field(default="", description="Addresses, comma separated, whose X-Forwarded-For counts.")
    cors_origins: str = Field(default="", description="Origins, comma separated. Empty: no CORS headers.")

    database_url: str = Field(
        default="", description="postgresql://USER:PASSWORD@HOST/DATABASE, or ?host=/socket/folder"
    )
    redis_url: str = Field(default="redis://localhost:6379/0", description="redis://, rediss:// or unix://")
    state_dir: Path = Path("/var/lib/labyard/desktops")
    storage_dir: Path | None = Field(default=None, description="Chunk objects. Unset: chunks in the state folder.")
    backup_dir: Path | None = Field(default=None, description="Second copies of chunks. Unset: there is no such store.")
    archive_dir: Path | None = Field(default=None, description="Expired chunks. Unset: there is no such store.")
    key_dir: Path | None = Field(default=None, description="Key files, mode 0400. Unset: keys in the state folder.")

    # Tokens
    token_issuer: str = "labyard-desktops"
    token_audience: str = "labyard-desktops"
    access_token_minutes: int = Field(default=15, ge=1, le=60)
    refresh_token_days: int = Field(default=7, ge=1, le=30)
    refresh_families: int = Field(default=5, ge=1, le=100)

    # Rates, a minute
    rate_login: int = Field(default=10, ge=1)
    rate_public: int = Field(default=600, ge=1)
    rate_authenticated: int = Field(default=6000, ge=1)
    rate_burst: int = Field(default=600, ge=1)
    rate_admin: int = Field(default=12000, ge=1)
    rate_poot: int = Field(default=6000, ge=1)
    rate_create: int = Field(default=600, ge=1)

    # The agent on this host, and its node. Empty: this host is no node.
    agent_socket: Path | None = Field(default=None, description="Unix socket of this host's agent.")
    agent_deadline: float = Field(default=30.0, gt=0)
    local_address: str = Field(default="127.0.0.1", description="Where this host's RDP servers are reached.")
    local_overcommit_cpu: float = Field(default=16, ge=1)
    local_overcommit_memory: float = Field(default=8, ge=1)
    local_overcommit_disk: float = Field(default=16, ge=1)
    local_max_sessions: int = Field(default=100, ge=1, le=1000)
    node_lost_after: float = Field(default=90, gt=0)
    node_live_interval: float = Field(default=1, gt=0)
    node_store_interval: float = Field(default=30, gt=0)
    max_node_cores: int = Field(default=128, ge=1)
    max_node_memory: int = Field(default=2**40, ge=2**30)
    max_node_storage: int = Field(default=100 * 2**40, ge=10 * 2**30)

    # Sessions
    session_provisioning: Literal["attach", "auto", "none"] = "attach"
    session_external_hosts: str = Field(default="", description="Host names and addresses, comma separated.")
    session_auto_cpu: float = Field(default=1.0, ge=0.1, le=8.0, description="Cores of a server made for a session.")
    session_auto_memory: int = Field(default=1024, ge=512, le=16384, description="MiB")
    session_auto_disk: int = Field(default=2048, ge=1024, le=102400, description="MiB")
    session_auto_network: int = Field(default=1000, ge=100, le=10000, description="Mbit/s")
    session_auto_keep: bool = Field(default=False, description="Such a server stays when its session is stopped.")
    session_slice: float = Field(default=1.0, ge=0.5, le=2.0)
    session_storage_reserve: int = Field(default=2 * 2**30, ge=0, description="Bytes of disk that stay free.")

    # RDP servers
    rdp_first_port: int = Field(default=33890, ge=1024, le=65535)
    rdp_last_port: int = Field(default=33999, ge=1024, le=65535)
    rdp_user_quota: int = Field(default=110, ge=1)
    rdp_desktop_fallback: Literal["icewm", "refuse"] = "icewm"
    rdp_grace: float = Field(default=30, gt=0)

    # PoOT and money
    poot_require_registered_node: bool = False
    poot_min_score: Decimal = Field(default=Decimal(1), ge=0, le=100)
    poot_auto_submit: bool = True
    poot_base_rate: Decimal = Field(default=Decimal(10), gt=0, le=10_000)

    @property
    def chunks(self) -> Path:
        return self.storage_dir or self.state_dir / "chunks"

    @property
    def keys(self) -> Path:
        return self.key_dir or self.state_dir / "keys"

    @property
    def in_test(self) -> bool:
        return self.env == "test"

    @property
    def origins(self) -> list[str]:
        return listed(self.cors_origins)

    @property
    def external_hosts(self) -> list[str]:
        return listed(self.session_external_hosts)

    @field_validator("database_url")
    @classmethod
    def _database_is_postgresql(cls, url: str) -> str:
        if url.startswith("mongodb"):
            raise ValueError(
                "this service keeps its records in PostgreSQL, not MongoDB: postgresql://USER@HOST/DATABASE"
            )
        if url and not url.startswith(("postgresql://", "postgresql+psycopg://")):
            raise ValueError("must begin with postgresql://")
        return url

    @field_validator("redis_url")
    @classmethod
    def _redis_is_redis(cls, url: str) -> str:
        if not url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must begin with redis://, rediss:// or unix://")
        return url

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_addresses(cls, text: str) -> str:
        networks(text)
        return text

    @field_validator("cors_origins")
    @classmethod
    def _no_wildcard(cls, text: str) -> str:
        if "*" in text:
            raise ValueError("name the origins one by one")
        return text

    @field_validator("poot_base_rate")
    @classmethod
    def _rate_is_of_quanta(cls, rate: Decimal) -> Decimal:
        if rate % QUANTUM:
            raise ValueError(f"must be a multiple of {QUANTUM} USDT")
        return rate

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.database_url:
            raise ValueError("DESKTOPS_DATABASE_URL is not set: postgresql://USER:PASSWORD@HOST/DATABASE")
        if not ipaddress.ip_address(self.bind_host).is_loopback:
            raise ValueError(
                f"DESKTOPS_BIND_HOST {self.bind_host} is no loopback address: plain HTTP stays on this host; "
                "set DESKTOPS_TLS_HOST for others"
            )
        if self.tls_host and not (self.tls_certificate and self.tls_key):
            raise ValueError("DESKTOPS_TLS_HOST needs DESKTOPS_TLS_CERTIFICATE and DESKTOPS_TLS_KEY")
        if self.rdp_last_port < self.rdp_first_port:
            raise ValueError("DESKTOPS_RDP_LAST_PORT is below DESKTOPS_RDP_FIRST_PORT")
        return self


def listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
