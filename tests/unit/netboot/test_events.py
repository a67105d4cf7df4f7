"""Boot events out of the daemons' own lines. The lines are from the lab's Kea 2.2, tftpd-hpa 5.2 and ISC dhcpd 4.4."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from labyard.core.clock import now
from labyard.netboot.adapters import events
from labyard.netboot.adapters.events import BootEventSources, Observation, read_journal, read_kea
from labyard.netboot.settings import Settings
from labyard.testing.waiting import wait_until

KEA = "[hwtype=1 52:54:00:77:00:01], cid=[01:52:54:00:77:00:01], tid=0x796b392d: lease 10.77.1.1"
ALLOC = f"2026-11-21T10:13:20.289 DHCP4_LEASE_ALLOC {KEA} has been allocated for 7200 seconds"
TFTP = {
    "MESSAGE": "RRQ from 10.77.1.1 filename machines/52-54-00-77-00-01.ipxe",
    "SYSLOG_IDENTIFIER": "in.tftpd",
    "__REALTIME_TIMESTAMP": "1795256157361749",
    "__CURSOR": "s=6f8ed9d081a848c0845ec0c9127a63be;i=185;b=0faf4adc45134be6b9cb1bf7c805c952",
}
DHCPD = {
    "MESSAGE": "DHCPACK on 10.77.1.1 to 52:54:00:77:00:01 (ws-1) via eth1",
    "SYSLOG_IDENTIFIER": "dhcpd",
    "__REALTIME_TIMESTAMP": "1795256157361749",
}


class TestKea:
    def test_lease(self) -> None:
        seen = read_kea(ALLOC)
        local = datetime(2026, 11, 21, 10, 13, 20, 289000).astimezone()
        assert seen == Observation("dhcp_request", "52:54:00:77:00:01", "10.77.1.1", "lease allocated", local)
        assert seen.at.tzinfo is UTC

    def test_lease_without_client_id_in_upper_case(self) -> None:
        seen = read_kea(ALLOC.replace("cid=[01:52:54:00:77:00:01]", "cid=[no info]").replace("77:00:01]", "77:00:af]"))
        assert seen is not None and seen.mac == "52:54:00:77:00:AF"

    def test_reused_lease_and_microseconds(self) -> None:
        line = f"2026-11-21T10:13:20.289123 DHCP4_LEASE_REUSE {KEA} has been reused for 7000 seconds"
        seen = read_kea(line)
        assert seen is not None and seen.detail == "lease reused" and seen.at.microsecond == 289123

    @pytest.mark.parametrize(
        "line",
        [
            f"2026-11-21T10:13:20.261 DHCP4_LEASE_ADVERT {KEA} will be advertised",
            ALLOC.replace("hwtype=1 ", "hwtype=32 "),
            ALLOC.replace("52:54:00:77:00:01]", "52:54:00:77:00:01:02:03]", 1),
            ALLOC[:100],
            "",
            "\0" * 100,
        ],
    )
    def test_nothing_else(self, line: str) -> None:
        assert read_kea(line) is None

    def test_unreadable_time_is_now(self) -> None:
        before = now()
        seen = read_kea(ALLOC.replace("2026-11-21T10:13:20.289", "today"))
        assert seen is not None and before <= seen.at <= now()


class TestJournal:
    def test_own_script(self) -> None:
        at = datetime(2026, 11, 21, 10, 15, 57, 361749, UTC)
        name = "machines/52-54-00-77-00-01.ipxe"
        assert read_journal(TFTP) == Observation("tftp_request", "52:54:00:77:00:01", "10.77.1.1", name, at)

    @pytest.mark.parametrize("name", ["boot.ipxe", "boot/snponly.efi", "a b", "../etc/passwd", "machines/x.ipxe"])
    def test_other_files(self, name: str) -> None:
        seen = read_journal({**TFTP, "MESSAGE": f"RRQ from ::ffff:10.77.1.1 filename {name}"})
        assert seen is not None and (seen.mac, seen.address, seen.detail) == (None, "10.77.1.1", name)

    def test_dhcpd(self) -> None:
        seen = read_journal(DHCPD)
        assert seen is not None
        assert (seen.kind, seen.mac, seen.address) == ("dhcp_request", "52:54:00:77:00:01", "10.77.1.1")

    def test_file_name_that_is_not_utf8(self) -> None:
        message = list(b"RRQ from 10.77.1.1 filename \xff\xfe")
        seen = read_journal({**TFTP, "MESSAGE": message})
        assert seen is not None and seen.address == "10.77.1.1"

    @pytest.mark.parametrize(
        "entry",
        [
            {**TFTP, "SYSLOG_IDENTIFIER": "systemd"},
            {**DHCPD, "SYSLOG_IDENTIFIER": "in.tftpd"},
            {**TFTP, "MESSAGE": "Client 10.77.1.1 finished"},
            {**TFTP, "MESSAGE": f"WRQ from 10.77.1.1 filename x RRQ {DHCPD['MESSAGE']}"},
            {**DHCPD, "MESSAGE": "DHCPDISCOVER from 52:54:00:77:00:01 via eth1"},
            {**DHCPD, "MESSAGE": "DHCPNAK on 10.77.1.1 to 52:54:00:77:00:01 via eth1"},
            {**TFTP, "MESSAGE": None},
            {},
        ],
    )
    def test_nothing_else(self, entry: dict[str, Any]) -> None:
        assert read_journal(entry) is None


class TestLeaseFile:
    """A real file that grows, is rotated as Kea rotates it, is cut, is not there yet."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "leases.log"

    @pytest.fixture
    def follow(self, path: Path) -> Iterator[Callable[[], list[str | None]]]:
        started: list[BootEventSources] = []

        def begin() -> list[str | None]:
            seen: list[str | None] = []
            settings = Settings(kea_lease_log=path, service_manager="none")
            sources = BootEventSources(settings, lambda what: seen.append(what.address))
            sources.start()
            started.append(sources)
            return seen

        yield begin
        for sources in started:
            sources.stop()

    @staticmethod
    def line(number: int) -> str:
        return ALLOC.replace("10.77.1.1", f"10.77.1.{number}") + "\n"

    def test_only_what_is_new(self, path: Path, follow: Callable[[], list[str | None]]) -> None:
        path.write_text(self.line(1))
        seen = follow()
        with path.open("a") as file:
            half = self.line(2)
            file.write(half[:50])
            file.flush()
            time.sleep(0.3)
            assert seen == []
            file.write(half[50:] + self.line(3))
        wait_until(lambda: seen == ["10.77.1.2", "10.77.1.3"], lambda: f"the new lines are told, not {seen}")

    def test_rotation_loses_nothing(self, path: Path, follow: Callable[[], list[str | None]]) -> None:
        path.touch()
        seen = follow()
        with path.open("a") as file:
            file.write(self.line(1))
            file.flush()
            path.rename(path.with_suffix(".log.1"))
            file.write(self.line(2))
        time.sleep(0.3)
        path.write_text(self.line(3))
        wait_until(lambda: len(seen) == 3, lambda: f"3 lines are told: {seen}")
        path.rename(path.with_suffix(".log.2"))
        path.write_text(self.line(4))
        wait_until(lambda: len(seen) == 4, lambda: f"4 lines are told: {seen}")
        assert seen == [f"10.77.1.{number}" for number in (1, 2, 3, 4)]

    def test_truncation(self, path: Path, follow: Callable[[], list[str | None]]) -> None:
        path.write_text(self.line(1) * 10)
        seen = follow()
        path.write_text(self.line(2))
        wait_until(lambda: seen == ["10.77.1.2"], lambda: f"the new lines are told, not {seen}")

    def test_file_that_comes_later(self, path: Path, follow: Callable[[], list[str | None]]) -> None:
        seen = follow()
        time.sleep(0.2)
        path.write_text(self.line(1))
        wait_until(lambda: seen == ["10.77.1.1"], lambda: f"the new lines are told, not {seen}")

    def test_long_garbage(self, path: Path, follow: Callable[[], list[str | None]]) -> None:
        path.touch()
        seen = follow()
        with path.open("ab") as file:
            file.write(os.urandom(3 * events.MAX_LINE) + b"\n" + self.line(1).encode())
        wait_until(lambda: seen == ["10.77.1.1"], lambda: f"the new lines are told, not {seen}")

    def test_an_event_that_fails_does_not_end_it(self, path: Path) -> None:
        path.touch()
        seen: list[Observation] = []

        def emit(what: Observation) -> None:
            seen.append(what)
            raise RuntimeError("database is away")

        sources = BootEventSources(Settings(kea_lease_log=path, service_manager="none"), emit)
        sources.start()
        for number in (1, 2):
            with path.open("a") as file:
                file.write(self.line(number))
            wait_until(lambda number=number: len(seen) == number, f"event {number}")  # type: ignore[misc]
        sources.stop()


