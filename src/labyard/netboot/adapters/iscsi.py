"""What every iSCSI backend takes and tells. Backends: tgt.py, lio.py, fake.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Lun:
    """One disk of a target: a raw file. `readonly` disks refuse writes."""

    number: int
    path: Path
    readonly: bool = False


@dataclass(frozen=True)
class TargetSpec:
    """A target, the one initiator that may log in, and its CHAP account."""

    iqn: str
    initiator: str
    chap_user: str
    chap_secret: str = field(repr=False)
    luns: tuple[Lun, ...]


@dataclass(frozen=True)
class Connection:
    """A client that is logged in: an I_T nexus (RFC 7143)."""

    initiator: str
    address: str


@dataclass(frozen=True)
class TargetSeen:
    luns: tuple[Lun, ...]
    initiators: tuple[str, ...]
    chap_users: tuple[str, ...]
    connections: tuple[Connection, ...]
    backing_ok: bool = True  # False: the daemon holds a file that is gone or another one


class IscsiBackend(Protocol):
    """`name` is tgt, lio or fake; `first_lun` the number of the first disk (tgt 1, lio 0)."""

    name: str
    first_lun: int

    def apply(self, spec: TargetSpec) -> None:
        """Make the target so, in the order that never lets a stranger in. Idempotent. AdapterError."""

    def remove(self, iqn: str, chap_user: str) -> None:
        """Drop its clients, then target, disks, rule and CHAP account. Absent is fine. AdapterError."""

    def observed(self) -> Mapping[str, TargetSeen]:
        """Targets whose IQN is of the service's form, by IQN."""

    def connections(self) -> Mapping[str, tuple[Connection, ...]]:
        """Who is logged in at those targets, by IQN; where nobody is, no entry. Asked often: it must be cheap."""

    def accounts(self) -> set[str]:
        """CHAP user names of the service's form (`s-<suffix>`) that exist, bound or not."""

    def remove_account(self, chap_user: str) -> None:
        """Delete a CHAP account. Absent is fine."""

    def ping(self) -> None:
        """AdapterError when the daemon does not answer."""
