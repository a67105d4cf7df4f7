"""Requests and responses: contract sections 3.2 and 4.1."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from labyard.vms.models import Disk, GuestMetadata, Lease, Template, Vm
from labyard.vms.names import ID, no_control_characters

MAX_USER_DATA = 256 * 1024  # bytes
MAX_SSH_KEYS = 64 * 1024

VmStateFilter = Literal["running", "stopped", "error", "paused"]


def _template_name(name: str) -> str:
    if "/" in name:
        raise ValueError("must not hold a /")
    return no_control_characters(name)


def _at_most(limit: int) -> AfterValidator:
    def check(text: str) -> str:
        if len(text.encode()) > limit:
            raise ValueError(f"must not be larger than {limit} bytes")
        return text

    return AfterValidator(check)


def as_moment_text(moment: datetime | None) -> str | None:
    """ISO 8601 in UTC, without a zone, as every answer of this service carries it."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat() if moment else None


NoControl = AfterValidator(no_control_characters)
MomentText = Annotated[datetime | None, PlainSerializer(as_moment_text, return_type=str | None)]


class Request(BaseModel):
    model_config = ConfigDict(extra="ignore")


class TemplateCreate(Request):
    """`ram_amount` is MiB."""

    name: Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_template_name)]
    cpu_count: int = Field(ge=1, le=255)
    ram_amount: int = Field(ge=1, le=1_048_576, description="MiB")


class VmCreate(Request):
    """Without a name, or with an empty one, the server makes an id."""

    template_name: str
    name: Annotated[str | None, BeforeValidator(lambda name: name if name != "" else None)] = Field(
        default=None, pattern=ID
    )


class DiskCreate(Request):
    """`size` is GiB; `mount_point` is a free label."""

    size: int = Field(ge=1, le=16384, description="GiB")
    mount_point: Annotated[str, Field(max_length=255), NoControl] | None = None


class DiskAttach(Request):
    vm_id: str | None = None


class MetadataUpdate(Request):
    """A field that is absent or null stays, an empty text clears."""

    hostname: Annotated[str, Field(max_length=253), NoControl] | None = None
    user_data: Annotated[str, _at_most(MAX_USER_DATA)] | None = None
    ssh_keys: Annotated[str, _at_most(MAX_SSH_KEYS)] | None = None


class Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class TemplateAnswer(Answer):
    name: str
    cpu_count: int
    ram_amount: int

    @classmethod
    def of(cls, template: Template) -> TemplateAnswer:
        return cls.model_validate(template)


class VmAnswer(Answer):
    id: str
    vm_template: TemplateAnswer | None
    state: str
    local_ip: str | None
    mac: str | None
    network_mode: str | None
    domain_type: str
    domain_uuid: str | None
    state_reason: str | None

    @classmethod
    def of(cls, vm: Vm, template: Template | None, domain_type: str) -> VmAnswer:
        return cls(
            id=vm.id,
            vm_template=TemplateAnswer.of(template) if template else None,
            state=vm.state,
            local_ip=vm.local_ip,
            mac=vm.mac,
            network_mode=vm.network_mode,
            domain_type=domain_type,
            domain_uuid=vm.domain_uuid,
            state_reason=vm.state_reason,
        )


class DiskAnswer(Answer):
    """`device_path` is where the guest finds it, while it is attached."""

    id: str
    size: int
    mount_point: str | None
    state: str
    vm_id: str | None
    target: str | None
    device_path: str | None

    @classmethod
    def of(cls, disk: Disk) -> DiskAnswer:
        attached = disk.state == "attached" and disk.vm_id is not None
        return cls(
            id=disk.id,
            size=disk.size,
            mount_point=disk.mount_point,
            state=disk.state,
            vm_id=disk.vm_id,
            target=disk.target,
            device_path=f"/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_{disk.id}" if attached else None,
        )


class MetadataAnswer(Answer):
    vm_id: str
    hostname: str | None = None
    user_data: str | None = None
    ssh_keys: str | None = None
    created_at: MomentText = None
    updated_at: MomentText = None

    @classmethod
    def of(cls, vm_id: str, stored: GuestMetadata | None) -> MetadataAnswer:
        return cls.model_validate(stored) if stored else cls(vm_id=vm_id)


class ConsoleAnswer(Answer):
    """`size` is characters, `file_size` and `next_offset` bytes of the current file."""

    vm_id: str
    console: str
    size: int
    file_size: int | None
    message: str | None
    next_offset: int


class LeaseAnswer(Answer):
    """`seen`: the DHCP server has given the address to this MAC. null when it could not be asked."""

    ip: str
    mac: str
    vm_id: str
    acquired_at: MomentText
    seen: bool | None

    @classmethod
    def of(cls, lease: Lease, seen: bool | None) -> LeaseAnswer:
        return cls(ip=lease.ip, mac=lease.mac, vm_id=lease.vm_id, acquired_at=lease.acquired_at, seen=seen)


class IssueAnswer(Answer):
    issue_type: str
    resource_id: str
    details: str


class CheckAnswer(Answer):
    status: Literal["ok", "error"]
    issues_count: int
    issues: list[IssueAnswer]
    started_at: MomentText
    finished_at: MomentText
    error: str | None


class RepairAnswer(CheckAnswer):
    """What is left, and what was mended."""

    repaired: list[IssueAnswer]
