"""The service as a process of its own, with HTTP on loopback and HTTPS beside it."""

from __future__ import annotations

import ipaddress
import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from ports import free_port

from labyard.core.clock import now
from labyard.testing.waiting import PATIENCE, wait_until

NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class ServiceProcess:
    """`http` is on loopback; `https()` makes clients of the other listener."""

    def __init__(self, folder: Path, database: str, redis: str, **more: str) -> None:
        self.folder = folder
        self.port, self.secure_port = free_port(), free_port()
        self._make_certificate()
        self.environment = {
            "DESKTOPS_DATABASE_URL": database, "DESKTOPS_REDIS_URL": redis, "DESKTOPS_STATE_DIR": str(folder / "state"),
            "DESKTOPS_BIND_PORT": str(self.port), "DESKTOPS_TLS_HOST": "127.0.0.1",
            "DESKTOPS_TLS_PORT": str(self.secure_port), "DESKTOPS_TLS_CERTIFICATE": str(folder / "server.pem"),
            "DESKTOPS_TLS_KEY": str(folder / "server.key"), "LABYARD_ENV": "test", **more,
        }  # fmt: skip
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE)
        self.start()

    def start(self) -> None:
        self._log = (self.folder / "log").open("a")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "labyard.desktops"], env=os.environ | self.environment, stdout=self._log,
            stderr=self._log,
        )  # fmt: skip
        wait_until(self._answers, self.log, 2 * PATIENCE, despite=httpx.TransportError)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log()
        return bool(self.http.get("/health"))

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def token(self, roles: str, subject: str = "cli") -> str:
        command = [sys.executable, "-c", "from labyard.desktops.admin import main; main()"]
        command += ["token", "issue", "--sub", subject, "--roles", roles]
        done = subprocess.run(command, env=os.environ | self.environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def context(self, certificate: Path | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.folder / "server.pem"))
        if certificate:
            context.load_cert_chain(certificate)
        return context

    def https(self, certificate: Path | None = None) -> httpx.Client:
        base = f"https://127.0.0.1:{self.secure_port}/api/v1"
        return httpx.Client(base_url=base, verify=self.context(certificate), timeout=PATIENCE)

    def _make_certificate(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = x509.CertificateBuilder().subject_name(NAME).issuer_name(NAME).public_key(key.public_key())
        builder = builder.serial_number(1).not_valid_before(now()).not_valid_after(now().replace(year=2099))
        made = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
        (self.folder / "server.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
        (self.folder / "server.key").write_bytes(pem(key))
