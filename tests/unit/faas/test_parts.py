"""Small parts: HTTP on the wire, the ring, the log, counters, cgroup paths."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from labyard.faas.adapters import cgroups
from labyard.faas.adapters.runtime import last_line
from labyard.faas.adapters.seccomp import profile
from labyard.faas.errors import BadRequest, FaasError
from labyard.faas.log import log
from labyard.faas.ring import Ring
from labyard.faas.stats import KEPT, Record, Stats
from labyard.faas.wire import json_reply, read_request


def sent(data: bytes) -> socket.socket:
    """A connection on which a client has sent this, and no more will come."""
    ours, theirs = socket.socketpair()

    def send() -> None:
        with theirs:
            theirs.sendall(data)

    threading.Thread(target=send).start()
    return ours


def body_of(data: bytes, limit: int = 1000) -> bytes:
    with sent(data) as link:
        request = read_request(link)
        assert request is not None
        return b"".join(request.body(limit))


class TestWire:
    def test_head(self) -> None:
        with sent(b"GET /a/b?x=1&y= HTTP/1.1\r\nHost: h\r\nX-Image-Name:  th \r\n\r\n") as link:
            request = read_request(link)
        assert request is not None
        assert (request.method, request.path, request.query) == ("GET", "/a/b", {"x": "1", "y": ""})
        assert request.headers == {"host": "h", "x-image-name": "th"}

    def test_nothing(self) -> None:
        with sent(b"") as link:
            assert read_request(link) is None

    def test_bodies(self) -> None:
        assert body_of(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhellomore") == b"hello"
        chunks = b"4\r\nabcd\r\n2;name=value\r\nef\r\n0\r\nTrailer: x\r\n\r\n"
        assert body_of(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks) == b"abcdef"

    @pytest.mark.parametrize(
        ("headers", "body", "status"),
        [
            (b"", b"x", 411),
            (b"Content-Length: x\r\n", b"", 400),
            (b"Content-Length: -1\r\n", b"", 400),
            (b"Content-Length: 1001\r\n", b"", 413),
            (b"Content-Length: 10\r\n", b"short", 400),
            (b"Transfer-Encoding: chunked\r\n", b"xyz\r\n", 400),
            (b"Transfer-Encoding: chunked\r\n", b"fff\r\n", 413),
            (b"Transfer-Encoding: chunked\r\n", b"-5\r\n", 413),
            (b"Transfer-Encoding: chunked\r\n", b"4\r\nab", 400),
            (b"Transfer-Encoding: chunked\r\n", b"1" * 5000, 400),
        ],
    )
    def test_bad_bodies(self, headers: bytes, body: bytes, status: int) -> None:
        with pytest.raises(FaasError) as caught:
            body_of(b"POST / HTTP/1.1\r\n" + headers + b"\r\n" + body)
        assert caught.value.status == status

    @pytest.mark.parametrize(
        "data", [b"GET /", b"x\r\n\r\n", b"GET / HTTP/2\r\n\r\n", b"GET / HTTP/1.1\r\n x: y\r\n\r\n"]
    )
    def test_bad_heads(self, data: bytes) -> None:
        with sent(data) as link, pytest.raises(BadRequest):
            read_request(link)

    def test_body_that_stands_still(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhel")
            ours.settimeout(0.05)
            request = read_request(ours)
            assert request is not None
            with pytest.raises(FaasError, match="stood still") as caught:
                list(request.body(100))
        assert caught.value.status == 408

    def test_reason_is_one_short_latin_line(self) -> None:
        head = json_reply(400, {}, "bad\r\nX-Injected: yes ✓ " + "x" * 500).split(b"\r\n\r\n")[0]
        first, *headers = head.split(b"\r\n")
        assert len(first) <= len(b"HTTP/1.1 400 ") + 200
        assert b"bad X-Injected: yes ?" in first
        assert not [line for line in headers if line.startswith(b"X-Injected")]


def test_ring_keeps_the_end() -> None:
    ring = Ring(10)
    for number in range(100):
        ring.add(b"%d," % number)
    assert ring.text() == ",97,98,99,"
    ring.add(b"\xff\xfe")
    assert ring.text().endswith("\ufffd\ufffd")


def test_log_is_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    log("request", "first\nsecond\r\n[shutdown] forged")
    assert capsys.readouterr().out == "[request] first\\nsecond\\n[shutdown] forged\n"


def test_last_line() -> None:
    assert last_line('x\ntime="t" level=error msg="exec: \\"sh\\": not found"\n\n') == 'exec: "sh": not found'
    assert last_line("plain\n") == "plain"
    assert last_line("") == "it said nothing"


def record(result: str = "ok", ms: float = 3, stderr: str = "") -> Record:
    return Record("id", "time", "client", result, 0, ms, False, 0, stderr)


class TestStats:
    def test_counters_and_histogram(self) -> None:
        stats = Stats()
        for ms in (1, 3, 40, 99999):
            stats.add("th", record(ms=ms))
        stats.pool("th", hit=True)
        lines = stats.metrics()
        assert 'faas_requests_total{function="th",result="ok"} 4' in lines
        assert 'faas_request_seconds_bucket{function="th",le="0.002"} 1' in lines
        assert 'faas_request_seconds_bucket{function="th",le="0.05"} 3' in lines
        assert 'faas_request_seconds_bucket{function="th",le="+Inf"} 4' in lines
        assert 'faas_pool_hits_total{function="th"} 1' in lines

    def test_logs_are_bounded_newest_first(self) -> None:
        stats = Stats()
        for number in range(KEPT + 5):
            stats.add("th", record(result=str(number), stderr="x" * 65536))
        logs = stats.logs("th", 1000)
        assert len(logs) == KEPT
        assert logs[0]["result"] == str(KEPT + 4)
        assert len(logs[0]["stderr"]) == 65536
        assert sum(len(entry["stderr"]) for entry in logs) <= 256 * 1024 + KEPT * 1024

    def test_forgotten(self) -> None:
        stats = Stats()
        stats.add("th", record())
        stats.forget("th")
        assert stats.of("th")["requests"] == 0


class TestCgroups:
    @pytest.mark.parametrize(
        ("mount_point", "root", "own", "folder"),
        [
            ("/sys/fs/cgroup/memory", "/", "/a/b", "/sys/fs/cgroup/memory/a/b"),
            ("/sys/fs/cgroup/memory", "/docker/x", "/docker/x", "/sys/fs/cgroup/memory"),
            ("/sys/fs/cgroup/memory", "/docker/x", "/docker/x/system.slice", "/sys/fs/cgroup/memory/system.slice"),
            ("/sys/fs/cgroup", "/", "/", "/sys/fs/cgroup"),
        ],
    )
    def test_folder_of_a_group(self, mount_point: str, root: str, own: str, folder: str) -> None:
        assert cgroups._below(mount_point, root, own) == Path(folder)

    def test_v2_moves_into_a_leaf_and_enables_controllers(self, tmp_path: Path) -> None:
        (tmp_path / "cgroup.type").write_text("domain\n")
        (tmp_path / "cgroup.controllers").write_text("cpu memory pids io\n")
        (tmp_path / "cgroup.subtree_control").write_text("")
        found = cgroups._find_v2(tmp_path)
        assert found.version == 2
        assert (tmp_path / "faasd/cgroup.procs").exists()
        # A plain file keeps what was written last; a kernel's would have all three.
        assert (tmp_path / "cgroup.subtree_control").read_text() in ("+cpu", "+memory", "+pids")
        assert cgroups._find_v2(tmp_path / "faasd").parents[""] == tmp_path

    def test_oom_kills(self, tmp_path: Path) -> None:
        (tmp_path / "c").mkdir()
        (tmp_path / "c/memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
        assert cgroups.Cgroups(1, {"memory": tmp_path}).oom_kills("c") == 2
        (tmp_path / "c/memory.events").write_text("low 0\noom 1\noom_kill 1\n")
        assert cgroups.Cgroups(2, {"": tmp_path, "memory": tmp_path}).oom_kills("c") == 1
        assert cgroups.Cgroups(1, {}).oom_kills("c") == 0


def test_seccomp_profile_lists_no_call_that_manages_the_machine() -> None:
    allowed = {name for rule in profile("x86_64")["syscalls"] for name in rule["names"] if not rule.get("args")}
    assert not allowed & {"mount", "umount2", "ptrace", "bpf", "setns", "unshare", "init_module", "keyctl", "reboot"}
    assert {"read", "write", "execve", "recvmsg", "futex"} <= allowed
