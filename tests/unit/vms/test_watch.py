"""What others do to machines, and what a restart of the service finds (contract section 5.4)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from labyard.core.adapter import AdapterError
from labyard.testing.waiting import PATIENCE, wait_until
from labyard.vms.adapters.hypervisor import DomainEvent, EventKind
from labyard.vms.schemas import VmCreate
from labyard.vms.service.desk import Desk
from labyard.vms.service.watch import RECONNECT, SERVICE_START

from .conftest import Lab
from .fakes import BOOM


class TestEvents:
    def test_started_by_others(self, lab: Lab) -> None:
        lab.make()
        lab.hypervisor.power_on("web")
        lab.until("running")
        assert (lab.row().local_ip, lab.row().desired_state) == ("192.168.100.2", "running")
        assert lab.network.reserved == {"192.168.100.2": lab.row().mac}

    def test_powered_off(self, lab: Lab) -> None:
        lab.make(running=True)
        lab.hypervisor.end("web", EventKind.STOPPED, "guest powered off")
        lab.until("stopped")
        row = lab.row()
        assert (row.desired_state, row.local_ip, row.last_ip, row.state_reason) == (
            "stopped", None, "192.168.100.2", None,
        )  # fmt: skip
        assert (lab.leases(), lab.network.reserved) == ([], {})

    def test_killed(self, lab: Lab) -> None:
        lab.make(running=True)
        lab.hypervisor.end("web", EventKind.FAILED, "QEMU process ended unexpectedly")
        lab.until("error")
        row = lab.row()
        assert (row.desired_state, row.local_ip, row.state_reason) == (
            "running", None, "QEMU process ended unexpectedly",
        )  # fmt: skip
        assert lab.leases() == []

    def test_off_and_on_again_in_order(self, lab: Lab) -> None:
        lab.make(running=True)
        for _ in range(20):
            lab.hypervisor.end("web", EventKind.STOPPED, "destroyed")
            lab.hypervisor.power_on("web")
        lab.settled()
        assert (lab.row().state, lab.row().local_ip) == ("running", "192.168.100.2")
        assert (lab.leases(), list(lab.network.reserved)) == (["192.168.100.2"], ["192.168.100.2"])

    def test_a_late_end_of_a_machine_that_runs_again(self, lab: Lab) -> None:
        lab.make(running=True)
        for kind in (EventKind.STOPPED, EventKind.FAILED):
            lab.hypervisor.tell("web", kind)
            lab.settled()
            assert (lab.row().state, lab.leases()) == ("running", ["192.168.100.2"])

    def test_a_late_start_of_a_machine_that_is_off(self, lab: Lab) -> None:
        lab.make()
        lab.hypervisor.tell("web", EventKind.STARTED)
        lab.settled()
        assert (lab.row().state, lab.leases()) == ("stopped", [])

    def test_a_death_that_an_operation_has_recorded(self, lab: Lab) -> None:
        lab.make(running=True)
        lab.manager.vms.stop("web")
        lab.hypervisor.tell("web", EventKind.FAILED)
        lab.settled()
        assert lab.row().state == "stopped"

    def test_an_event_waits_for_the_operation_under_way(self, lab: Lab) -> None:
        lab.make(running=True)
        with lab.manager.shared.vm_locks.hold("web"):
            lab.hypervisor.end("web", EventKind.FAILED)
            time.sleep(0.1)
            assert lab.row().state == "running"
        lab.until("error")

    def test_of_a_machine_without_a_row(self, lab: Lab) -> None:
        for vm_id in ("unknown", "../../x"):
            lab.hypervisor._on_event(DomainEvent(vm_id, EventKind.STARTED))
            lab.hypervisor._on_event(DomainEvent(vm_id, EventKind.STOPPED))
            lab.settled(vm_id)
        assert lab.manager.vms.list() == []

    def test_started_when_no_address_is_left(self, lab: Lab) -> None:
        for number in range(6):
            lab.make(f"vm{number}", running=number < 5)
        lab.hypervisor.power_on("vm5")
        lab.until("running", "vm5")
        lab.settled("vm5")
        assert lab.row("vm5").local_ip is None

    def test_an_address_that_cannot_be_freed_is_freed_later(self, lab: Lab) -> None:
        lab.make(running=True)
        lab.network.faults["release"] = BOOM
        lab.hypervisor.end("web", EventKind.STOPPED)
        lab.until("stopped")
        lab.settled()
        assert lab.leases() == ["192.168.100.2"]
        lab.network.faults.clear()
        lab.manager.watch.reconcile("again")
        assert lab.leases() == []


class TestReconciliation:
    def test_at_service_start(self, lab: Lab, make_lab: Callable[..., Lab]) -> None:
        for name in ("kept", "dead", "off", "woken"):
            lab.make(name, running=name in ("kept", "dead"))
        address = lab.row("kept").local_ip
        lab.hypervisor._on_event = lambda event: None  # nobody listens while the service is down
        lab.hypervisor.all["dead"].active = False
        lab.hypervisor.all["woken"].active = True
        lab.sql("UPDATE vms SET state='stopped' WHERE id='kept'")
        again = make_lab(lab)
        rows = {name: again.row(name) for name in ("kept", "dead", "off", "woken")}
        assert {name: row.state for name, row in rows.items()} == {
            "kept": "running", "dead": "error", "off": "stopped", "woken": "running",
        }  # fmt: skip
        assert rows["kept"].local_ip == address
        assert (rows["dead"].state_reason, rows["dead"].local_ip) == (SERVICE_START, None)
        assert set(again.leases()) == {rows["kept"].local_ip, rows["woken"].local_ip}
        assert set(again.network.reserved) == set(again.leases())

    def test_after_a_lost_connection(self, lab: Lab) -> None:
        lab.make(running=True)
        lab.hypervisor.all["web"].active = False
        lab.hypervisor.reconnected()
        lab.until("error")
        assert lab.row().state_reason == RECONNECT and lab.leases() == []

    def test_a_hypervisor_that_finds_out_late(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        looked, found_out = threading.Event(), threading.Event()
        reconcile = lab.manager.watch.reconcile

        def look(reason: str) -> None:
            reconcile(reason)
            looked.set()
            assert found_out.wait(PATIENCE)

        monkeypatch.setattr(lab.manager.watch, "reconcile", look)
        monkeypatch.setattr("labyard.vms.service.manager.SETTLING", (0, 0))
        lab.make(running=True)
        lab.hypervisor.reconnected()
        assert looked.wait(PATIENCE)
        assert lab.row().state == "running"
        lab.hypervisor.all["web"].active = False
        found_out.set()
        lab.until("error")
        assert lab.leases() == []

    def test_disks_are_compared_with_what_is_plugged_in(self, lab: Lab, make_lab: Callable[..., Lab]) -> None:
        for name in ("web", "off"):
            lab.make(name, running=True)
        kept, cut_off, gone, waiting = (lab.disk() for _ in range(4))
        for disk_id, vm_id in ((kept, "web"), (gone, "web"), (waiting, "off")):
            lab.manager.disks.attach(disk_id, vm_id)
        before = [lab.disk_row(disk_id).target for disk_id in (kept, waiting)]
        lab.manager.vms.stop("off")
        lab.sql("UPDATE disks SET mount_point='/srv' WHERE id=:id", id=cut_off)
        # A plugging in and a plugging out that were cut off before they were recorded.
        lab.hypervisor.attach("web", cut_off, lab.manager.shared.files.disk(cut_off))
        lab.hypervisor.detach("web", gone, 1)
        again = make_lab(lab)
        rows = [again.disk_row(disk_id) for disk_id in (kept, cut_off, gone, waiting)]
        assert [(row.state, row.vm_id, row.mount_point) for row in rows] == [
            ("attached", "web", "/dev/sda"),
            ("attached", "web", "/srv"),
            ("available", None, None),
            ("attached", "off", "/dev/sda"),
        ]
        assert [rows[0].target, rows[3].target] == before and rows[1].target == "sdc"

    def test_one_failure_does_not_keep_the_others(self, lab: Lab) -> None:
        for name in ("a", "b"):
            lab.make(name, running=True)
            lab.hypervisor.all[name].active = False
        lab.network.faults["release"] = BOOM
        lab.manager.watch.reconcile("gone")
        assert [lab.row(name).state for name in ("a", "b")] == ["error", "error"]

    def test_halves_of_disks_are_removed(self, lab: Lab, make_lab: Callable[..., Lab]) -> None:
        half = lab.manager.settings.disks_dir / ".3f0e.qcow2.part"
        half.touch()
        make_lab(lab)
        assert not half.exists()

    def test_without_its_hypervisor_it_does_not_start_and_holds_nothing(
        self, lab: Lab, make_lab: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As when `kvm` was demanded and is not there."""

        def refuse(*_: object) -> None:
            raise AdapterError("VMAN_DOMAIN_TYPE is kvm, but …")

        with monkeypatch.context() as patch:
            patch.setattr(lab.hypervisor, "open", refuse)
            with pytest.raises(AdapterError, match="VMAN_DOMAIN_TYPE"):
                make_lab(lab)
        assert make_lab().manager.vms.list() == []

    def test_an_unusable_network_does_not_keep_the_service_from_starting(
        self, lab: Lab, make_lab: Callable[..., Lab]
    ) -> None:
        lab.network.faults["ensure"] = AdapterError("a foreign network is named labyard-vman")
        assert make_lab(lab).manager.vms.list() == []