JOURNALCTL = """#!/bin/sh
echo "$$ $@" >> "$CALLS"
exec tail --follow --sleep-interval=0.1 --lines=+1 "$JOURNAL"
"""


class TestJournalChild:
    """`journalctl` is a program that prints what a file gets; the real one runs in the lab."""

    @pytest.fixture
    def journal(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        program = tmp_path / "bin" / "journalctl"
        program.parent.mkdir()
        program.write_text(JOURNALCTL)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
        monkeypatch.setenv("JOURNAL", str(tmp_path / "journal"))
        monkeypatch.setattr(events, "RETRY_SECONDS", 0.1)
        (tmp_path / "journal").touch()
        return tmp_path / "journal"

    @staticmethod
    def calls(journal: Path) -> list[str]:
        file = journal.with_name("calls")
        return file.read_text().splitlines() if file.exists() else []

    @staticmethod
    def write(journal: Path, entry: dict[str, Any], cursor: str) -> None:
        with journal.open("a") as file:
            file.write("not json\n" + json.dumps({**entry, "__CURSOR": cursor}) + "\n")

    def test_follows_and_goes_on_after_a_crash(self, journal: Path, tmp_path: Path) -> None:
        seen: list[str | None] = []
        settings = Settings(dhcp_backend="isc", kea_lease_log=tmp_path / "none")
        sources = BootEventSources(settings, lambda what: seen.append(what.kind))
        sources.start()
        first = wait_until(lambda: self.calls(journal), "journalctl is started")[0].split()
        assert "--lines=0" in first and first[-2:] == ["--unit=tftpd-hpa", "--unit=isc-dhcp-server"]
        self.write(journal, TFTP, "c1")
        wait_until(lambda: seen == ["tftp_request"], lambda: f"the transfer is told: {seen}")
        os.kill(int(first[0]), signal.SIGTERM)
        second = wait_until(lambda: self.calls(journal)[1:], "journalctl is started again")[0].split()
        assert "--after-cursor=c1" in second and "--lines=0" not in second
        self.write(journal, DHCPD, "c2")
        wait_until(lambda: seen[-1] == "dhcp_request", lambda: f"the lease is told: {seen}")
        sources.stop()
        wait_until(lambda: not Path(f"/proc/{second[0]}").exists(), "its child is gone")

    def test_stop_is_final(self, journal: Path) -> None:
        sources = BootEventSources(Settings(dhcp_backend="isc"), lambda what: None)
        sources.start()
        child = int(wait_until(lambda: self.calls(journal), "journalctl is started")[0].split()[0])
        sources.stop()
        assert not [follower for follower in sources._followers if follower._thread.is_alive()]
        wait_until(lambda: not Path(f"/proc/{child}").exists(), "its child is gone")
        time.sleep(0.3)
        assert len(self.calls(journal)) == 1

    def test_dies_with_the_service(self, journal: Path) -> None:
        code = (
            "import time\n"
            "from labyard.netboot.adapters.events import BootEventSources\n"
            "from labyard.netboot.settings import Settings\n"
            "BootEventSources(Settings(dhcp_backend='isc'), print).start()\n"
            "time.sleep(600)\n"
        )
        service = subprocess.Popen([sys.executable, "-c", code])
        child = int(wait_until(lambda: self.calls(journal), "journalctl is started")[0].split()[0])
        service.kill()
        service.wait()
        wait_until(lambda: not Path(f"/proc/{child}").exists(), "its child is gone")

    def test_no_journal_on_this_machine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        sources = BootEventSources(Settings(dhcp_backend="isc"), lambda what: None)
        sources.start()
        time.sleep(0.2)
        sources.stop()

    def test_without_systemd_nothing_is_started(self, journal: Path, tmp_path: Path) -> None:
        settings = Settings(service_manager="process", kea_lease_log=tmp_path / "leases.log")
        sources = BootEventSources(settings, lambda what: None)
        sources.start()
        time.sleep(0.3)
        sources.stop()
        assert self.calls(journal) == []
