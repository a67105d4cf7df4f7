"""Every row of the failure table, with its time limit, and that a failure hurts only its own request (contract 9)."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from integration.faas_host.conftest import UNHURRIED
from labyard.testing.faas.archives import docker_archive
from labyard.testing.faas.host import Host
from labyard.testing.waiting import PATIENCE, wait_until

Image = Callable[..., bytes]
# What a limit may be passed by: 0.5 s of the contract, and what a busy test machine adds.
# s, beside a limit: for a busy machine. What is not cut off goes on for 60 s.
GRACE = 20.0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host(tmp_path_factory.mktemp("host"), **UNHURRIED)
    host.start()
    yield host
    host.close()


@pytest.fixture(autouse=True)
def _nothing_is_left(shared: Host) -> Iterator[None]:
    """After each failure: no container, bundle, socket, cgroup or process, and as many descriptors as before."""
    shared.settle()
    before = shared.descriptors()
    yield
    shared.settle()
    # Two listeners of functions that the test deployed may have come.
    wait_until(lambda: shared.descriptors() <= before + 2, lambda: f"{shared.descriptors()}, before {before}")


class TestBeforeItConnects:
    @pytest.mark.parametrize("code", [0, 1, 7])
    def test_handler_exits(self, shared: Host, image: Image, code: int) -> None:
        ip = shared.function("exits", image("exit-early", str(code)))
        reply = shared.get(ip)
        assert reply.status == 502
        assert reply.json["detail"] == f"handler exited with code {code} before it connected"
        assert reply.json["function"] == "exits"
        assert reply.headers["connection"] == "close"
        assert reply.seconds < GRACE
        entry = shared.last("exits", reply.json["request_id"])
        assert entry["status"] == 502
        assert "something is wrong" in entry["stderr"]
        assert f"[request] Container exited with code {code}\n" in shared.log()
        assert "[request] Container stderr: something is wrong\n" in shared.log()

    def test_program_is_not_there(self, shared: Host, layers: list[bytes]) -> None:
        ip = shared.function("bad-exec", docker_archive(layers, Cmd=["/no/such/program"]))
        reply = shared.get(ip)
        assert reply.status == 502
        assert "/no/such/program" in reply.json["detail"]
        assert reply.seconds < GRACE

    def test_no_command_and_no_shell(self, shared: Host, layers: list[bytes]) -> None:
        reply = shared.deploy("no-shell", docker_archive(layers))
        assert reply.json["cmd"] == ["/bin/sh"]
        answer = shared.get(reply.json["ip"])
        assert answer.status == 502
        assert "/bin/sh" in answer.json["detail"]

    def test_handler_never_connects(self, make_host: Callable[[], Host], image: Image) -> None:
        host = make_host()
        host.start(connect_timeout=None)
        ip = host.function("never", image("never-connects"))
        reply = host.get(ip)
        assert reply.status == 504
        assert reply.json["detail"] == "handler did not connect within 5 s"
        assert reply.reason == "handler did not connect within 5 s"
        assert 5 <= reply.seconds < 5 + GRACE
        host.settle()

    def test_handler_floods_its_output(self, shared: Host, image: Image) -> None:
        ip = shared.function("flood", image("flood"))
        reply = shared.get(ip)
        assert reply.status == 200
        kept = shared.last("flood")["stderr"]
        assert len(kept) == 65536
        assert kept.endswith("the end\n")


class TestAfterTheHandoff:
    def test_exit_code_without_an_answer(self, shared: Host, image: Image) -> None:
        ip = shared.function("exit-later", image("exit-connected", "9"))
        reply = shared.get(ip)
        assert (reply.status, reply.json["detail"]) == (502, "handler exited with code 9 without an answer")
        assert reply.seconds < GRACE

    def test_killed_by_a_signal(self, shared: Host, image: Image) -> None:
        ip = shared.function("aborted", image("abort"))
        reply = shared.get(ip)
        assert reply.status == 502
        assert int(reply.json["detail"].split()[4]) > 128

    def test_exit_0_without_a_byte_is_a_plain_close(self, shared: Host, image: Image) -> None:
        ip = shared.function("silent", image("exit-connected", "0"))
        with shared.connect(ip) as client:
            assert client.recv(10) == b""
        assert shared.last("silent")["result"] == "empty"

    def test_runs_too_long_without_a_byte(self, shared: Host, image: Image) -> None:
        ip = shared.function("long", image("slow", "60"), {"timeout": 2})
        reply = shared.get(ip)
        assert (reply.status, reply.json["detail"]) == (504, "handler exceeded 2 s")
        assert 2 <= reply.seconds < 2 + GRACE

    def test_runs_too_long_in_the_middle_of_its_answer(self, shared: Host, image: Image) -> None:
        ip = shared.function("middle", image("half"), {"timeout": 8})
        began = time.monotonic()
        with shared.connect(ip) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            data = client.makefile("rb").read()
        assert data.endswith(b"half of it")
        assert 8 <= time.monotonic() - began < 8 + GRACE
        assert shared.last("middle")["result"] == "cut_off"

    @pytest.mark.timeout(90)
    def test_thirty_seconds_are_the_default(self, shared: Host, image: Image) -> None:
        ip = shared.function("default", image("slow", "60"))
        reply = shared.get(ip)
        assert (reply.status, reply.json["detail"]) == (504, "handler exceeded 30 s")
        assert 30 <= reply.seconds < 30 + GRACE

    def test_client_that_leaves_early_hurts_nobody(self, shared: Host, image: Image) -> None:
        ip = shared.function("left", image("slow", "0.5"))
        with shared.connect(ip) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        shared.settle()
        assert shared.get(ip).status == 200


class TestLimits:
    def test_memory(self, shared: Host, image: Image) -> None:
        ip = shared.function("hog", image("memory"), {"memory": "48M"})
        other = shared.function("beside-hog", image())
        reply = shared.get(ip)
        assert reply.status == 502
        assert reply.json["detail"] == "handler exited with code 137 without an answer: out of memory"
        assert shared.get(other).status == 200
        assert shared.last("hog")["result"] == "out_of_memory"

    def test_processes(self, shared: Host, image: Image) -> None:
        ip = shared.function("forks", image("fork"), {"pids": 20})
        made, _, reason = shared.get(ip).text.partition(" ")
        assert reason == "Resource temporarily unavailable"
        assert int(made) < 20

    def test_size_of_tmp(self, shared: Host, image: Image) -> None:
        ip = shared.function("tmp", image("fill-tmp"), {"tmp": "4M"})
        assert shared.get(ip).text == "No space left on device"

    def test_processor(self, shared: Host, image: Image) -> None:
        """A fifth of a core: half a second of work takes at least two."""
        ip = shared.function("spin", image("spin", "0.5"), {"cpu": 0.2})
        assert float(shared.get(ip).text) > 1.8


class TestSlots:
    """A client that has sent nothing holds its slot: the handler waits for the request."""

    @staticmethod
    def _await(host: Host, what: str, count: int) -> None:
        wait_until(lambda: host.api("GET", "/api/stats").json[what] == count, f"{what}: {count}")

    @staticmethod
    def _finish(client: socket.socket) -> bytes:
        """Send the request at last; the answer."""
        with client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            return client.makefile("rb").read()

    def test_no_slot_in_time(self, make_host: Callable[[], Host], image: Image) -> None:
        host = make_host()
        host.start(queue_timeout=1, concurrency=1)
        ip = host.function("one", image())
        first = host.connect(ip)
        self._await(host, "at_work", 1)
        reply = host.get(ip)
        assert reply.status == 503
        assert reply.headers["retry-after"] == "1"
        assert reply.json["detail"] == "no free slot within 1 s"
        assert 1 <= reply.seconds < 1 + GRACE
        assert b"200 OK" in self._finish(first)

    def test_in_order_and_all_of_them(self, make_host: Callable[[], Host], image: Image) -> None:
        host = make_host()
        host.start(concurrency=2, queue_timeout=60)
        ip = host.function("two", image())
        with ThreadPoolExecutor(20) as threads:
            assert [reply.status for reply in threads.map(host.get, [ip] * 20)] == [200] * 20

    def test_full_function_does_not_hold_up_another(self, make_host: Callable[[], Host], image: Image) -> None:
        host = make_host()
        host.start()
        full = host.function("full", image(), {"concurrency": 1})
        free = host.function("free", image())
        first, second = host.connect(full), host.connect(full)
        self._await(host, "waiting", 1)
        assert host.get(free).status == 200
        assert host.api("GET", "/api/stats").json["waiting"] == 1
        assert b"200 OK" in self._finish(first)
        assert b"200 OK" in self._finish(second)

    def test_client_that_leaves_the_queue_starts_nothing(self, make_host: Callable[[], Host], image: Image) -> None:
        host = make_host()
        host.start(concurrency=1)
        ip = host.function("queue", image())
        first = host.connect(ip)
        self._await(host, "at_work", 1)
        with host.connect(ip):
            self._await(host, "waiting", 1)
        self._await(host, "waiting", 0)
        assert b"200 OK" in self._finish(first)
        host.settle()
        results = host.api("GET", "/api/function/queue").json["stats"]["results"]
        assert results == {"ok": 1, "client_gone": 1}

    def test_total(self, make_host: Callable[[], Host], image: Image) -> None:
        host = make_host()
        host.start(total_concurrency=1, queue_timeout=1)
        ips = [host.function(f"total-{number}", image()) for number in range(2)]
        first = host.connect(ips[0])
        self._await(host, "at_work", 1)
        assert host.get(ips[1]).status == 503
        assert b"200 OK" in self._finish(first)


class TestClients:
    def test_unread_request_does_not_reset_the_answer(self, shared: Host, image: Image) -> None:
        """The daemon answers with 502 while the request lies unread: closing at once would reset the connection."""
        ip = shared.function("unread", image("exit-connected", "5"))
        with shared.connect(ip) as client:
            client.sendall(b"POST / HTTP/1.1\r\nContent-Length: 30000\r\n\r\n" + b"x" * 30000)
            data = client.makefile("rb").read()
        assert data.startswith(b"HTTP/1.1 502 handler exited with code 5")

    def test_silent_clients_take_no_other_client_s_turn(self, shared: Host, image: Image) -> None:
        ip = shared.function("silent-clients", image(), {"timeout": 8})
        idle = [shared.connect(ip) for _ in range(5)]
        try:
            assert shared.get(ip).status == 200
            assert [self._status(client) for client in idle] == [b"504"] * 5
        finally:
            for client in idle:
                client.close()

    @staticmethod
    def _status(client: socket.socket) -> bytes:
        client.settimeout(PATIENCE)
        return client.makefile("rb").readline().split()[1]

    def test_taken_port_is_told_and_tried_again(self, make_host: Callable[[], Host], image: Image) -> None:
        host = make_host()
        host.start()
        host.function("before", image())
        assert host.stop() == 0
        with host.network():
            other = socket.create_server(("0.0.0.0", 80))
        try:
            host.start()
            health = host.api("GET", "/health").json
            assert health["status"] == "degraded"
            assert "before" in health["not_listening"]
            reply = host.deploy("more", image())
            assert reply.status == 503
            assert "cannot listen on 10.0.0.11:80" in reply.json["detail"]
            assert set(host.api("GET", "/api/list").json) == {"before"}
            assert "10.0.0.11/32" not in host.addresses()
            assert "more" not in host.listing("/var/lib/faasd/images")
            # A new version cannot be had either, and the one before is tried again still.
            assert host.deploy("before", image("other")).status == 503
            assert "before" in host.api("GET", "/health").json["not_listening"]
        finally:
            other.close()
        wait_until(lambda: host.api("GET", "/health").json["status"] == "ok", "listening again")
        assert "Body: \n" in host.get("10.0.0.10").text


class TestStopping:
    def test_request_in_flight_ends_within_the_drain(self, make_host: Callable[[], Host], image: Image) -> None:
        host = make_host()
        host.start(drain_timeout=30)
        ip = host.function("quick", image())
        with host.connect(ip) as client:  # its handler waits for the request
            wait_until(lambda: host.api("GET", "/api/stats").json["at_work"] == 1, "one is at work")
            assert host.daemon is not None
            host.daemon.terminate()
            wait_until(lambda: "[shutdown] SIGTERM" in host.log(), "it is stopping")
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert b"200 OK" in client.makefile("rb").read()
        assert host.daemon.wait(timeout=PATIENCE) == 0

    def test_request_that_takes_longer_is_told(self, make_host: Callable[[], Host], image: Image) -> None:
        host = make_host()
        host.start()
        ip = host.function("slow", image("slow", "60"))
        with ThreadPoolExecutor(1) as threads:
            first = threads.submit(host.get, ip)
            wait_until(lambda: len(host.leftovers()["containers"]) == 1, "a container runs")
            began = time.monotonic()
            gone = threading.Event()

            def watch() -> None:
                while any(ip.startswith("10.0.0.") for ip in host.addresses()):
                    time.sleep(0.05)
                gone.set()

            threading.Thread(target=watch, daemon=True).start()
            assert host.daemon is not None
            host.daemon.terminate()
            assert gone.wait(PATIENCE)
            assert time.monotonic() - began < 3 + GRACE
            reply = first.result()
            assert (reply.status, reply.json["detail"]) == (503, "the daemon is stopping")
            assert host.daemon.wait(timeout=PATIENCE) == 0
        assert not any(host.leftovers().values())

    def test_second_signal_does_not_wait(self, make_host: Callable[[], Host], image: Image) -> None:
        host = make_host()
        host.start(drain_timeout=30)
        ip = host.function("slow", image("slow", "60"))
        with ThreadPoolExecutor(1) as threads:
            first = threads.submit(host.get, ip)
            wait_until(lambda: len(host.leftovers()["containers"]) == 1, "a container runs")
            assert host.daemon is not None
            host.daemon.terminate()
            wait_until(lambda: "[shutdown] SIGTERM" in host.log(), "it is stopping")
            began = time.monotonic()
            assert host.stop() == 0
            assert time.monotonic() - began < 25  # the drain would take 30 s
            assert first.result().status == 503
