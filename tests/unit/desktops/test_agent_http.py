"""The service's client and the agent's server, over a real socket; behind it, parts that only answer."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from labyard.desktops.adapters import agent_http
from labyard.desktops.adapters.agent import (
    AgentBadResponse,
    AgentRefused,
    AgentTimeout,
    AgentUnreachable,
    RecordStatus,
    Segment,
    ServerSpec,
    ServerStatus,
    Usage,
)
from labyard.desktops.adapters.agent_http import HttpAgent
from labyard.desktops.agent.listen import Listening, say_ready, serve_until, tls, unix_socket
from labyard.desktops.agent.settings import Settings
from labyard.desktops.agent.verbs import Verbs
from labyard.desktops.authority import Authority
from labyard.testing.waiting import PATIENCE, wait_until

SERVER = "rdp-0123456789abcdef"
SESSION = "sess-0123456789abcdef"
STATUS = ServerStatus(SERVER, "active", "active", "active", None, 7, 0, 100, "icewm", None, {"cpu": "cgroup"})
SPEC = ServerSpec(SERVER, 33890, SERVER, "secret-word", {"color_depth": 24}, 2.0, 4096, 20480, 1000)
SEGMENTS = [Segment(SESSION, number, "2026-01-01T00:00:00Z", 1000, 8, 8, 30, b"\0" * number) for number in (1, 2, 3)]


class Node:
    def ping(self) -> Mapping[str, Any]:
        return {"version": "1", "node_id": "node_1", "public_key": "aa"}

    def metrics(self) -> Usage:
        return Usage("2026-01-01T00:00:00Z", 1.0, 2.0, None, 3.0, 4.0, "agent", {"reasons": {"disk": "no disk"}})

    def sign(self, payload: bytes) -> str:
        return payload.hex()


class Servers:
    def __init__(self) -> None:
        self.started: list[ServerSpec] = []
        self.slow = threading.Event()
        self.slow.set()
        self.answer: Any = STATUS

    def start(self, spec: ServerSpec) -> Any:
        self.started.append(spec)
        assert self.slow.wait(PATIENCE)
        return self.answer

    def stop(self, server_id: str) -> ServerStatus:
        raise AgentRefused("it does not end", "INTERNAL", ("the last line",))

    def delete(self, server_id: str) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., Any]:
        raise AttributeError(name)


class Recorder:
    def segments(self, session_id: str, after: int) -> Iterator[Segment]:
        if session_id != SESSION:
            raise AgentRefused("nothing is recorded of it", "SES_NOT_FOUND")
        return iter(SEGMENTS[after:])

    def status(self, session_id: str) -> RecordStatus:
        raise RuntimeError("secret-word")


@pytest.fixture
def servers() -> Servers:
    return Servers()


@contextmanager
def serving(servers: Servers, listening: Listening) -> Iterator[None]:
    verbs = Verbs(Node(), servers, Recorder())  # type: ignore[arg-type]
    end = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(serve_until(verbs, [listening], end)))
    thread.start()
    yield
    end.set()
    thread.join()


@pytest.fixture
def address(servers: Servers, tmp_path: Path) -> Iterator[str]:
    with serving(servers, (unix_socket(tmp_path / "agent.sock", ""), None)):
        yield f"unix://{tmp_path / 'agent.sock'}"


@pytest.fixture
def agent(address: str) -> HttpAgent:
    return HttpAgent("node_1", address)


def test_verbs_come_back_as_they_were(agent: HttpAgent, servers: Servers) -> None:
    assert agent.ping()["node_id"] == "node_1"
    assert agent.metrics() == Node().metrics()
    assert agent.sign(b"\x01\xff") == "01ff"
    assert agent.server_start(SPEC, "r1") == STATUS
    assert servers.started == [SPEC]
    assert agent.server_delete(SERVER, "r2") is None  # type: ignore[func-returns-value]


def test_a_request_id_is_done_once(agent: HttpAgent, servers: Servers) -> None:
    servers.slow.clear()
    threads = [threading.Thread(target=agent.server_start, args=(SPEC, "same")) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: servers.started, "the first request is at work")
    servers.slow.set()
    for thread in threads:
        thread.join()
    agent.server_start(SPEC, "same")
    assert len(servers.started) == 1
    agent.server_start(SPEC, "another")
    assert len(servers.started) == 2


def test_what_is_refused_is_told(agent: HttpAgent) -> None:
    with pytest.raises(AgentRefused, match="does not end") as refused:
        agent.server_stop(SERVER, "r1")
    assert (refused.value.code, refused.value.log) == ("INTERNAL", ("the last line",))
    with pytest.raises(AgentRefused) as refused:
        next(agent.segments("sess-fedcba9876543210", 0))
    assert refused.value.code == "SES_NOT_FOUND"


def test_a_crash_tells_nothing_of_its_inside(agent: HttpAgent) -> None:
    with pytest.raises(AgentRefused) as refused:
        agent.record_status(SESSION)
    assert "secret-word" not in str(refused.value)


def test_a_malformed_request_names_the_field_and_not_its_value(agent: HttpAgent, servers: Servers) -> None:
    with pytest.raises(AgentRefused, match=r"spec\.port") as refused:
        agent.server_start(replace(SPEC, port="secret-word"), "r1")  # type: ignore[arg-type]
    assert "secret-word" not in str(refused.value)
    with pytest.raises(AgentRefused, match="server_id"):
        agent.server_delete("../etc", "r1")
    assert not servers.started


def test_an_answer_that_breaks_the_schema_is_not_passed_on(agent: HttpAgent, servers: Servers) -> None:
    servers.answer = replace(STATUS, display="a hundred")  # type: ignore[arg-type]
    with pytest.raises(AgentBadResponse, match="display"):
        agent.server_start(SPEC, "r1")


def test_segments_come_in_order_and_from_where_they_are_asked(agent: HttpAgent) -> None:
    assert list(agent.segments(SESSION, 0)) == SEGMENTS
    assert list(agent.segments(SESSION, 2)) == SEGMENTS[2:]
    assert list(agent.segments(SESSION, 3)) == []


def test_who_is_not_there_is_unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_http, "PAUSES", (0.01, 0.01, 0.01))
    with pytest.raises(AgentUnreachable):
        HttpAgent("node_1", f"unix://{tmp_path}/nothing.sock").ping()


def test_an_answer_that_does_not_come_is_a_timeout(address: str, servers: Servers) -> None:
    servers.slow.clear()
    with pytest.raises(AgentTimeout):
        HttpAgent("node_1", address, deadline=0.3).server_start(SPEC, "r1")
    servers.slow.set()


@pytest.mark.parametrize(
    "answers",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nnonsense!",
        b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    ],
)
def test_nonsense_is_a_bad_response(tmp_path: Path, answers: bytes) -> None:
    with answering(tmp_path / "s", answers), pytest.raises(AgentBadResponse):
        HttpAgent("node_1", f"unix://{tmp_path / 's'}").ping()


def test_who_hangs_up_is_asked_again(tmp_path: Path) -> None:
    body = json.dumps(dict(Node().ping())).encode()
    good = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    with answering(tmp_path / "s", b"", b"", good):
        assert HttpAgent("node_1", f"unix://{tmp_path / 's'}").ping() == Node().ping()


def test_a_stream_that_is_cut_off_is_a_bad_response(tmp_path: Path) -> None:
    cut = b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n" + b"\0\0\0\x10\0\0\0\x10{}{}"
    with answering(tmp_path / "s", cut), pytest.raises(AgentBadResponse, match="cut off"):
        list(HttpAgent("node_1", f"unix://{tmp_path / 's'}").segments(SESSION, 0))


@contextmanager
def answering(path: Path, *answers: bytes) -> Iterator[None]:
    """Each connection gets the next answer, whatever it asks."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()

    def run() -> None:
        for answer in answers:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()
    listening.close()


