"""How the client talks: login, the kept token, errors as one plain line (contract section 4), the event stream."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

T = TypeVar("T")


class NetbootError(Exception):
    """What went wrong and the way out, in one line. `status` is the HTTP status; 0 when nothing answered."""

    def __init__(self, message: str, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Connection:
    """Requests of one user. Logs in when it must, and keeps the token in `cache` (0600) for the next command: the
    service takes 20 logins in 5 minutes from one address. `timeout` is seconds for one answer."""

    def __init__(self, url: str, user: str, password: str, cache: Path | None, timeout: float) -> None:
        self.url = url.rstrip("/")
        self.user = user
        self.password = password
        self._file = token_file(self.url, user, password, cache) if cache else None
        self._token = _kept_token(self._file)
        self._http = httpx.Client(base_url=self.url, timeout=httpx.Timeout(timeout, connect=5), verify=_tls())

    def close(self) -> None:
        self._http.close()

    def call(self, kind: type[T], method: str, path: str, **given: Any) -> T:
        """The body of a good answer, which the contract says is a `kind`. NetbootError for any other."""
        answer = self._send(method, path, **given)
        found: T = self._body(answer)
        return found

    @contextmanager
    def stream(
        self, path: str, query: dict[str, Any], headers: dict[str, str], quiet: float
    ) -> Iterator[Iterator[str]]:
        """Lines of an event stream. httpx.TransportError when it breaks, ReadTimeout after `quiet` silent seconds."""
        answer = self._send(
            "GET",
            path,
            params=query,
            headers=headers | {"Accept": "text/event-stream"},
            timeout=httpx.Timeout(quiet, connect=5),
            stream=True,
        )
        try:
            if answer.status_code != 200:
                answer.read()
                self._body(answer)
            yield answer.iter_lines()
        finally:
            answer.close()

    def forget_token(self) -> None:
        if self._file:
            self._file.unlink(missing_ok=True)

    def unreachable(self, error: httpx.TransportError) -> NetbootError:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return NetbootError(f"nothing answers at {self.url}; is the lab up? Build it with: make lab")
        kind = type(error).__name__
        return NetbootError(f"{self.url} did not answer ({kind}); `labyard status` shows whether its host is well")

    def _send(self, method: str, path: str, *, stream: bool = False, **given: Any) -> httpx.Response:
        headers = given.pop("headers", {})
        for again in (False, True):
            if self._token is None or again:
                self._login()
            request = self._http.build_request(
                method, path, headers=headers | {"Authorization": f"Bearer {self._token}"}, **given
            )
            try:
                answer = self._http.send(request, stream=stream)
            except httpx.ReadTimeout:
                if stream:
                    raise
                raise NetbootError(f"{self.url} did not answer in time; its journal on the lab host says why") from None
            except httpx.TransportError as error:
                raise self.unreachable(error) from error
            if answer.status_code != 401:
                break
            answer.close()
        return answer

    def _login(self) -> None:
        try:
            answer = self._http.post("/auth/login", json={"username": self.user, "password": self.password})
        except httpx.TransportError as error:
            raise self.unreachable(error) from error
        if answer.status_code == 401:
            raise NetbootError(
                f"{self.url} refuses user {self.user} with this password; give the right one with --password-file or "
                "LABYARD_NETBOOT_PASSWORD (five wrong ones lock the name for 30 minutes)",
                401,
                "authentication_error",
            )
        tokens = self._body(answer)
        self._token = tokens["access_token"]
        if self._file:
            _keep_token(self._file, tokens)

    def _body(self, answer: httpx.Response) -> Any:
        try:
            body = answer.json()
        except ValueError:
            what = f"{self.url} answered {answer.status_code} with something that is not JSON"
            raise NetbootError(f"{what}: is the netboot service there?", answer.status_code) from None
        if answer.is_success:
            return body
        code = body.get("error", "") if isinstance(body, dict) else ""
        raise NetbootError(error_text(answer.status_code, body, answer.headers), answer.status_code, code)


@functools.cache
def _tls() -> ssl.SSLContext:
    """One for all: reading the certificate authorities takes longer than a request."""
    return httpx.create_ssl_context()


def error_text(status: int, body: Any, headers: Mapping[str, str]) -> str:
    """One line of the service's error body (contract section 4), with the way out where it has none."""
    detail = body.get("detail", body) if isinstance(body, dict) else body
    if isinstance(detail, list):
        detail = "; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in detail)
    if status == 403:
        return f"{detail}; log in as a user who has that role: --user, or LABYARD_NETBOOT_USER"
    if status == 429:
        return f"too many requests; try again in {headers.get('Retry-After', 'some')} s"
    return str(detail)


def cache_folder() -> Path:
    """Where commands keep tokens."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "labyard"


def token_file(url: str, user: str, password: str, folder: Path) -> Path:
    """Where the token of a login is kept. Another password is another file, so that a wrong one never passes.

    The collection's module_utils/netboot_api.py names the same file.
    """
    salt = f"{url}\0{user}".encode()
    return folder / f"netboot-{hashlib.pbkdf2_hmac('sha256', password.encode(), salt, 50_000).hex()[:32]}.json"


def _kept_token(file: Path | None) -> str | None:
    try:
        kept = json.loads(file.read_text()) if file else {}
        return str(kept["token"]) if kept.get("until", 0) > time.time() else None
    except (OSError, ValueError, KeyError):
        return None


def _keep_token(file: Path, tokens: dict[str, Any]) -> None:
    """A cache that cannot be written is no failure: the next command logs in again."""
    kept = {"token": tokens["access_token"], "until": time.time() + tokens["expires_in"] - 30}
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as target:
            json.dump(kept, target)
        temporary.replace(file)
    except OSError:
        pass
