"""What the VM manager answers, as JSON (contract section 4.1): types for its clients.

The service's own schemas need pydantic; these need nothing. Times are ISO 8601 in UTC without a zone, ram_amount is
MiB, a disk's size GiB; a console's file_size and next_offset are bytes.
"""

from __future__ import annotations

from typing import Any, TypedDict


class Template(TypedDict):
    name: str
    cpu_count: int
    ram_amount: int


class Vm(TypedDict):
    id: str
    vm_template: Template | None
    state: str
    local_ip: str | None
    mac: str | None
    network_mode: str | None
    domain_type: str
    domain_uuid: str | None
    state_reason: str | None


class Disk(TypedDict):
    id: str
    size: int
    mount_point: str | None
    state: str
    vm_id: str | None
    target: str | None
    device_path: str | None


class Metadata(TypedDict):
    vm_id: str
    hostname: str | None
    user_data: str | None
    ssh_keys: str | None
    created_at: str | None
    updated_at: str | None


class Console(TypedDict):
    vm_id: str
    console: str
    size: int
    file_size: int | None
    message: str | None
    next_offset: int


class Lease(TypedDict):
    ip: str
    mac: str
    vm_id: str
    acquired_at: str | None
    seen: bool | None


class Issue(TypedDict):
    issue_type: str
    resource_id: str
    details: str


class Check(TypedDict):
    status: str
    issues_count: int
    issues: list[Issue]
    started_at: str | None
    finished_at: str | None
    error: str | None


class Repair(Check):
    """What is left, and what was mended."""

    repaired: list[Issue]


class Health(TypedDict):
    status: str
    service: str
    checks: dict[str, str]


# Has {"status": …} only where there is nothing to tell.
Observer = dict[str, Any]
Network = dict[str, Any]
