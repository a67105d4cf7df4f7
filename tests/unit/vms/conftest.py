"""The VM manager over fakes in memory, a real database and real files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from labyard.testing.waiting import wait_until
from labyard.vms.adapters.factory import Adapters
from labyard.vms.models import Disk, Lease, Vm
from labyard.vms.schemas import DiskCreate, TemplateCreate, VmCreate
from labyard.vms.service.manager import VmManager
from labyard.vms.settings import Settings

from .fake_service import FakeServer
from .fakes import FakeHypervisor, FakeImages, FakeNetwork, FakeSeeds


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        storage_path=tmp_path / "vman",
        subnet="192.168.100.0/29",
        observer_interval=3600,
        metadata_enabled=False,
        stop_timeout=0,
    )


@dataclass
class Lab:
    """The service and what it stands on."""

    manager: VmManager
    hypervisor: FakeHypervisor
    network: FakeNetwork
    images: FakeImages
    seeds: FakeSeeds

    def fake(self, name: str) -> Any:
        return getattr(self, name)

    def make(self, vm_id: str = "web", running: bool = False) -> str:
        self.manager.vms.create(VmCreate(template_name="small", name=vm_id))
        if running:
            self.manager.vms.start(vm_id)
        return vm_id

    def disk(self) -> str:
        return self.manager.disks.create(DiskCreate(size=1)).id

    def row(self, vm_id: str = "web") -> Vm:
        with self.manager.database.read() as session:
            return session.get_one(Vm, vm_id)

    def disk_row(self, disk_id: str) -> Disk:
        with self.manager.database.read() as session:
            return session.get_one(Disk, disk_id)

    def leases(self) -> list[str]:
        with self.manager.database.read() as session:
            return list(session.scalars(select(Lease.ip).order_by(Lease.ip)))

    def sql(self, statement: str, **values: Any) -> None:
        with self.manager.database.write() as session:
            session.execute(text(statement), values)

    def until(self, state: str, vm_id: str = "web") -> None:
        """Until a thread of the service has recorded this state of the machine."""
        wait_until(lambda: self.row(vm_id).state == state, lambda: f"{vm_id} is {self.row(vm_id).state}, not {state}")

    def settled(self, vm_id: str = "web") -> None:
        """Until all events of the machine are handled."""
        wait_until(lambda: vm_id not in self.manager.shared.desk._queues, f"the events of {vm_id} are handled")


@pytest.fixture
def make_lab(settings: Settings) -> Iterator[Callable[..., Lab]]:
    """Starts the service; with an earlier lab, it is the service after a restart, on the same hypervisor."""
    running: list[Lab] = []

    def make(before: Lab | None = None) -> Lab:
        if before is not None:
            before.manager.stop()
            running.remove(before)
            fakes = (before.hypervisor, before.network, before.images, before.seeds)
        else:
            fakes = (FakeHypervisor(), FakeNetwork(), FakeImages(), FakeSeeds())
        manager = VmManager(settings, Adapters(*fakes))
        manager.start()
        lab = Lab(manager, *fakes)
        running.append(lab)
        return lab

    yield make
    for lab in running:
        lab.manager.stop()


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    lab = make_lab()
    lab.manager.templates.create(TemplateCreate(name="small", cpu_count=1, ram_amount=512))
    return lab


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """A fake VM manager for its clients. It runs, and the environment names no other."""
    for name in [name for name in os.environ if name.startswith("LABYARD_")]:
        monkeypatch.delenv(name)
    server = FakeServer()
    yield server
    server.stop()
