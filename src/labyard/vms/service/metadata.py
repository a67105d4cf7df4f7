"""What guests are told about themselves (contract sections 4.2 and 8)."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, select

from labyard.core.clock import now
from labyard.core.database import Database
from labyard.vms.models import GuestMetadata, Vm, VmState
from labyard.vms.schemas import MetadataUpdate
from labyard.vms.service.lookups import vm_row
from labyard.vms.service.power import keys_of


@dataclass(frozen=True)
class Guest:
    """A running machine, as it asks about itself."""

    vm_id: str
    mac: str
    ip: str
    hostname: str
    ssh_keys: tuple[str, ...]
    user_data: str | None


class Metadata:
    def __init__(self, database: Database) -> None:
        self._db = database

    def get(self, vm_id: str) -> GuestMetadata | None:
        with self._db.read() as session:
            vm_row(session, vm_id)
            return session.get(GuestMetadata, vm_id)

    def update(self, vm_id: str, given: MetadataUpdate) -> GuestMetadata:
        """Merge: what is None stays, an empty text clears."""
        with self._db.write() as session:
            vm_row(session, vm_id)
            stored = session.get(GuestMetadata, vm_id)
            if stored is None:
                stored = GuestMetadata(vm_id=vm_id, created_at=now())
                session.add(stored)
            for field, value in given.model_dump(exclude_none=True).items():
                setattr(stored, field, value or None)
            stored.updated_at = now()
        return stored

    def delete(self, vm_id: str) -> None:
        with self._db.write() as session:
            vm_row(session, vm_id)
            session.execute(delete(GuestMetadata).where(GuestMetadata.vm_id == vm_id))

    def guest_at(self, ip: str) -> Guest | None:
        """The running machine with this address."""
        with self._db.read() as session:
            vm = session.scalar(select(Vm).where(Vm.local_ip == ip, Vm.state == VmState.RUNNING).limit(1))
            if vm is None:
                return None
            stored = session.get(GuestMetadata, vm.id)
            return Guest(
                vm_id=vm.id,
                mac=vm.mac or "",
                ip=ip,
                hostname=(stored and stored.hostname) or vm.id,
                ssh_keys=keys_of(stored),
                user_data=stored.user_data if stored else None,
            )
