"""Start, stop, restart, create and delete when the world refuses: every finished step is undone (contract 4.3, 13)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy.exc import OperationalError

from labyard.core.adapter import AdapterError
from labyard.core.errors import ServiceError
from labyard.testing.waiting import wait_until
from labyard.vms.adapters.hypervisor import EventKind
from labyard.vms.models import Vm
from labyard.vms.schemas import MetadataUpdate, TemplateCreate, VmCreate
from labyard.vms.service.desk import Listening

from .conftest import Lab
from .fakes import BOOM

START_FAULTS = [
    ("images", "create_root"), ("hypervisor", "limits"), ("hypervisor", "define"), ("seeds", "write"),
    ("network", "ensure"), ("network", "leases"), ("network", "reserve"), ("hypervisor", "start"),
    ("hypervisor", "after start"),
]  # fmt: skip


def detail(call: pytest.ExceptionInfo[ServiceError]) -> tuple[int, object]:
    return call.value.status, call.value.detail


class TestStart:
    def test_gives_everything(self, lab: Lab) -> None:
        lab.make()
        disk = lab.disk()
        lab.manager.metadata.update("web", MetadataUpdate(hostname="h", user_data="u", ssh_keys="a\n\n b\n"))
        lab.manager.vms.start("web")
        lab.manager.disks.attach(disk, "web")
        row, domain = lab.row(), lab.hypervisor.all["web"]
        assert (row.state, row.desired_state, row.local_ip) == ("running", "running", "192.168.100.2")
        assert (domain.spec.memory_mib, domain.spec.vcpus, domain.spec.mac) == (512, 1, row.mac)
        assert lab.network.reserved == {"192.168.100.2": row.mac}
        seed = lab.seeds.written[-1]
        assert (seed.vm_id, seed.mac, seed.hostname, seed.ssh_keys, seed.user_data) == (
            "web", row.mac, "h", ("a", "b"), "u",
        )  # fmt: skip

    @pytest.mark.parametrize(("fake", "verb"), START_FAULTS)
    @pytest.mark.parametrize("expected", [True, False])
    def test_a_failed_one_leaves_nothing_and_can_be_tried_again(
        self, lab: Lab, fake: str, verb: str, expected: bool
    ) -> None:
        lab.make()
        lab.manager.shared.files.root("web").unlink()
        lab.fake(fake).faults[verb] = BOOM if expected else RuntimeError("a bug")
        if expected:
            with pytest.raises(ServiceError) as refusal:
                lab.manager.vms.start("web")
            assert detail(refusal) == (400, "Failed to start VM: boom failed: no reason")
        else:
            with pytest.raises(RuntimeError, match="a bug"):
                lab.manager.vms.start("web")
        lab.settled()
        row = lab.row()
        reason = "boom failed: no reason" if expected else "Internal error"
        assert (row.state, row.state_reason, row.local_ip, row.desired_state) == ("error", reason, None, "stopped")
        assert not lab.hypervisor.all["web"].active
        assert (lab.leases(), lab.network.reserved) == ([], {})
        lab.fake(fake).faults.clear()
        lab.manager.vms.start("web")
        lab.settled()
        row = lab.row()
        assert (row.state, row.state_reason, row.local_ip) == ("running", None, "192.168.100.2")

    def test_all_domains_are_asked_for_a_new_mac_only(self, lab: Lab) -> None:
        """The question waits for every machine that is being started or stopped."""
        lab.make()
        lab.hypervisor.faults["macs"] = BOOM
        lab.manager.vms.start("web")
        lab.manager.vms.stop("web", force=True)
        with lab.manager.database.write() as session:
            session.get_one(Vm, "web").mac = None
        with pytest.raises(ServiceError, match="boom failed"):
            lab.manager.vms.start("web")

    def test_when_not_even_the_undoing_works(self, lab: Lab) -> None:
        lab.make()
        lab.hypervisor.faults |= {"after start": BOOM, "destroy": AdapterError("destroy failed: stuck")}
        with pytest.raises(ServiceError):
            lab.manager.vms.start("web")
        assert (lab.row().state, lab.row().state_reason) == ("error", "boom failed: no reason")
        assert lab.leases() == ["192.168.100.2"]  # the guest still has the address
        lab.hypervisor.faults.clear()
        lab.manager.vms.restart("web")
        lab.settled()
        assert (lab.row().state, lab.hypervisor.boots) == ("running", ["web", "web"])

    def test_a_hypervisor_that_is_not_there(self, lab: Lab) -> None:
        lab.make()
        lab.hypervisor.faults["is_active"] = BOOM
        with pytest.raises(ServiceError) as refusal:
            lab.manager.vms.start("web")
        assert detail(refusal) == (400, "Failed to start VM: boom failed: no reason")
        assert lab.row().state == "stopped"

    @pytest.mark.parametrize(("cpus", "ram", "what"), [(9, 512, "CPUs: needs 9"), (1, 4097, "memory: needs 4097 MiB")])
    def test_admission(self, lab: Lab, cpus: int, ram: int, what: str) -> None:
        lab.manager.templates.create(TemplateCreate(name="huge", cpu_count=cpus, ram_amount=ram))
        lab.manager.vms.create(VmCreate(template_name="huge", name="web"))
        with pytest.raises(ServiceError) as refusal:
            lab.manager.vms.start("web")
        expected = f"Failed to start VM: admission failed: insufficient host {what}"
        assert str(refusal.value.detail).startswith(expected)

    @pytest.mark.parametrize("state", ["stopped", "error"])
    def test_an_active_domain_corrects_the_row(self, lab: Lab, state: str) -> None:
        lab.make(running=True)
        lab.sql("UPDATE vms SET state=:state, local_ip=NULL", state=state)
        with pytest.raises(ServiceError) as refusal:
            lab.manager.vms.start("web")
        assert detail(refusal) == (400, "VM is already running")
        assert (lab.row().state, lab.row().local_ip) == ("running", "192.168.100.2")
        assert lab.hypervisor.boots == ["web"]

    def test_qemu_that_dies_at_once(self, lab: Lab) -> None:
        lab.make()
        start = lab.hypervisor.power_on

        def short_life(vm_id: str) -> None:
            start(vm_id)
            lab.hypervisor.end(vm_id, EventKind.FAILED, "QEMU process ended unexpectedly")

        lab.hypervisor.power_on = short_life  # type: ignore[method-assign]
        lab.manager.vms.start("web")
        lab.settled()
        assert (lab.row().state, lab.row().state_reason) == ("error", "QEMU process ended unexpectedly")
        assert lab.leases() == []

    def test_targets_of_disks_are_brought_in_line(self, lab: Lab) -> None:
        lab.make()
        first, second, third = sorted(lab.disk() for _ in range(3))
        lab.sql("UPDATE disks SET state='attached', vm_id='web', target='sdb' WHERE id IN (:a, :b)", a=first, b=second)
        lab.sql("UPDATE disks SET state='attached', vm_id='web', target='vda' WHERE id=:c", c=third)
        lab.manager.vms.start("web")
        assert lab.hypervisor.all["web"].disks == {first: "sdb", second: "sda", third: "sdc"}
        assert lab.disk_row(third).target == "sdc"


class TestStop:
    @pytest.mark.parametrize("way", ["acpi", "deaf", "refused", "force"])
    def test_ends_off_and_free(self, lab: Lab, way: str) -> None:
        lab.make(running=True)
        lab.hypervisor.deaf = way == "deaf"
        if way == "refused":
            lab.hypervisor.faults["shutdown"] = BOOM
        lab.manager.vms.stop("web", force=way == "force")
        row = lab.row()
        assert (row.state, row.desired_state, row.local_ip, row.last_ip) == (
            "stopped", "stopped", None, "192.168.100.2",
        )  # fmt: skip
        assert (lab.leases(), lab.network.reserved) == ([], {})

    def test_does_not_wait_for_events_that_never_come(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        waited: list[float] = []
        monkeypatch.setattr(Listening, "wait_end", lambda self, seconds=2.0: waited.append(seconds))
        lab.make(running=True)
        lab.manager.vms.stop("web")
        assert waited == [2.0] and lab.row().state == "stopped"

    def test_a_failed_one_leaves_the_row(self, lab: Lab) -> None:
        lab.make(running=True)
        lab.hypervisor.deaf = True
        lab.hypervisor.faults["destroy"] = BOOM
        with pytest.raises(ServiceError) as refusal:
            lab.manager.vms.stop("web")
        assert detail(refusal) == (400, "Failed to stop VM: boom failed: no reason")
        assert (lab.row().state, lab.leases()) == ("running", ["192.168.100.2"])

    @pytest.mark.parametrize("force", [False, True])
    def test_a_failed_one_of_a_machine_in_trouble_is_an_error(self, lab: Lab, force: bool) -> None:
        lab.make(running=True)
        lab.hypervisor.deaf = True
        lab.hypervisor.faults["destroy"] = BOOM
        lab.hypervisor.against = "guest crashed"
        with pytest.raises(ServiceError) as refusal:
            lab.manager.vms.stop("web", force)
        assert detail(refusal) == (400, "Failed to stop VM: boom failed: no reason")
        row = lab.row()
        assert (row.state, row.state_reason, lab.leases()) == ("error", "guest crashed", ["192.168.100.2"])
        lab.hypervisor.faults.clear()
        lab.manager.vms.restart("web")
        assert (lab.row().state, lab.row().state_reason) == ("running", None)

    def test_an_address_that_cannot_be_freed(self, lab: Lab) -> None:
        lab.make(running=True)
        lab.network.faults["release"] = BOOM
        with pytest.raises(ServiceError) as refusal:
            lab.manager.vms.stop("web")
        assert detail(refusal) == (400, "Failed to stop VM: boom failed: no reason")
        assert (lab.row().state, lab.row().local_ip, lab.leases()) == ("stopped", None, ["192.168.100.2"])
        lab.network.faults.clear()
        lab.manager.vms.start("web")
        assert lab.row().local_ip == "192.168.100.2"

    def test_a_row_that_wrongly_says_running(self, lab: Lab) -> None:
        lab.make()
        lab.sql("UPDATE vms SET state='running', local_ip='192.168.100.5'")
        lab.manager.vms.stop("web")
        assert (lab.row().state, lab.row().local_ip) == ("stopped", None)

    def test_a_row_that_wrongly_says_stopped(self, lab: Lab) -> None:
        lab.make(running=True)
        lab.sql("UPDATE vms SET state='stopped'")
        lab.manager.vms.stop("web")
        assert not lab.hypervisor.all["web"].active and lab.leases() == []

    def test_many_cycles_exhaust_nothing(self, lab: Lab) -> None:
        for name in ("a", "b"):
            lab.make(name)
        for cycle in range(100):
            for name in ("a", "b"):
                lab.manager.vms.start(name)
            lab.manager.vms.stop("a", force=cycle % 2 == 0)
            lab.hypervisor.end("b", EventKind.STOPPED if cycle % 3 else EventKind.FAILED)
            wait_until(lambda: lab.row("b").state != "running", "the end is on record")
        assert (lab.leases(), lab.network.reserved) == ([], {})


class TestRestart:
    @pytest.mark.parametrize("row", ["running", "stopped", "error"])
    @pytest.mark.parametrize("active", [True, False])
    def test_always_ends_running(self, lab: Lab, row: str, active: bool) -> None:
        lab.make(running=active)
        lab.sql("UPDATE vms SET state=:state, state_reason='was wrong'", state=row)
        mac = lab.row().mac
        lab.manager.vms.restart("web")
        lab.settled()
        now = lab.row()
        assert (now.state, now.desired_state, now.state_reason, now.mac) == ("running", "running", None, mac)
        assert (now.local_ip, lab.leases()) == ("192.168.100.2", ["192.168.100.2"])
        assert lab.hypervisor.all["web"].active and len(lab.hypervisor.boots) == 1 + active

    def test_texts(self, lab: Lab) -> None:
        lab.make(running=True)
        lab.hypervisor.deaf = True
        lab.hypervisor.faults["destroy"] = BOOM
        with pytest.raises(ServiceError) as refusal:
            lab.manager.vms.restart("web")
        assert detail(refusal) == (400, "Failed to stop VM: boom failed: no reason")
        lab.hypervisor.faults = {"start": BOOM}
        with pytest.raises(ServiceError) as refusal:
            lab.manager.vms.restart("web")
        assert detail(refusal) == (400, "Failed to start VM: boom failed: no reason")
        assert lab.row().state == "error"

    def test_keeps_disks(self, lab: Lab) -> None:
        lab.make(running=True)
        disk = lab.disk()
        lab.manager.disks.attach(disk, "web")
        lab.manager.vms.restart("web")
        assert lab.hypervisor.all["web"].disks == {disk: "sda"}
        assert lab.disk_row(disk).state == "attached"


class TestCreate:
    @pytest.mark.parametrize(
        ("fake", "verb"),
        [
            ("hypervisor", "is_active"), ("hypervisor", "macs"), ("images", "create_root"), ("seeds", "write"),
            ("hypervisor", "define"),
        ],
    )  # fmt: skip
    def test_a_failed_one_leaves_nothing(self, lab: Lab, fake: str, verb: str) -> None:
        lab.fake(fake).faults[verb] = BOOM
        with pytest.raises(ServiceError) as refusal:
            lab.make()
        assert detail(refusal) == (400, "Failed to create VM: boom failed: no reason")
        assert list(lab.manager.settings.vms_dir.iterdir()) == []
        assert lab.hypervisor.all == {} and lab.manager.vms.list() == []
        lab.fake(fake).faults.clear()
        lab.make(running=True)

    def test_has_a_seed_for_whoever_switches_it_on(self, lab: Lab) -> None:
        lab.make()
        assert [(seed.vm_id, seed.mac) for seed in lab.seeds.written] == [("web", lab.row().mac)]

    def test_a_row_that_cannot_be_written(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        def full() -> None:
            raise OperationalError("INSERT", {}, Exception("disk is full"))

        monkeypatch.setattr(lab.manager.vms._db, "write", full)
        with pytest.raises(OperationalError):
            lab.make()
        assert list(lab.manager.settings.vms_dir.iterdir()) == [] and lab.hypervisor.all == {}

    def test_wipes_a_leftover_of_ours(self, lab: Lab) -> None:
        lab.make(running=True)
        root = lab.manager.shared.files.root("web")
        root.write_text("old secrets")
        lab.hypervisor.all["web"].active = False
        lab.sql("DELETE FROM leases")
        lab.sql("DELETE FROM vms")
        lab.make()
        assert root.read_text() == "root"
        assert lab.hypervisor.all["web"].spec.uuid == lab.row().domain_uuid

    def test_uses_the_root_disk_of_an_operator(self, lab: Lab) -> None:
        folder = lab.manager.shared.files.vm("web")
        folder.mkdir()
        root = folder / "root.qcow2"
        root.write_text("an operator's")
        lab.hypervisor.faults["define"] = BOOM
        with pytest.raises(ServiceError):
            lab.make()
        assert [path.name for path in folder.iterdir()] == ["root.qcow2"]
        lab.hypervisor.faults.clear()
        lab.make()
        assert root.read_text() == "an operator's"
        lab.manager.vms.delete("web")
        assert not folder.exists()

    def test_refuses_a_running_leftover(self, lab: Lab) -> None:
        lab.make(running=True)
        lab.sql("DELETE FROM leases")
        lab.sql("DELETE FROM vms")
        with pytest.raises(ServiceError) as refusal:
            lab.make()
        assert str(refusal.value.detail).startswith("Failed to create VM: define failed: ")
        assert lab.hypervisor.all["web"].active and lab.manager.shared.files.root("web").exists()


class TestDelete:
    @pytest.mark.parametrize("row", ["running", "stopped", "error"])
    def test_kills_what_runs_whatever_the_row_says(self, lab: Lab, row: str) -> None:
        lab.make(running=True)
        lab.sql("UPDATE vms SET state=:row", row=row)
        lab.manager.vms.delete("web")
        assert (lab.hypervisor.all, lab.leases(), lab.network.reserved) == ({}, [], {})
        assert not lab.manager.shared.files.vm("web").exists()

    @pytest.mark.parametrize(("verb", "state"), [("destroy", "running"), ("undefine", "stopped")])
    def test_a_failed_one_keeps_the_row_and_can_be_tried_again(self, lab: Lab, verb: str, state: str) -> None:
        lab.make(running=True)
        disk = lab.disk()
        lab.manager.disks.attach(disk, "web")
        lab.hypervisor.faults[verb] = BOOM
        with pytest.raises(ServiceError) as refusal:
            lab.manager.vms.delete("web")
        assert detail(refusal) == (400, "Failed to delete VM: boom failed: no reason")
        assert (lab.row().state, lab.disk_row(disk).vm_id) == (state, "web")
        lab.hypervisor.faults.clear()
        lab.manager.vms.delete("web")
        assert (lab.disk_row(disk).state, lab.disk_row(disk).vm_id) == ("available", None)

    def test_one_that_others_switch_on_meanwhile(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        lab.make()
        undefine = lab.hypervisor.undefine

        def too_late(vm_id: str) -> None:
            lab.hypervisor.power_on(vm_id)
            undefine(vm_id)

        monkeypatch.setattr(lab.hypervisor, "undefine", too_late)
        lab.manager.vms.delete("web")
        lab.settled()
        assert (lab.hypervisor.all, lab.leases(), lab.network.reserved) == ({}, [], {})


class TestLocks:
    def test_two_operations_on_one_machine_take_turns(self, lab: Lab) -> None:
        lab.make()
        with ThreadPoolExecutor(8) as pool:
            calls = [pool.submit(lab.manager.vms.start if n % 2 else lab.manager.vms.restart, "web") for n in range(16)]
            failures = [call.exception() for call in calls]
        assert {str(failure) for failure in failures if failure} <= {"VM is already running"}
        lab.settled()
        assert (lab.row().state, lab.leases()) == ("running", ["192.168.100.2"])
        assert lab.manager.observer.check().issues == []
