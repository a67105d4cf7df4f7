"""The service's own authority, which signs agents' certificates, each bound to its node's id (contract section 2)."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from labyard.core.clock import now
from labyard.desktops.keyring import KeyFileError, read_private, write_private

NAME = "labyard-desktops"
Pair = tuple[ec.EllipticCurvePrivateKey, x509.Certificate]
YEARS = timedelta(days=3650)
YEAR = timedelta(days=365)
BACK = timedelta(minutes=5)  # for clocks that are behind


class Authority:
    """Its files are in `folder`: key and certificate, and the pair with which the service calls agents."""

    def __init__(self, folder: Path) -> None:
        self.certificate_file = folder / "agents-authority.pem"
        self._service_file = folder / "agents-service.pem"
        self._key, self._certificate = _pair(self.certificate_file, self._make_authority)
        _pair(self._service_file, self._make_service)

    @property
    def pem(self) -> str:
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def sign(self, request_pem: str, node_id: str, host: str) -> x509.Certificate:
        """A certificate for a node's agent that listens at `host`. ValueError for what is no signing request."""
        request = x509.load_pem_x509_csr(request_pem.encode())
        try:
            good = request.is_signature_valid
        except InvalidSignature:
            good = False
        if not good:
            raise ValueError("the request is not signed with its own key")
        return self._issue(request.public_key(), node_id, host)

    def client_context(self) -> ssl.SSLContext:
        """For calls to agents: TLS 1.3, both sides proven."""
        context = ssl.create_default_context(cafile=str(self.certificate_file))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self._service_file)
        return context

    def _make_authority(self) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _named(f"{NAME} agents")
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = _begun(key.public_key(), name, name, YEARS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        return key, builder.add_extension(usage, critical=True).sign(key, hashes.SHA256())

    def _make_service(self) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        return key, self._issue(key.public_key(), NAME, "localhost", YEARS)

    def _issue(
        self, public: CertificatePublicKeyTypes, name: str, host: str, lifetime: timedelta = YEAR
    ) -> x509.Certificate:
        where: x509.GeneralName
        try:
            where = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            where = x509.DNSName(host)
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
        builder = _begun(public, _named(name), self._certificate.subject, lifetime)
        for extension, critical in (
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (purposes, False),
            (x509.SubjectAlternativeName([where]), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False),
        ):
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self._key, hashes.SHA256())


def fingerprint(certificate: bytes) -> str:
    """Lower-case hex of the SHA-256 of a certificate in DER."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(certificate)
    return digest.finalize().hex()


def _pair(path: Path, make: Callable[[], Pair]) -> Pair:
    """Key and certificate of a file, made at the first start. KeyFileError."""
    if read_private(path) is None:
        key, certificate = make()
        content = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ) + certificate.public_bytes(serialization.Encoding.PEM)
        with suppress(FileExistsError):  # another process was quicker
            write_private(path, content)
    content = read_private(path) or b""
    try:
        found = serialization.load_pem_private_key(content, None)
        certificate = x509.load_pem_x509_certificate(content)
    except ValueError:
        raise KeyFileError(f"{path} holds no key and certificate") from None
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise KeyFileError(f"{path} holds a key of another kind")
    return found, certificate


def _begun(
    public: CertificatePublicKeyTypes, subject: x509.Name, issuer: x509.Name, lifetime: timedelta
) -> x509.CertificateBuilder:
    moment = now()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - BACK)
        .not_valid_after(moment + lifetime)
    )


def _named(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
