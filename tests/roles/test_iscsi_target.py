"""What the role iscsi_target promises."""

from __future__ import annotations

from typing import Any

import daemons
import pytest
from conftest import assert_gone, assert_runs

from labyard.lab import LabHost
from labyard.testing import IscsiProbe, ProbeError
from labyard.testing.waiting import wait_until

BLOCK = 4096


@pytest.fixture
def target(host: LabHost) -> dict[str, Any]:
    """The last target with an overlay; the last, since the first machines are those that flows boot."""
    wanted = [t for t in host.value("iscsi_target_targets") if t.get("overlay", host.value("iscsi_target_overlay"))]
    return dict(wanted[-1])


@pytest.fixture
def make_probe(host: LabHost, probe_host: LabHost, target: dict[str, Any]) -> Any:
    def make(**changes: Any) -> IscsiProbe:
        options = {
            "initiator": target["initiator"],
            "user": host.value("iscsi_target_chap_user"),
            "secret": host.value("iscsi_target_chap_secret"),
        } | changes
        return IscsiProbe(
            probe_host, host.value("iscsi_target_portal"), host.value("iscsi_target_portal_port"), **options
        )

    return make


def checksum(host: LabHost) -> str:
    return host.check(f"sha256sum {host.value('iscsi_target_image')}")


class TestApplied:
    def test_runs(self, host: LabHost) -> None:
        assert_runs(host, "tgt.service")

    def test_answers_an_inquiry(self, make_probe: Any, target: dict[str, Any]) -> None:
        assert make_probe().inquiry(target["iqn"])["Vendor"] == "IET"

    def test_reads_the_image_and_writes_only_the_overlay(
        self, host: LabHost, make_probe: Any, target: dict[str, Any]
    ) -> None:
        probe, before = make_probe(), checksum(host)
        end = int(host.check(f"stat --format %s {host.value('iscsi_target_image')}")) - BLOCK
        image = bytes.fromhex(
            host.check(f"head -c 512 {host.value('iscsi_target_image')} | od -An -v -tx1").replace("\n", "")
        )
        assert probe.read(target["iqn"], 0, 512) == image
        probe.write(target["iqn"], end, 0xA5, BLOCK)
        assert probe.read(target["iqn"], end, BLOCK) == b"\xa5" * BLOCK
        probe.write(target["iqn"], end, 0, BLOCK)
        assert checksum(host) == before

    def test_refuses_a_wrong_secret(self, host: LabHost, make_probe: Any, target: dict[str, Any]) -> None:
        with pytest.raises(ProbeError):
            make_probe(secret="x" * 14).inquiry(target["iqn"])

    def test_refuses_an_unknown_initiator(self, make_probe: Any, target: dict[str, Any]) -> None:
        with pytest.raises(ProbeError):
            make_probe(initiator="iqn.2025-01.lab.labyard:stranger").inquiry(target["iqn"])

    def test_refuses_without_chap(self, make_probe: Any, target: dict[str, Any]) -> None:
        with pytest.raises(ProbeError):
            make_probe(user="", secret="").inquiry(target["iqn"])

    def test_listens_on_its_portal_only(self, host: LabHost) -> None:
        listening = [line.split()[3] for line in host.check("ss -H -lnt sport = :3260").splitlines()]
        assert listening == [f"{host.value('iscsi_target_portal')}:{host.value('iscsi_target_portal_port')}"]

    def test_secret_is_readable_by_root_only(self, host: LabHost) -> None:
        assert host.shell.file("/etc/tgt/conf.d/labyard.conf").mode == 0o600

    def test_targets_and_data_survive_a_restart(self, host: LabHost, make_probe: Any, target: dict[str, Any]) -> None:
        end = int(host.check(f"stat --format %s {host.value('iscsi_target_image')}")) - BLOCK
        make_probe().write(target["iqn"], end, 0x5A, BLOCK)
        host.check(f"systemctl restart 'labyard-overlay@{target['iqn']}.service' tgt.service")
        assert make_probe().read(target["iqn"], end, BLOCK) == b"\x5a" * BLOCK
        make_probe().write(target["iqn"], end, 0, BLOCK)
        with pytest.raises(ProbeError):  # tgt-admin, which restores the targets, must not let everybody in
            make_probe(initiator="iqn.2025-01.lab.labyard:stranger").inquiry(target["iqn"])

    def test_an_export_that_is_killed_comes_back(self, host: LabHost, make_probe: Any, target: dict[str, Any]) -> None:
        unit = f"labyard-overlay@{target['iqn']}.service"
        daemons.kill(host, unit)
        export = f"{host.value('iscsi_target_overlay_folder')}/{target['iqn']}.raw"
        wait_until(lambda: host.run("mountpoint -q %s", export).rc == 0, f"{export} is mounted")
        assert len(make_probe().read(target["iqn"], 0, 512)) == 512


class TestRemoved:
    def test_nothing_is_left(self, host: LabHost) -> None:
        assert_gone(host, "iscsi_target", "/etc/tgt/conf.d/labyard.conf", host.value("iscsi_target_overlay_folder"))
        assert not host.check("ss -H -lnt sport = :3260")
        assert host.run("mount | grep overlays").stdout == ""
        assert host.run("systemctl list-units --no-legend 'labyard-overlay@*'").stdout == ""
