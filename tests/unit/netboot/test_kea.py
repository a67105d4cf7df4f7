"""The Kea backend: what it makes of a configuration, and its talk with a (mocked) control socket.

What clients really get is proved with real exchanges, against the real Kea.
"""

from __future__ import annotations

import copy
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from labyard.core.adapter import AdapterError
from labyard.netboot.adapters import services
from labyard.netboot.adapters.dhcp import Reservation
from labyard.netboot.adapters.kea import Kea, KeaRefused
from labyard.netboot.adapters.kea_merge import MARK, mark_of, merge, same, split
from labyard.netboot.adapters.reservations import BadReservations
from labyard.netboot.settings import Settings
from labyard.testing.waiting import PATIENCE

SECURE = "boot/shim.efi"
FOREIGN = {"hw-address": "52:54:00:00:00:50", "ip-address": "192.168.1.50", "hostname": "reserved"}
BASE: dict[str, Any] = {
    "client-classes": [{"name": "ipxe", "test": "option[77].hex == 'iPXE'", "boot-file-name": "boot.ipxe"}],
    "subnet4": [{"id": 1, "subnet": "192.168.1.0/24", "reservations": [FOREIGN]}],
    "shared-networks": [
        {"name": "other", "subnet4": [{"id": 2, "subnet": "10.0.0.0/8"}, {"id": 3, "subnet": "10.1.0.0/16"}]}
    ],
}


def entry(number: int, address: str | None = None, **change: Any) -> Reservation:
    mac = f"00:11:22:33:44:{number:02X}"
    given: dict[str, Any] = {
        "machine_id": number,
        "label": f"ws-{number}",
        "mac": mac,
        "address": address,
        "next_server": "192.168.1.10",
        "ipxe_file": f"machines/{mac.lower().replace(':', '-')}.ipxe",
    }
    return Reservation(**(given | change))


def placed(config: dict[str, Any], subnet: int) -> list[dict[str, Any]]:
    nets = [*config["subnet4"], *config["shared-networks"][0]["subnet4"]]
    return [
        item for net in nets if net["id"] == subnet for item in net.get("reservations", []) if mark_of(item) is not None
    ]


def names(config: dict[str, Any]) -> list[str]:
    return [item["name"] for item in config["client-classes"]]


def test_merge_and_split_are_opposites() -> None:
    entries = [
        entry(1, "192.168.1.101"),
        entry(2, boot_mode="uefi_secure", http_boot="http://192.168.1.10:8000/x.efi"),
        entry(3, "192.168.1.53", mac="52:54:00:00:00:50", boot_mode="legacy"),
    ]
    config, bad = merge(BASE, entries, SECURE)
    assert bad == {}
    base, seen = split(config)
    assert base == BASE
    assert seen == entries


def test_a_reservation_never_carries_a_boot_file_itself() -> None:
    """It would beat the classes, and raw firmware would be handed the script."""
    config, _ = merge(BASE, [entry(1, "192.168.1.101")], SECURE)
    (item,) = placed(config, 1)
    assert "boot-file-name" not in item
    assert (item["ip-address"], item["hostname"], item["next-server"]) == ("192.168.1.101", "ws-1", "192.168.1.10")


def test_the_machine_s_class_comes_before_the_base_s_and_the_rest_after() -> None:
    config, _ = merge(BASE, [entry(1), entry(2, boot_mode="uefi_secure", http_boot="http://x/y")], SECURE)
    order = names(config)
    assert order.index(f"{MARK}-1") < order.index("ipxe") < order.index(f"{MARK}-other-file")
    classes = {item["name"]: item for item in config["client-classes"]}
    assert classes[f"{MARK}-1"]["test"] == f"member('{MARK}-ipxe') and pkt4.mac == 0x001122334401"
    assert classes[f"{MARK}-2-secure"]["boot-file-name"] == SECURE
    assert classes[f"{MARK}-2-http"]["option-data"][0]["data"] == "HTTPClient"
    assert f"{MARK}-1-secure" not in classes and f"{MARK}-1-http" not in classes
    for late in order[order.index("ipxe") + 1 :]:
        assert "member('KNOWN')" in classes[late]["test"], "would be given to machines without a session"


