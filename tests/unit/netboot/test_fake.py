"""The fakes do what the protocols say, survive a restart, and fail when told to. The factory picks what is asked."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from labyard.core.adapter import AdapterError
from labyard.netboot.adapters import lio
from labyard.netboot.adapters.dhcp import Reservation
from labyard.netboot.adapters.disks import OverlaySeen, OverlaySpec
from labyard.netboot.adapters.factory import make_adapters
from labyard.netboot.adapters.fake import FakeDhcp, FakeDisks, FakeIscsi, Fault, parse_faults
from labyard.netboot.adapters.iscsi import Connection, Lun, TargetSpec
from labyard.netboot.settings import Settings
from labyard.testing.waiting import PATIENCE

TARGET = "machine-1-0a1b2c3d"
FAKES = {"iscsi_backend": "fake", "dhcp_backend": "fake", "export_backend": "fake"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    folders = {"state_dir": tmp_path / "state", "overlay_dir": tmp_path / "overlays", "tftp_root": tmp_path / "tftp"}
    return Settings(**folders, **FAKES)


@pytest.fixture
def spec(settings: Settings, tmp_path: Path) -> TargetSpec:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(512))
    prefix = settings.iqn_prefix
    return TargetSpec(
        f"{prefix}:target-{TARGET}", f"{prefix}:initiator-001122334455", "s-0a1b2c3d", "S" * 16, (Lun(1, disk),)
    )


def reservation(machine: int) -> Reservation:
    return Reservation(
        machine, f"ws-{machine}", f"00:11:22:33:44:{machine:02X}", f"192.168.1.{machine}", "192.168.1.10", "a.ipxe"
    )


class TestDisks:
    def test_overlay_comes_and_goes(self, settings: Settings, tmp_path: Path) -> None:
        disks = FakeDisks(settings)
        base = tmp_path / "base.raw"
        base.write_bytes(bytes(4096))
        disks.apply(OverlaySpec(TARGET, base, "raw"))
        assert disks.observed() == {TARGET: OverlaySeen(True, True, base)}
        assert disks.size(TARGET) == disks.export_path(TARGET).stat().st_size == 4096
        for _ in range(2):
            disks.remove(TARGET)
            assert disks.observed() == {}
        with pytest.raises(AdapterError, match="not exported"):
            disks.size(TARGET)

    def test_an_overlay_keeps_its_data(self, settings: Settings) -> None:
        disks = FakeDisks(settings)
        spec = OverlaySpec(TARGET, Path("/storage/images/test.vhdx"), "vhdx")
        disks.apply(spec)
        disks.overlay_path(TARGET).write_text("data")
        disks.export_path(TARGET).unlink()
        assert not disks.observed()[TARGET].exported
        disks.apply(spec)
        assert disks.observed()[TARGET].exported
        disks.remove(TARGET, keep=True)
        assert (settings.overlay_dir / "kept" / f"{TARGET}.qcow2").read_text() == "data"
        assert disks.observed() == {}

    def test_only_names_of_our_form(self, settings: Settings) -> None:
        disks = FakeDisks(settings)
        settings.overlay_dir.mkdir()
        (settings.overlay_dir / "holiday.qcow2").touch()
        assert disks.observed() == {}
        with pytest.raises(AdapterError, match="no target id"):
            disks.apply(OverlaySpec("../x", Path("/a"), "raw"))


class TestIscsi:
    def test_target_comes_and_goes(self, settings: Settings, spec: TargetSpec) -> None:
        iscsi = FakeIscsi(settings)
        for _ in range(2):
            iscsi.apply(spec)
        seen = iscsi.observed()[spec.iqn]
        assert (seen.luns, seen.initiators, seen.chap_users) == (spec.luns, (spec.initiator,), (spec.chap_user,))
        assert seen.backing_ok and iscsi.accounts() == {spec.chap_user}
        for _ in range(2):
            iscsi.remove(spec.iqn, spec.chap_user)
            assert not iscsi.observed() and not iscsi.accounts()

    def test_only_the_right_client_gets_in(self, settings: Settings, spec: TargetSpec) -> None:
        iscsi = FakeIscsi(settings)
        iscsi.apply(spec)
        assert not iscsi.log_in(spec.iqn, spec.initiator, spec.chap_user, "wrong")
        assert not iscsi.log_in(spec.iqn, f"{spec.initiator}0", spec.chap_user, spec.chap_secret)
        assert iscsi.log_in(spec.iqn, spec.initiator, spec.chap_user, spec.chap_secret)
        assert iscsi.observed()[spec.iqn].connections == (Connection(spec.initiator, "192.168.1.101"),)
        iscsi.apply(replace(spec, chap_secret="T" * 16))
        assert len(iscsi.observed()[spec.iqn].connections) == 1
        assert not iscsi.log_in(spec.iqn, spec.initiator, spec.chap_user, spec.chap_secret)
        iscsi.log_out(spec.iqn)
        assert not iscsi.observed()[spec.iqn].connections
        iscsi.remove(spec.iqn, spec.chap_user)
        assert not iscsi.log_in(spec.iqn, spec.initiator, spec.chap_user, "T" * 16)

    def test_file_must_be_there_and_stay(self, settings: Settings, spec: TargetSpec) -> None:
        iscsi = FakeIscsi(settings)
        with pytest.raises(AdapterError, match="no such file"):
            iscsi.apply(replace(spec, luns=(Lun(1, Path("/none")),)))
        iscsi.apply(spec)
        spec.luns[0].path.unlink()
        assert not iscsi.observed()[spec.iqn].backing_ok

    def test_account_without_target(self, settings: Settings, spec: TargetSpec) -> None:
        iscsi = FakeIscsi(settings)
        iscsi.apply(spec)
        for _ in range(2):
            iscsi.remove_account(spec.chap_user)
        assert iscsi.accounts() == set()
        assert iscsi.observed()[spec.iqn].chap_users == ()

    def test_refuses_a_bad_name(self, settings: Settings, spec: TargetSpec) -> None:
        with pytest.raises(AdapterError, match="no name"):
            FakeIscsi(settings).apply(replace(spec, initiator="iqn.2025-01.lab.labyard:Upper"))


class TestDhcp:
    def test_the_whole_set_at_once(self, settings: Settings) -> None:
        dhcp = FakeDhcp(settings)
        assert list(dhcp.observed()) == []
        dhcp.apply([reservation(11), reservation(2)])
        assert list(dhcp.observed()) == [reservation(2), reservation(11)]
        assert dhcp.status().machines_configured == 2
        dhcp.apply([])
        assert list(dhcp.observed()) == []

    def test_a_bad_set_changes_nothing(self, settings: Settings) -> None:
        dhcp = FakeDhcp(settings)
        dhcp.apply([reservation(1)])
        with pytest.raises(AdapterError, match="ws-1 is there twice"):
            dhcp.apply([reservation(1), replace(reservation(2), label="ws-1")])
        assert list(dhcp.observed()) == [reservation(1)]

    @pytest.mark.parametrize("fault", [Fault.RAISE, Fault.HANG])
    def test_status_never_raises_and_never_hangs(self, settings: Settings, fault: Fault) -> None:
        dhcp = FakeDhcp(settings)
        dhcp.faults["status"] = fault
        assert "told to" in str(dhcp.status().error)


class TestWorld:
    def test_a_restarted_service_finds_what_was_made(self, settings: Settings, spec: TargetSpec) -> None:
        first, second = make_adapters(settings), make_adapters(settings)
        first.disks.apply(OverlaySpec(TARGET, Path("/a"), "raw"))
        first.iscsi.apply(spec)
        first.dhcp.apply([reservation(1)])
        assert second.disks.observed() == first.disks.observed() != {}
        assert second.iscsi.observed() == first.iscsi.observed() != {}
        assert second.dhcp.observed() == first.dhcp.observed() != []

    def test_many_at_once_lose_nothing(self, settings: Settings, spec: TargetSpec) -> None:
        workers = [FakeIscsi(settings) for _ in range(4)]
        specs = [replace(spec, iqn=f"{settings.iqn_prefix}:target-machine-{i + 1}-0a1b2c3d") for i in range(40)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda job: workers[job[0] % 4].apply(job[1]), enumerate(specs)))
        assert set(workers[0].observed()) == {each.iqn for each in specs}

    def test_the_secret_is_for_the_owner_only(self, settings: Settings, spec: TargetSpec) -> None:
        FakeIscsi(settings).apply(spec)
        assert (settings.state_dir / "fake/iscsi.json").stat().st_mode & 0o077 == 0


class TestFaults:
    def test_raise_does_nothing(self, settings: Settings, spec: TargetSpec) -> None:
        iscsi = FakeIscsi(settings)
        iscsi.faults["apply"] = Fault.RAISE
        with pytest.raises(AdapterError, match="fake iscsi: apply was told to fail"):
            iscsi.apply(spec)
        iscsi.faults["apply"] = Fault.OK
        assert iscsi.observed() == {}
        assert iscsi.calls == [("apply", spec.iqn), ("observed", "")]

    def test_hang_lasts_until_released(self, settings: Settings) -> None:
        dhcp = FakeDhcp(settings)
        dhcp.faults["apply"] = Fault.HANG
        thread = threading.Thread(target=dhcp.apply, args=([reservation(1)],))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive() and list(dhcp.observed()) == []
        dhcp.released.set()
        thread.join(PATIENCE)
        assert list(dhcp.observed()) == [reservation(1)]

    def test_a_hanging_verb_lets_the_process_end(self, settings: Settings) -> None:
        program = (
            "import sys\nfrom pathlib import Path\nfrom labyard.core.steps import call\n"
            "from labyard.netboot.adapters.fake import *\n"
            f"fake = FakeDhcp(Settings(state_dir=Path({str(settings.state_dir)!r}), dhcp_backend='fake',"
            " faults='dhcp.ping=hang'))\n"
            "try:\n    call(fake.ping, 0.2)\nexcept TimeoutError:\n    print('timed out')\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE)
        assert (done.returncode, done.stdout) == (0, "timed out\n"), done.stderr

    def test_from_settings(self, settings: Settings) -> None:
        adapters = make_adapters(settings.model_copy(update={"faults": "disks.apply=raise, dhcp.apply=hang"}))
        assert isinstance(adapters.disks, FakeDisks) and adapters.disks.faults == {"apply": Fault.RAISE}
        assert isinstance(adapters.dhcp, FakeDhcp) and adapters.dhcp.faults == {"apply": Fault.HANG}
        assert isinstance(adapters.iscsi, FakeIscsi) and adapters.iscsi.faults == {}

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("target.apply=raise", "names no verb"),
            ("dhcp.remove=raise", "names no verb"),
            ("dhcp.apply=no", "ok, raise"),
        ],
    )
    def test_unknown_ones_are_refused(self, text: str, says: str) -> None:
        with pytest.raises(ValueError, match=says):
            parse_faults(text)


class TestFactory:
    def test_real_ones(self, tmp_path: Path) -> None:
        settings = Settings(state_dir=tmp_path, dhcp_backend="isc")
        adapters = make_adapters(settings)
        assert (adapters.iscsi.name, adapters.iscsi.first_lun, adapters.dhcp.name) == ("tgt", 1, "isc")
        assert adapters.disks.export_path(TARGET) == Path(f"/storage/overlays/{TARGET}.raw")
        adapters = make_adapters(Settings(state_dir=tmp_path, iscsi_backend="lio"))
        assert (adapters.iscsi.name, adapters.iscsi.first_lun, adapters.dhcp.name) == ("lio", 0, "kea")

    def test_lio_without_configfs_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lio, "CONFIGFS", tmp_path / "none")
        backend = lio.Lio(Settings(state_dir=tmp_path, iscsi_backend="lio"))
        with pytest.raises(AdapterError, match=r"lio: this kernel has no configfs .* use the iSCSI backend tgt"):
            backend.ping()
