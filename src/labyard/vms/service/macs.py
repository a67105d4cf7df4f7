"""MAC addresses of machines: fixed for a machine's life, no two alike."""

from __future__ import annotations

import secrets

from sqlalchemy import select
from sqlalchemy.orm import Session

from labyard.vms.models import Vm

PREFIX = "52:54:00"  # QEMU's


def new(session: Session, taken: frozenset[str]) -> str:
    """One that no row has, and that is not in `taken`."""
    while True:
        mac = f"{PREFIX}:{secrets.token_bytes(3).hex(':')}"
        if mac not in taken and session.scalar(select(Vm.id).where(Vm.mac == mac)) is None:
            return mac
