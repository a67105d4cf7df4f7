"""The ISC dhcpd backend: its text, and its way of swapping the file, with a mocked dhcpd and service manager.

What dhcpd makes of the text is proved by molecule/dhcp_isc, with real exchanges.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labyard.core.adapter import AdapterError
from labyard.netboot.adapters import isc as isc_module
from labyard.netboot.adapters import services
from labyard.netboot.adapters.dhcp import Reservation
from labyard.netboot.adapters.isc import Isc
from labyard.netboot.adapters.isc_text import (
    BEGIN,
    END,
    conflicts,
    cut,
    read_section,
    render_base,
    render_entry,
    render_section,
)
from labyard.netboot.adapters.reservations import BadReservations
from labyard.netboot.settings import Settings

# Contract section 8, to the letter.
CONTRACT = """\
host test-workstation {
  hardware ethernet 00:11:22:33:44:55;
  fixed-address 192.168.1.101;
  option host-name "test-workstation";
  next-server 192.168.1.10;
  if exists user-class and option user-class = "iPXE" { filename "machines/00-11-22-33-44-55.ipxe"; }
}
"""
ENTRY = Reservation(
    1, "test-workstation", "00:11:22:33:44:55", "192.168.1.101", "192.168.1.10", "machines/00-11-22-33-44-55.ipxe"
)


def entry(number: int, address: str | None = None, **change: Any) -> Reservation:
    made = Reservation(
        number, f"ws-{number}", f"00:11:22:33:44:{number:02X}", address, "192.168.1.10", f"machines/{number}.ipxe"
    )
    return replace(made, **change)


def test_an_entry_is_the_contract_s() -> None:
    assert render_entry(ENTRY) == CONTRACT


def test_an_entry_without_address_lacks_that_line_only() -> None:
    assert render_entry(replace(ENTRY, address=None)) == CONTRACT.replace("  fixed-address 192.168.1.101;\n", "")


def test_a_secure_machine_s_firmware_gets_the_signed_loader() -> None:
    text = render_entry(replace(ENTRY, boot_mode="uefi_secure"), "boot/shim.efi")
    assert text == CONTRACT[:-2] + '  else { filename "boot/shim.efi"; }\n}\n'


def test_the_section_is_sorted_by_machine_id_and_read_back() -> None:
    entries = [
        entry(1, "192.168.1.101"),
        entry(2, boot_mode="uefi_secure", http_boot="http://x/y"),
        entry(10, boot_mode="legacy"),
        entry(11),
    ]
    section = render_section(list(reversed(entries)))
    assert section.startswith(BEGIN + "\n") and section.endswith("\n" + END)
    assert read_section(section) == entries


def test_a_stranger_s_entry_in_the_section_is_seen_as_nobody_s() -> None:
    assert [seen.machine_id for seen in read_section(CONTRACT)] == [0]


@given(st.text(st.sampled_from("ab{}\n #;"), max_size=60), st.text(st.sampled_from("ab{}\n #;"), max_size=60))
def test_text_outside_the_section_is_never_changed(before: str, after: str) -> None:
    text = f"{before}\n{BEGIN}\nold\n{END}\n{after}"
    head, inside, tail = cut(text)
    assert inside == "old"
    assert head + render_section([entry(1)]) + tail == text.replace(
        "old\n", f"# machine 1, uefi\n{render_entry(entry(1))}"
    )
    assert head + render_section([]) + tail == text.replace("old\n", "")


def test_a_file_without_markers_gets_the_section_at_its_end() -> None:
    head, inside, tail = cut("authoritative;")
    assert (head + render_section([]) + tail, inside) == (f"authoritative;\n{BEGIN}\n{END}\n", "")


@pytest.mark.parametrize("text", [f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{BEGIN}\n{END}\n"])
def test_markers_that_are_wrong_are_said(text: str) -> None:
    with pytest.raises(ValueError, match="must have one of each"):
        cut(text)


def test_the_base_file_is_the_contract_s() -> None:
    text = render_base(Settings(dhcp_backend="isc"))
    for part in (
        "authoritative;",
        "default-lease-time 600;",
        "max-lease-time 7200;",
        "subnet 192.168.1.0 netmask 255.255.255.0 {\n  range 192.168.1.150 192.168.1.200;\n}",
        "next-server 192.168.1.10;",
        '"iPXE" { filename "boot.ipxe"; }',
        'elsif option arch = 00:07 or option arch = 00:09 { filename "boot/snponly.efi"; }',
        'elsif option arch = 00:0b { filename "boot/snponly-arm64.efi"; }',
        'else { filename "boot/undionly.kpxe"; }',
        f"{BEGIN}\n{END}\n",
    ):
        assert part in text


OUTSIDE = """
subnet 192.168.1.0 netmask 255.255.255.0 { }
# host ws-9 { hardware ethernet 00:11:22:33:44:09; fixed-address 192.168.1.109; }
host Taken { hardware ethernet 00:11:22:33:44:aa; fixed-address 192.168.1.50, 192.168.1.51; }
"""


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (entry(1, label="taken"), "label taken"),
        (entry(1, mac="00:11:22:33:44:AA"), "00:11:22:33:44:AA"),
        (entry(1, "192.168.1.51"), "192.168.1.51"),
        (entry(1, "10.0.0.1"), "192.168.1.0/24"),
    ],
)
def test_what_dhcpd_would_accept_wrongly_is_found(bad: Reservation, said: str) -> None:
    found = conflicts(OUTSIDE, [bad, entry(9, "192.168.1.109")])
    assert set(found) == {1}
    assert said in found[1]
    assert conflicts(OUTSIDE + 'include "/etc/dhcp/more";', [entry(1, "10.0.0.1")]) == {}, "the subnet may be in there"


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


class Host:
    """A mocked host: `dhcpd -t` refuses texts with a certain word, restarts fail for texts with another."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.refuses = self.fails = "\0"
        self.restarts: list[str] = []
        self.tested: list[Path] = []
        self.running = True

    def run(self, command: list[str], timeout: float, **environment: str) -> str:
        assert command[:3] == ["dhcpd", "-t", "-cf"]
        path = Path(command[3])
        self.tested.append(path)
        if self.refuses in path.read_text():
            raise services.CommandFailed(
                f"dhcpd: For info, please visit x\n{path} line 4: no.\nConfiguration file errors"
            )
        return ""

    def restart(self, settings: Settings, unit: str, command: list[str], timeout: float) -> None:
        self.restarts.append(self.config.read_text() if self.config.exists() else "")
        if self.fails in self.restarts[-1]:
            raise AdapterError("did not start")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path / "dhcpd.conf")
    monkeypatch.setattr(services, "run", host.run)
    monkeypatch.setattr(services, "restart", host.restart)
    monkeypatch.setattr(services, "unit_running", lambda settings, unit: host.running)
    monkeypatch.setattr(isc_module, "SETTLE_SECONDS", 0)
    return host


