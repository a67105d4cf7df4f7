"""Directory, addresses, peers, wire forms, faults of links, avahi's output."""

from __future__ import annotations

import json
from ipaddress import IPv4Interface, ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labyard.evse.gateway.storage import Storage
from labyard.evse.sharing import avahi, wire
from labyard.evse.sharing.calls import CallError, url_of
from labyard.evse.sharing.directory import CACHE_SECONDS, MAX_FOUND, Directory, Found, reachable_address
from labyard.evse.sharing.discovery import mode_from_environment
from labyard.evse.sharing.faults import Partitioned, PeerFaults
from labyard.evse.sharing.link import retry_delay
from labyard.evse.sharing.mdns import properties_of
from labyard.evse.sharing.network import is_local, split_host
from labyard.evse.sharing.peers import Me, PeerBook

OWN = ["192.168.1.5", "127.0.0.1"]


def test_retries_wait_longer_and_longer() -> None:
    assert [retry_delay(failures) for failures in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


class TestDirectory:
    def test_host_and_url(self) -> None:
        assert Found("openevse-1", "10.0.0.7", 8001).host == "openevse-1.local:8001"
        assert Found("openevse-1", "10.0.0.7", 8001).url == "http://10.0.0.7:8001"
        assert Found("openevse-1", "10.0.0.7", 80).host == "openevse-1.local"
        assert Found("openevse-1", "10.0.0.7", 443, ssl=True).url == "https://10.0.0.7"

    def test_who_is_not_heard_is_offline_and_then_forgotten(self) -> None:
        directory = Directory()
        assert directory.heard(Found("a", "10.0.0.1", 80), 0.0)
        assert not directory.heard(Found("a", "10.0.0.1", 80), 10.0), "nothing new"
        assert directory.heard(Found("b", "10.0.0.2", 80), 11.0)
        assert not directory.missed(10.0) and directory.missed(10.5)
        assert [(found.instance, found.online) for found in directory] == [("a", False), ("b", True)]
        assert directory.heard(Found("a", "10.0.0.1", 80), 12.0), "it is back"
        assert directory.forget(11.0 + CACHE_SECONDS + 0.5)
        assert [found.instance for found in directory] == ["a"]
        assert directory.gone("A") and not directory.gone("a")

    def test_one_gateway_under_another_name_is_listed_once(self) -> None:
        directory = Directory()
        directory.heard(Found("same", "10.0.0.1", 8001, "abc1"), 0.0)
        directory.heard(Found("other", "10.0.0.1", 8002, "abc2"), 0.0)
        assert directory.heard(Found("same-2", "10.0.0.1", 8001, "abc1"), 1.0)
        assert [found.instance for found in directory] == ["other", "same-2"]
        assert directory.heard(Found("same", "10.0.0.1", 8003, "abc3"), 2.0), "whose name it is now"
        assert [found.port for found in directory] == [8002, 8001, 8003]
        directory.heard(Found("silent-1", "10.0.0.2", 80), 3.0)
        directory.heard(Found("silent-2", "10.0.0.3", 80), 3.0)
        assert len(list(directory)) == 5, "two that do not tell their id are two"

    def test_it_does_not_grow(self) -> None:
        directory = Directory()
        for number in range(2 * MAX_FOUND):
            directory.heard(Found(f"g{number:03}", "10.0.0.1", 80), float(number))
        assert len(list(directory)) == MAX_FOUND
        directory.missed(1.0)
        assert directory.heard(Found("new", "10.0.0.1", 80), 500.0), "takes the place of the one that is offline"
        assert not directory.heard(Found("newer", "10.0.0.1", 80), 500.0)

    @pytest.mark.parametrize(
        ("told", "expected"),
        [
            (["192.168.1.5", "172.17.0.1"], "172.17.0.1"),  # all ours: it runs here
            (["172.17.0.1", "192.168.1.9"], "192.168.1.9"),  # a bridge's address is on both machines
            (["10.9.9.9", "192.168.1.9"], "192.168.1.9"),  # in a network of ours
            (["10.9.9.9"], "10.9.9.9"),
            ([], ""),
        ],
    )
    def test_where_to_call(self, told: list[str], expected: str) -> None:
        ours = [IPv4Interface(text) for text in ("192.168.1.5/24", "172.17.0.1/16", "127.0.0.1/8")]
        assert reachable_address(told, ours) == expected


class TestHosts:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (" OpenEVSE-1.Local. ", "openevse-1.local"),
            ("openevse-1.local.:8001", "openevse-1.local:8001"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[FE80::1]:8000", "[fe80::1]:8000"),
            ("fe80::1", "[fe80::1]"),
            ("[FD00:0:0::0001]:8000", "[fd00::1]:8000"),
            ("fe80::1%eth0", "[fe80::1%eth0]"),
        ],
    )
    def test_forms(self, text: str, expected: str) -> None:
        assert split_host(text).text == expected
        assert split_host(expected).text == expected

    @pytest.mark.parametrize(
        "text",
        [
            "",
            ".",
            ":80",
            "a:b",
            "a:0",
            "a:65536",
            "a:-1",
            "a:²",
            "http://10.0.0.1:8000/",
            "10.0.0.1/config",
            "user@a.b",
            "a b.local",
            "a:b:c",
            "a.b?",
            "a:" + "9" * 5000,
            "a\x00.b",
        ],
    )
    def test_what_is_none(self, text: str) -> None:
        with pytest.raises(ValueError, match="no host name or address"):
            split_host(text)

    @pytest.mark.parametrize(
        ("text", "local"),
        [
            *((text, True) for text in ("127.0.0.1", "10.1.1.1", "192.168.0.1", "172.31.0.1", "169.254.1.1")),
            *((text, True) for text in ("::1", "fe80::1", "fd00::1", "::ffff:10.0.0.1")),
            *((text, False) for text in ("192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1", "240.0.0.1")),
            *((text, False) for text in ("8.8.8.8", "100.64.0.1", "2001:4860::1", "0.0.0.0", "224.0.0.251")),
            ("::ffff:8.8.8.8", False),
        ],
    )
    def test_where_calls_may_go(self, text: str, local: bool) -> None:
        assert is_local(ip_address(text)) is local

    async def test_a_call_needs_an_address_that_is_local_or_was_discovered(self) -> None:
        assert await url_of("10.0.0.1:8001", None) == ("http://10.0.0.1:8001", "10.0.0.1")
        assert await url_of("[fd00::1]:8001", None) == ("http://[fd00::1]:8001", "fd00::1")
        with pytest.raises(CallError, match="neither local nor discovered"):
            await url_of("8.8.8.8", None)
        assert (await url_of("8.8.8.8", Found("x", "8.8.8.8", 80)))[0] == "http://8.8.8.8"
        assert (await url_of("203.0.113.7:8001", None, ["203.0.113.7"]))[0] == "http://203.0.113.7:8001", "our own"

    async def test_a_name_is_called_at_what_it_resolves_to_only_if_that_is_local(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def resolve(name: str) -> list[Any]:
            return {
                "inside.test": [ip_address("8.8.8.8"), ip_address("10.0.0.9")],
                "out.test": [ip_address("8.8.8.8")],
            }[name]

        monkeypatch.setattr("labyard.evse.sharing.calls.resolve", resolve)
        assert await url_of("inside.test:8001", None) == ("http://10.0.0.9:8001", "10.0.0.9")
        with pytest.raises(CallError, match=r"8\.8\.8\.8 is neither local nor discovered"):
            await url_of("out.test", None)

    def test_a_gateway_knows_itself(self) -> None:
        me = Me("abc123", 8001, lambda: ["openevse-1-2", "openevse-1"], lambda: OWN)
        assert me.host == "openevse-1-2.local:8001"
        for text in ("OPENEVSE-1.local", "openevse-1-2.local:8001", "192.168.1.5:8001", "abc123:8001", "localhost"):
            assert me.is_me(split_host(text)), text
        for text in ("192.168.1.5:8002", "openevse-2.local", "openevse-1.local:80", "abc124"):
            assert not me.is_me(split_host(text)), text


class TestPeers:
    @pytest.fixture
    def directory(self) -> Directory:
        directory = Directory()
        found = Found("openevse-1", "192.168.1.5", 8001, "abc1", "v5.2.0", addresses=("192.168.1.5", "10.0.0.5"))
        directory.heard(found, 0.0)
        return directory

    @pytest.fixture
    def book(self, tmp_path: Path, directory: Directory) -> PeerBook:
        return PeerBook(Storage(tmp_path), lambda: directory, lambda: OWN, lambda: None)

    @pytest.mark.parametrize("host", ["openevse-1.local:8001", "10.0.0.5:8001", "127.0.0.1:8001", "abc1"])
    def test_one_device_has_many_names(self, book: PeerBook, host: str) -> None:
        peer = book.add(split_host("192.168.1.5:8001"))
        assert (peer.device_id, peer.name) == ("abc1", "openevse-1")
        assert book.find(split_host(host)) is peer
        assert book.find(split_host("127.0.0.1:8002")) is None

    @pytest.mark.parametrize(
        ("host", "others"),
        [
            ("10.0.0.1", ["10.0.0.1:80"]),
            ("peer.local:80", ["PEER.local."]),
            ("127.0.0.1:8002", ["localhost:8002", "127.0.0.2:8002", "192.168.1.5:8002"]),
            ("openevse-1.local", ["openevse-1.local.:8001", "openevse-1:8001", "10.0.0.5:8001", "abc1"]),
            ("[fd00::1]:8000", ["[FD00:0::1]:8000"]),
        ],
    )
    def test_one_place_may_be_written_in_many_ways(self, book: PeerBook, host: str, others: list[str]) -> None:
        peer = book.add(split_host(host))
        for other in others:
            assert book.find(split_host(other)) is peer, other
        assert book.find(split_host("10.0.0.1:8001")) is None
        assert book.find(split_host("peer.local:8001")) is None

    def test_this_gateway_itself_is_no_peer(self, tmp_path: Path) -> None:
        book = PeerBook(Storage(tmp_path), Directory, lambda: OWN, lambda: None, own_id="abc123")
        assert not book.learned(book.add(split_host("alias.test:8000")), "abc123", "me", "")
        assert len(book) == 0

    def test_what_a_peer_says_after_it_was_removed_is_nothing(self, book: PeerBook) -> None:
        kept, gone = book.add(split_host("10.0.0.1")), book.add(split_host("10.0.0.2"))
        book.learned(kept, "dev1", "x", "")
        book.remove(gone)
        again = book.add(split_host("10.0.0.2"))
        assert not book.learned(gone, "dev1", "x", "")
        book.remove(gone)
        assert list(book) == [kept, again]

    def test_two_names_that_turn_out_to_be_one_device(self, book: PeerBook) -> None:
        first, second = book.add(split_host("10.0.0.1")), book.add(split_host("x.local"))
        assert book.learned(first, "dev1", "x", "v5.2.0")
        assert not book.learned(second, "dev1", "x", "v5.2.0")
        assert [peer.host for peer in book] == ["10.0.0.1"]

    def test_they_are_kept(self, book: PeerBook, tmp_path: Path) -> None:
        book.learned(book.add(split_host("10.0.0.1:8001")), "dev1", "x", "v5.2.0")
        book.remove(book.add(split_host("10.0.0.2")))
        kept = json.loads((tmp_path / "loadsharing_peers.json").read_text())
        assert kept == {"peers": [{"id": "dev1", "host": "10.0.0.1:8001"}]}
        again = PeerBook(Storage(tmp_path), Directory, lambda: OWN, lambda: None)
        assert [(peer.host, peer.device_id) for peer in again] == [("10.0.0.1:8001", "dev1")]

    @pytest.mark.parametrize(
        ("content", "hosts"),
        [
            ({"peers": ["10.0.0.1", "B.local."]}, ["10.0.0.1", "b.local"]),
            ({"peers": [{"host": "a.local"}, {"id": 5}, 7, "", "a.local"]}, ["a.local"]),
            (["a"], []),
            ({"peers": "a"}, []),
        ],
    )
    def test_other_forms_are_read(self, tmp_path: Path, content: Any, hosts: list[str]) -> None:
        Storage(tmp_path).write("loadsharing_peers.json", content)
        book = PeerBook(Storage(tmp_path), Directory, lambda: OWN, lambda: None)
        assert [peer.host for peer in book] == hosts

    def test_a_group_is_bounded(self, book: PeerBook) -> None:
        for number in range(64):
            book.add(split_host(f"10.0.1.{number}"))
        with pytest.raises(ValueError, match="at most 64"):
            book.add(split_host("10.0.2.1"))


class TestWire:
    def test_milliamperes_become_amperes(self) -> None:
        known: dict[str, Any] = {}
        assert wire.merge(known, {"state": 3, "pilot": 16, "amp": 15600, "vehicle": 1, "other": "x" * 1000})
        report = wire.report(known)
        assert report is not None
        assert (report.measured, report.pilot, report.charging, report.ready) == (15.6, 16, True, None)
        assert (report.minimum, report.maximum) == (6, 32)
        assert "other" not in known

    def test_what_is_left_to_say(self) -> None:
        known = {"state": 254, "pilot": 6, "loadsharing_ready": 1, "loadsharing_min_current": 8, "max_current": 20}
        report = wire.report(known)
        assert report is not None and report.ready is True
        assert (report.minimum, report.maximum) == (8, 20)
        assert wire.report({"state": 3}) is None
        assert not wire.merge(known, {"config_version": 3}) and not wire.merge(known, {"time": "now"})

    @given(
        st.dictionaries(
            st.sampled_from(wire.STATUS_FIELDS),
            st.one_of(st.floats(), st.integers(), st.sampled_from([True, False, None, "16", [16], {}])),
        )
    )
    def test_a_peer_may_say_anything(self, message: dict[str, Any]) -> None:
        known: dict[str, Any] = {}
        wire.merge(known, message)
        report = wire.report(known)
        json.dumps(wire.public_status(known), allow_nan=False)
        if report is not None:
            assert 0 <= report.measured <= 100 and 0 <= report.pilot <= 100 and 0 < report.maximum <= 100


class TestFaults:
    async def test_the_same_seed_gives_the_same_faults(self) -> None:
        async def run() -> list[bool]:
            faults = PeerFaults()
            faults.set({"seed": 7, "rules": [{"kind": "drop", "probability": 0.5}]})
            return [await faults.message("a") for _ in range(50)]

        first = await run()
        assert first == await run() and 10 < sum(first) < 40

    async def test_by_host_and_by_count(self) -> None:
        faults = PeerFaults()
        faults.set({"rules": [{"kind": "partition", "host": "A.local", "count": 1}, {"kind": "drop", "count": 1}]})
        with pytest.raises(Partitioned):
            await faults.call("a.local")
        await faults.call("a.local")
        assert [await faults.message("b.local") for _ in range(2)] == [False, True]
        assert faults.as_json()["injected"] == {"partition": 1, "drop": 1}
        faults.clear()
        assert faults.as_json()["rules"] == []

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            ([], "seed and rules"),
            ({"rule": []}, "seed and rules"),
            ({"rules": {}}, "rules must be a list"),
            ({"seed": "x", "rules": []}, "seed must be"),
            ({"rules": [{"kind": "drop", "host": 5}]}, r"rules\[0\]\.host"),
            ({"rules": [{"kind": "drop", "count": -1}]}, r"rules\[0\]\.count"),
            ({"rules": [{"kind": "delay", "delay_ms": [9, 5]}]}, r"rules\[0\]\.delay_ms"),
            ({"rules": [{"kind": "drop", "color": 1}]}, r"rules\[0\] must have kind"),
        ],
    )
    def test_refusals(self, content: Any, text: str) -> None:
        faults = PeerFaults()
        faults.set({"rules": [{"kind": "drop"}]})
        with pytest.raises(ValueError, match=text):
            faults.set(content)
        assert len(faults.as_json()["rules"]) == 1


