"""Tables of the netboot service: contract section 2."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from labyard.core.clock import now
from labyard.core.database import Base, UtcDateTime


class MachineStatus(StrEnum):
    ACTIVE = "active"
    INACTIVE = "inactive"
    MAINTENANCE = "maintenance"
    RETIRED = "retired"


class BootMode(StrEnum):
    LEGACY = "legacy"
    UEFI = "uefi"
    UEFI_SECURE = "uefi_secure"


class ImageFormat(StrEnum):
    VHD = "vhd"
    VHDX = "vhdx"
    RAW = "raw"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VDI = "vdi"


class ImageStatus(StrEnum):
    UPLOADING = "uploading"
    PROCESSING = "processing"
    CONVERTING = "converting"
    READY = "ready"
    ERROR = "error"
    DELETED = "deleted"


class ImageType(StrEnum):
    SYSTEM = "system"
    GAME = "game"
    DATA = "data"
    TEMPLATE = "template"


class TargetStatus(StrEnum):
    PENDING = "pending"
    ACTIVE = "active"
    INACTIVE = "inactive"
    ERROR = "error"


class SessionStatus(StrEnum):
    STARTING = "starting"
    ACTIVE = "active"
    STOPPING = "stopping"
    STOPPED = "stopped"
    ERROR = "error"
    TIMEOUT = "timeout"


class SessionType(StrEnum):
    DISKLESS_BOOT = "diskless_boot"
    MAINTENANCE = "maintenance"
    TESTING = "testing"


class BootMethod(StrEnum):
    """What the machine's script does with the disk."""

    SANBOOT = "sanboot"  # boot the disk's own boot loader
    ISCSI_ROOT = "iscsi_root"  # fetch kernel and initrd; the root file system is on the disk
    RAM_ROOT = "ram_root"  # fetch kernel and initrd; the root file system is in memory


class Transport(StrEnum):
    """How the machine's script, kernel and initrd travel."""

    TFTP = "tftp"
    HTTP = "http"


class StartPower(StrEnum):
    """What a start does to the machine itself, by its BMC."""

    NONE = "none"
    CYCLE = "cycle"  # off, and on again into the network boot


class StopPower(StrEnum):
    """What a stop does to the machine itself, by its BMC."""

    NONE = "none"
    OFF = "off"  # before its disk goes


class BootPhase(StrEnum):
    WAITING = "waiting"
    DHCP = "dhcp"
    TFTP = "tftp"
    SCRIPT = "script"
    ISCSI = "iscsi"
    BOOTED = "booted"
    FAILED = "failed"


class BootEventType(StrEnum):
    DHCP_REQUEST = "dhcp_request"
    TFTP_REQUEST = "tftp_request"
    IPXE_LOAD = "ipxe_load"
    ISCSI_CONNECT = "iscsi_connect"
    BOOT_SUCCESS = "boot_success"
    BOOT_FAILED = "boot_failed"


class EventSource(StrEnum):
    CLIENT = "client"
    DHCP = "dhcp"
    TFTP = "tftp"
    ISCSI = "iscsi"
    OPERATOR = "operator"
    SERVICE = "service"


# "Live" of contract section 2.1, as SQL for the partial indexes and queries.
LIVE = "(status IN ('starting', 'active', 'stopping') OR (status = 'error' AND cleanup_pending))"


# A machine may use its script and token: the session is beginning or up.
RUNNING = (SessionStatus.STARTING, SessionStatus.ACTIVE)


