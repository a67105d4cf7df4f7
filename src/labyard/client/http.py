"""How a client talks to a service over HTTP, and what it tells when that fails: one plain line, with the way out."""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import Mapping
from typing import Any

import httpx


class ClientError(Exception):
    """What went wrong and the way out, in one line. `status` is the HTTP status; 0 when nothing answered."""

    def __init__(self, message: str, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Http:
    """Requests to one service. `service` is its name in messages, `timeout` seconds for one answer, `hints` the way out
    of a refusal by its HTTP status, `certificate` (PEM) one that is to be trusted beside the machine's. ClientError for
    a URL that is none."""

    def __init__(self, url: str, service: str, timeout: float, hints: Mapping[int, str], certificate: str = "") -> None:
        if not url.startswith(("http://", "https://")):
            raise ClientError(f"{url!r} is no address of a service; write it as http://HOST:PORT")
        self.url = url.rstrip("/")
        self._service = service
        self._hints = hints
        # Shorter than a service keeps an idle connection (5 s): the next request would fail on one that it just closed.
        limits = httpx.Limits(keepalive_expiry=2)
        wait = httpx.Timeout(timeout, connect=5)
        self._http = httpx.Client(base_url=self.url, timeout=wait, limits=limits, verify=_tls(certificate))

    def close(self) -> None:
        self._http.close()

    def send(self, method: str, path: str, *, stream: bool = False, **given: Any) -> httpx.Response:
        """The answer, good or not. ClientError when there is none; a stream that is silent is httpx.ReadTimeout."""
        request = self._http.build_request(method, path, **given)
        try:
            return self._http.send(request, stream=stream)
        except httpx.ReadTimeout:
            if stream:
                raise
            raise ClientError(f"{self.url} did not answer in time; its journal on the lab host says why") from None
        except httpx.TransportError as error:
            raise self.unreachable(error) from error

    def body(self, answer: httpx.Response, *, also: int = 0) -> Any:
        """What a good answer, or one of status `also`, carries: JSON, or a picture's bytes; None when it is empty.
        ClientError for any other."""
        good = answer.is_success or answer.status_code == also
        if good and not answer.content:
            return None
        if good and answer.headers.get("Content-Type", "").startswith("image/"):
            return answer.content
        try:
            body = answer.json()
        except ValueError:
            what = f"{self.url} answered {answer.status_code} with something that is not JSON"
            raise ClientError(f"{what}: is the {self._service} service there?", answer.status_code) from None
        if good:
            return body
        found = body.get("error", "") if isinstance(body, dict) else ""
        code = found.get("code", "") if isinstance(found, dict) else found
        text = error_text(answer.status_code, body, answer.headers)
        if hint := self._hints.get(answer.status_code):
            text = f"{text}; {hint}"
        raise ClientError(text, answer.status_code, code)

    def unreachable(self, error: httpx.TransportError) -> ClientError:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return ClientError(
                f"nobody vouches for the certificate of {self.url}; where its file is known: SSL_CERT_FILE=FILE.pem"
            )
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return ClientError(f"nothing answers at {self.url}; is the lab up? Build it with: make lab")
        kind = type(error).__name__
        return ClientError(f"{self.url} did not answer ({kind}); `labyard status` shows whether its host is well")


@functools.cache
def _tls(certificate: str = "") -> ssl.SSLContext:
    """One for all: reading the certificate authorities takes longer than a request. ClientError where they cannot be
    read."""
    try:
        context = httpx.create_ssl_context()
    except OSError as error:
        file = os.environ.get("SSL_CERT_FILE", "")
        raise ClientError(f"SSL_CERT_FILE={file}: no certificates can be read there ({error.strerror})") from None
    if certificate:
        context.load_verify_locations(cadata=certificate)
    return context


def error_text(status: int, body: Any, headers: Mapping[str, str]) -> str:
    """One line of an error body: its `detail`, which is a text or a list of fields that are wrong; a charger's gateway
    calls it `msg`, its emulator `error`, and in desktops `error` has a `message`."""
    named = [body[key] for key in ("detail", "msg", "error") if key in body] if isinstance(body, dict) else []
    detail = named[0] if named else body
    if isinstance(detail, dict):
        detail = detail.get("message", detail)
    if isinstance(detail, list):
        detail = "; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in detail)
    if status == 429:
        return f"too many requests; try again in {headers.get('Retry-After', 'some')} s"
    return str(detail)