class TestMutualTls:
    def test_only_the_service_is_answered(
        self, servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(agent_http, "PAUSES", ())  # once is enough for whoever is turned away
        authority = Authority(tmp_path / "keys")
        mine, other = (signed(authority, tmp_path / name, name) for name in ("node_1", "node_2"))
        settings = Settings(
            tls_host="127.0.0.1", certificate=mine[0], key=mine[1], authority=authority.certificate_file
        )
        listening = socket.create_server(("127.0.0.1", 0))
        address = f"https://127.0.0.1:{listening.getsockname()[1]}"
        with serving(servers, (listening, tls(settings))):
            service = HttpAgent("node_1", address, authority.client_context())
            assert service.ping()["node_id"] == "node_1"
            service.close()
            agent = ssl.create_default_context(cafile=str(authority.certificate_file))
            agent.load_cert_chain(*other)
            caller = HttpAgent("node_1", address, agent)
            with pytest.raises(AgentRefused, match="the service only"):
                caller.ping()
            caller.close()
            nobody = ssl.create_default_context(cafile=str(authority.certificate_file))
            with pytest.raises(AgentUnreachable):
                HttpAgent("node_1", address, nobody).ping()


def signed(authority: Authority, folder: Path, node_id: str) -> tuple[Path, Path]:
    """Certificate and key of an agent at 127.0.0.1."""
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_id)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    certificate = authority.sign(request.public_bytes(serialization.Encoding.PEM).decode(), node_id, "127.0.0.1")
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    address = f"{'@' if abstract else ''}{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address.replace("@", "\0"))
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        say_ready()
        say_ready()
        assert systemd.recv(100) == b"READY=1"
        with pytest.raises(BlockingIOError):
            systemd.recv(100)