class TestDesk:
    def test_each_machine_in_order_and_none_waits_for_another(self) -> None:
        desk, seen, gate = Desk(), [], threading.Event()

        def handle(event: DomainEvent) -> None:
            if event.vm_id == "slow":
                assert gate.wait(PATIENCE)
            seen.append((event.vm_id, event.detail))

        desk.handle = handle
        desk.put(DomainEvent("slow", EventKind.STARTED))
        for number in range(50):
            desk.put(DomainEvent("quick", EventKind.STARTED, str(number)))
        wait_until(lambda: len(seen) == 50, lambda: f"50 events are handled, not {len(seen)}")
        assert seen == [("quick", str(number)) for number in range(50)]
        gate.set()
        desk.close()
        assert seen[-1] == ("slow", "")

    def test_a_start_of_ours_is_not_told_again(self, lab: Lab) -> None:
        """What another program wrote into the row since then stays."""
        lab.make(running=True)
        lab.sql("UPDATE vms SET state='stopped', local_ip='10.0.0.1'")
        time.sleep(0.2)
        lab.settled()
        assert (lab.row().state, lab.row().local_ip) == ("stopped", "10.0.0.1")

    def test_an_operation_gets_the_end_it_waits_for_and_leaves_the_rest(self) -> None:
        desk, seen = Desk(), []
        desk.handle = lambda event: seen.append(event.detail)
        with desk.listen("web") as listening:
            desk.put(DomainEvent("web", EventKind.STOPPED, "ours"))
            desk.put(DomainEvent("other", EventKind.STOPPED, "other's"))
            listening.wait_end(0)
            desk.put(DomainEvent("web", EventKind.STARTED, "after"))
        wait_until(lambda: len(seen) == 2, lambda: f"the rest is handled: {seen}")
        desk.close()
        assert sorted(seen) == ["after", "other's"]


