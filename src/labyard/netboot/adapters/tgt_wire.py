"""tgtd's management socket: requests packed, answers read, `show` understood.

Source: tgt 1.0.85, usr/tgtadm.h (structures), tgtadm_error.h (numbers), mgmt.c (what each request takes), target.c
(tgt_target_show_all, the text of `show`).
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from labyard.core.adapter import AdapterError
from labyard.netboot.adapters.iscsi import Connection, Lun

_REQUEST = struct.Struct("@II64sIiQQ6I")  # struct tgtadm_req: 120 bytes
_ANSWER = struct.Struct("@II")  # struct tgtadm_rsp; the length counts itself
_CREDENTIALS = struct.Struct("@3i")  # struct ucred: pid, uid, gid
_ALL = -1  # no target id: `show` tells of all targets
NEXUS = "I_T nexus"
_HEADER = re.compile(r"(\d+): (\S+)")


class Op(IntEnum):
    NEW = 0
    DELETE = 1
    SHOW = 2
    BIND = 3
    UNBIND = 4
    UPDATE = 5


class Mode(IntEnum):
    TARGET = 1
    LUN = 2
    DRIVER = 4
    CONNECTION = 6
    ACCOUNT = 7


class Code(IntEnum):
    """The refusals that a caller tells apart."""

    NO_TARGET = 4
    NO_SESSION = 6
    NO_CONNECTION = 7
    TARGET_EXIST = 9
    ACL_EXIST = 12
    ACL_NOEXIST = 13
    USER_EXIST = 14
    NO_USER = 15
    TARGET_ACTIVE = 19
    LUN_ACTIVE = 20


# tgtadm.c, tgtadm_strerror
_WORDS = {
    1: "unknown error", 2: "out of memory", 3: "can't find the driver", 4: "can't find the target",
    5: "can't find the logical unit", 6: "can't find the session", 7: "can't find the connection",
    8: "can't find the binding", 9: "this target already exists", 10: "this logical unit number already exists",
    11: "this binding already exists", 12: "this access control rule already exists",
    13: "this access control rule does not exist", 14: "this account already exists", 15: "can't find the account",
    16: "too many accounts", 17: "invalid request", 18: "this target already has an outgoing account",
    19: "this target is still active", 20: "this logical unit is still active", 21: "this driver is busy",
    22: "this operation isn't supported", 23: "unknown parameter", 24: "this device has Prevent Removal set",
}  # fmt: skip


class Refused(AdapterError):
    """tgtd answered with an error number."""

    def __init__(self, code: int, doing: str) -> None:
        super().__init__(f"tgt: {doing}: {_WORDS.get(code, f'error {code}')}")
        self.code = code


@dataclass(frozen=True)
class ShownLun:
    lun: Lun
    online: bool


@dataclass(frozen=True)
class Nexus:
    """A client's session: `session` and `connection` are the numbers that end it."""

    session: int
    connection: int
    client: Connection


@dataclass
class ShownTarget:
    """One target as `show` prints it, without LUN 0, the controller."""

    tid: int
    iqn: str
    state: str = ""
    luns: list[ShownLun] = field(default_factory=list)
    accounts: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    nexuses: list[Nexus] = field(default_factory=list)


@dataclass(frozen=True)
class Shown:
    """An answer to `show`: text by target name, target ids, and the daemon's process id (0: another namespace)."""

    blocks: Mapping[str, str]
    tids: Mapping[str, int]
    pid: int

    def target(self, iqn: str) -> ShownTarget | None:
        return parse_block(self.tids[iqn], iqn, self.blocks[iqn]) if iqn in self.tids else None

    def having(self, account: str) -> Iterator[ShownTarget]:
        """Targets that the account is bound to."""
        line = f"        {account}\n"
        for iqn, block in self.blocks.items():
            if line in block:
                target = parse_block(self.tids[iqn], iqn, block)
                if account in target.accounts:
                    yield target


def pack(
    mode: Mode,
    op: Op,
    parameters: Mapping[str, str] | None = None,
    *,
    tid: int = 0,
    sid: int = 0,
    lun: int = 2**64 - 1,
    cid: int = 0,
) -> bytes:
    """A request. tgtd cuts its parameters at commas and knows no quoting. AdapterError for a value with one."""
    text = ""
    if parameters:
        for name, value in parameters.items():
            if not value or re.search(r"[,\0-\x1f]", value):
                # Not the value itself: it may be a secret.
                raise AdapterError(f"tgt: {name} is empty or has a comma or a control character, which tgt cannot take")
        text = ",".join(f"{name}={value}" for name, value in parameters.items())
    payload = text.encode() + b"\0" if text else b""
    length = _REQUEST.size + len(payload)
    return _REQUEST.pack(mode, op, b"iscsi", length, tid, sid, lun, cid, 0, 0, 0, 0, 0) + payload


