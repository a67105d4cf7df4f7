"""What the clients say of a refusal."""

from __future__ import annotations

from pathlib import Path

import pytest

from labyard.client.http import ClientError, Http, _tls, error_text
from labyard.evse.client import Emulator, Gateway


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"msg": "Peer not found"}, "Peer not found"),
        ({"success": False, "error": "a fault stands: gfci"}, "a fault stands: gfci"),
        ({"error": "conflict", "detail": "it runs already"}, "it runs already"),
        ({"other": 1}, "{'other': 1}"),
        ("text", "text"),
    ],
)
def test_the_text_of_a_refusal_is_found(body: object, text: str) -> None:
    assert error_text(400, body, {}) == text


def test_what_is_no_url_is_refused() -> None:
    for client in (Emulator, Gateway):
        with pytest.raises(ClientError, match="'evse1:8000' is no address of a service"):
            client("evse1:8000")


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_authorities_that_cannot_be_read_are_named(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "authorities.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    _tls.cache_clear()
    with pytest.raises(ClientError, match=f"^SSL_CERT_FILE={file}: no certificates can be read there"):
        Http("http://evse1:8000", "charger", 1, {})


def test_credentials_go_to_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, str]] = []

    class Stop(Exception):
        pass

    def send(http: Http, method: str, path: str, *, headers: dict[str, str]) -> None:
        sent.append(headers)
        raise Stop

    monkeypatch.setattr(Http, "send", send)
    for credentials in (("me", "pass:word"), None):
        with pytest.raises(Stop):
            Gateway("http://evse1:8000", credentials).status()
    assert sent == [{"Authorization": "Basic bWU6cGFzczp3b3Jk"}, {}]