def test_the_base_stays_as_it_is_without_sessions() -> None:
    assert merge(BASE, [], SECURE) == (BASE, {})


@pytest.mark.parametrize(
    ("address", "next_server", "subnet"),
    [
        ("192.168.1.101", "10.0.0.1", 1),
        (None, "192.168.1.10", 1),
        ("10.2.0.1", "192.168.1.10", 2),
        ("10.1.0.1", "192.168.1.10", 3),
    ],
)
def test_the_subnet_is_the_address_s_or_the_server_s(address: str | None, next_server: str, subnet: int) -> None:
    config, bad = merge(BASE, [entry(1, address, next_server=next_server)], SECURE)
    assert not bad
    assert len(placed(config, subnet)) == 1


def test_a_foreign_reservation_of_the_machine_is_set_aside() -> None:
    config, bad = merge(BASE, [entry(1, "192.168.1.60", mac="52:54:00:00:00:50")], SECURE)
    assert not bad
    (item,) = config["subnet4"][0]["reservations"]
    assert item["user-context"][MARK]["replaces"] == FOREIGN
    assert split(config)[0] == BASE


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("192.168.1.50", ["192.168.1.50", "00:11:22:33:44:01", "52:54:00:00:00:50"]),
        ("172.16.0.1", ["172.16.0.1", "00:11:22:33:44:01", "192.168.1.0/24"]),
        ("192.168.1.255", ["192.168.1.255", "broadcast"]),
        ("192.168.1.0", ["192.168.1.0", "network"]),
    ],
)
def test_a_bad_address_names_both_and_leaves_the_others_alone(address: str, said: list[str]) -> None:
    config, bad = merge(BASE, [entry(1, address), entry(2)], SECURE)
    assert set(bad) == {1}
    assert all(word in bad[1] for word in said), bad[1]
    assert [item["hostname"] for item in placed(config, 1)] == ["ws-2"]
    assert f"{MARK}-1" not in names(config)


@pytest.mark.parametrize("holder", ["global", "network"])
def test_a_subnet_that_ignores_reservations_is_said(holder: str) -> None:
    base = copy.deepcopy(BASE)
    (base if holder == "global" else base["shared-networks"][0])["reservations-in-subnet"] = False
    _, bad = merge(base, [entry(1, "10.2.0.1")], SECURE)
    assert "reservations-in-subnet" in bad[1]


def test_defaults_that_kea_fills_in_are_no_difference() -> None:
    config, _ = merge(BASE, [entry(1), entry(2, http_boot="http://x/y")], SECURE)
    assert same(kea_output(config), config)
    other, _ = merge(BASE, [entry(1), entry(2, http_boot="http://x/z")], SECURE)
    assert not same(kea_output(config), other)
    moved = copy.deepcopy(config)
    moved["client-classes"].append(moved["client-classes"].pop(0))
    assert not same(moved, config), "the order decides who gets which file"


def kea_output(dhcp4: dict[str, Any]) -> dict[str, Any]:
    """As Kea 2.2 prints it: with defaults."""
    shown = copy.deepcopy(dhcp4)
    for item in shown["client-classes"]:
        for key, value in {
            "next-server": "0.0.0.0",
            "option-data": [],
            "option-def": [],
            "server-hostname": "",
        }.items():
            item.setdefault(key, value)
        item.setdefault("boot-file-name", "")
        for option in item["option-data"]:
            option["name"] = "known-to-kea"
    for net in shown["subnet4"]:
        for item in net["reservations"]:
            for key, value in {
                "boot-file-name": "",
                "client-classes": [],
                "option-data": [],
                "server-hostname": "",
            }.items():
                item.setdefault(key, value)
    return shown


