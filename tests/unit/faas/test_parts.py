"""Small parts: HTTP on the wire, the ring, the log, counters, cgroup paths."""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from labyard.faas import log as log_module
from labyard.faas.adapters import cgroups
from labyard.faas.adapters.runtime import last_line
from labyard.faas.adapters.seccomp import profile
from labyard.faas.children import Calls
from labyard.faas.errors import BadRequest, FaasError
from labyard.faas.history import FILE, MOST, OLDER, PENDING, History
from labyard.faas.log import log
from labyard.faas.ring import Ring
from labyard.faas.stats import Record, Stats
from labyard.faas.wire import json_reply, read_request
from labyard.testing.waiting import PATIENCE


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

    def test_head_with_bare_line_feeds_and_a_quoted_path(self) -> None:
        with sent(b"GET /api/ip/a%20b HTTP/1.0\nHost: h\n\n") as link:
            request = read_request(link)
        assert request is not None
        assert (request.path, request.headers) == ("/api/ip/a b", {"host": "h"})

    def test_head_that_trickles_in(self) -> None:
        """Each byte comes soon after the last one, and still all of them have one time limit."""
        ours, theirs = socket.socketpair()
        stopped = threading.Event()

        def trickle() -> None:
            while not stopped.wait(0.02):
                theirs.sendall(b"x")

        client = threading.Thread(target=trickle)
        client.start()
        try:
            with pytest.raises(TimeoutError):
                read_request(ours, seconds=0.2)
        finally:
            stopped.set()
            client.join()
            ours.close()
            theirs.close()

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
            (b"Content-Length: " + b"9" * 5000 + b"\r\n", b"", 413),
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
            request = read_request(ours)
            assert request is not None
            ours.settimeout(0.05)
            with pytest.raises(FaasError, match="stood still") as caught:
                list(request.body(100))
        assert caught.value.status == 408

    def test_reason_is_one_short_latin_line(self) -> None:
        head = json_reply(400, {}, "bad\r\nX-Injected: yes\x1b ✓ " + "x" * 500).split(b"\r\n\r\n")[0]
        first, *headers = head.split(b"\r\n")
        assert len(first) <= len(b"HTTP/1.1 400 ") + 200
        assert b"bad X-Injected: yes? ?" in first
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


def test_log_that_nobody_reads_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "PATIENCE", 0.01)
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding="utf-8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        for _ in range(100):
            log("request", "✓" * 5000)
        full = os.read(reading, 1 << 20).decode().splitlines()
        log("request", "read again")
        monkeypatch.undo()
    with os.fdopen(reading, encoding="utf-8") as rest:
        lost, last = rest.read().splitlines()
    assert all(len(line.encode()) <= 4000 for line in full)
    assert lost == f"[server] {100 - len(full)} lines were lost: nobody read them"
    assert last == "[request] read again"


def test_last_line() -> None:
    assert last_line('x\ntime="t" level=error msg="exec: \\"sh\\": not found"\n\n') == 'exec: "sh": not found'
    assert last_line("plain\n") == "plain"
    assert last_line("") == "it said nothing"


def record(result: str = "ok", ms: float = 3, stderr: str = "") -> Record:
    return Record("id", "time", "client", result, 0, ms, False, 0, stderr)


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    """One that writes."""
    history = History(tmp_path)
    history.start()
    yield history
    history.close()


class TestStats:
    def test_counters_and_histogram(self, history: History) -> None:
        stats = Stats(history)
        stats.begin("th")
        for ms in (1, 3, 40, 99999):
            stats.add("th", record(ms=ms))
        stats.pool("th", hit=True)
        lines = stats.metrics()
        assert 'faas_requests_total{function="th",result="ok"} 4' in lines
        assert 'faas_request_seconds_bucket{function="th",le="0.002"} 1' in lines
        assert 'faas_request_seconds_bucket{function="th",le="0.05"} 3' in lines
        assert 'faas_request_seconds_bucket{function="th",le="+Inf"} 4' in lines
        assert 'faas_pool_hits_total{function="th"} 1' in lines
        assert [entry["ms"] for entry in history.last("th", 10)] == [99999, 40, 3, 1]

    def test_forgotten(self, history: History) -> None:
        stats = Stats(history)
        stats.begin("th")
        stats.add("th", record())
        stats.forget("th")
        stats.add("th", record())  # of a request that was under way
        stats.pool("th", hit=True)
        assert stats.of("th")["requests"] == 0
        assert history.last("th", 10) == []
        assert not [line for line in stats.metrics() if '"th"' in line]


