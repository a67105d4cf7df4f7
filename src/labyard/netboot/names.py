"""Names and their forms: contract section 3. One place makes and checks each of them."""

from __future__ import annotations

import re
import secrets
import string

MAX_IQN_BYTES = 223  # RFC 3720 section 3.2.6.1
_IQN = re.compile(r"iqn\.[0-9]{4}-(0[1-9]|1[0-2])\.[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?:[a-z0-9.:-]+")
_SCRIPT = re.compile(r"(?:machines/)?((?:[0-9a-fA-F]{2}-){5}[0-9a-fA-F]{2})\.ipxe")
_SUFFIX = r"(?P<suffix>[0-9a-f]{8})"
TARGET_ID = re.compile(rf"machine-(?P<machine>[1-9]\d*)-{_SUFFIX}")
CHAP_USER = re.compile(rf"s-{_SUFFIX}")


def new_suffix() -> str:
    return secrets.token_hex(4)


def new_chap_secret() -> str:
    """16 random letters and digits: some initiators accept 12 to 16 characters only."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(16))


def new_boot_token() -> str:
    return secrets.token_urlsafe(32)


def session_id(machine_id: int, suffix: str) -> str:
    return f"session-{machine_id}-{suffix}"


def target_id(machine_id: int, suffix: str) -> str:
    return f"machine-{machine_id}-{suffix}"


def target_iqn(prefix: str, machine_id: int, suffix: str) -> str:
    return f"{prefix}:target-machine-{machine_id}-{suffix}"


def target_id_of(prefix: str, iqn: str) -> str | None:
    """The target_id that an IQN of ours belongs to, or None when the IQN is not of our form."""
    head = f"{prefix}:target-"
    rest = iqn.removeprefix(head)
    return rest if rest != iqn and TARGET_ID.fullmatch(rest) else None


def initiator_iqn(prefix: str, mac: str) -> str:
    return f"{prefix}:initiator-{mac_digits(mac)}"


def backstore(machine_id: int, suffix: str) -> str:
    return f"img-machine-{machine_id}-{suffix}"


def chap_user(suffix: str) -> str:
    return f"s-{suffix}"


def dhcp_label(machine_name: str) -> str:
    """Lower case; runs of space, `.` and `_` become one `-`; at most 63 characters. May come out empty."""
    return re.sub(r"[ ._]+", "-", machine_name.strip().lower())[:63].strip("-")


def script_filename(mac: str) -> str:
    """Path of a machine's script below the TFTP root."""
    digits = mac_digits(mac)
    return "machines/" + "-".join(digits[i : i + 2] for i in range(0, 12, 2)) + ".ipxe"


def mac_of_script(filename: str) -> str | None:
    """`machines/00-11-22-33-44-55.ipxe` -> `00:11:22:33:44:55`; None for anything of another form, never an error."""
    match = _SCRIPT.fullmatch(filename)
    return match[1].upper().replace("-", ":") if match else None


def san_uri(ip: str, port: int, lun: int, iqn: str) -> str:
    """iPXE's SAN URI (RFC 4173). The LUN is hexadecimal; a missing colon would parse as port 0."""
    return f"iscsi:{ip}::{port}:{lun:x}:{iqn}"


def mac_digits(mac: str) -> str:
    return re.sub("[:-]", "", mac).lower()


def iqn_error(iqn: str) -> str:
    """What is wrong with an IQN, or nothing. Called before any tool sees it."""
    if len(iqn.encode()) > MAX_IQN_BYTES:
        return f"longer than {MAX_IQN_BYTES} bytes"
    if not _IQN.fullmatch(iqn):
        return "must be iqn.YYYY-MM.<reversed domain>:<name> of lower-case letters, digits, '-', '.' and ':'"
    return ""
