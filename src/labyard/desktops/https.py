"""HTTPS, beside plain HTTP on loopback: for clients elsewhere, and for agents, which show their certificates."""

from __future__ import annotations

import ssl

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from labyard.core.serve import Secure
from labyard.desktops.authority import Authority
from labyard.desktops.settings import Settings

# Where a route finds the client's certificate, in DER.
PEER = "labyard.peer"


class PeerProtocol(HttpToolsProtocol):
    """Hands the client's certificate to the app. The handshake has checked that the authority signed it."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        secured: ssl.SSLObject | None = self.transport.get_extra_info("ssl_object")
        # Agents speak TLS 1.3; an older one proves nothing here.
        if secured is not None and secured.version() == "TLSv1.3" and (shown := secured.getpeercert(binary_form=True)):
            self.scope["extensions"] = {PEER: {"certificate": shown}}


def secure(settings: Settings) -> Secure | None:
    """None when HTTPS is not asked for. OSError, ssl.SSLError for files that are missing or wrong."""
    if not settings.tls_host:
        return None
    assert settings.tls_certificate and settings.tls_key
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    context.load_verify_locations(Authority(settings.keys).certificate_file)
    context.verify_mode = ssl.CERT_OPTIONAL
    return Secure(settings.tls_host, settings.tls_port, ("tls_host", "tls_port"), context, PeerProtocol)
