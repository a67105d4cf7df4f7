"""The client of BMCs against an HTTP server that answers as BMCs do, well and badly."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from labyard.core.adapter import AdapterError
from labyard.netboot.adapters import redfish
from labyard.netboot.adapters.power import Bmc, Untouched
from labyard.netboot.adapters.redfish import RedfishPower
from labyard.testing.waiting import PATIENCE

SYSTEM = "/redfish/v1/Systems/1"
RESET = f"{SYSTEM}/Actions/ComputerSystem.Reset"


class Server:
    """A BMC with one system. `answers` by (method, path) come before its own; `stays` is the only state it takes."""

    def __init__(self) -> None:
        self.state, self.boot = "Off", {"BootSourceOverrideEnabled": "Disabled"}
        self.stays = ""
        self.systems = [SYSTEM]
        self.answers: dict[tuple[str, str], tuple[int, dict[str, str], bytes]] = {}
        self.changes: list[tuple[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        bmc = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                bmc.headers.append(dict(self.headers))
                status, headers, content = bmc.answer(
                    self.command, self.path, json.loads(body or b"null"), self.headers
                )
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(content))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PATCH = answer

            def log_message(self, *_: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def answer(self, method: str, path: str, body: Any, headers: Any) -> tuple[int, dict[str, str], bytes]:
        if known := self.answers.get((method, path)):
            return known
        login = base64.b64encode(b"admin:right").decode()
        if headers.get("Authorization") != f"Basic {login}":
            return 401, {}, b"{}"
        if method == "GET" and path == "/redfish/v1/Systems":
            members = [{"@odata.id": system} for system in self.systems]
            return 200, {}, json.dumps({"Members": members}).encode()
        if method == "GET" and path == SYSTEM:
            action = {"#ComputerSystem.Reset": {"target": RESET}}
            shown = {"PowerState": self.state, "Boot": self.boot, "Actions": action}
            return 200, {"ETag": '"7"'}, json.dumps(shown).encode()
        if path in (SYSTEM, RESET):
            self.changes.append((method, body))
            wanted = {"On": "On", "ForceOff": "Off"}.get((body or {}).get("ResetType", ""), self.state)
            self.state = self.stays or wanted
            return 204, {}, b""
        return 404, {}, b"{}"


@pytest.fixture
def bmc() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def power() -> RedfishPower:
    return RedfishPower(PATIENCE)


def at(server: Server, path: str = SYSTEM, password: str = "right") -> Bmc:
    return Bmc(server.url + path, "admin", password)


OVERRIDE = ("PATCH", {"Boot": {"BootSourceOverrideTarget": "Pxe", "BootSourceOverrideEnabled": "Once"}})
ON, OFF = ("POST", {"ResetType": "On"}), ("POST", {"ResetType": "ForceOff"})


def test_machine_that_is_off_is_switched_on_from_the_network(bmc: Server, power: RedfishPower) -> None:
    power.cycle(at(bmc))
    assert bmc.changes == [OVERRIDE, ON]


def test_machine_that_is_on_is_switched_off_first(bmc: Server, power: RedfishPower) -> None:
    bmc.state = "On"
    power.cycle(at(bmc))
    assert bmc.changes == [OVERRIDE, OFF, ON]


@pytest.mark.parametrize(("enabled", "changes"), [("Continuous", [ON]), ("Once", [ON]), ("Disabled", [OVERRIDE, ON])])
def test_boot_that_is_the_networks_is_left_alone(
    bmc: Server, power: RedfishPower, enabled: str, changes: list[Any]
) -> None:
    bmc.boot = {"BootSourceOverrideTarget": "Pxe", "BootSourceOverrideEnabled": enabled}
    power.cycle(at(bmc))
    assert bmc.changes == changes


def test_change_names_the_version_that_was_seen(bmc: Server, power: RedfishPower) -> None:
    power.cycle(at(bmc))
    assert [headers.get("If-Match") for headers in bmc.headers if "If-Match" in headers] == ['"7"']


def test_off(bmc: Server, power: RedfishPower) -> None:
    power.off(at(bmc))
    assert bmc.changes == []
    bmc.state = "On"
    power.off(at(bmc))
    assert bmc.changes == [OFF]


@pytest.mark.parametrize("path", ["", "/redfish/v1"])
def test_bmc_of_one_machine_need_not_be_told_which(bmc: Server, power: RedfishPower, path: str) -> None:
    power.cycle(at(bmc, path))
    assert bmc.state == "On"
    bmc.systems.append("/redfish/v1/Systems/2")
    with pytest.raises(Untouched, match="has 2 systems; name one in bmc_url"):
        power.cycle(at(bmc, path))


def test_name_leads_to_the_system(bmc: Server, power: RedfishPower) -> None:
    bmc.answers["GET", "/redfish/v1/Systems/s1"] = 307, {"Location": SYSTEM}, b""
    power.cycle(at(bmc, "/redfish/v1/Systems/s1"))
    assert bmc.changes == [OVERRIDE, ON]


def test_password_goes_to_no_other_server(bmc: Server, power: RedfishPower) -> None:
    other = Server()
    try:
        bmc.answers["GET", SYSTEM] = 307, {"Location": f"{other.url}{SYSTEM}"}, b""
        with pytest.raises(Untouched, match="sends us elsewhere"):
            power.cycle(at(bmc))
        assert other.headers == []
    finally:
        other.http.shutdown()
        other.http.server_close()


TOLD = {"error": {"message": "general", "@Message.ExtendedInfo": [{"Message": "The chassis\nis open."}]}}


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ((401, {}, b"{}"), "refuses user 'admin' with this password (401); correct bmc_username and bmc_password"),
        ((403, {}, b"{}"), "correct bmc_username and bmc_password"),
        ((404, {}, b"{}"), f"has no {SYSTEM}; correct bmc_url"),
        ((500, {}, json.dumps(TOLD).encode()), f"refuses GET {SYSTEM} (500: The chassis is open.)"),
        ((503, {}, b"<html>busy</html>"), "(503: <html>busy</html>)"),
        ((200, {}, b"<html>"), "is no Redfish service; correct bmc_url"),
        ((200, {}, b"{}"), "tells no PowerState; bmc_url must be a system"),
    ],
)
def test_refusals_say_the_way_out_and_that_nothing_was_done(
    bmc: Server, power: RedfishPower, answer: Any, text: str
) -> None:
    bmc.answers["GET", SYSTEM] = answer
    with pytest.raises(Untouched) as raised:
        power.cycle(at(bmc))
    assert text in str(raised.value) and "right" not in str(raised.value)
    assert bmc.changes == []


def test_wrong_password_is_asked_once(bmc: Server, power: RedfishPower) -> None:
    """Many BMCs lock a user out."""
    with pytest.raises(Untouched, match="correct bmc_username"):
        power.off(at(bmc, password="wrong"))
    assert len(bmc.headers) == 1


def test_refused_change_is_no_untouched_machine(bmc: Server, power: RedfishPower) -> None:
    bmc.answers["POST", RESET] = 500, {}, b""
    with pytest.raises(AdapterError, match=r"refuses POST .* \(500: Internal Server Error\)") as raised:
        power.cycle(at(bmc))
    assert not isinstance(raised.value, Untouched)


def test_machine_that_stays_on_is_given_up(bmc: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []  # the time goes on only here, so that no answer is late
    monkeypatch.setattr(redfish, "time", SimpleNamespace(monotonic=lambda: sum(slept), sleep=slept.append))
    monkeypatch.setattr(redfish, "POLL_SECONDS", PATIENCE / 2.5)
    bmc.state = bmc.stays = "On"
    with pytest.raises(AdapterError, match=f"is On, not Off, after {PATIENCE:g} s"):
        RedfishPower(PATIENCE).cycle(at(bmc))
    assert len(slept) == 2 and ON not in bmc.changes


def test_nobody_there(power: RedfishPower) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        with pytest.raises(Untouched, match=r"cannot be reached .* see that it is on"):
            power.off(Bmc(f"http://127.0.0.1:{taken.getsockname()[1]}", "admin", "right"))


def test_bmc_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redfish, "REQUEST_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(Untouched, match="does not answer; see that it is on"):
            RedfishPower(60).off(Bmc(f"http://127.0.0.1:{silent.getsockname()[1]}", "admin", "right"))
        assert time.monotonic() - began < 30


@pytest.fixture
def own_certificate(bmc: Server, tmp_path: Path) -> None:
    """The BMC speaks HTTPS, with a certificate that it made itself, as most do."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bmc")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "bmc.pem").write_bytes(private + made.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "bmc.pem")
    bmc.http.socket = context.wrap_socket(bmc.http.socket, server_side=True)
    bmc.url = bmc.url.replace("http:", "https:")


@pytest.mark.usefixtures("own_certificate")
def test_certificate_is_checked_unless_told_not_to(bmc: Server, power: RedfishPower) -> None:
    with pytest.raises(Untouched, match="trust its certificate, or set bmc_verify_tls to false"):
        power.cycle(at(bmc))
    assert bmc.headers == []  # and no password was sent
    power.cycle(Bmc(bmc.url + SYSTEM, "admin", "right", verify_tls=False))
    assert bmc.state == "On"
