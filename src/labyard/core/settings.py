"""Settings that every service has. They come from the environment; a service adds its prefix and its own."""

from __future__ import annotations

import ipaddress
import logging
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

DEVELOPMENT = "development"
DEFAULT_PASSWORDS = {"admin", "admin123", "password", "changeme"}


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(text: str) -> list[Network]:
    """Comma separated addresses or networks. ValueError names the one that is neither."""
    return [ipaddress.ip_network(part.strip(), strict=False) for part in text.split(",") if part.strip()]


class Served(BaseSettings):
    """What `serve` needs to know. `bind_fields` names the settings with the host and the port to listen on."""

    bind_fields: ClassVar[tuple[str, str]] = ("http_host", "http_port")

    log_level: str = "info"

    def log_handlers(self) -> Sequence[logging.Handler]:
        """Where the log goes besides standard output."""
        return ()


class ServiceSettings(Served):
    """A subclass gives `env_prefix` in its `model_config`. Times are seconds unless the name says otherwise."""

    model_config = SettingsConfigDict(extra="ignore")

    environment: str = DEVELOPMENT
    state_dir: Path = Field(default=Path("/var/lib/labyard"), description="Where the SQLite file and other state live.")
    database_url: str = Field(
        default="", description="postgresql://USER:PASSWORD@HOST/DATABASE. Empty: an SQLite file in state_dir."
    )
    redis_url: str = Field(default="", description="Empty: rate limits are counted in this process.")
    secret_key: SecretStr = SecretStr("")
    http_host: str = "0.0.0.0"
    http_port: int = Field(default=8000, ge=1, le=65535)
    admin_password: SecretStr = SecretStr("")
    access_token_minutes: int = Field(default=60, ge=1)
    refresh_token_days: int = Field(default=7, ge=1)
    trusted_proxies: str = Field(default="", description="Addresses, comma separated, whose X-Forwarded-For counts.")
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    _key_is_fresh: bool = PrivateAttr(default=False)

    @property
    def key_is_fresh(self) -> bool:
        """Development without a SECRET_KEY: one was made up, for this process only."""
        return self._key_is_fresh

    @property
    def in_development(self) -> bool:
        return self.environment == DEVELOPMENT

    @field_validator("database_url")
    @classmethod
    def _database_is_known(cls, url: str) -> str:
        if url and not url.startswith(("sqlite:///", "postgresql://", "postgresql+psycopg://")):
            raise ValueError("must begin with postgresql:// or sqlite:///")
        return url

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_addresses(cls, text: str) -> str:
        networks(text)
        return text

    @model_validator(mode="after")
    def _refuse_defaults_in_production(self) -> Self:
        prefix = str(self.model_config.get("env_prefix", ""))
        key = self.secret_key.get_secret_value()
        password = self.admin_password.get_secret_value()
        if self.in_development:
            if not key:
                self._key_is_fresh = True
                self.secret_key = SecretStr(secrets.token_urlsafe(48))
            if not password:
                self.admin_password = SecretStr("admin123")
            return self
        if len(key) < 32:
            raise ValueError(f"{prefix}SECRET_KEY must have at least 32 characters outside development")
        if not password or password in DEFAULT_PASSWORDS:
            raise ValueError(f"{prefix}ADMIN_PASSWORD must be set, and not to a default, outside development")
        return self
