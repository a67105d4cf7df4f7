"""Requests and answers (contract sections 2.3 and 5). Enums are read in any case and written in lower case."""

from __future__ import annotations

import ipaddress
import re
from datetime import datetime
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, StrictInt

from labyard.core.clock import as_text
from labyard.core.fields import Fold, NoNul, fold
from labyard.netboot.models import (
    BootEventType,
    BootMethod,
    BootMode,
    MachineStatus,
    SessionStatus,
    SessionType,
    StartPower,
    StopPower,
    TargetStatus,
    Transport,
)
from labyard.netboot.names import dhcp_label, mac_digits

HIDDEN = "********"

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._-]*[A-Za-z0-9])?")
_MAC = re.compile(r"[0-9A-Fa-f]{12}|(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}|(?:[0-9A-Fa-f]{2}-){5}[0-9A-Fa-f]{2}")
_BMC_PATH = re.compile(r"(/|/redfish/v1/?|/redfish/v1/Systems/[A-Za-z0-9._~%-]+/?)?")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


def _boot_mode(value: object) -> object:
    value = fold(value)
    return BootMode.LEGACY if value == "bios" else value


def _trimmed(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


def _blank_is_null(value: object) -> object:
    value = _trimmed(value)
    return None if value == "" else value


def check_name(value: str) -> str:
    """A machine's or image's name."""
    if not 2 <= len(value) <= 100:
        raise ValueError("must have 2 to 100 characters")
    if not _NAME.fullmatch(value):
        raise ValueError("letters, digits, space, '.', '_' and '-' only; the first and last a letter or digit")
    return value


def _machine_name(value: str) -> str:
    if not dhcp_label(check_name(value)):
        raise ValueError("leaves nothing for a DHCP label")
    return value


def check_mac(value: str) -> str:
    """12 hex digits, bare or separated by `:` or `-` throughout; gives upper case with colons."""
    if not _MAC.fullmatch(value):
        raise ValueError("must be 12 hex digits, bare or in pairs separated by ':' or '-'")
    digits = mac_digits(value)
    if int(digits[:2], 16) & 1:
        raise ValueError("is a multicast address")
    if not int(digits, 16):
        raise ValueError("is all zero")
    return ":".join(digits[i : i + 2] for i in range(0, 12, 2)).upper()


def _ipv4(value: str) -> str:
    try:
        address = ipaddress.IPv4Address(value)
    except ValueError:
        raise ValueError("must be an IPv4 address in dotted quads without leading zeros") from None
    if address.is_unspecified or address.is_multicast or address.is_loopback or address.is_reserved:
        raise ValueError("is not an address that a machine can have")
    return str(address)


def _hostname(value: str) -> str:
    if len(value) > 253 or not all(_LABEL.fullmatch(label) for label in value.split(".")):
        raise ValueError("must be labels of letters, digits and '-' of up to 63 characters, 253 in all")
    return value.lower()


def _bmc_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError("is no URL; write it as https://10.0.0.5/redfish/v1/Systems/1") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError("must be an http or https URL with a host, as https://10.0.0.5/redfish/v1/Systems/1")
    if "@" in parts.netloc:
        raise ValueError("must hold no user and password; give them as bmc_username and bmc_password")
    if not _BMC_PATH.fullmatch(parts.path) or parts.query or parts.fragment:
        raise ValueError(
            "must end after the host, or with /redfish/v1, or with /redfish/v1/Systems/ and the system's id"
        )
    return value.rstrip("/")


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must hold no control characters")
    return value


def _no_colon(value: str) -> str:
    if ":" in value:
        raise ValueError("must hold no colon, which HTTP's basic authentication cannot carry")
    return value


Name = Annotated[str, BeforeValidator(_trimmed), AfterValidator(_machine_name)]
Mac = Annotated[str, BeforeValidator(_trimmed), AfterValidator(check_mac)]
Address = Annotated[str, BeforeValidator(_trimmed), AfterValidator(_ipv4)]
Hostname = Annotated[str, BeforeValidator(_trimmed), AfterValidator(_hostname)]
BmcUrl = Annotated[str, BeforeValidator(_trimmed), Field(max_length=500), AfterValidator(_bmc_url)]
BmcUser = Annotated[
    str,
    BeforeValidator(_trimmed),
    Field(min_length=1, max_length=100),
    AfterValidator(_printable),
    AfterValidator(_no_colon),
]
BmcPassword = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_printable)]
Text500 = Annotated[Annotated[str, Field(max_length=500), NoNul] | None, BeforeValidator(_blank_is_null)]
Text100 = Annotated[Annotated[str, Field(max_length=100), NoNul] | None, BeforeValidator(_blank_is_null)]
Mode = Annotated[BootMode, BeforeValidator(_boot_mode)]
Time = Annotated[datetime, PlainSerializer(as_text, return_type=str)]