class Wire:
    """Requests to the tgtd behind a socket, each on its own connection. `timeout` in seconds. Thread-safe."""

    def __init__(self, path: Path, timeout: float) -> None:
        self._path = path
        self._timeout = timeout

    def call(self, doing: str, request: bytes, *fine: Code) -> str:
        """The answer's text. Refused, unless its code is among `fine`; AdapterError without an answer."""
        code, text, _ = self._exchange(request)
        if code and code not in fine:
            raise Refused(code, doing)
        return text

    def show(self) -> Shown:
        """All targets. AdapterError when the answer contradicts itself: a client's alias is printed as it came."""
        code, text, pid = self._exchange(pack(Mode.TARGET, Op.SHOW, tid=_ALL))
        if code:
            raise Refused(code, "show the targets")
        return split(text, pid)

    def _exchange(self, request: bytes) -> tuple[int, str, int]:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as wire:
                # Not settimeout(): a connect to a full queue (32) would then fail at once, instead of waiting.
                limit = struct.pack("@ll", int(self._timeout), int(self._timeout % 1 * 1e6))
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
                wire.connect(os.fspath(self._path))
                wire.sendall(request)
                code, length = _ANSWER.unpack(_receive(wire, _ANSWER.size))
                text = b"" if code else _receive(wire, length - _ANSWER.size)
                credentials = wire.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except BlockingIOError:
            raise AdapterError(f"tgt does not answer on {self._path}: silent for {self._timeout:g} s") from None
        except EOFError:
            why = "it hung up without an answer (it listens only to the user and group that it runs as)"
            raise AdapterError(f"tgt does not answer on {self._path}: {why}") from None
        except OSError as error:
            raise AdapterError(f"tgt does not answer on {self._path}: {error.strerror or error}") from None
        return code, text.rstrip(b"\0").decode(errors="replace"), _CREDENTIALS.unpack(credentials)[0]


def _receive(wire: socket.socket, count: int) -> bytes:
    parts = []
    while count > 0:
        part = wire.recv(min(count, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def split(text: str, pid: int = 0) -> Shown:
    """Cut the text of `show` into targets. AdapterError when an id or a name is there twice."""
    blocks: dict[str, str] = {}
    tids: dict[str, int] = {}
    count = 0
    for part in f"\n{text}".split("\nTarget ")[1:]:
        head, _, body = part.partition("\n")
        if header := _HEADER.fullmatch(head):
            count += 1
            blocks[header[2]], tids[header[2]] = body, int(header[1])
    if len(set(tids.values())) < count:
        raise AdapterError(
            "tgt: its list names a target twice: a logged-in client forges lines with its iSCSI alias; "
            "find it with `tgtadm --mode target --op show` and stop its session"
        )
    return Shown(blocks, tids, pid)


def parse_block(tid: int, iqn: str, text: str) -> ShownTarget:
    """Read what stands below a `Target` line. AdapterError when it cannot be read."""
    try:
        return _parse_block(tid, iqn, text)
    except ValueError as error:
        raise AdapterError(f"tgt: what it tells of {iqn} cannot be read: {error}") from None


def _parse_block(tid: int, iqn: str, text: str) -> ShownTarget:
    target = ShownTarget(tid, iqn)
    section, initiator = "", ""
    number, session, connection = 0, 0, 0
    values: dict[str, str] = {}
    for line in text.split("\n"):
        word = line.lstrip(" ")
        depth = len(line) - len(word)
        if depth == 4:
            section = word
            continue
        if section == "Account information:" and depth == 8:
            target.accounts.append(word)
            continue
        if section == "ACL information:" and depth == 8:
            target.rules.append(word)
            continue
        key, _, value = word.partition(": ")
        if key == "LUN":
            number, values = int(value), {}
        elif section == "LUN information:":
            values[key] = value
            if key == "Backing store path" and number:
                disk = Lun(number, Path(value), readonly=values.get("Readonly") == "Yes")
                target.luns.append(ShownLun(disk, values.get("Online") == "Yes"))
        elif key == "State":
            target.state = value
        elif key == NEXUS:
            session = int(value)
        elif key == "Initiator":
            initiator = value.partition(" alias: ")[0]
        elif key == "Connection":
            connection = int(value)
        elif key == "IP Address":
            target.nexuses.append(Nexus(session, connection, Connection(initiator, value)))
    return target


def parse_accounts(text: str) -> set[str]:
    """CHAP user names of `show` for accounts."""
    return {line.strip() for line in text.splitlines() if line.startswith("    ")}
