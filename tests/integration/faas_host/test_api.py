"""The control API on the wire, the token, and the command `faas` to the letter (contract 3 and 4)."""

from __future__ import annotations

import gzip
import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from integration.faas_host.conftest import UNHURRIED
from labyard.faas.api import IDLE
from labyard.testing.faas.archives import docker_archive, layer
from labyard.testing.faas.host import Host
from labyard.testing.waiting import PATIENCE, wait_until

Image = Callable[..., bytes]
TINY = docker_archive([layer({"file": b"content"})], Entrypoint=["/nothing"], Cmd=["a", "b c"])
EMPTY = docker_archive([layer({"file": b"content"})])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host(tmp_path_factory.mktemp("host"), **UNHURRIED)
    host.start()
    yield host
    host.close()


@pytest.fixture(autouse=True)
def _without_functions(shared: Host) -> Iterator[None]:
    yield
    for name in shared.api("GET", "/api/list").json:
        assert shared.api("DELETE", f"/api/function/{name}").status == 200


class TestRoutes:
    def test_new(self, shared: Host) -> None:
        reply = shared.deploy("th", TINY)
        assert reply.status == 200
        assert reply.headers["content-type"] == "application/json"
        answer = reply.json
        assert (answer["name"], answer["ip"], answer["cmd"]) == ("th", "10.0.0.10", ["/nothing", "a", "b c"])
        assert len(answer["key"]) == 64
        assert answer["reused"] is False
        assert "not_enforced" not in answer

    def test_name_is_missing(self, shared: Host) -> None:
        reply = shared.api("POST", "/api/new", TINY)
        assert (reply.status, reply.reason) == (400, "Missing X-Image-Name header")
        assert reply.json == {"detail": "Missing X-Image-Name header"}

    def test_length_is_missing(self, shared: Host) -> None:
        with shared.connect("127.0.0.1", 8080) as link:
            link.sendall(b"POST /api/new HTTP/1.1\r\nX-Image-Name: th\r\n\r\n")
            assert link.makefile("rb").read().startswith(b"HTTP/1.1 411 ")

    def test_chunked(self, shared: Host) -> None:
        pieces = (TINY[at : at + 1000] for at in range(0, len(TINY), 1000))
        reply = shared.api("POST", "/api/new", pieces, {"X-Image-Name": "th"})
        assert reply.status == 200, reply.text

    def test_body_that_is_waited_for(self, shared: Host) -> None:
        """curl asks before it sends a large body. A bad name is told without taking the body."""
        head = "POST /api/new HTTP/1.1\r\nX-Image-Name: {}\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n"
        with shared.connect("127.0.0.1", 8080) as link:
            link.sendall(head.format("th", len(TINY)).encode())
            assert link.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            link.sendall(TINY)
            assert link.makefile("rb").read().startswith(b"HTTP/1.1 200 ")
        with shared.connect("127.0.0.1", 8080) as link:
            link.sendall(head.format("../th", len(TINY)).encode())
            assert link.recv(100).startswith(b"HTTP/1.1 400 ")

    def test_refusal_is_read_though_the_body_is_large(self, shared: Host) -> None:
        reply = shared.api("POST", "/api/new", b"x" * (32 << 20), {"X-Image-Name": "../th"})
        assert reply.status == 400

    def test_body_that_is_cut_off(self, shared: Host) -> None:
        with shared.connect("127.0.0.1", 8080) as link:
            link.sendall(b"POST /api/new HTTP/1.1\r\nX-Image-Name: th\r\nContent-Length: 1000\r\n\r\nabc")
            link.shutdown(socket.SHUT_WR)
            assert link.makefile("rb").read().startswith(b"HTTP/1.1 400 ")
        assert shared.api("GET", "/api/list").json == {}
        shared.settle()

    def test_compressed_archive(self, shared: Host) -> None:
        assert shared.deploy("th", gzip.compress(TINY)).status == 200

    def test_ip_and_list(self, shared: Host) -> None:
        assert shared.api("GET", "/api/list").body == b"{}\n"
        shared.function("th", TINY)
        assert shared.api("GET", "/api/ip/th").json == {"name": "th", "ip": "10.0.0.10"}
        reply = shared.api("GET", "/api/ip/nobody")
        assert (reply.status, reply.reason) == (404, "Image nobody not found")
        assert reply.json == {"detail": "Image nobody not found"}
        listed = shared.api("GET", "/api/list")
        assert b'{\n  "th": {\n    "ip": "10.0.0.10",' in listed.body
        assert listed.json["th"]["cmd"] == ["/nothing", "a", "b c"]

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/nothing", 404),
            ("GET", "/api/list/", 404),
            ("GET", "/api/new", 405),
            ("POST", "/api/list", 405),
            ("PUT", "/api/function/th", 405),
            ("GET", "/api/function/nobody", 404),
            ("DELETE", "/api/function/nobody", 404),
            ("GET", "/api/function/nobody/logs", 404),
            ("GET", "/api/observer/check", 405),
            ("GET", "/api/function/nobody/logs?limit=1", 404),
        ],
    )
    def test_elsewhere(self, shared: Host, method: str, path: str, status: int) -> None:
        reply = shared.api(method, path)
        assert reply.status == status
        assert reply.json["detail"]

    def test_what_is_no_http(self, shared: Host) -> None:
        for sent in (b"hello\r\n\r\n", b"GET / HTTP/1.1\r\nbroken\r\n\r\n", b"\x16\x03\x01" + b"\r\n\r\n"):
            with shared.connect("127.0.0.1", 8080) as link:
                link.sendall(sent)
                assert link.makefile("rb").read().startswith(b"HTTP/1.1 400 ")
        with shared.connect("127.0.0.1", 8080) as link:
            link.sendall(b"GET /" + b"x" * 70000)
            assert link.makefile("rb").read().startswith(b"HTTP/1.1 431 ")

    def test_quoted_name(self, shared: Host) -> None:
        assert shared.api("GET", "/api/ip/a%20b").json == {"detail": "Image a b not found"}
        shared.function("a-b", TINY)
        assert shared.api("GET", "/api/ip/a%2Db").json["ip"] == "10.0.0.10"

    def test_head_has_no_body(self, shared: Host) -> None:
        for path, status in ((b"/api/list", b"405"), (b"/nothing", b"404")):
            with shared.connect("127.0.0.1", 8080) as link:
                link.sendall(b"HEAD " + path + b" HTTP/1.1\r\n\r\n")
                head, _, body = link.makefile("rb").read().partition(b"\r\n\r\n")
            assert head.split()[1] == status
            assert body == b""

    def test_one_request_for_each_connection(self, shared: Host) -> None:
        """What is sent ahead is not answered, and the answer says so."""
        with shared.connect("127.0.0.1", 8080) as link:
            link.sendall(b"GET /health HTTP/1.1\r\n\r\n" * 3)
            answer = link.makefile("rb").read()
        assert answer.count(b"HTTP/1.1 200 OK") == 1
        assert b"Connection: close" in answer

    def test_half_closed_client(self, shared: Host) -> None:
        with shared.connect("127.0.0.1", 8080) as link:
            link.sendall(b"GET /health HTTP/1.1\r\n\r\n")
            link.shutdown(socket.SHUT_WR)
            assert link.makefile("rb").read().startswith(b"HTTP/1.1 200 OK\r\n")

    def test_a_hundred_at_once(self, shared: Host) -> None:
        """More than there are threads: they wait for one."""
        with ThreadPoolExecutor(100) as threads:
            replies = list(threads.map(lambda _: shared.api("GET", "/api/list"), range(100)))
        assert {reply.status for reply in replies} == {200}

    def test_health_stats_and_metrics(self, shared: Host) -> None:
        ip = shared.function("th", TINY)
        assert shared.get(ip).status == 502
        shared.last("th")
        assert shared.api("GET", "/health").json == {"status": "ok", "runtime": "runc", "functions": 1}
        stats = shared.api("GET", "/api/stats").json["functions"]["th"]
        assert stats["results"] == {"start_failed": 1}
        reply = shared.api("GET", "/metrics")
        assert reply.headers["content-type"].startswith("text/plain")
        lines = reply.text.splitlines()
        assert 'faas_requests_total{function="th",result="start_failed"} 1' in lines
        assert 'faas_request_seconds_count{function="th"} 1' in lines
        assert "faas_functions 1" in lines
        assert 'faas_pool_parked{function="th"} 0' in lines

    def test_logs(self, shared: Host, image: Image) -> None:
        ip = shared.function("th", image("exit-early", "3"))
        for _ in range(3):
            shared.get(ip)
        wait_until(lambda: len(shared.logs("th")) == 3, "three entries")
        entries = shared.api("GET", "/api/function/th/logs?limit=2").json
        assert len(entries) == 2
        assert {"id", "time", "result", "ms", "stderr"} <= set(entries[0])
        for limit in ("x", "-1", "9" * 5000):
            assert shared.api("GET", f"/api/function/th/logs?limit={limit}").status == 400

    def test_audit(self, shared: Host) -> None:
        path = shared.path("/var/lib/faasd/audit.jsonl")
        before = len(path.read_text().splitlines()) if path.exists() else 0
        shared.deploy("th", TINY)
        shared.deploy("th", b"junk")
        shared.api("DELETE", "/api/function/th")
        rows = [json.loads(line) for line in path.read_text().splitlines()[before:]]
        assert [(row["action"], row["name"], row["result"].split()[0]) for row in rows] == [
            ("new", "th", "ok"),
            ("new", "th", "failed:"),
            ("remove", "th", "ok"),
        ]
        assert all(set(row) == {"time", "peer", "action", "name", "result"} for row in rows)

    def test_stalled_upload_delays_nobody(self, shared: Host) -> None:
        with shared.connect("127.0.0.1", 8080) as link:
            link.sendall(b"POST /api/new HTTP/1.1\r\nX-Image-Name: stalled\r\nContent-Length: 1000\r\n\r\nabc")
            began = time.monotonic()
            shared.function("th", TINY)
            assert shared.api("GET", "/api/list").status == 200
            assert time.monotonic() - began < IDLE  # s, until the stalled one is given up
        shared.settle()

    def test_more_connections_than_there_is_room_for(self, shared: Host) -> None:
        links = [shared.connect("127.0.0.1", 8080) for _ in range(32)]
        try:
            wait_until(lambda: shared.api("GET", "/health").status == 503, "all of them are taken")
        finally:
            for link in links:
                link.close()
        wait_until(lambda: shared.api("GET", "/health").status == 200, "room again")


