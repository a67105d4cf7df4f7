"""A server's TLS certificate: its own, self-signed, made anew with the server."""

from __future__ import annotations

import hashlib
import os
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from labyard.core.clock import now

VALID = timedelta(days=825)


def make_certificate(server_id: str, certificate: Path, key: Path, group: int) -> str:
    """Writes both, the key readable by root and `group`. The certificate's SHA-256, hexadecimal.

    RSA, since xrdp 0.9 reads no other key.
    """
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, server_id)])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - timedelta(minutes=5))
        .not_valid_after(now() + VALID)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(server_id)]), critical=False)
        .sign(private, hashes.SHA256())
    )
    key.unlink(missing_ok=True)
    with os.fdopen(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(
            private.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
            )
        )
        os.fchown(file.fileno(), 0, group)
        os.fchmod(file.fileno(), 0o640)
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    certificate.chmod(0o644)
    return hashlib.sha256(made.public_bytes(serialization.Encoding.DER)).hexdigest()
