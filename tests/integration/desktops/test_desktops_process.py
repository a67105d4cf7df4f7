"""The service as a process of its own: HTTP on loopback, HTTPS beside it, agents by their certificates."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from integration.postgresql import Server
from integration.redis_server import Server as Redis
from labyard.core.clock import as_text, now
from labyard.desktops.authority import Authority
from labyard.testing.waiting import PATIENCE, wait_until

from .service_process import NAME, ServiceProcess, pem
from .test_desktops_nodes import node_like


@pytest.fixture(scope="module")
def running(postgresql: Server, redis: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with postgresql.database() as url:
        process = ServiceProcess(tmp_path_factory.mktemp("process"), url, redis.url)
        yield process
        if process.process.poll() is None:
            assert process.stop() == 0, process.log()


@pytest.fixture(scope="module")
def operator(running: ServiceProcess) -> httpx.Client:
    headers = {"Authorization": f"Bearer {running.token('node_operator')}"}
    return httpx.Client(base_url=f"http://127.0.0.1:{running.port}/api/v1", headers=headers, timeout=60)


class Agent:
    """A node with an agent elsewhere, that gets a certificate."""

    def __init__(self, running: ServiceProcess, operator: httpx.Client, name: str) -> None:
        self.running = running
        body = node_like(name=name, node_id=name, configuration__agent_address="https://127.0.0.1:9")
        assert operator.post("/nodes", json=body).status_code == 201
        self.key = ec.generate_private_key(ec.SECP256R1())
        builder = x509.CertificateSigningRequestBuilder().subject_name(NAME)
        made = builder.sign(self.key, hashes.SHA256())
        self.request = made.public_bytes(serialization.Encoding.PEM).decode()
        self.token = operator.post(f"/nodes/{name}/enrolment").json()["enrolment_token"]

    def enrol(self, **changes: Any) -> httpx.Response:
        return self.running.https().post("/agents/enrol", json={"token": self.token, "request": self.request} | changes)

    def keep(self, certificate: str) -> Path:
        path = self.running.folder / f"{self.token[:8]}.pem"
        path.write_bytes(pem(self.key) + certificate.encode())
        return path


def test_both_listeners_serve_the_same(running: ServiceProcess, operator: httpx.Client) -> None:
    token = {"Authorization": operator.headers["Authorization"]}
    assert operator.get("/nodes").status_code == 200
    assert running.https().get("/nodes", headers=token).status_code == 200
    assert running.https().get("/nodes").status_code == 401
    wait_until(lambda: running.http.get("/ready").status_code == 200, "the service is ready")


def test_a_person_is_told_of_a_certificate_that_nobody_vouches_for(running: ServiceProcess) -> None:
    url = f"https://127.0.0.1:{running.secure_port}"
    environment = {**os.environ, "LABYARD_DESKTOPS_URL": url, "LABYARD_DESKTOPS_TOKEN": running.token("node_viewer")}
    command = [sys.executable, "-m", "labyard.cli", "desktops", "pools", "list", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "SSL_CERT_FILE" in done.stderr, done.stderr
    environment["SSL_CERT_FILE"] = str(running.folder / "server.pem")
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "pool_workers" in done.stdout, done.stderr


def test_old_tls_and_plain_http_are_refused(running: ServiceProcess) -> None:
    context = running.context()
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"https://127.0.0.1:{running.secure_port}/health", verify=context, timeout=PATIENCE)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{running.secure_port}/health", timeout=PATIENCE)


def test_an_agent_enrols_once_and_speaks_for_its_own_node_only(running: ServiceProcess, operator: httpx.Client) -> None:
    one, other = Agent(running, operator, "one"), Agent(running, operator, "other")
    assert one.enrol(request="nonsense").status_code == 400
    answer = one.enrol()
    assert answer.status_code == 201, answer.text
    assert answer.json()["node_id"] == "one" and "BEGIN CERTIFICATE" in answer.json()["authority"]
    assert one.enrol().status_code == 401, "the token counts once"
    assert one.enrol(token="other").status_code == 401
    agent = running.https(one.keep(answer.json()["certificate"]))
    assert agent.get("/nodes/one").status_code == 403, "an agent reports, and reads nothing"
    heard = {"timestamp": as_text(now())}
    assert agent.post("/nodes/one/heartbeat", json=heard).json()["error"]["code"] == "NODE_STATE"
    assert operator.post("/nodes/one/maintenance").status_code == 200
    assert agent.post("/nodes/one/heartbeat", json=heard).status_code == 200
    assert agent.post("/nodes/other/heartbeat", json=heard).status_code == 403
    poot = {"output_data": "x", "timestamp": as_text(now()), "nonce": "n"}
    assert agent.post("/poot/submit", json=poot | {"node_id": "one"}).status_code == 201
    assert agent.post("/poot/submit", json=poot | {"node_id": "other"}).status_code == 403
    assert agent.post("/nodes/one/stop").status_code == 403
    # A new certificate takes the old one's place.
    one.token = operator.post("/nodes/one/enrolment").json()["enrolment_token"]
    assert one.enrol().status_code == 201
    answer = agent.post("/nodes/one/heartbeat", json=heard)
    assert answer.status_code == 401 and answer.json()["error"]["code"] == "AUTH_INVALID"
    assert other.enrol().status_code == 201


def test_a_certificate_of_another_authority_is_refused(
    running: ServiceProcess, operator: httpx.Client, tmp_path: Path
) -> None:
    forger = Agent(running, operator, "forger")
    made = Authority(tmp_path).sign(forger.request, "one", "127.0.0.1")
    path = forger.keep(made.public_bytes(serialization.Encoding.PEM).decode())
    with pytest.raises(httpx.TransportError):
        running.https(path).post("/nodes/forger/heartbeat", json={"timestamp": as_text(now())})


def test_kill_and_start_again(running: ServiceProcess, operator: httpx.Client) -> None:
    made = operator.post("/nodes", json=node_like(name="survivor")).json()
    assert operator.post(f"/nodes/{made['node_id']}/start").status_code == 200
    running.stop(signal.SIGKILL)
    running.start()
    assert operator.get(f"/nodes/{made['node_id']}").json()["status"] == "active"
    secrets = [operator.headers["Authorization"].removeprefix("Bearer "), "BEGIN"]
    assert not [secret for secret in secrets if secret in running.log()]


def test_debug_shows_every_request_and_no_secret(postgresql: Server, redis: Redis, tmp_path: Path) -> None:
    with postgresql.database() as url:
        process = ServiceProcess(tmp_path, url, redis.url, DESKTOPS_LOG_LEVEL="debug")
        try:
            token = process.token("session_manager")
            http = httpx.Client(
                base_url=process.http.base_url, headers={"Authorization": f"Bearer {token}"}, timeout=60
            )
            target = {"host": "a.test", "username": "u", "password": "Tr0ub4dor", "provisioning": "none"}
            # What asks for health every few seconds is left out of `info`.
            http.get("/ready", headers={"X-Request-ID": "looked-at-ready"})
            made = http.post("/api/v1/sessions", json={"name": "s", "rdp_config": target})
            assert made.status_code == 201, made.text
            http.post("/api/v1/auth/token", json={"username": "nobody", "password": "Tr0ub4dor"})
        finally:
            process.stop()
    log = process.log()
    assert "looked-at-ready" in log and made.headers["x-request-id"] in log
    assert not [secret for secret in (token, "Tr0ub4dor") if secret in log]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"DESKTOPS_DATABASE_URL": "mongodb://localhost/x"}, "not MongoDB"),
        ({"DESKTOPS_BIND_HOST": "0.0.0.0"}, "no loopback address"),
        ({"DESKTOPS_TLS_CERTIFICATE": "/none"}, "Cannot serve HTTPS"),
        ({"DESKTOPS_POOT_BASE_RATE": "0.1"}, "multiple of"),
        ({"DESKTOPS_CORS_ORIGINS": "*"}, "one by one"),
    ],
)
def test_wrong_settings_end_it_with_a_word(running: ServiceProcess, changes: dict[str, str], expected: str) -> None:
    environment = os.environ | running.environment | changes
    done = subprocess.run(
        [sys.executable, "-m", "labyard.desktops"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and expected in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("changes", "status", "expected"),
    [
        ({"DESKTOPS_KEY_DIR": "keys"}, 2, "can be read by others"),
        ({"DESKTOPS_DATABASE_URL": "postgresql://u:hush@127.0.0.1:1/x"}, 3, "does not answer"),
    ],
)
def test_what_it_stands_on_ends_it_with_a_word(
    running: ServiceProcess, tmp_path: Path, changes: dict[str, str], status: int, expected: str
) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "key-encryption.json").touch(0o444)
    environment = os.environ | running.environment | {"DESKTOPS_BIND_PORT": "0", "DESKTOPS_TLS_PORT": "0"} | changes
    done = subprocess.run(
        [sys.executable, "-m", "labyard.desktops"], cwd=tmp_path, env=environment, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == status and expected in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "hush" not in done.stderr + done.stdout