MachineStatusIn = Annotated[MachineStatus, Fold]
SessionStatusIn = Annotated[SessionStatus, Fold]
SessionTypeIn = Annotated[SessionType, Fold]
TargetStatusIn = Annotated[TargetStatus, Fold]
BootEventTypeIn = Annotated[BootEventType, Fold]
BootMethodIn = Annotated[BootMethod, Fold]
TransportIn = Annotated[Transport, Fold]
StartPowerIn = Annotated[StartPower, Fold]
StopPowerIn = Annotated[StopPower, Fold]


IdFilter = Annotated[int | None, Field(ge=1, le=2**31 - 1)]


class Answer(BaseModel):
    """Built from a row of the database."""

    model_config = ConfigDict(from_attributes=True)


class MachineCreate(BaseModel):
    name: Name
    mac_address: Mac
    description: Text500 = None
    ip_address: Address | None = Field(default=None, description="IPv4. Without one, DHCP gives one from its pool.")
    hostname: Hostname | None = None
    boot_mode: Mode = Field(default=BootMode.UEFI, description="legacy (or bios), uefi, uefi_secure")
    secure_boot_enabled: bool = True
    location: Text100 = None
    room: Text100 = None
    asset_tag: Text100 = None
    bmc_url: BmcUrl | None = Field(
        default=None,
        description="The machine's system in Redfish; a BMC of one machine alone may be named by its host.",
    )
    bmc_username: BmcUser | None = None
    bmc_password: BmcPassword | None = Field(default=None, description="Never given back; see bmc_password_set.")
    bmc_verify_tls: bool = Field(default=True, description="Whether the certificate of an https BMC is checked.")


class MachineUpdate(BaseModel):
    """An omitted field stays; an explicit null clears one that may be empty (decision D13)."""

    name: Name | None = None
    mac_address: Mac | None = None
    description: Text500 = None
    ip_address: Address | None = None
    hostname: Hostname | None = None
    boot_mode: Mode | None = None
    secure_boot_enabled: bool | None = None
    location: Text100 = None
    room: Text100 = None
    asset_tag: Text100 = None
    status: MachineStatusIn | None = None
    bmc_url: BmcUrl | None = Field(
        default=None, description="null forgets the user and the password, too. Another one needs the password again."
    )
    bmc_username: BmcUser | None = None
    bmc_password: BmcPassword | None = None
    bmc_verify_tls: bool | None = None


class MachineAnswer(Answer):
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
    created_at: Time
    updated_at: Time
    last_seen: Time | None
    last_boot: Time | None
    boot_count: int
    bmc_url: str | None
    bmc_username: str | None
    bmc_password_set: bool
    bmc_verify_tls: bool


class TargetCreate(BaseModel):
    machine_id: StrictInt
    image_id: StrictInt
    description: Text500 = None
    lun_id: int = Field(default=0, ge=0, le=255, description="0: the backend's first disk LUN")


class TargetAnswer(Answer):
    id: int
    target_id: str
    iqn: str
    machine_id: int
    image_id: int
    image_path: str
    initiator_iqn: str
    lun_id: int
    status: str
    description: str | None
    created_at: Time
    updated_at: Time
    created_by: int


class SessionStart(BaseModel):
    machine_id: StrictInt
    image_id: StrictInt
    session_type: SessionTypeIn = SessionType.DISKLESS_BOOT
    description: Text500 = None
    boot_method: BootMethodIn = Field(
        default=BootMethod.SANBOOT,
        description="sanboot: the disk's own boot loader; iscsi_root, ram_root: kernel and initrd from TFTP or HTTP",
    )
    transport: TransportIn = Field(
        default=Transport.TFTP, description="How script, kernel and initrd travel: tftp, http"
    )
    power: StartPowerIn = Field(
        default=StartPower.NONE,
        description="cycle: switch the machine off and on by its BMC once all is ready. Needs the machine's bmc_url.",
    )
    ssh_keys: list[str] = Field(default=[], max_length=50, description="For the NoCloud seed")
    user_data: str | None = Field(default=None, max_length=65536, description="cloud-config for the NoCloud seed")


class SessionStop(BaseModel):
    keep_overlay: bool = False
    power: StopPowerIn = Field(
        default=StopPower.NONE,
        description="off: switch the machine off by its BMC before its disk goes, which goes also when that fails.",
    )


class SessionAnswer(Answer):
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
    started_at: Time
    ended_at: Time | None
    ready_time: Time | None
    boot_duration_seconds: float | None
    duration_seconds: float
    initiated_by: str
    created_by: int
    server_ip: str
    client_ip: str | None
    error_code: str | None
    error_message: str | None
    cleanup_pending: bool


class BootEventCreate(BaseModel):
    type: BootEventTypeIn
    message: Text500 = None


class BootEventAnswer(Answer):
    id: int
    session_id: int
    machine_id: int
    type: str
    source: str
    message: str | None
    client_ip: str | None
    created_at: Time


class ScriptCheck(BaseModel):
    script: str = Field(max_length=65536)