def test_modes_of_mdns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABYARD_MDNS", raising=False)
    assert mode_from_environment() == "auto"
    monkeypatch.setenv("LABYARD_MDNS", " OFF ")
    assert mode_from_environment() == "off"
    monkeypatch.setenv("LABYARD_MDNS", "bonjour")
    with pytest.raises(ValueError, match="LABYARD_MDNS must be one of auto, own, avahi, off, not 'bonjour'"):
        mode_from_environment()


def test_what_avahi_browse_prints() -> None:
    output = "\n".join(
        [
            "+;eth0;IPv4;openevse-1;_openevse._tcp;local",
            '=;eth0;IPv4;openevse-1;_openevse._tcp;local;openevse-1.local;10.99.0.7;8001;"id=ABC" "version=v5.2.0"',
            '=;eth0;IPv6;openevse-1;_openevse._tcp;local;openevse-1.local;fe80::1;8001;"id=ABC"',
            r'=;eth0;IPv4;my\032charger;_openevse._tcp;local;x.local;10.99.0.8;443;"ssl=1"',
            "=;eth0;IPv4;broken",
        ]
    )
    first, second = avahi.parse_browse(output)
    assert (first.instance, first.address, first.port, first.device_id) == ("openevse-1", "10.99.0.7", 8001, "abc")
    assert (second.instance, second.ssl, second.url) == ("my charger", True, "https://10.99.0.8")


def test_properties_of_a_record() -> None:
    assert properties_of(b"\x06id=abc\x05SSL=0\x01x") == {"id": "abc", "ssl": "0", "x": ""}
    assert properties_of(b"") == {}
