"""A function answers: the handoff, what the handler sees, and that nothing is left of any request (contract 8)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from integration.faas_host.conftest import UNHURRIED
from labyard.testing.faas.host import Host
from labyard.testing.waiting import wait_until

Image = Callable[..., bytes]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """One daemon for the tests of this file, each with functions of its own."""
    host = Host(tmp_path_factory.mktemp("host"), **UNHURRIED)
    host.start()
    yield host
    host.close()


class TestHandoff:
    def test_both_directions(self, shared: Host, image: Image) -> None:
        ip = shared.function("both", image())
        reply = shared.get(ip, "/test/path")
        assert reply.status == 200
        assert reply.text.startswith("Hello from FaaS handler!")
        assert "Request: GET /test/path HTTP/1.1" in reply.text
        assert shared.last("both")["result"] == "ok"

    def test_handler_sees_what_it_may_count_on(self, shared: Host, image: Image) -> None:
        ip = shared.function("facts", image("facts"))
        facts = shared.get(ip).json
        assert facts["name"] == [ip, 80]
        assert facts["peer"][0] == ip  # the kernel's choice for a client on the same host
        assert facts["blocking"] is True
        assert facts["descriptors"] == [
            0,
            1,
            2,
            3,
            4,
            5,
            6,
        ]  # its socket, the one that came, its duplicate, the listing
        assert set(facts["capabilities"].values()) == {"0" * 16}
        assert facts["no_new_privileges"] == "1"
        assert facts["seccomp"] == "2"
        assert facts["write_root"] == "Read-only file system"
        assert facts["write_tmp"] == "None"
        assert facts["make_device"] == "Operation not permitted"
        assert facts["urandom"] == 8
        assert facts["devices"] is True
        assert (facts["open_files"], facts["core"]) == ("1024", "0")
        assert facts["interfaces"] == ["lo"]
        assert facts["hostname"] == "facts"
        assert facts["pid"] == 1

    def test_image_says_environment_directory_and_user(self, shared: Host, image: Image) -> None:
        archive = image("facts", Env=["GREETING=hello", "EMPTY="], WorkingDir="/made/for/it", User="handler")
        facts = shared.get(shared.function("process", archive)).json
        assert facts["env"]["GREETING"] == "hello"
        assert facts["env"]["EMPTY"] == ""
        assert facts["env"]["PATH"].startswith("/usr/local/sbin:")
        assert facts["cwd"] == "/made/for/it"
        assert (facts["uid"], facts["gid"], facts["groups"]) == (1234, 1235, [1300])

    def test_numeric_user(self, shared: Host, image: Image) -> None:
        facts = shared.get(shared.function("numeric", image("facts", User="4000:4001"))).json
        assert (facts["uid"], facts["gid"]) == (4000, 4001)

    def test_answer_framed_by_end_of_stream_ends_with_the_handler(self, shared: Host, image: Image) -> None:
        ip = shared.function("raw", image("raw"))
        reply = shared.get(ip)
        assert reply.body == b"until the end of the stream"

    def test_answer_is_complete_though_the_handler_goes_on(self, shared: Host, image: Image) -> None:
        ip = shared.function("goes-on", image("goes-on"), {"timeout": 8})
        with shared.connect(ip) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            data = b""
            while piece := client.recv(4096):
                data += piece
        assert data.endswith(b"reply")
        shared.settle()
        assert shared.last("goes-on")["result"] == "cut_off"

    def test_half_closed_client_is_served(self, shared: Host, image: Image) -> None:
        ip = shared.function("half-closed", image())
        with shared.connect(ip) as client:
            client.sendall(b"GET /half HTTP/1.1\r\n\r\n")
            client.shutdown(socket.SHUT_WR)
            assert b"GET /half" in client.makefile("rb").read()

    def test_handler_runs_other_programs(self, shared: Host, image: Image) -> None:
        ip = shared.function("sub", image("subprocess", "python3", "-c", "print(6 * 7)"))
        assert shared.get(ip).text == "42\n"

    def test_no_other_process_gets_in(self, shared: Host, image: Image) -> None:
        """Somebody on the host connects to a request's socket first; the handler still gets its connection."""
        ip = shared.function("intruded", image("slow", "0"))
        tmp = shared.path("/tmp")
        seen: list[bytes] = []

        def intrude() -> None:
            while not seen:
                for name in shared.listing("/tmp"):
                    if name.endswith(".sock"):
                        try:
                            with socket.socket(socket.AF_UNIX) as link:
                                link.settimeout(5)
                                link.connect(str(tmp / name))
                                seen.append(link.recv(100))
                        except OSError:
                            continue

        intruder = threading.Thread(target=intrude)
        intruder.start()
        try:
            for _ in range(20):
                assert shared.get(ip).status == 200
                if seen:
                    break
        finally:
            seen.append(b"")
            intruder.join()
        assert seen[0] == b""


class TestNothingIsLeft:
    def test_after_fifty_requests(self, shared: Host, image: Image) -> None:
        ip = shared.function("leaks", image())
        for _ in range(5):
            assert shared.get(ip).status == 200
        shared.settle()
        before = shared.descriptors(), shared.threads()
        for _ in range(50):
            assert shared.get(ip).status == 200
        shared.settle()
        wait_until(
            lambda: shared.descriptors() <= before[0] and shared.threads() <= before[1],
            lambda: f"{(shared.descriptors(), shared.threads())} as before: {before}",
        )

    def test_after_fifty_at_once(self, shared: Host, image: Image) -> None:
        ip = shared.function("many", image())
        with ThreadPoolExecutor(50) as threads:
            replies = list(threads.map(lambda number: shared.get(ip, f"/{number}"), range(50)))
        assert [reply.status for reply in replies] == [200] * 50
        for number, reply in enumerate(replies):
            assert f"GET /{number} HTTP" in reply.text
        shared.settle()

    def test_three_functions_side_by_side(self, shared: Host, image: Image) -> None:
        ips = [shared.function(f"side-{number}", image(f"number {number}")) for number in range(3)]
        assert len(set(ips)) == 3
        with ThreadPoolExecutor(9) as threads:
            replies = list(threads.map(shared.get, ips * 3))
        for number, reply in enumerate(replies):
            assert f"Body: number {number % 3}" in reply.text
        shared.settle()
        assert shared.run("runc", "--root", "/run/faasd/runc", "list", "-q").stdout == ""
