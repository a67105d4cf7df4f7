"""How this agent gets its certificate from the service: once, with the token of POST /nodes/{id}/enrolment."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from labyard.core.adapter import AdapterError
from labyard.desktops.agent.settings import Settings
from labyard.desktops.keyring import write_private

TIMEOUT = 30.0  # seconds


def enrol(settings: Settings, service: str, token: str, authority: Path | None) -> str:
    """Writes key, certificate and authority where the settings name them, and returns the node's id.

    `service` is https://host:port; `authority` signed its certificate, None: one that this machine trusts. AdapterError
    when the service refuses or the id is not the one of the settings; nothing is written then.
    """
    if not (settings.key and settings.certificate and settings.authority):
        raise AdapterError("set DESKTOP_AGENT_KEY, DESKTOP_AGENT_CERTIFICATE and DESKTOP_AGENT_AUTHORITY first")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, settings.node_id)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    body = {"token": token, "request": request.public_bytes(serialization.Encoding.PEM).decode()}
    try:
        context = ssl.create_default_context(cafile=str(authority) if authority else None)
        answer = httpx.post(
            f"{service.rstrip('/')}/api/v1/agents/enrol", json=body, verify=context, timeout=TIMEOUT, trust_env=False
        )
    except (httpx.HTTPError, OSError) as error:
        raise AdapterError(f"{service} does not answer: {error}") from None
    if answer.status_code != 201:
        raise AdapterError(f"{service} refuses: {_message(answer)}")
    given = answer.json()
    if given.get("node_id") != settings.node_id:
        raise AdapterError(
            f"the token is for the node {given.get('node_id')}, and DESKTOP_AGENT_NODE_ID is {settings.node_id}"
        )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for path, content in (
        (settings.key, secret),
        (settings.certificate, given["certificate"].encode()),
        (settings.authority, given["authority"].encode()),
    ):
        write_private(path, content, replace=True)
    return str(given["node_id"])


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"