class TestToken:
    def test_every_route_but_health(self, make_host: Callable[[], Host]) -> None:
        host = make_host()
        host.path("/run/token").write_text("very secret\n")
        host.start(api_token_file="/run/token", api_bind="0.0.0.0")
        assert host.api("GET", "/health").status == 200
        for method, path in (("GET", "/api/list"), ("POST", "/api/new"), ("GET", "/metrics"), ("GET", "/api/ip/x")):
            assert host.api(method, path).status == 401
            assert host.api(method, path, headers={"Authorization": "Bearer wrong"}).status == 401
        assert host.api("GET", "/api/list", headers={"Authorization": "Bearer very secret"}).status == 200
        assert host.faas("list").stdout.startswith(b"Error: 401 - ")
        done = host.faas("list", LABYARD_FAAS_TOKEN_FILE="/run/token")
        assert (done.returncode, done.stdout) == (0, b"No images deployed\n")
        assert "very secret" not in host.log()
        assert "WARNING" not in host.log()

    def test_without_one_beyond_loopback_is_a_warning(self, host: Host) -> None:
        host.run("ip", "addr", "add", "192.0.2.1/32", "dev", "lo")
        host.start(api_bind="192.0.2.1")
        assert "WARNING: the API listens on 127.0.0.1, 192.0.2.1 without a token" in host.log()
        assert host.request("192.0.2.1", path="/health", port=8080).status == 200

    def test_unreadable_token(self, host: Host) -> None:
        host.launch(api_token_file="/run/nothing")
        assert host.daemon is not None
        assert host.daemon.wait(timeout=PATIENCE) == 1
        assert "LABYARD_FAAS_API_TOKEN_FILE" in host.log()


