"""How the client talks: login, the kept token, the event stream."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

from labyard.client.http import ClientError, Http

T = TypeVar("T")

HINTS = {403: "log in as a user who has that role: --user, or LABYARD_NETBOOT_USER"}


class Connection(Http):
    """Requests of one user. Logs in when it must, and keeps the token in `cache` (0600) for the next command: the
    service takes 20 logins in 5 minutes from one address. `timeout` is seconds for one answer."""

    def __init__(self, url: str, user: str, password: str, cache: Path | None, timeout: float) -> None:
        super().__init__(url, "netboot", timeout, HINTS)
        self.user = user
        self.password = password
        self._file = token_file(self.url, user, password, cache) if cache else None
        self._token = _kept_token(self._file)

    def call(self, kind: type[T], method: str, path: str, **given: Any) -> T:
        """The body of a good answer, which the contract says is a `kind`. ClientError for any other."""
        answer = self._send_signed(method, path, **given)
        found: T = self.body(answer)
        return found

    @contextmanager
    def stream(
        self, path: str, query: dict[str, Any], headers: dict[str, str], quiet: float
    ) -> Iterator[Iterator[str]]:
        """Lines of an event stream. httpx.TransportError when it breaks, ReadTimeout after `quiet` silent seconds."""
        answer = self._send_signed(
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
                self.body(answer)
            yield answer.iter_lines()
        finally:
            answer.close()

    def forget_token(self) -> None:
        if self._file:
            self._file.unlink(missing_ok=True)

    def _send_signed(self, method: str, path: str, *, stream: bool = False, **given: Any) -> httpx.Response:
        headers = given.pop("headers", {})
        for again in (False, True):
            if self._token is None or again:
                self._login()
            signed = headers | {"Authorization": f"Bearer {self._token}"}
            answer = self.send(method, path, stream=stream, headers=signed, **given)
            if answer.status_code != 401:
                break
            answer.close()
        return answer

    def _login(self) -> None:
        answer = self.send("POST", "/auth/login", json={"username": self.user, "password": self.password})
        if answer.status_code == 401:
            raise ClientError(
                f"{self.url} refuses user {self.user} with this password; give the right one with --password-file or "
                "LABYARD_NETBOOT_PASSWORD (five wrong ones lock the name for 30 minutes)",
                401,
                "authentication_error",
            )
        tokens = self.body(answer)
        self._token = tokens["access_token"]
        if self._file:
            _keep_token(self._file, tokens)


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
