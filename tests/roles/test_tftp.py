"""What the role tftp promises."""

from __future__ import annotations

import pytest
from conftest import assert_gone, assert_runs

from labyard.lab import LabHost
from labyard.testing import ProbeError, TftpProbe
from labyard.testing.waiting import wait_until


@pytest.fixture
def client(host: LabHost, probe_host: LabHost) -> TftpProbe:
    return TftpProbe(probe_host, host.value("tftp_address"), host.value("tftp_port"))


class TestApplied:
    def test_runs(self, host: LabHost) -> None:
        assert_runs(host, "tftpd-hpa.service")

    def test_serves_a_file_and_says_so_in_the_journal(self, host: LabHost, client: TftpProbe) -> None:
        path = f"{host.value('tftp_root')}/boot/check.bin"
        host.check(f"head -c 100000 /dev/urandom > {path}")
        try:
            assert len(client.get("boot/check.bin")) == 100000
        finally:
            host.check(f"rm {path}")
        # The journal comes a moment after what it tells.
        journal = "journalctl --no-pager --unit tftpd-hpa --lines 50"
        wait_until(lambda: "filename boot/check.bin" in host.check(journal), "the journal has it")

    def test_refuses_what_is_not_there(self, host: LabHost, client: TftpProbe) -> None:
        with pytest.raises(ProbeError, match="File not found"):
            client.get("boot/no-such-file")

    def test_refuses_to_leave_its_folder(self, host: LabHost, client: TftpProbe) -> None:
        with pytest.raises(ProbeError):
            client.get("../../../etc/hostname")

    def test_takes_no_uploads(self, host: LabHost, client: TftpProbe) -> None:
        with pytest.raises(ProbeError):
            client.put("machines/upload.ipxe", "#!ipxe")
        assert not host.shell.file(f"{host.value('tftp_root')}/machines/upload.ipxe").exists

    def test_listens_on_its_address_only(self, host: LabHost) -> None:
        listening = [line.split()[3] for line in host.check("ss -H -lnu sport = :69").splitlines()]
        assert listening == [f"{host.value('tftp_address')}:69"]


class TestRemoved:
    def test_nothing_is_left(self, host: LabHost) -> None:
        assert_gone(host, "tftp", "/etc/default/tftpd-hpa", "/etc/systemd/system/tftpd-hpa.service")
        assert not host.check("ss -H -lnu sport = :69")