class TestCommand:
    def test_new(self, shared: Host) -> None:
        done = shared.faas("new", "th", input=TINY)
        assert done.returncode == 0
        assert done.stdout.decode() == (
            "Uploading image 'th' to FaaS platform...\n"
            f"Read {len(TINY)} bytes from stdin\n"
            "✓ Deployed th at 10.0.0.10\n"
            "  Command: ['/nothing', 'a', 'b c']\n"
        )
        assert done.stderr == b""

    def test_new_from_a_file_in_a_plain_locale(self, shared: Host) -> None:
        shared.path("/run/image.tar").write_bytes(TINY)
        script = f"{sys.executable} -m labyard.faas.cli new th < /run/image.tar"
        done = shared.run("env", "LANG=C", "LC_ALL=C", "PYTHONUTF8=0", "PYTHONCOERCECLOCALE=0", "sh", "-c", script)
        assert "✓ Deployed th at 10.0.0.10\n" in done.stdout

    def test_new_without_data(self, shared: Host) -> None:
        done = shared.faas("new", "th")
        assert done.returncode == 1
        assert done.stdout == b"Uploading image 'th' to FaaS platform...\nError: No data received on stdin\n"

    def test_new_that_is_refused(self, shared: Host) -> None:
        done = shared.faas("new", "../th", input=b"x" * (4 << 20))
        assert done.returncode == 1
        assert b"Error: 400 - {" in done.stdout
        done = shared.faas("new", "th", input=b"junk" * 1000)
        assert done.returncode == 1
        lines = done.stdout.decode().splitlines()
        assert lines[:2] == ["Uploading image 'th' to FaaS platform...", "Read 4000 bytes from stdin"]
        assert lines[2] == "Error: 400 - {"
        assert "Invalid Docker image" in lines[3]

    def test_new_with_limits(self, shared: Host) -> None:
        words = [
            "--memory",
            "64M",
            "--cpu=0.5",
            "--pids",
            "32",
            "--tmp",
            "16M",
            "--timeout",
            "10",
            "--concurrency",
            "4",
        ]
        assert shared.faas("new", "th", *words, "--warm", "0", input=TINY).returncode == 0
        limits = shared.api("GET", "/api/function/th").json["limits"]
        assert limits == {
            "memory": 64 << 20,
            "cpu": 0.5,
            "pids": 32,
            "tmp": 16 << 20,
            "timeout": 10.0,
            "concurrency": 4,
            "warm": 0,
        }

    def test_ip(self, shared: Host) -> None:
        shared.function("th", TINY)
        done = shared.faas("ip", "th")
        assert (done.returncode, done.stdout) == (0, b"10.0.0.10\n")
        done = shared.faas("ip", "nobody")
        assert done.returncode == 1
        assert done.stdout.startswith(b"Error: 404 - ")
        assert b"Image nobody not found" in done.stdout
        assert b"Image a b not found" in shared.faas("ip", "a b").stdout

    def test_list(self, shared: Host) -> None:
        done = shared.faas("list", "extra", "words")
        assert (done.returncode, done.stdout) == (0, b"No images deployed\n")
        shared.function("th", TINY)
        shared.function("a-name-that-is-longer-than-it-may-be", EMPTY)
        assert shared.faas("list").stdout.decode().splitlines() == [
            "Name                 IP              Command",
            "-" * 60,
            "th                   10.0.0.10       /nothing a b c",
            "a-name-that-is-longer-than-it-may-be 10.0.0.11       /bin/sh",
        ]

    @pytest.mark.parametrize(
        ("words", "text"),
        [
            (["new"], "Usage: faas new <name>\n"),
            (["new", "a", "b"], "Usage: faas new <name>\n"),
            (["ip"], "Usage: faas ip <name>\n"),
            (["ip", "a", "b"], "Usage: faas ip <name>\n"),
            ([], "Usage: faas <command>"),
            (["what"], "Unknown command: what\nUsage: faas <command>"),
        ],
    )
    def test_usage(self, shared: Host, words: list[str], text: str) -> None:
        done = shared.faas(*words)
        assert done.returncode == 1
        assert done.stdout.decode().startswith(text)
        assert done.stderr == b""

    def test_daemon_is_down(self, host: Host) -> None:
        for words in (["list"], ["ip", "th"]):
            done = host.faas(*words)
            assert done.returncode == 1
            assert done.stdout.startswith(b"Error: cannot reach the FaaS daemon at http://localhost:8080: ")
        assert b"Error: " in host.faas("new", "th", input=TINY).stdout

    def test_rm_logs_stats_check(self, shared: Host) -> None:
        ip = shared.function("th", TINY)
        shared.get(ip)
        shared.last("th")
        shared.get(ip)
        wait_until(lambda: len(shared.logs("th")) == 2, "both are in the log")
        first, second = shared.logs("th")[::-1]
        lines = shared.faas("logs", "th").stdout.decode().splitlines()
        heads = [line.split()[1:4] for line in lines if not line.startswith("  ")]
        assert heads == [[entry["id"], "start_failed", "502"] for entry in (first, second)]
        assert len(lines) > len(heads), "and what was written to stderr"
        assert second["id"].encode() in shared.faas("logs", "th", "--limit", "1").stdout
        assert first["id"].encode() not in shared.faas("logs", "th", "--limit", "1").stdout
        assert shared.faas("logs").stdout == b"Usage: faas logs <name> [--limit 20]\n"
        assert json.loads(shared.faas("stats", "th").stdout)["stats"]["requests"] == 2
        assert json.loads(shared.faas("stats").stdout)["functions"]["th"]
        assert shared.faas("check").stdout == b"No issues\n"
        assert shared.faas("rm", "th").stdout.decode() == "✓ Removed th\n"
        assert shared.faas("rm", "th").returncode == 1

    def test_five_at_once(self, shared: Host) -> None:
        with ThreadPoolExecutor(5) as threads:
            done = list(threads.map(lambda number: shared.faas("new", f"f{number}", input=TINY), range(5)))
        assert [one.returncode for one in done] == [0] * 5
        assert len(shared.api("GET", "/api/list").json) == 5
        assert len(shared.listing("/var/lib/faasd/images")) == 6
