"""The doctor's decisions, without touching the machine."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import tarfile
import threading
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from labyard import doctor
from labyard.doctor import checks, engine, functions, inventory, probes, report, runner, subnets
from labyard.doctor.model import GIB, Check, CheckResult, Finding, Problem, Settings, Status, exit_code
from labyard.doctor.work import TimeUp, Work
from labyard.testing.waiting import PATIENCE

SETTINGS = Settings(checkout=Path("/nowhere"))
MODULE = Path("collections", "ansible_collections", "labyard", "lab", "plugins", "modules", "accel_probe.py")
ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / MODULE).exists())


@pytest.fixture(scope="module")
def accel_probe() -> ModuleType:
    pytest.importorskip("ansible")
    spec = importlib.util.spec_from_file_location("accel_probe", ROOT / MODULE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def result(status: Status) -> CheckResult:
    return CheckResult("check", status, "seen", "do this" if status is Status.FAIL else "")


class TestResults:
    def test_a_failure_must_say_what_to_do(self) -> None:
        with pytest.raises(ValueError, match="without saying what to do"):
            CheckResult("check", Status.FAIL, "seen", "  ")

    @pytest.mark.parametrize(
        ("statuses", "code"),
        [
            ([], 0),
            ([Status.OK, Status.WARN, Status.LATER], 0),
            ([Status.OK, Status.FAIL, Status.OK], 1),
        ],
    )
    def test_exit_code(self, statuses: list[Status], code: int) -> None:
        assert exit_code([result(status) for status in statuses]) == code

    def test_json(self) -> None:
        document = json.loads(report.as_json([result(Status.OK), result(Status.FAIL)]))
        assert document["ok"] is False
        assert document["counts"] == {"ok": 1, "warn": 0, "fail": 1, "later": 0}
        assert document["results"][1] == {
            "name": "check", "status": "fail", "found": "seen", "remedy": "do this", "seconds": 0.0,
        }  # fmt: skip

    def test_the_table_shows_the_way_out_and_no_markup_is_read_into_it(self) -> None:
        console = Console(file=io.StringIO(), width=100)
        odd = CheckResult("check", Status.FAIL, "[red]seen[/nonsense]", "do this")
        report.print_report([odd], console)
        assert isinstance(console.file, io.StringIO)
        printed = console.file.getvalue()
        assert "[red]seen[/nonsense]" in printed
        assert "→ do this" in printed
        assert "One check fails" in printed

    @pytest.mark.parametrize(
        ("statuses", "text"),
        [
            ([Status.OK], "Nothing stands in the way of the lab."),
            ([Status.WARN], "mind the warning."),
            ([Status.LATER], "`make lab` installs"),
            ([Status.FAIL, Status.FAIL], "2 checks fail"),
        ],
    )
    def test_closing_sentence(self, statuses: list[Status], text: str) -> None:
        assert text in report.closing_sentence([result(status) for status in statuses])


class TestRunner:
    def run(self, *parts: Check) -> list[CheckResult]:
        return runner.run_all(parts, SETTINGS)

    def test_all_run_and_keep_their_order(self) -> None:
        together = threading.Barrier(4)

        def meet(_work: Work, _settings: Settings) -> Finding:
            together.wait(PATIENCE)  # BrokenBarrierError unless all four run at the same time
            return Finding("met")

        results = self.run(*(Check(name, meet, PATIENCE) for name in "abcd"))
        assert [(item.name, item.found) for item in results] == [(name, "met") for name in "abcd"]

    def test_failures_become_results_with_a_way_out(self) -> None:
        def problem(_work: Work, _settings: Settings) -> Finding:
            raise Problem("seen", "do this")

        def surprise(work: Work, _settings: Settings) -> Finding:
            work.doing = "the thing"
            raise RuntimeError("no idea")

        first, second = self.run(Check("problem", problem), Check("surprise", surprise))
        assert (first.status, first.found, first.remedy) == (Status.FAIL, "seen", "do this")
        assert second.status is Status.FAIL
        assert "no idea" in second.found
        assert "the thing" in second.remedy

    def test_a_program_that_hangs_is_ended_and_all_is_taken_down(self) -> None:
        taken_down = []

        def hang(work: Work, _settings: Settings) -> Finding:
            work.on_end(lambda: taken_down.append("it"))
            work.run(["sleep", "30"])
            return Finding("never")

        (only,) = self.run(Check("hang", hang, 0.3))
        assert only.status is Status.FAIL
        assert "sleep 30" in only.found
        assert only.remedy
        assert only.seconds < 30  # which it sleeps when it is not ended
        assert taken_down == ["it"]

    def test_a_thread_that_never_comes_back_is_left_behind(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(runner, "GRACE_SECONDS", 0.2)
        over = threading.Event()

        def stuck(_work: Work, _settings: Settings) -> Finding:
            over.wait()
            return Finding("too late")

        (only,) = self.run(Check("stuck", stuck, 0.1))
        over.set()
        assert only.status is Status.FAIL
        assert only.remedy

    def test_an_interrupt_stops_the_checks_and_waits_for_them(self) -> None:
        taken_down = []

        def long(work: Work, _settings: Settings) -> Finding:
            work.on_end(lambda: taken_down.append("it"))
            work.run(["sleep", "30"])
            return Finding("never")

        calls = []

        def interrupt(names: list[str]) -> None:
            calls.append(names)
            if len(calls) == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            runner.run_all([Check("long", long, 60)], SETTINGS, interrupt)
        assert taken_down == ["it"]

    def test_what_needs_root_is_not_tried_without(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        (only,) = self.run(Check("root", lambda _work, _settings: Finding("ran"), needs_root=True))
        assert only.status is Status.WARN

    def test_a_missing_tool_is_for_later(self) -> None:
        with pytest.raises(Problem) as caught:
            Work(1).need("no-such-program-here", "its-package")
        assert caught.value.finding.status is Status.LATER
        assert "its-package" in caught.value.finding.remedy

    def test_a_stopped_check_starts_nothing_more(self) -> None:
        work = Work(5)
        work.stop()
        with pytest.raises(TimeUp):
            work.run(["true"])

    def test_names_are_unique(self) -> None:
        names = [check.name for check in doctor.CHECKS]
        assert len(set(names)) == len(names)


LAB = (("mgmt", "10.1.0.0/24"), ("segment", "10.2.0.0/16"))


def link(name: str, address: str, prefix: int) -> dict[str, object]:
    return {"ifname": name, "addr_info": [{"local": address, "prefixlen": prefix}]}


class TestSubnets:
    def found(
        self,
        links: list[dict[str, object]] | None = None,
        routes: list[dict[str, object]] | None = None,
        engine_networks: list[engine.EngineNetwork] | None = None,
    ) -> list[subnets.Conflict]:
        networks = engine_networks or []
        own = frozenset(network.bridge for network in networks if network.ours)
        uses = [
            *subnets.uses_of_engine(networks),
            *subnets.uses_of_addresses(links or [], own),
            *subnets.uses_of_routes(routes or [], own),
        ]
        return subnets.conflicts(LAB, uses)

    def test_other_networks_do_not_matter(self) -> None:
        links = [link("eth0", "192.0.2.7", 24), link("eth0", "fe80::1", 64)]
        assert self.found(links, [{"dst": "default", "dev": "eth0"}, {"dst": "10.3.0.0/16", "dev": "tun0"}]) == []

    def test_an_address_inside(self) -> None:
        (only,) = self.found([link("eth1", "10.2.200.1", 24)], [{"dst": "10.2.200.0/24", "dev": "eth1"}])
        assert only.severe
        assert only.name == "segment"
        assert only.use.by == "interface eth1"

    def test_an_address_whose_network_is_wider(self) -> None:
        assert all(item.severe for item in self.found([link("eth0", "10.200.0.1", 8)]))

    def test_a_wider_route_is_a_warning_an_equal_or_narrower_one_is_not(self) -> None:
        wider = self.found(routes=[{"dst": "10.0.0.0/8", "dev": "tun0"}])
        assert [item.severe for item in wider] == [False, False]
        assert subnets.describe(wider, LAB, False).status is Status.WARN
        for destination in ("10.1.0.0/24", "10.1.0.128/25", "10.1.0.9"):
            (only,) = self.found(routes=[{"dst": destination, "dev": "tun0"}])
            assert only.severe
            finding = subnets.describe([only], LAB, False)
            assert finding.status is Status.FAIL
            assert finding.remedy

    def test_the_labs_own_things_are_ignored(self) -> None:
        own = engine.EngineNetwork("ours", "br-ours", ("10.1.0.0/24",), ours=True)
        links, routes = [link("br-ours", "10.1.0.1", 24)], [{"dst": "10.1.0.0/24", "dev": "br-ours"}]
        assert self.found(links, [*routes, {"type": "blackhole", "dst": "10.2.0.0/16"}], [own]) == []

    def test_an_engine_network_of_somebody_else_counts_even_without_a_route(self) -> None:
        other = engine.EngineNetwork("theirs", "br-x", ("10.2.3.0/24",), ours=False)
        (only,) = self.found(engine_networks=[other])
        assert only.severe
        assert "theirs" in only.use.by

    def test_the_labs_networks_overlap_each_other(self) -> None:
        (only,) = subnets.conflicts((("a", "10.1.0.0/16"), ("b", "10.1.2.0/24")), [])
        assert only.severe

    def test_without_the_engine_it_may_be_our_own(self) -> None:
        finding = subnets.describe(self.found([link("br-x", "10.1.0.1", 24)]), LAB, engine_is_away=True)
        assert finding.status is Status.WARN

    def test_an_unknown_inventory_is_for_later(self) -> None:
        finding = subnets.check_subnets(Work(1), Settings(Path("/nowhere"), networks_problem="not there"))
        assert (finding.status, finding.found) == (Status.LATER, "not there")

    def test_networks_of_the_inventory(self) -> None:
        found = inventory.settings_for(Path(__file__).parents[2] / "inventories/local")
        assert [name for name, _ in found.networks] == ["labyard-mgmt", "labyard-segment"]
        assert inventory.settings_for(Path(__file__).parents[2] / "inventories/remote").networks == ()

    def test_an_inventory_that_is_not_there_is_told(self) -> None:
        assert "there is no inventory at" in inventory.settings_for(Path("/nowhere")).networks_problem

    def test_a_network_as_the_engine_describes_it(self) -> None:
        item = {
            "Name": "n", "Id": "0123456789abcdef", "Labels": {"labyard": "1"},
            "Options": None, "IPAM": {"Config": [{"Subnet": "10.1.0.0/24"}]},
        }  # fmt: skip
        parsed = engine.parse_network(item, "labyard")
        assert parsed == engine.EngineNetwork("n", "br-0123456789ab", ("10.1.0.0/24",), ours=True)
        assert not engine.parse_network({**item, "Labels": None}, "labyard").ours


class TestSystem:
    @pytest.mark.parametrize(
        ("release", "machine", "status"),
        [
            ({"ID": "debian", "VERSION_ID": "12"}, "x86_64", Status.OK),
            ({"ID": "debian"}, "x86_64", Status.OK),
            ({"ID": "debian", "VERSION_ID": "11"}, "x86_64", Status.FAIL),
            ({"ID": "debian", "VERSION_ID": "12"}, "aarch64", Status.FAIL),
            ({"ID": "ubuntu", "VERSION_ID": "24.04", "VERSION": "24.04 LTS"}, "x86_64", Status.OK),
            ({"ID": "ubuntu", "VERSION_ID": "25.10", "VERSION": "25.10"}, "x86_64", Status.WARN),
            ({"ID": "ubuntu", "VERSION_ID": "20.04", "VERSION": "20.04 LTS"}, "x86_64", Status.FAIL),
            ({"ID": "mint", "VERSION_ID": "22", "ID_LIKE": "ubuntu debian"}, "x86_64", Status.WARN),
            ({"ID": "fedora", "VERSION_ID": "42"}, "x86_64", Status.FAIL),
        ],
    )
    def test_system(self, release: dict[str, str], machine: str, status: Status) -> None:
        finding = checks.judge_system(release, machine, "6.1")
        assert finding.status is status
        assert status is Status.OK or finding.remedy

    def test_disk(self) -> None:
        free = checks.parse_df(f"   Avail Mounted on\n{7 * GIB} /\n{5 * GIB} /my data\n{7 * GIB} /\n")
        assert free == {"/": 7 * GIB, "/my data": 5 * GIB}
        finding = checks.judge_disk(free, 6 * GIB)
        assert finding.status is Status.FAIL
        assert "/my data" in finding.remedy
        assert checks.judge_disk({"/": 6 * GIB}, 6 * GIB).status is Status.OK

    def test_memory(self) -> None:
        text = "MemTotal:       8388608 kB\nMemFree: 10 kB\nMemAvailable:    4194304 kB\nHugePages_Total: 0\n"
        assert checks.judge_memory(text, 4 * GIB).status is Status.OK
        assert checks.judge_memory(text, 5 * GIB).status is Status.WARN

    def test_host(self) -> None:
        assert checks.judge_host(2, True) == Finding("cgroup v2, IPv4 forwarding on")
        assert checks.judge_host(1, False).status is Status.WARN
        assert checks.judge_host(0, True).status is Status.FAIL

    def test_nearest_parent(self, tmp_path: Path) -> None:
        assert checks.nearest(tmp_path / "not" / "there") == tmp_path

    def test_tiny_package(self) -> None:
        assert checks.tiny_package("W: x\n'http://mirror/h.deb' h.deb 10 SHA256:0\n") == "http://mirror/h.deb"
        assert checks.tiny_package("E: No packages found\n") is None

    def test_what_apt_says(self) -> None:
        errors = "W: odd\nE: Failed to fetch http://m/h.deb  404  Not Found [IP: 1]\nE: Download Failed\n"
        assert checks.download_error(errors) == "404  Not Found [IP: 1]"
        assert checks.download_error("E: Download Failed") == "Download Failed"
        assert checks.download_error("") == "no message"


class TestEngine:
    def test_remedies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        away = "Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?"
        monkeypatch.delenv("DOCKER_HOST", raising=False)
        assert "systemctl start docker" in engine.remedy_for(away)
        monkeypatch.setenv("DOCKER_HOST", "unix:///x")
        assert "unset it" in engine.remedy_for(away)
        for message in ("no space left on device", "permission denied ... docker.sock", "odd", ""):
            assert engine.remedy_for(message)

    def test_the_image_and_the_container(self, tmp_path: Path) -> None:
        (tmp_path / "busybox").write_bytes(b"program")
        with tarfile.open(fileobj=io.BytesIO(probes.image_archive(tmp_path / "busybox"))) as archive:
            assert archive.getmember("bin/busybox").mode == 0o755
            assert archive.getmember("run").isdir()
        arguments = probes.create_arguments("name", "image")
        assert "labyard=doctor" in arguments
        assert {f"--cap-add={name}" for name in probes.CAPABILITIES} < set(arguments)


class TestGuest:
    def test_kvm(self) -> None:
        finding = probes.judge_accel('{"accel": "kvm", "reason": "booted", "seconds": 0.4}', "")
        assert finding.status is Status.OK

    def test_tcg_warns_and_says_why(self) -> None:
        finding = probes.judge_accel('{"accel": "tcg", "reason": "KVM hangs", "seconds": 1.5}', "")
        assert finding.status is Status.WARN
        assert "KVM hangs" in finding.found
        assert finding.remedy

    @pytest.mark.parametrize("output", ['{"failed": true, "msg": "boots neither"}', "", "no json", "{}"])
    def test_anything_else_fails(self, output: str) -> None:
        finding = probes.judge_accel(output, "Traceback\nboom")
        assert finding.status is Status.FAIL
        assert finding.remedy

    def test_without_ansible_later(self) -> None:
        with pytest.raises(Problem) as caught:
            probes.judge_accel("", "ModuleNotFoundError: No module named 'ansible'")
        assert caught.value.finding.status is Status.LATER

    @pytest.mark.parametrize(
        ("lio", "supported", "chosen"),
        [(False, False, "tgt"), (True, False, "tgt"), (False, True, "tgt"), (True, True, "LIO")],
    )
    def test_target_choice(self, lio: bool, supported: bool, chosen: str) -> None:
        assert probes.choose_target(lio, supported) == chosen


class TestAccelModule:
    def test_markers(self, accel_probe: ModuleType) -> None:
        assert accel_probe.reached_root('[ 1.19] VFS: Cannot open root device "(null)" or unknown-block(0,0)')
        assert accel_probe.reached_root("[ 0.9] Run /init as init process")
        assert not accel_probe.reached_root("[ 0.1] Kernel panic - not syncing: Fatal exception in interrupt")
        assert not accel_probe.reached_root("")

    @pytest.mark.parametrize(
        ("stderr", "console", "line"),
        [
            (
                "qemu-system-x86_64: warning: odd\nqemu-system-x86_64: error: failed to set MSR\n",
                "",
                "failed to set MSR",
            ),
            ("Could not access KVM kernel module\n", "", "Could not access KVM kernel module"),
            ("", "booting\n[ 1.0] Oops: 0\n[ 1.1] Kernel panic - x\n", "[ 1.1] Kernel panic - x"),
            ("", "just talk\n", ""),
        ],
    )
    def test_complaint(self, accel_probe: ModuleType, stderr: str, console: str, line: str) -> None:
        assert accel_probe.complaint(stderr, console) == line

    @staticmethod
    def fake_qemu(folder: Path, kvm: str, tcg: str) -> str:
        program = folder / "qemu"
        program.write_text(f'#!/bin/sh\ncase "$*" in *"-accel kvm"*) {kvm} ;; *) {tcg} ;; esac\n')
        program.chmod(0o755)
        return str(program)

    def test_a_silent_guest_under_kvm_is_given_up_early(self, accel_probe: ModuleType, tmp_path: Path) -> None:
        qemu = self.fake_qemu(tmp_path, "exec sleep 30", "exec sleep 30")
        booted, why, seconds, _console = accel_probe.attempt(qemu, "kernel", "kvm", 256, 2)
        assert (booted, why) == (False, "no output within 0.5 s")
        assert seconds < 30  # which it sleeps

    def test_a_guest_that_stops_half_way(self, accel_probe: ModuleType, tmp_path: Path) -> None:
        qemu = self.fake_qemu(tmp_path, "exit 1", "echo booting; exec sleep 30")
        booted, why, _seconds, _console = accel_probe.attempt(qemu, "kernel", "tcg", 256, 4)
        assert not booted
        assert why == "the kernel did not look for its root file system within 4 s"

    def test_success_ends_qemu_at_once(self, accel_probe: ModuleType, tmp_path: Path) -> None:
        qemu = self.fake_qemu(tmp_path, "exit 1", "echo 'VFS: Cannot open root device'; exec sleep 30")
        booted, _why, seconds, _console = accel_probe.attempt(qemu, "kernel", "tcg", 256, PATIENCE)
        assert booted
        assert seconds < 30  # which it sleeps

    def test_qemu_says_nothing(self, accel_probe: ModuleType, tmp_path: Path) -> None:
        qemu = self.fake_qemu(tmp_path, "exit 3", "exit 3")
        booted, why, _seconds, _console = accel_probe.attempt(qemu, "kernel", "kvm", 256, 4 * PATIENCE)
        assert not booted
        assert "said nothing" in why


class TestFunctions:
    def test_containers_run_with_all_limits(self) -> None:
        found = functions.judge_containers(
            '{"works": true, "installed": true, "cgroup": 2, "limits": ["memory", "cpu", "pids"], "missing": []}', ""
        )
        assert found == Finding("runc ran a container, cgroup v2, with limits of memory, cpu, pids")

    def test_a_limit_that_is_missing_is_a_warning(self) -> None:
        found = functions.judge_containers('{"works": true, "cgroup": 1, "limits": ["memory"], "missing": []}', "")
        assert found.status is Status.WARN
        assert found.found.endswith("no limits of cpu, pids")
        assert "cpu, pids" in found.remedy

    @pytest.mark.parametrize(
        ("output", "errors", "said", "remedy"),
        [
            (
                '{"works": false, "reason": "unshare: EPERM", "missing": ["give it CAP_SYS_ADMIN"]}',
                "",
                "EPERM",
                "CAP_SYS",
            ),
            ('{"works": false, "reason": "no", "missing": []}', "", "no", "reinstall runc"),
            ('{"failed": true, "msg": "bad option"}', "", "bad option", "reinstall runc"),
            ("", "Traceback\nOSError: x", "OSError: x", "reinstall runc"),
        ],
    )
    def test_containers_that_do_not_run(self, output: str, errors: str, said: str, remedy: str) -> None:
        found = functions.judge_containers(output, errors)
        assert found.status is Status.FAIL
        assert said in found.found
        assert remedy in found.remedy

    def test_without_ansible_it_is_for_later(self) -> None:
        with pytest.raises(Problem) as raised:
            functions.judge_containers("", "ModuleNotFoundError: No module named 'ansible'")
        assert raised.value.finding.status is Status.LATER

    def test_the_image_of_test_vms_is_for_later(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Work, "need", lambda self, tool, package: tool)
        with pytest.raises(Problem) as raised:
            functions.check_test_vms(Work(5), Settings(checkout=tmp_path))
        assert raised.value.finding.status is Status.LATER
        assert "make vm-image" in raised.value.finding.remedy

    @pytest.mark.parametrize(
        ("values", "files", "status", "word"),
        [
            ((15000, 1, None), 1 << 20, Status.OK, "users may make namespaces"),
            ((15000, None, 0), -1, Status.OK, "no limit"),
            ((15000, None, None), 1024, Status.WARN, "1024"),
            ((0, None, None), 1 << 20, Status.WARN, "user.max_user_namespaces"),
            ((15000, 0, None), 1 << 20, Status.WARN, "kernel.unprivileged_userns_clone"),
            ((15000, None, 1), 1 << 20, Status.WARN, "kernel.apparmor_restrict_unprivileged_userns"),
        ],
    )
    def test_rights(self, values: tuple[int | None, ...], files: int, status: Status, word: str) -> None:
        names = (
            "user/max_user_namespaces",
            "kernel/unprivileged_userns_clone",
            "kernel/apparmor_restrict_unprivileged_userns",
        )
        found = functions.judge_rights(dict(zip(names, values, strict=True)), files)
        assert found.status is status
        assert word in found.found