class TestHistory:
    def test_is_read_by_the_next_one(self, tmp_path: Path) -> None:
        first = History(tmp_path)
        first.start()
        for number in range(5):
            first.add("th", {"number": number, "stderr": "line\n\u2028\x00"})
        first.close()
        second = History(tmp_path)
        assert [record["number"] for record in second.last("th", 3)] == [4, 3, 2]
        assert second.last("th", 1)[0]["stderr"] == "line\n\u2028\x00"
        assert second.last("other", 3) == []

    def test_what_was_told_outlives_a_kill(self, tmp_path: Path) -> None:
        history = History(tmp_path)  # its thread is not started: what is added is not written yet
        for number in range(3):
            history.add("th", {"number": number})
        assert [record["number"] for record in history.last("th", 2)] == [2, 1]
        assert [record["number"] for record in History(tmp_path).last("th", 10)] == [2, 1, 0]

    def test_is_bounded(self, history: History, tmp_path: Path) -> None:
        for number in range(80):
            history.add("th", {"number": number, "stderr": "x" * 65536})
            history.last("th", 0)
        history.close()
        sizes = {path.name: path.stat().st_size for path in (tmp_path / "th").iterdir()}
        assert set(sizes) <= {FILE, OLDER}
        assert max(sizes.values()) < MOST + 70000
        numbers = [record["number"] for record in History(tmp_path).last("th", 1000)]
        assert numbers == list(range(79, 79 - len(numbers), -1))
        assert len(numbers) > MOST // 70000

    def test_line_that_was_cut_off(self, tmp_path: Path) -> None:
        (tmp_path / "th").mkdir()
        (tmp_path / "th" / FILE).write_bytes(b'{"number": 1}\n[1]\n\xff\n{"number": 2, "std')
        history = History(tmp_path)
        history.start()
        history.add("th", {"number": 3})
        history.close()
        assert [record["number"] for record in history.last("th", 10)] == [3, 1]

    def test_disk_that_takes_nothing_for_a_while(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        said: queue.Queue[str] = queue.Queue()
        monkeypatch.setattr("labyard.faas.history.RETRY", 0.01)
        monkeypatch.setattr("labyard.faas.history.log", lambda _, text: said.put(text))
        (tmp_path / "th").touch()  # in the place of its folder
        history = History(tmp_path)
        history.start()
        for number in range(PENDING + 10):
            history.add("th", {"number": number})
        assert said.get(timeout=PATIENCE).startswith("Requests cannot be kept: ")
        assert [record["number"] for record in history.last("th", 1)] == [PENDING + 9]
        (tmp_path / "th").unlink()
        history.close()
        assert said.empty()
        numbers = [record["number"] for record in History(tmp_path).last("th", 1000)]
        assert numbers == list(range(PENDING + 9, 9, -1))

    def test_forgotten(self, history: History, tmp_path: Path) -> None:
        history.add("th", {"number": 1})
        history.forget("th")
        assert history.last("th", 1) == []
        assert not list(tmp_path.iterdir())


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

    def test_runtime_that_is_told_where(self) -> None:
        """crun takes one path for all hierarchies, below their mount points."""
        v1 = cgroups.Cgroups(
            1,
            {"memory": Path("/c/memory/own"), "freezer": Path("/c/freezer")},
            {"memory": Path("/c/memory"), "freezer": Path("/c/freezer")},
            enforced=frozenset({"memory"}),
        )
        assert v1.path_of("c") == ""
        assert v1.named().path_of("c") == "/own/c"
        assert v1.named().parents == {"memory": Path("/c/memory/own"), "freezer": Path("/c/freezer/own")}
        v2 = cgroups.Cgroups(2, {"": Path("/c")}, {"": Path("/c")})
        assert v2.named().path_of("c") == "/c"
        assert cgroups.Cgroups(1, enforced=frozenset({"pids"})).named().enforced == frozenset()

    def test_oom_kills(self, tmp_path: Path) -> None:
        (tmp_path / "c").mkdir()
        (tmp_path / "c/memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
        assert cgroups.Cgroups(1, {"memory": tmp_path}).oom_kills("c") == 2
        (tmp_path / "c/memory.events").write_text("low 0\noom 1\noom_kill 1\n")
        assert cgroups.Cgroups(2, {"": tmp_path, "memory": tmp_path}).oom_kills("c") == 1
        assert cgroups.Cgroups(1, {}).oom_kills("c") == 0


def test_strays_are_waited_for_the_second_time_they_are_seen() -> None:
    calls = Calls("runc")
    stray, adopted = (os.posix_spawn("/bin/true", ["true"], {}) for _ in range(2))
    calls.adopt(adopted)
    for pid in (stray, adopted):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    calls.reap_strays()
    os.waitid(os.P_PID, stray, os.WEXITED | os.WNOWAIT)
    calls.reap_strays()
    with pytest.raises(ChildProcessError):
        os.waitpid(stray, 0)
    assert os.waitpid(adopted, 0) == (adopted, 0)


def test_seccomp_profile_lists_no_call_that_manages_the_machine() -> None:
    allowed = {name for rule in profile("x86_64")["syscalls"] for name in rule["names"] if not rule.get("args")}
    assert not allowed & {"mount", "umount2", "ptrace", "bpf", "setns", "unshare", "init_module", "keyctl", "reboot"}
    assert {"read", "write", "execve", "recvmsg", "futex"} <= allowed
