"""Settings of the netboot service: environment variables with the prefix LABYARD_NETBOOT_ (contract section 1)."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from labyard.core.settings import ServiceSettings
from labyard.netboot.names import iqn_error, target_iqn

FORMATS = ("vhd", "vhdx", "raw", "qcow2", "vmdk", "vdi")


class Settings(ServiceSettings):
    """Paths are absolute, times seconds, sizes bytes."""

    model_config = SettingsConfigDict(env_prefix="LABYARD_NETBOOT_", extra="ignore")

    state_dir: Path = Path("/var/lib/labyard/netboot")
    public_url: str = Field(
        default="", description="Where machines reach this service. Empty: http://PORTAL_IP:HTTP_PORT."
    )
    iqn_prefix: str = "iqn.2025-01.lab.labyard"
    portal_ip: str = "192.168.1.10"
    portal_port: int = Field(default=3260, ge=1, le=65535)
    segment_cidr: str = Field(default="", description="The segment that machines are on. Empty: the portal's /24.")

    iscsi_backend: Literal["tgt", "lio", "fake"] = "tgt"
    tgt_socket: Path = Path("/var/run/tgtd/socket.0")

    export_backend: Literal["qemu", "fake"] = "qemu"
    export_socket: Path = Field(
        default=Path("/run/labyard-exports/qmp.sock"),
        description="Control socket of the qemu-storage-daemon that exports overlays.",
    )

    service_manager: Literal["systemd", "process", "none"] = "systemd"

    dhcp_backend: Literal["kea", "isc", "fake"] = "kea"
    dhcp_config: Path | None = None
    dhcp_unit: str = Field(default="", description="Empty: the distribution's unit for the backend.")
    dhcp_range: str = Field(
        default="", description="FIRST-LAST. Empty: .150-.200 of the portal's /24. Used by isc only."
    )
    dhcp_timeout_seconds: float = 10
    kea_socket: Path = Path("/run/kea/kea4-ctrl-socket")
    kea_lease_log: Path = Path("/var/log/kea/leases.log")
    uefi_secure_file: str = "boot/snponly.efi"

    tftp_root: Path = Path("/var/lib/tftpboot")
    tftp_unit: str = "tftpd-hpa"

    images_dir: Path = Path("/storage/images")
    import_dirs: str = Field(
        default="", description="Folders, comma separated, besides IMAGES_DIR, from which images may be imported."
    )
    overlay_dir: Path = Path("/storage/overlays")
    max_upload_size: int = Field(default=10 * 1024**3, ge=1)
    allowed_formats: str = "vhd,vhdx,raw,qcow2"

    power_backend: Literal["redfish", "fake"] = "redfish"
    power_timeout_seconds: float = Field(
        default=40,
        gt=0,
        le=45,  # a start that has not come further for a minute counts as interrupted
        description="How long a machine's BMC may take to switch it off and on. 45 at most.",
    )

    step_timeout_seconds: float = Field(default=30, gt=0)
    idle_timeout_seconds: float = Field(default=0, ge=0)
    observer_interval_seconds: float = Field(default=30, gt=0)
    faults: str = Field(
        default="",
        description="Development with fakes only: what a fake's verb does, such as `dhcp.apply=raise`.",
    )

    @property
    def formats(self) -> tuple[str, ...]:
        return tuple(part.strip().lower() for part in self.allowed_formats.split(",") if part.strip())

    @property
    def segment(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(self.segment_cidr or f"{self.portal_ip}/24", strict=False)

    @model_validator(mode="after")
    def _fill_and_check(self) -> Self:
        prefix = self.model_config["env_prefix"]
        # The longest IQN made of it: a prefix with no room for the rest would fail at every start of a session.
        if problem := iqn_error(target_iqn(self.iqn_prefix, 2**31 - 1, "0" * 8)):
            raise ValueError(f"{prefix}IQN_PREFIX {self.iqn_prefix!r}: {problem}")
        try:
            portal = ipaddress.IPv4Address(self.portal_ip)
        except ValueError:
            raise ValueError(f"{prefix}PORTAL_IP {self.portal_ip!r} is not an IPv4 address") from None
        try:
            inside = portal in self.segment
        except ValueError as error:
            raise ValueError(f"{prefix}SEGMENT_CIDR: {error}") from None
        if not inside:
            raise ValueError(f"{prefix}SEGMENT_CIDR {self.segment_cidr} does not hold PORTAL_IP {portal}")
        if unknown := [name for name in self.formats if name not in FORMATS]:
            raise ValueError(
                f"{prefix}ALLOWED_FORMATS has unknown formats: {', '.join(unknown)}; known: {', '.join(FORMATS)}"
            )
        if self.faults and not (
            self.in_development
            and "fake" in (self.iscsi_backend, self.dhcp_backend, self.export_backend, self.power_backend)
        ):
            raise ValueError(f"{prefix}FAULTS is for development with fake backends only")
        self.public_url = (self.public_url or f"http://{portal}:{self.http_port}").rstrip("/")
        self.database_url = self.database_url or f"sqlite:///{self.state_dir}/netboot.db"
        if self.dhcp_config is None:
            self.dhcp_config = Path("/etc/dhcp/dhcpd.conf" if self.dhcp_backend == "isc" else "/etc/kea/kea-dhcp4.conf")
        self.dhcp_unit = self.dhcp_unit or {"kea": "kea-dhcp4-server", "isc": "isc-dhcp-server"}.get(
            self.dhcp_backend, ""
        )
        if not self.dhcp_range:
            base = str(portal).rsplit(".", 1)[0]
            self.dhcp_range = f"{base}.150-{base}.200"
        try:
            first, last = (ipaddress.IPv4Address(part.strip()) for part in self.dhcp_range.split("-"))
        except ValueError:
            raise ValueError(f"{prefix}DHCP_RANGE {self.dhcp_range!r} is not FIRST-LAST, two IPv4 addresses") from None
        if first > last:
            raise ValueError(f"{prefix}DHCP_RANGE {self.dhcp_range!r}: the first address comes after the last")
        return self
