"""The parts of RDP servers that need no daemon."""

from __future__ import annotations

import configparser
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from labyard.core.adapter import AdapterError
from labyard.desktops.agent.rdp import config
from labyard.desktops.agent.rdp.cgroup import Group, Taken
from labyard.desktops.agent.rdp.connections import peers
from labyard.desktops.agent.rdp.home import MIB, Used
from labyard.desktops.agent.rdp.meter import Meter, Sources
from labyard.desktops.agent.rdp.negotiate import NegotiationError, negotiate
from labyard.desktops.agent.rdp.network import Counted
from labyard.desktops.agent.rdp.place import Made, Place, hex_of
from labyard.desktops.agent.rdp.systemd import Systemd
from labyard.desktops.agent.recorder_units import SystemdRecorders
from labyard.desktops.agent.settings import Settings
from labyard.desktops.agent.verbs import Once

SERVER = "rdp-0123456789abcdef"
MADE = Made(33890, 2.0, 1024, 2048, 1000, True, "1280x720", 24)


def read(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser


def server(**configuration: Any) -> config.Server:
    return config.Server(SERVER, 33891, 43891, 105, 1800, configuration)


class TestConfiguration:
    @pytest.mark.parametrize(("asked", "depth"), [(16, "16"), (24, "24"), (32, "24")])
    def test_every_client_joins_the_one_desktop(self, asked: int, depth: str) -> None:
        """xrdp would give a client of another depth a second desktop."""
        options = read(config.xrdp_ini(server(color_depth=asked)))["Globals"]
        assert (options["xserverbpp"], options["max_bpp"]) == (depth, depth)

    def test_tls_is_not_negotiable(self) -> None:
        options = read(config.xrdp_ini(server()))["Globals"]
        assert (options["security_layer"], options["ssl_protocols"]) == ("tls", "TLSv1.2, TLSv1.3")
        assert read(config.xrdp_ini(server(use_tls=False)))["Globals"]["security_layer"] == "rdp"

    def test_channels_are_those_that_were_asked_for(self) -> None:
        channels = read(config.xrdp_ini(server()))["Channels"]
        assert (channels["cliprdr"], channels["rdpsnd"], channels["rdpdr"]) == ("true", "false", "false")
        channels = read(config.xrdp_ini(server(clipboard=False, audio=True, printer_redirection=True)))["Channels"]
        assert (channels["cliprdr"], channels["rdpsnd"], channels["rdpdr"]) == ("false", "true", "true")

    def test_only_its_account_comes_in(self) -> None:
        security = read(config.sesman_ini(server()))["Security"]
        assert (security["TerminalServerUsers"], security["AlwaysGroupCheck"]) == (SERVER, "true")
        assert security["AllowRootLogin"] == "false"

    def test_sesman_has_its_own_port_and_displays(self) -> None:
        parsed = read(config.sesman_ini(server()))
        assert (parsed["Globals"]["ListenPort"], parsed["Globals"]["ListenAddress"]) == ("43891", "127.0.0.1")
        assert (parsed["Sessions"]["X11DisplayOffset"], parsed["Sessions"]["MaxSessions"]) == ("105", "4")

    def test_the_desktop_stays_in_its_slice(self) -> None:
        assert "systemd" not in config.PAM


class TestSettings:
    def test_every_port_has_displays_below_a_thousand(self) -> None:
        settings = Settings()
        taken = [settings.display(port) + number for port in range(33890, 34000) for number in range(4)]
        assert len(set(taken)) == len(taken)
        assert max(taken) < 1000

    def test_too_many_displays_are_refused(self) -> None:
        with pytest.raises(ValidationError, match="above 999"):
            Settings(rdp_displays=9)

    def test_who_is_idle_goes_first(self) -> None:
        with pytest.raises(ValidationError, match="below DESKTOP_AGENT_RDP_SESSION_TIMEOUT"):
            Settings(rdp_session_timeout=1800)

    def test_https_needs_certificates(self) -> None:
        with pytest.raises(ValidationError, match="DESKTOP_AGENT_CERTIFICATE"):
            Settings(tls_host="0.0.0.0")


class TestPlace:
    @pytest.mark.parametrize("text", ["", "rdp-", "rdp-0123456789abcdeg", "../rdp-0123456789abcdef", f"{SERVER}\n"])
    def test_only_an_id_becomes_a_path(self, text: str) -> None:
        with pytest.raises(ValueError, match="no id"):
            hex_of(text)

    def test_what_was_made_is_read_again(self, tmp_path: Path) -> None:
        place = Place(tmp_path, SERVER)
        assert place.made() is None
        place.make()
        place.note(MADE)
        assert place.made() == MADE
        (place.root / "made.json").write_text("{")
        assert place.made() is None


class TestNegotiate:
    def answer(self, kind: int, value: int) -> bytes:
        x224 = struct.pack(">BBHHB", 14, 0xD0, 0, 0, 0) + struct.pack("<BBHI", kind, 0, 8, value)
        return struct.pack(">BBH", 3, 0, 4 + len(x224)) + x224

    def test_plain_rdp(self) -> None:
        with answering(self.answer(2, 0)) as port:
            assert negotiate("127.0.0.1", port, False, 5).protocol == "rdp"

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"SSH-2.0-x\r\n" + bytes(20), "speaks no RDP"),
            (b"", "hung up"),
            (b"\3\0\0\23", "hung up"),
            (struct.pack(">BBH", 3, 0, 11) + bytes(7), "confirms no RDP"),
        ],
    )
    def test_what_is_no_rdp(self, content: bytes, said: str) -> None:
        with answering(content) as port, pytest.raises(NegotiationError, match=said):
            negotiate("127.0.0.1", port, True, 5)

    def test_a_refusal_is_named(self) -> None:
        with answering(self.answer(3, 3)) as port, pytest.raises(NegotiationError, match="no usable certificate"):
            negotiate("127.0.0.1", port, True, 5)

    def test_tls_that_is_none(self) -> None:
        with answering(self.answer(2, 1) + b"no TLS here") as port, pytest.raises(NegotiationError, match="broke off"):
            negotiate("127.0.0.1", port, True, 5)

    def test_nobody_listens(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        with pytest.raises(NegotiationError, match="nobody listens"):
            negotiate("127.0.0.1", port, True, 5)


@contextmanager
def answering(content: bytes) -> Iterator[int]:
    """A port where the first client gets this, whatever it asks."""
    listening = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(1024)
            connection.sendall(content)

    thread = threading.Thread(target=run)
    thread.start()
    yield listening.getsockname()[1]
    thread.join()
    listening.close()


class TestCgroup:
    def write(self, root: Path, **files: str) -> None:
        for name, text in files.items():
            path = root / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def test_version_2(self, tmp_path: Path) -> None:
        self.write(
            tmp_path,
            cgroup_dot_controllers="cpu memory\n",
            **{
                "a_dot_slice__cpu_dot_stat": "usage_usec 2500000\nuser_usec 1\n",
                "a_dot_slice__memory_dot_current": "1048576\n",
                "a_dot_slice__memory_dot_events": "low 0\noom 2\noom_kill 2\n",
                "a_dot_slice__cpu_dot_max": "50000 100000\n",
                "a_dot_slice__memory_dot_max": "max\n",
                "a_dot_slice__cgroup_dot_procs": "",
                "a_dot_slice__b_dot_service__cgroup_dot_procs": "12\n7\n",
            },
        )
        group = Group("/a.slice", tmp_path)
        assert group.taken() == Taken(2.5, 1048576, "cgroup", killed=2)
        assert (group.cpu_limit(), group.memory_limit()) == (0.5, None)
        assert group.processes() == [7, 12]

    def test_version_1_counts_time_beside_it_where_there_is_no_cpuacct(self, tmp_path: Path) -> None:
        self.write(
            tmp_path,
            memory__a_dot_slice__memory_dot_usage_in_bytes="4096\n",
            memory__a_dot_slice__memory_dot_oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
            memory__a_dot_slice__b_dot_service__memory_dot_oom_control="under_oom 0\noom_kill 1\n",
            memory__a_dot_slice__memory_dot_limit_in_bytes="536870912\n",
            cpu__a_dot_slice__cpu_dot_cfs_quota_us="-1\n",
            cpu__a_dot_slice__cpu_dot_cfs_period_us="100000\n",
            unified__a_dot_slice__cpu_dot_stat="usage_usec 1000000\n",
        )
        group = Group("/a.slice", tmp_path)
        assert group.taken() == Taken(1.0, 4096, "cgroup", killed=1)
        assert (group.cpu_limit(), group.memory_limit()) == (None, 536870912)
        self.write(tmp_path, cpuacct__a_dot_slice__cpuacct_dot_usage="3000000000\n")
        assert group.taken().cpu_seconds == 3.0

    def test_a_group_that_is_gone(self, tmp_path: Path) -> None:
        group = Group("/gone.slice", tmp_path)
        assert (group.processes(), group.cpu_limit(), group.memory_limit()) == ([], None, None)
        assert group.taken() == Taken(0.0, 0, "processes")


def test_peers_of_a_port(tmp_path: Path) -> None:
    """0x8462 is 33890; state 0A is listening."""
    four, six = tmp_path / "tcp", tmp_path / "tcp6"
    head = "  sl  local_address rem_address   st\n"
    four.write_text(head + "   0: 0100007F:8462 0200007F:C000 01\n   1: 00000000:8462 00000000:0000 0A\n")
    mapped = "0000000000000000FFFF00000100007F"
    six.write_text(
        head
        + f"   0: {mapped}:8462 {'0000000000000000FFFF00000A00000A'}:0050 01\n"
        + f"   1: {mapped}:8463 {mapped}:0051 01\n"
        + f"   2: {mapped}:8462 {'00000000000000000000000001000000'}:0052 01\n"
    )
    assert peers(33890, (four, six, tmp_path / "none")) == ["10.0.0.10:80", "127.0.0.2:49152", "[::1]:82"]


class TestMeter:
    def test_rates_are_over_the_time_between(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = [100.0]
        monkeypatch.setattr("labyard.desktops.agent.rdp.meter.time.monotonic", lambda: clock[0])
        monkeypatch.setattr("labyard.desktops.agent.rdp.meter.time.sleep", lambda seconds: None)
        takes = iter([Taken(1.0, 0, "cgroup"), Taken(2.0, 512 * MIB, "cgroup"), Taken(99.0, 2048 * MIB, "cgroup")])
        counts = iter([Counted(0, 0), Counted(1000, 500), Counted(1000, 500)])
        meter = Meter(MADE, Sources(lambda: next(takes), lambda: next(counts), lambda: Used(1024 * MIB, "files")))
        clock[0] += 2
        usage = meter.usage()
        assert (usage.cpu_percent, usage.memory_percent, usage.disk_percent) == (50.0, 50.0, 50.0)
        assert (usage.network_in, usage.network_out, usage.source) == (500.0, 250.0, "cgroup")
        assert meter.usage() is usage  # too soon for another
        clock[0] += 1
        usage = meter.usage()
        assert (usage.cpu_percent, usage.memory_percent) == (200.0, 100.0)  # never above the limits
        assert usage.network_in == 0.0

    def test_a_kill_for_memory_is_a_full_memory(self) -> None:
        takes = iter([Taken(0.0, MIB, "cgroup"), Taken(0.0, MIB, "cgroup", killed=1)])
        meter = Meter(MADE, Sources(lambda: next(takes), lambda: Counted(0, 0), lambda: Used(0, "files")))
        usage = meter.usage()
        assert (usage.memory_percent, usage.detail["killed_for_memory"]) == (100.0, 1)

    def test_what_cannot_be_measured_is_none_and_says_why(self) -> None:
        def fails() -> Any:
            raise AdapterError("no nftables here")

        meter = Meter(MADE, Sources(lambda: Taken(0.0, MIB, "cgroup"), fails, lambda: Used(0, "files")))
        usage = meter.usage()
        assert (usage.network_in, usage.network_out) == (None, None)
        assert usage.detail["reasons"] == {"network": "no nftables here"}
        assert usage.memory_percent is not None


class TestUnits:
    def test_each_server_sees_its_own_files_in_its_own_slice(self, tmp_path: Path) -> None:
        systemd = Systemd("test", tmp_path, tmp_path / "units")
        for service in ("sesman", "xrdp"):
            lines = systemd.template(service).splitlines()
            assert "Slice=test-rdp-%i.slice" in lines
            assert any(line.startswith(f"BindPaths={tmp_path}/%i/etc:/etc/xrdp ") for line in lines)
            assert f"InaccessiblePaths={tmp_path}" in lines
            assert "NoNewPrivileges=yes" in lines
        assert "User=xrdp" in systemd.template("xrdp")

    def test_recorders_are_outside_the_servers_slices(self, tmp_path: Path) -> None:
        lines = SystemdRecorders("test", tmp_path / "run", tmp_path / "spool").template().splitlines()
        assert "Slice=test-recorders.slice" in lines
        assert "CapabilityBoundingSet=" in lines


class TestOnce:
    def test_what_failed_is_tried_again(self) -> None:
        once, calls = Once(), []

        def fail() -> None:
            calls.append(1)
            raise AdapterError("not now")

        for _ in range(2):
            with pytest.raises(AdapterError):
                once.do(("verb", "id"), fail)
        assert len(calls) == 2

    def test_only_the_newest_are_remembered(self) -> None:
        once, calls = Once(remembered=2), []
        for name in ("a", "b", "c", "a"):
            once.do(("verb", name), lambda name=name: calls.append(name))
        assert calls == ["a", "b", "c", "a"]