class TestAddresses:
    def test_an_address_that_the_dhcp_server_still_holds_is_avoided(self, lab: Lab) -> None:
        lab.network.given = {"192.168.100.2": "52:54:00:00:00:01", "192.168.100.3": "52:54:00:00:00:02"}
        lab.make("a", running=True)
        assert lab.row("a").local_ip == "192.168.100.4"

    def test_but_taken_when_there_is_no_other(self, lab: Lab) -> None:
        lab.network.given = {f"192.168.100.{host}": "52:54:00:00:00:01" for host in range(2, 7)}
        lab.make("a", running=True)
        assert lab.row("a").local_ip == "192.168.100.2"

    def test_the_last_one_comes_back_if_it_is_free(self, lab: Lab) -> None:
        for name in ("a", "b", "c"):
            lab.make(name, running=True)
        for name in ("a", "b", "c"):
            lab.manager.vms.stop(name)
        for name in ("c", "a", "b"):
            lab.manager.vms.start(name)
        assert [lab.row(name).local_ip for name in ("a", "b", "c")] == [f"192.168.100.{host}" for host in (2, 3, 4)]

    def test_a_lease_of_another_subnet_is_replaced(self, lab: Lab) -> None:
        lab.make()
        lab.sql("INSERT INTO leases (ip, mac, vm_id) SELECT '10.0.0.9', mac, id FROM vms")
        lab.manager.vms.start("web")
        assert (lab.row().local_ip, lab.leases()) == ("192.168.100.2", ["192.168.100.2"])

    @pytest.mark.parametrize("last", ["192.168.100.1", "192.168.100.0", "192.168.100.7", "10.0.0.1", "nonsense"])
    def test_a_last_one_that_nobody_may_have(self, lab: Lab, last: str) -> None:
        lab.make()
        lab.sql("UPDATE vms SET last_ip=:last", last=last)
        lab.manager.vms.start("web")
        assert lab.row().local_ip == "192.168.100.2"

    def test_a_freed_one_is_handed_to_another(self, lab: Lab) -> None:
        lab.make("a", running=True)
        lab.manager.vms.delete("a")
        lab.make("b", running=True)
        assert (lab.row("b").local_ip, lab.leases()) == ("192.168.100.2", ["192.168.100.2"])

    def test_macs_are_fixed_and_unlike(self, lab: Lab) -> None:
        for number in range(20):
            lab.manager.vms.create(VmCreate(template_name="small", name=f"web-{number}"))
        assert len({vm.mac for vm, _ in lab.manager.vms.list()}) == 20