class FakeKea:
    """Answers on a socket as Kea does. `refuses` says no to a configuration, with a reason."""

    def __init__(self, path: Path) -> None:
        self.live = kea_output(BASE)
        self.commands: list[str] = []
        self.refuses: Callable[[dict[str, Any]], str] = lambda dhcp4: ""
        self.fails: set[str] = set()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                stream, _ = self._socket.accept()
            except OSError:
                return
            with stream:
                text = b""
                while True:
                    text += stream.recv(1 << 16)
                    try:
                        request = json.loads(text)
                        break
                    except ValueError:
                        continue
                stream.sendall(json.dumps(self._answer(request["command"], request.get("arguments", {}))).encode())

    def _answer(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        self.commands.append(command)
        if command in self.fails:
            return {"result": 1, "text": f"{command} went wrong"}
        if command == "config-get":
            return {"result": 0, "arguments": {"Dhcp4": self.live}}
        if command in ("config-test", "config-set"):
            if reason := self.refuses(arguments["Dhcp4"]):
                return {"result": 1, "text": reason}
            if command == "config-set":
                self.live = kea_output(arguments["Dhcp4"])
        return {"result": 0}

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeKea]:
    fake = FakeKea(tmp_path / "kea")
    yield fake
    fake.close()


@pytest.fixture
def kea(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kea:
    # A machine that stands still is no silent Kea.
    monkeypatch.setattr(services, "STATUS_SECONDS", PATIENCE)
    return Kea(
        Settings(
            kea_socket=tmp_path / "kea",
            dhcp_config=tmp_path / "kea.conf",
            dhcp_timeout_seconds=PATIENCE,
            service_manager="none",
        )
    )


def test_apply_tests_then_sets_then_writes_and_then_nothing(fake: FakeKea, kea: Kea) -> None:
    entries = [entry(1, "192.168.1.101"), entry(2)]
    kea.apply(entries)
    assert fake.commands == ["config-get", "config-test", "config-set", "config-write"]
    assert kea.observed() == entries
    fake.commands.clear()
    kea.apply(list(reversed(entries)))
    assert fake.commands == ["config-get"]
    kea.apply([])
    assert kea.observed() == []
    assert fake.live == kea_output(BASE)


def test_one_of_ten_is_removed_and_no_other(fake: FakeKea, kea: Kea) -> None:
    kea.apply([entry(1), entry(10), entry(11)])
    kea.apply([entry(10), entry(11)])
    assert [seen.label for seen in kea.observed()] == ["ws-10", "ws-11"]


def test_bad_entries_are_named_and_the_others_live(fake: FakeKea, kea: Kea) -> None:
    with pytest.raises(BadReservations) as caught:
        kea.apply(
            [
                entry(1),
                entry(2, "1.2.3.4"),
                entry(3, label="pc }"),
                entry(4, mac=entry(1).mac.lower()),
                entry(5, ipxe_file="a\nb"),
                entry(6, ipxe_file="x" * 128),
                entry(7, boot_mode="bios"),
            ]
        )
    assert caught.value.machine_ids == {2, 3, 4, 5, 6, 7}
    assert "machine 1" in caught.value.problems[4]
    assert kea.observed() == [entry(1)]
    fake.commands.clear()
    with pytest.raises(BadReservations):
        kea.apply([entry(1), entry(2, "1.2.3.4")])
    assert fake.commands == ["config-get"], "nothing is different, so nothing is sent"


def test_entries_that_only_kea_refuses_are_found(fake: FakeKea, kea: Kea) -> None:
    kea.apply([entry(1)])
    fake.refuses = lambda dhcp4: "no sevens" if any("7" in item["hostname"] for item in placed(dhcp4, 1)) else ""
    with pytest.raises(BadReservations) as caught:
        kea.apply([entry(number) for number in range(1, 20)])
    assert caught.value.machine_ids == {7, 17}
    assert "no sevens" in caught.value.problems[7]
    assert len(kea.observed()) == 17


def test_a_base_that_kea_refuses_is_nobody_s_fault(fake: FakeKea, kea: Kea) -> None:
    kea.apply([entry(1)])
    fake.refuses = lambda dhcp4: "broken base"
    before = copy.deepcopy(fake.live)
    with pytest.raises(AdapterError, match="broken base") as caught:
        kea.apply([entry(1), entry(2)])
    assert not isinstance(caught.value, BadReservations)
    assert fake.live == before


def test_a_failed_set_puts_the_old_configuration_back(fake: FakeKea, kea: Kea) -> None:
    kea.apply([entry(1)])
    before = copy.deepcopy(fake.live)
    fake.commands.clear()
    calls: list[str] = []

    def once(dhcp4: dict[str, Any]) -> str:
        calls.append("")
        return "cannot bind" if len(calls) == 2 else ""  # the test passes, the set does not

    fake.refuses = once
    with pytest.raises(KeaRefused, match="cannot bind"):
        kea.apply([entry(1), entry(2)])
    assert fake.commands == ["config-get", "config-test", "config-set", "config-set"]
    assert split(fake.live) == split(before)


def test_a_file_that_cannot_be_written_is_said_with_the_way_out(fake: FakeKea, kea: Kea) -> None:
    fake.fails = {"config-write"}
    with pytest.raises(AdapterError, match="must be allowed to write"):
        kea.apply([entry(1)])


def test_a_kea_that_is_not_there_is_said(kea: Kea) -> None:
    with pytest.raises(AdapterError, match="is Kea running"):
        kea.apply([])
    with pytest.raises(AdapterError):
        kea.ping()


def test_another_daemon_s_socket_is_said(fake: FakeKea, kea: Kea, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "_answer", lambda command, arguments: {"result": 0, "arguments": {"Dhcp6": {}}})
    with pytest.raises(AdapterError, match="not a Kea DHCPv4 server"):
        kea.observed()


def test_status_tells_what_is_there(fake: FakeKea, kea: Kea, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kea.apply([entry(1), entry(2)])
    assert (status := kea.status()).config_file_exists is False and status.config_valid is False
    (tmp_path / "kea.conf").write_text("{}")
    monkeypatch.setattr(services, "run", lambda command, timeout, **environment: "")
    status = kea.status()
    assert (status.config_valid, status.machines_configured, status.error) == (True, 2, None)
    assert status.service_running is None


@pytest.mark.parametrize(
    ("error", "valid"), [(services.CommandFailed("syntax error"), False), (AdapterError("not installed"), None)]
)
def test_status_never_raises(
    kea: Kea, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: AdapterError, valid: bool | None
) -> None:
    def fail(command: list[str], timeout: float, **environment: str) -> str:
        raise error

    (tmp_path / "kea.conf").write_text("{")
    monkeypatch.setattr(services, "run", fail)
    status = kea.status()
    assert (status.config_file_exists, status.config_valid, status.machines_configured) == (True, valid, None)
    assert str(error) in (status.error or "") and "is Kea running" in (status.error or "")


def test_status_says_that_systemd_cannot_be_asked(
    fake: FakeKea, kea: Kea, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kea._settings.service_manager = "systemd"
    monkeypatch.setenv("PATH", str(tmp_path))
    status = kea.status()
    assert (status.service_running, status.machines_configured) == (None, 0)
    assert "systemctl cannot be asked about kea-dhcp4-server" in (status.error or "")


def test_without_a_service_manager_an_answer_is_the_sign_of_life(fake: FakeKea, kea: Kea) -> None:
    kea._settings.service_manager = "process"
    assert kea.status().service_running is True
    kea._settings.kea_socket = kea._settings.kea_socket.with_name("nobody")
    assert kea.status().service_running is False


@pytest.mark.parametrize("answer", [b"", b"{", b"[1]"])
def test_an_answer_that_is_none_is_said(tmp_path: Path, kea: Kea, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(tmp_path / "kea"))
        listening.listen()

        def serve() -> None:
            with listening.accept()[0] as stream:
                stream.recv(1 << 16)
                stream.sendall(answer)

        serving = threading.Thread(target=serve)
        serving.start()
        with pytest.raises(AdapterError, match="Kea did not answer config-get"):
            kea.observed()
        serving.join()


def test_a_silent_kea_is_given_up(tmp_path: Path, kea: Kea) -> None:
    kea._settings.dhcp_timeout_seconds = 0.1
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(tmp_path / "kea"))
        listening.listen()
        with pytest.raises(AdapterError, match="in time"):
            kea.observed()
