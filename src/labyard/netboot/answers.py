"""What the netboot service answers, as JSON (contract section 5): types for its clients.

The service's own schemas need the database library; these need nothing. Times are ISO 8601 with Z, sizes bytes.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class Message(TypedDict):
    message: str


class Machine(TypedDict):
    id: int
    name: str
    description: str | None
    mac_address: str
    ip_address: str | None
    hostname: str | None
    boot_mode: str
    secure_boot_enabled: bool
    status: str
    is_online: bool
    location: str | None
    room: str | None
    asset_tag: str | None
    created_at: str
    updated_at: str
    last_seen: str | None
    last_boot: str | None
    boot_count: int
    bmc_url: str | None
    bmc_username: str | None
    bmc_password_set: bool
    bmc_verify_tls: bool


class Image(TypedDict):
    id: int
    name: str
    description: str | None
    filename: str
    file_path: str
    format: str
    size_bytes: int
    virtual_size_bytes: int | None
    status: str
    image_type: str
    checksum_md5: str | None
    checksum_sha256: str | None
    error_message: str | None
    created_at: str
    updated_at: str
    created_by: int
    created_by_username: str | None


class Session(TypedDict):
    id: int
    session_id: str
    machine_id: int
    target_id: int | None
    image_id: int
    session_type: str
    status: str
    boot_phase: str
    boot_method: str
    transport: str
    power: str
    power_cycled: bool
    user_notes: str | None
    started_at: str
    ended_at: str | None
    ready_time: str | None
    boot_duration_seconds: float | None
    duration_seconds: float
    initiated_by: str
    created_by: int
    server_ip: str
    client_ip: str | None
    error_code: str | None
    error_message: str | None
    cleanup_pending: bool


class Stopped(TypedDict):
    """The last two when the stop was asked to switch the machine off; `power_error` says why it could not."""

    message: str
    session_id: int
    machine_id: int
    powered_off: NotRequired[bool]
    power_error: NotRequired[str | None]


class Started(TypedDict):
    session: Session
    target_info: dict[str, Any]
    boot_script: str
    ipxe_script_url: str
    iscsi_details: dict[str, Any]


class Event(TypedDict):
    id: int
    session_id: int
    machine_id: int
    type: str
    source: str
    message: str | None
    client_ip: str | None
    created_at: str


class Reservation(TypedDict):
    machine_id: int
    label: str
    mac_address: str
    ip_address: str | None
    filename: str


class Report(TypedDict):
    """Each finding: difference, thing, key, detail; a failed one has a reason, too."""

    checked_at: str | None
    findings: list[dict[str, str]]
    repaired: list[dict[str, str]]
    failed: list[dict[str, str]]


class Received(TypedDict):
    image_id: int
    status: str
    received: int
    size_bytes: int


class Conversion(TypedDict):
    """`processing_info.progress` is 0 to 100."""

    image_id: int
    name: str
    status: str
    format: str
    error_message: str | None
    processing_info: dict[str, Any]


class Script(TypedDict):
    machine_id: int
    script_content: str
    script_url: str
    iscsi_details: dict[str, Any]
