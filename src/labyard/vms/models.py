"""Tables of the VM manager: contract section 3.1.

Other programs write rows too, with the core columns only: every column beyond those is nullable or has a default in the
database, and what such a row holds is read without judging it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import Dialect, ForeignKey, Integer, String, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from labyard.core.clock import now


class Base(DeclarativeBase):
    """Tables of their own: this service shares no users, tokens or audit log with the others."""


class VmState(StrEnum):
    STOPPED = "stopped"
    RUNNING = "running"
    ERROR = "error"


class DiskState(StrEnum):
    AVAILABLE = "available"
    ATTACHED = "attached"
    ERROR = "error"


class Moment(TypeDecorator[datetime]):
    """ISO 8601 text in UTC without a zone. What another program wrote and is no time reads as None."""

    impl = String(40)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        return value.astimezone(UTC).replace(tzinfo=None).isoformat() if value else None

    def process_result_value(self, value: str | None, dialect: Dialect) -> datetime | None:
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            return None
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class Template(Base):
    __tablename__ = "vm_templates"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    cpu_count: Mapped[int] = mapped_column(Integer)
    ram_amount: Mapped[int] = mapped_column(Integer)  # MiB


class Vm(Base):
    __tablename__ = "vms"

    id: Mapped[str] = mapped_column(String(255), primary_key=True)
    template_name: Mapped[str | None] = mapped_column(ForeignKey("vm_templates.name"))
    state: Mapped[str] = mapped_column(String(20), server_default=VmState.STOPPED)
    local_ip: Mapped[str | None] = mapped_column(String(45))
    domain_uuid: Mapped[str | None] = mapped_column(String(36))
    mac: Mapped[str | None] = mapped_column(String(17), unique=True)
    last_ip: Mapped[str | None] = mapped_column(String(45))
    desired_state: Mapped[str | None] = mapped_column(String(20))
    state_reason: Mapped[str | None] = mapped_column(Text)
    network_mode: Mapped[str | None] = mapped_column(String(20))
    created_at: Mapped[datetime | None] = mapped_column(Moment, default=now)


class Disk(Base):
    __tablename__ = "disks"

    id: Mapped[str] = mapped_column(String(255), primary_key=True)
    size: Mapped[int] = mapped_column(Integer)  # GiB
    mount_point: Mapped[str | None] = mapped_column(String(255))
    state: Mapped[str] = mapped_column(String(20), server_default=DiskState.AVAILABLE)
    vm_id: Mapped[str | None] = mapped_column(ForeignKey("vms.id"), index=True)
    target: Mapped[str | None] = mapped_column(String(10))
    created_at: Mapped[datetime | None] = mapped_column(Moment, default=now)

    def plug(self, vm_id: str, target: str) -> None:
        """Say that this machine has it. A label that a client gave stays."""
        self.state, self.vm_id, self.target = DiskState.ATTACHED, vm_id, target
        self.mount_point = self.mount_point or f"/dev/{target}"

    def free(self) -> None:
        """Say that no machine has it."""
        self.state, self.vm_id, self.target, self.mount_point = DiskState.AVAILABLE, None, None, None


class GuestMetadata(Base):
    __tablename__ = "vm_metadata"

    vm_id: Mapped[str] = mapped_column(ForeignKey("vms.id"), primary_key=True)
    hostname: Mapped[str | None] = mapped_column(String(253))
    user_data: Mapped[str | None] = mapped_column(Text)
    ssh_keys: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime | None] = mapped_column(Moment, default=now, server_default=text("CURRENT_TIMESTAMP"))
    updated_at: Mapped[datetime | None] = mapped_column(Moment, default=now, server_default=text("CURRENT_TIMESTAMP"))


class Lease(Base):
    """The only record of allocated addresses."""

    __tablename__ = "leases"

    ip: Mapped[str] = mapped_column(String(45), primary_key=True)
    mac: Mapped[str] = mapped_column(String(17), unique=True)
    vm_id: Mapped[str] = mapped_column(ForeignKey("vms.id"), unique=True)
    acquired_at: Mapped[datetime | None] = mapped_column(Moment, default=now)
