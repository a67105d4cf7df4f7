"""Settings of the VM manager: environment variables with the prefix VMAN_ (contract section 2)."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from labyard.core.settings import Served

LEVELS = ("debug", "info", "warning", "error", "critical")
LEAST_INTERVAL = 0.5
LONGEST_BRIDGE_NAME = 15  # the kernel's IFNAMSIZ, less its closing zero


class Settings(Served):
    """Paths are absolute, times seconds, disk sizes GiB."""

    model_config = SettingsConfigDict(env_prefix="VMAN_", extra="ignore", env_ignore_empty=True)
    bind_fields: ClassVar[tuple[str, str]] = ("bind_host", "bind_port")

    storage_path: Path = Path("/var/lib/labyard/vman")
    operator_dry_run: bool = Field(default=False, description="1: no libvirt, no QEMU, no image files, no network.")
    default_boot_disk: Path | None = Field(default=None, description="Base image of new root disks. Unset: empty ones.")

    vlan_id: int = Field(default=100, ge=1, le=4094)
    bridge_name: str = Field(default="br-vman", min_length=1, max_length=LONGEST_BRIDGE_NAME)
    subnet: ipaddress.IPv4Network = ipaddress.IPv4Network("192.168.100.0/24")
    gateway: ipaddress.IPv4Address | None = Field(default=None, description="Unset: the first host of the subnet.")
    dns: str = Field(default="8.8.8.8,8.8.4.4", description="Addresses, comma separated.")

    metadata_enabled: bool = True
    metadata_bind_ip: ipaddress.IPv4Address = ipaddress.IPv4Address("169.254.169.254")
    metadata_port: int = Field(default=80, ge=0, le=65535)

    log_file: Path | None = Field(default=None, description="Unset: vman.log in LOG_DIR.")
    log_dir: Path | None = Field(default=None, description="Unset: logs in the storage folder.")
    log_max_bytes: int = Field(default=10_485_760, ge=0)
    log_backup_count: int = Field(default=5, ge=0)

    observer_interval: float = 5.0
    observer_scope: Literal["storage", "host"] = "storage"

    db_url: str = Field(default="", description="SQLAlchemy's. Empty: states.db in the storage folder.")
    bind_host: str = "127.0.0.1"
    bind_port: int = Field(default=8000, ge=0, le=65535)
    api_token: SecretStr = SecretStr("")
    cors_origins: str = Field(default="", description="Origins, comma separated. Empty: no CORS headers.")

    libvirt_uri: str = "qemu:///system"
    domain_prefix: str = Field(default="labyard-", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    domain_type: Literal["auto", "qemu", "kvm"] = "auto"
    probe_kernel: Path | None = None
    probe_initrd: Path | None = None
    probe_timeout: float = Field(default=20, gt=0)
    root_disk_size: int = Field(default=10, ge=1, le=16384)
    root_disk_clone: Literal["overlay", "copy"] = "overlay"
    stop_timeout: float = Field(default=30, ge=0)
    detach_timeout: float = Field(default=10, gt=0)
    network_mode: Literal["nat", "isolated", "user", "none"] = "nat"
    network_name: str = Field(default="labyard-vman", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")

    @property
    def dry_run(self) -> bool:
        return self.operator_dry_run

    @property
    def disks_dir(self) -> Path:
        return self.storage_path / "disks"

    @property
    def vms_dir(self) -> Path:
        return self.storage_path / "vms"

    @property
    def gateway_ip(self) -> ipaddress.IPv4Address:
        return self.gateway or self.subnet.network_address + 1

    @property
    def dns_servers(self) -> list[str]:
        return _listed(self.dns)

    @property
    def origins(self) -> list[str]:
        return _listed(self.cors_origins)

    @property
    def leased(self) -> bool:
        """Whether machines get addresses of our own network."""
        return self.network_mode in ("nat", "isolated")

    def log_handlers(self) -> Sequence[logging.Handler]:
        path = self.log_file or (self.log_dir or self.storage_path / "logs") / "vman.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return (RotatingFileHandler(path, maxBytes=self.log_max_bytes, backupCount=self.log_backup_count, delay=True),)

    @field_validator("log_level")
    @classmethod
    def _level_is_known(cls, level: str) -> str:
        return level.lower() if level.lower() in LEVELS else "info"

    @field_validator("observer_interval")
    @classmethod
    def _interval_is_not_too_short(cls, seconds: float) -> float:
        return max(seconds, LEAST_INTERVAL)

    @field_validator("dns")
    @classmethod
    def _dns_are_addresses(cls, text: str) -> str:
        for address in _listed(text):
            ipaddress.ip_address(address)
        return text

    @model_validator(mode="after")
    def _fill_and_check(self) -> Self:
        if not self.storage_path.is_absolute():
            raise ValueError(f"VMAN_STORAGE_PATH {self.storage_path} is not an absolute path")
        if self.subnet.prefixlen > 30:
            raise ValueError(f"VMAN_SUBNET {self.subnet} has no room for a gateway and a machine")
        if self.gateway_ip not in self.subnet or self.gateway_ip in (
            self.subnet.network_address,
            self.subnet.broadcast_address,
        ):
            raise ValueError(f"VMAN_GATEWAY {self.gateway_ip} is no host of VMAN_SUBNET {self.subnet}")
        self.db_url = self.db_url or f"sqlite:///{self.storage_path}/states.db"
        if self.db_url.startswith("sqlite:///") and not self.db_url.startswith("sqlite:////"):
            raise ValueError("VMAN_DB_URL must name an absolute path: sqlite:////…")
        return self


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
