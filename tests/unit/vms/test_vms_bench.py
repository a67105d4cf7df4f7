"""The figures of the VM manager, measured on a fake one: what is refused as no measurement, and what is cleaned up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from labyard.bench import vms, vms_stand
from labyard.bench.bench import Bench, MeasureError
from labyard.bench.boot import MARK
from labyard.vms.client import Client

from .fake_service import FakeServer, Refusal

PASSED = {"suite_s": 91.5, "passed": 40, "skipped": 1, "failed": 0, "leaks": 0}


class FakeHost:
    """A VM host, on which these commands run."""

    name = "vmhost1"
    processes = "/sbin/init\n"

    def check(self, command: str) -> str:
        return self.processes


@pytest.fixture
def values() -> dict[str, str]:
    """The inventory's, without the prefix vms_."""
    return {"default_boot_disk": "/srv/guest.raw", "domain_prefix": "labyard-", "stop_timeout": "30"}


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def bench(
    fake: FakeServer,
    host: FakeHost,
    values: dict[str, str],
    said: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    """A bench whose inventory has the fake service, with a guest that is up at once and somebody else's things."""
    fake.service.templates["mine"] = {"name": "mine", "cpu_count": 1, "ram_amount": 512}
    fake.service.post_vms({"name": "mine", "template_name": "mine"})
    fake.service.post_disks({"size": 1, "mount_point": "mine"})

    def boot(request: str) -> None:
        if request.startswith("POST") and request.endswith("/actions/start"):
            fake.service.consoles[request.split("/")[2]] = f"{MARK}\n{vms_stand.SHELL} ".encode()

    fake.on_request = boot
    monkeypatch.setattr(vms_stand, "Where", lambda *_: SimpleNamespace(client=Client(fake.url)))
    service = SimpleNamespace(host=host, value=lambda name: values.get(name, ""))
    monkeypatch.setattr(vms_stand, "LabService", lambda *_: service)
    return Bench(tmp_path, tmp_path, said.append)


def only_mine(fake: FakeServer) -> bool:
    known = fake.service
    return [*known.vms] == [*known.templates] == [disk["mount_point"] for disk in known.disks.values()] == ["mine"]


class TestFigures:
    @pytest.mark.parametrize(
        "measure",
        [vms.start_to_running, vms.stop_graceful, vms.hotplug, vms.unplug, vms.observer_check, vms.concurrent_s],
    )
    def test_a_number_and_nothing_left(self, bench: Bench, fake: FakeServer, measure: Callable[[Bench], float]) -> None:
        assert measure(bench) > 0
        assert only_mine(fake)

    def test_all_that_were_started_at_once(self, bench: Bench) -> None:
        assert vms.concurrent(bench) == vms.TOGETHER

    def test_the_observer_is_asked_of_so_many(self, bench: Bench, fake: FakeServer) -> None:
        counts = []
        fake.on_request = lambda request: (
            request == "POST /observer/check" and counts.append((len(fake.service.vms), len(fake.service.disks)))
        )
        vms.observer_check(bench)
        assert set(counts) == {(vms.MANY_VMS + 1, vms.MANY_DISKS + 1)}


class TestNoMeasurement:
    def test_a_start_that_the_record_denies(
        self, bench: Bench, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fake.service, "start", lambda vm_id: (202, {"status": "started"}))
        with pytest.raises(MeasureError, match="its record says stopped"):
            vms.start_to_running(bench)
        assert only_mine(fake)

    def test_nothing_to_boot(self, bench: Bench, values: dict[str, str]) -> None:
        values["default_boot_disk"] = ""
        with pytest.raises(MeasureError, match="vms_default_boot_disk is not set"):
            vms.stop_graceful(bench)

    def test_a_guest_that_does_not_listen(self, bench: Bench, values: dict[str, str]) -> None:
        values["stop_timeout"] = "0"
        with pytest.raises(MeasureError, match="did not power off within 0 s"):
            vms.stop_graceful(bench)

    def test_a_guest_that_is_not_up_in_time(
        self, bench: Bench, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(vms, "TOGETHER_SECONDS", 0)

        def boot(request: str) -> None:
            if request.startswith("GET /vms/bench-"):
                fake.service.consoles["bench-3"] = b"Kernel panic"
                fake.service.consoles |= {f"bench-{number}": MARK.encode() for number in range(10) if number != 3}

        fake.on_request = boot
        with pytest.raises(MeasureError, match=r"within 0 s from bench-3; .*Kernel panic"):
            vms.concurrent(bench)
        assert only_mine(fake)

    def test_a_process_that_stays(self, bench: Bench, host: FakeHost) -> None:
        host.processes = "/usr/bin/qemu-system-x86_64 -name guest=labyard-bench-4,debug-threads=on\n"
        with pytest.raises(MeasureError, match="left after all were deleted: /usr/bin/qemu"):
            vms.concurrent(bench)

    def test_an_observer_that_cannot_look(self, bench: Bench, fake: FakeServer) -> None:
        fake.service.observer_error = "virConnectOpen failed"
        with pytest.raises(MeasureError, match="virConnectOpen failed"):
            vms.observer_check(bench)
        assert only_mine(fake)


class TestCleaningUp:
    def test_when_it_is_interrupted(self, bench: Bench, fake: FakeServer) -> None:
        with pytest.raises(KeyboardInterrupt), vms_stand.stand_of(bench) as stand:
            (disk,) = stand.disks(1)
            stand.api.attach(disk, stand.booted())
            stand.api.detach(disk)  # its label is gone
            raise KeyboardInterrupt
        assert only_mine(fake)

    def test_what_a_killed_run_left(self, bench: Bench, fake: FakeServer) -> None:
        stand = vms_stand.Stand(bench)
        stand.api.create_template(vms_stand.TEMPLATE, 1, 128)
        stand.disks(2)
        stand.api.attach(stand.disks(1)[0], stand.booted())
        with vms_stand.stand_of(bench) as after:
            assert after.machines(1) == ["bench-0"]
            assert len(fake.service.disks) == 1
        assert only_mine(fake)

    def test_what_cannot_be_removed_does_not_keep_the_rest(
        self, bench: Bench, fake: FakeServer, said: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        remove = fake.service.delete_vm

        def refuse(vm_id: str) -> Any:
            if vm_id == "bench-1":
                raise Refusal(400, "Failed to delete VM")
            return remove(vm_id)

        with vms_stand.stand_of(bench) as stand:
            stand.machines(3)
            monkeypatch.setattr(fake.service, "delete_vm", refuse)
        assert [*fake.service.vms] == ["mine", "bench-1"]
        assert [line.split(":")[0] for line in said] == ["could not remove bench-1", "could not remove bench-small"]


class TestSuite:
    @pytest.fixture
    def playbook(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
        """Have the playbook leave this result, or none."""
        (bench.checkout / "build").mkdir()

        def leave(result: Any) -> None:
            def run(*_: Any, **__: Any) -> None:
                if result is not None:
                    (bench.checkout / vms.SUITE_RESULT).write_text(json.dumps(result))

            monkeypatch.setattr(vms, "run", run)

        bench.__dict__["lab"] = SimpleNamespace(inventory=SimpleNamespace(path="inventories/local"))
        return leave

    def test_figures(self, bench: Bench, playbook: Callable[[Any], None], said: list[str]) -> None:
        playbook(PASSED | {"leaks": 2})
        assert (vms.suite_s(bench), vms.leaks(bench)) == (91.5, 2)
        assert said == ["integration tests: 40 passed, 1 skipped, 0 failed, 2 leaks, in 92 s"]

    @pytest.mark.parametrize("result", [PASSED | {"failed": 1}, PASSED | {"passed": 0}])
    def test_not_all_passed(self, bench: Bench, playbook: Callable[[Any], None], result: Any) -> None:
        playbook(result)
        with pytest.raises(MeasureError, match="did not pass"):
            vms.suite_s(bench)

    def test_an_earlier_result_does_not_count(self, bench: Bench, playbook: Callable[[Any], None]) -> None:
        playbook(None)
        (bench.checkout / vms.SUITE_RESULT).write_text(json.dumps(PASSED))
        with pytest.raises(MeasureError, match="left no result"):
            vms.suite_s(bench)