class Machine(Base):
    __tablename__ = "machines"
    __table_args__ = tuple(
        Index(
            f"uq_machines_{column}",
            column,
            unique=True,
            sqlite_where=text("deleted_at IS NULL"),
            postgresql_where=text("deleted_at IS NULL"),
        )
        for column in ("name", "mac_address", "label", "ip_address")
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    label: Mapped[str] = mapped_column(String(63))  # the DHCP host label, made from the name
    description: Mapped[str | None] = mapped_column(String(500))
    mac_address: Mapped[str] = mapped_column(String(17))
    ip_address: Mapped[str | None] = mapped_column(String(15))
    hostname: Mapped[str | None] = mapped_column(String(253))
    boot_mode: Mapped[str] = mapped_column(String(20), default=BootMode.UEFI)
    secure_boot_enabled: Mapped[bool] = mapped_column(default=True)
    pxe_enabled: Mapped[bool] = mapped_column(default=True)
    status: Mapped[str] = mapped_column(String(20), default=MachineStatus.ACTIVE, index=True)
    is_online: Mapped[bool] = mapped_column(default=False)
    last_seen: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_boot: Mapped[datetime | None] = mapped_column(UtcDateTime)
    boot_count: Mapped[int] = mapped_column(default=0)
    location: Mapped[str | None] = mapped_column(String(100))
    room: Mapped[str | None] = mapped_column(String(100))
    rack_position: Mapped[str | None] = mapped_column(String(100))
    asset_tag: Mapped[str | None] = mapped_column(String(100))
    cpu_info: Mapped[str | None] = mapped_column(Text)
    memory_mb: Mapped[int | None]
    disk_info: Mapped[str | None] = mapped_column(Text)
    gpu_info: Mapped[str | None] = mapped_column(Text)
    boot_priority: Mapped[int] = mapped_column(default=0)
    auto_boot: Mapped[bool] = mapped_column(default=True)
    wake_on_lan: Mapped[bool] = mapped_column(default=False)
    custom_config: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    notes: Mapped[str | None] = mapped_column(Text)
    bmc_url: Mapped[str | None] = mapped_column(String(500))
    bmc_username: Mapped[str | None] = mapped_column(String(100))
    bmc_password: Mapped[str | None] = mapped_column(Text)  # encrypted
    bmc_verify_tls: Mapped[bool] = mapped_column(default=True)
    created_by: Mapped[int]  # a user id; the record outlives the user
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now, onupdate=now)
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    @property
    def bmc_password_set(self) -> bool:
        """All that anybody is told of the password."""
        return self.bmc_password is not None