@pytest.fixture
def isc(host: Host) -> Isc:
    return Isc(Settings(dhcp_backend="isc", dhcp_config=host.config))


def test_apply_tests_beside_the_file_swaps_and_restarts_once(isc: Isc, host: Host) -> None:
    isc.apply([entry(1), entry(2)])
    assert host.config.read_text() == render_base(Settings(dhcp_backend="isc")).replace(
        f"{BEGIN}\n{END}", render_section([entry(1), entry(2)])
    )
    assert [path.parent for path in host.tested] == [host.config.parent] and host.config not in host.tested
    assert len(host.restarts) == 1
    isc.apply([entry(2), entry(1)])
    assert len(host.restarts) == 1, "nothing is different"
    assert isc.observed() == [entry(1), entry(2)]
    assert names(host.config.parent) == ["dhcpd.conf"]
    assert host.config.stat().st_mode & 0o777 == 0o644


def test_the_file_keeps_its_mode_and_foreign_text(isc: Isc, host: Host) -> None:
    host.config.write_text(OUTSIDE)
    host.config.chmod(0o640)
    isc.apply([entry(1)])
    assert host.config.read_text() == OUTSIDE + render_section([entry(1)]) + "\n"
    assert host.config.stat().st_mode & 0o777 == 0o640
    isc.apply([])
    assert host.config.read_text() == OUTSIDE + f"{BEGIN}\n{END}\n"