class Image(Base):
    __tablename__ = "images"
    __table_args__ = (
        Index(
            "uq_images_name",
            "name",
            unique=True,
            sqlite_where=text("status <> 'deleted'"),
            postgresql_where=text("status <> 'deleted'"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    description: Mapped[str | None] = mapped_column(String(500))
    filename: Mapped[str] = mapped_column(String(255))
    original_filename: Mapped[str | None] = mapped_column(String(255))
    file_path: Mapped[str] = mapped_column(String(1024))
    managed: Mapped[bool] = mapped_column(default=True)  # False: imported where it lies; its file is never deleted
    format: Mapped[str] = mapped_column(String(10))
    size_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    virtual_size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(String(20), default=ImageStatus.UPLOADING, index=True)
    image_type: Mapped[str] = mapped_column(String(20), default=ImageType.SYSTEM)
    checksum_md5: Mapped[str | None] = mapped_column(String(32))
    checksum_sha256: Mapped[str | None] = mapped_column(String(64))
    os_type: Mapped[str | None] = mapped_column(String(100))
    os_version: Mapped[str | None] = mapped_column(String(100))
    architecture: Mapped[str | None] = mapped_column(String(50))
    last_used: Mapped[datetime | None] = mapped_column(UtcDateTime)
    error_message: Mapped[str | None] = mapped_column(Text)
    processing_info: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    lease_owner: Mapped[str | None] = mapped_column(String(100))  # the worker that converts or ingests it
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    created_by: Mapped[int]  # a user id; the record outlives the user
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now, onupdate=now)


class Target(Base):
    __tablename__ = "targets"
    __table_args__ = (
        Index(
            "uq_targets_machine",
            "machine_id",
            unique=True,
            sqlite_where=text("status <> 'inactive'"),
            postgresql_where=text("status <> 'inactive'"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    target_id: Mapped[str] = mapped_column(String(64), unique=True)
    iqn: Mapped[str] = mapped_column(String(223), unique=True)
    machine_id: Mapped[int] = mapped_column(ForeignKey("machines.id"))
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id"), index=True)
    image_path: Mapped[str] = mapped_column(String(1024))
    image_format: Mapped[str] = mapped_column(String(10))
    overlay_path: Mapped[str] = mapped_column(String(1024))
    initiator_iqn: Mapped[str] = mapped_column(String(223))
    lun_id: Mapped[int]
    chap_username: Mapped[str] = mapped_column(String(64))
    chap_secret: Mapped[str] = mapped_column(Text)  # encrypted
    status: Mapped[str] = mapped_column(String(20), default=TargetStatus.PENDING, index=True)
    description: Mapped[str | None] = mapped_column(String(500))
    created_by: Mapped[int]  # a user id; the record outlives the user
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now, onupdate=now)


class BootSession(Base):
    __tablename__ = "sessions"
    __table_args__ = (
        Index(
            "uq_sessions_live_machine", "machine_id", unique=True, sqlite_where=text(LIVE), postgresql_where=text(LIVE)
        ),
        Index("ix_sessions_boot_token", "boot_token", unique=True),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    session_id: Mapped[str] = mapped_column(String(64), unique=True)
    machine_id: Mapped[int] = mapped_column(ForeignKey("machines.id"), index=True)
    target_id: Mapped[int | None] = mapped_column(ForeignKey("targets.id"))
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id"), index=True)
    session_type: Mapped[str] = mapped_column(String(20), default=SessionType.DISKLESS_BOOT)
    status: Mapped[str] = mapped_column(String(20), default=SessionStatus.STARTING, index=True)
    boot_phase: Mapped[str] = mapped_column(String(20), default=BootPhase.WAITING)
    boot_token: Mapped[str | None] = mapped_column(String(64))
    server_ip: Mapped[str] = mapped_column(String(15))
    client_ip: Mapped[str | None] = mapped_column(String(64))
    client_mac: Mapped[str | None] = mapped_column(String(17))
    boot_method: Mapped[str] = mapped_column(String(20), default=BootMethod.SANBOOT)
    transport: Mapped[str] = mapped_column(String(10), default=Transport.TFTP)
    seed: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)  # what the NoCloud seed says: ssh_keys, user_data
    user_notes: Mapped[str | None] = mapped_column(String(500))
    created_by: Mapped[int]  # a user id; the record outlives the user
    initiated_by: Mapped[str] = mapped_column(String(100))
    started_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now, onupdate=now)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    ready_time: Mapped[datetime | None] = mapped_column(UtcDateTime)
    boot_duration_seconds: Mapped[float | None]
    last_activity: Mapped[datetime | None] = mapped_column(UtcDateTime)
    target_iqn: Mapped[str | None] = mapped_column(String(223))
    target_portal: Mapped[str | None] = mapped_column(String(30))
    retry_count: Mapped[int] = mapped_column(default=0)
    error_message: Mapped[str | None] = mapped_column(Text)
    error_code: Mapped[str | None] = mapped_column(String(50))
    cleanup_pending: Mapped[bool] = mapped_column(default=False)
    keep_overlay: Mapped[bool] = mapped_column(default=False)
    ending_as: Mapped[str] = mapped_column(String(20), default=SessionStatus.STOPPED)  # stopped | timeout | error
    reserved: Mapped[bool] = mapped_column(default=False, index=True)  # DHCP is to carry its reservation
    completed_steps: Mapped[list[str]] = mapped_column(JSON, default=list)
    power: Mapped[str] = mapped_column(String(10), default=StartPower.NONE)  # what its start was asked for
    power_off: Mapped[bool] = mapped_column(default=False)  # its end switches the machine off first

    @property
    def power_cycled(self) -> bool:
        """Whether its start has switched the machine on."""
        return "power" in self.completed_steps


class BootEvent(Base):
    __tablename__ = "boot_events"

    id: Mapped[int] = mapped_column(primary_key=True)
    session_id: Mapped[int] = mapped_column(ForeignKey("sessions.id"), index=True)
    machine_id: Mapped[int] = mapped_column(ForeignKey("machines.id"), index=True)
    type: Mapped[str] = mapped_column(String(20))
    source: Mapped[str] = mapped_column(String(20))
    message: Mapped[str | None] = mapped_column(String(500))
    client_ip: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now, index=True)