def test_a_refused_file_leaves_the_live_one_untouched(isc: Isc, host: Host) -> None:
    host.config.write_text(OUTSIDE)
    host.refuses = "subnet"
    with pytest.raises(AdapterError, match="line 4: no") as caught:
        isc.apply([entry(1)])
    assert not isinstance(caught.value, BadReservations)
    assert host.config.read_text() == OUTSIDE
    assert (host.restarts, names(host.config.parent)) == ([], ["dhcpd.conf"])
    assert str(host.config) in str(caught.value) and "labyard-" not in str(caught.value)


def test_one_entry_that_dhcpd_refuses_does_not_block_the_others(isc: Isc, host: Host) -> None:
    host.refuses = "ws-3 "
    with pytest.raises(BadReservations) as caught:
        isc.apply([entry(number) for number in range(1, 8)])
    assert caught.value.machine_ids == {3}
    assert [seen.machine_id for seen in isc.observed()] == [1, 2, 4, 5, 6, 7]


def test_bad_entries_are_named_and_the_others_live(isc: Isc, host: Host) -> None:
    with pytest.raises(BadReservations) as caught:
        isc.apply([entry(1), entry(2, mac=entry(1).mac), entry(3, "1.2.3.4"), entry(4, label="a}"), entry(5, "None")])
    assert caught.value.machine_ids == {2, 3, 4, 5}
    assert isc.observed() == [entry(1)]


@pytest.mark.parametrize("how", ["refuses to start", "ends at once"])
def test_a_failed_restart_puts_the_last_good_file_back(isc: Isc, host: Host, how: str) -> None:
    isc.apply([entry(1)])
    good = host.config.read_text()
    if how == "refuses to start":
        host.fails = "ws-2 "
    else:
        host.running = False
    with pytest.raises(AdapterError, match="the last one is back"):
        isc.apply([entry(1), entry(2)])
    assert host.config.read_text() == good
    assert host.restarts[-1] == good


def test_status_tells_what_is_there(isc: Isc, host: Host) -> None:
    status = isc.status()
    assert (status.config_file_exists, status.config_valid, status.machines_configured) == (False, False, None)
    isc.apply([entry(1), entry(2)])
    status = isc.status()
    assert (status.service_running, status.config_file_exists, status.config_valid) == (True, True, True)
    assert (status.machines_configured, status.error) == (2, None)
    host.refuses = "ws-1 "
    status = isc.status()
    assert (status.config_valid, status.machines_configured) == (False, 2)
    assert "line 4: no" in (status.error or "")
    host.config.write_text(f"{BEGIN}\n")
    assert "must have one of each" in (isc.status().error or "")
    host.config.unlink()
    host.config.mkdir()
    assert (isc.status().config_valid, isc.status().machines_configured) == (None, None)


def test_ping_says_where_to_look(isc: Isc, host: Host) -> None:
    isc.ping()
    host.running = False
    with pytest.raises(AdapterError, match="systemctl status isc-dhcp-server"):
        isc.ping()


def test_status_says_that_systemd_cannot_be_asked(isc: Isc, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(settings: Settings, unit: str) -> bool:
        raise AdapterError("systemctl cannot be asked")

    isc.apply([entry(1)])
    monkeypatch.setattr(services, "unit_running", cannot)
    status = isc.status()
    assert (status.service_running, status.config_valid, status.machines_configured) == (None, True, 1)
    assert status.error == "systemctl cannot be asked"
