"""A client of the netboot service's HTTP API (contract sections 4 and 5), for commands, tests and scripts.

It needs httpx and the standard library only, so that it runs where the service is not installed.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from labyard.netboot.answers import Event, Image, Machine, Message, Report, Reservation, Session, Started

API = "/api/v1"
PAGE = 1000  # the most that a list gives at once
PIECE_BYTES = 8 * 1024 * 1024
LIVE = ("starting", "active", "stopping")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "labyard"


class NetbootError(Exception):
    """What went wrong and the way out, in one line. `status` is the HTTP status; 0 when nothing answered."""

    def __init__(self, message: str, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def token_file(url: str, user: str, password: str, folder: Path = CACHE) -> Path:
    """Where the token of a login is kept. Another password is another file, so a wrong one never passes."""
    salt = f"{url}\0{user}".encode()
    return folder / f"netboot-{hashlib.pbkdf2_hmac('sha256', password.encode(), salt, 50_000).hex()[:32]}.json"


class Client:
    """Calls the service as one user. Logs in when it must, and keeps the token (0600) for the next command: the
    service takes 20 logins in 5 minutes from one address.

    `url` has no path. `timeout` is seconds for one answer. Every method raises NetbootError.
    """

    def __init__(self, url: str, user: str, password: str, *, cache: Path | None = CACHE, timeout: float = 60) -> None:
        self.url = url.rstrip("/")
        self.user = user
        self._password = password
        self._file = token_file(self.url, user, password, cache) if cache else None
        self._token = _kept_token(self._file)
        self._http = httpx.Client(base_url=self.url, timeout=httpx.Timeout(timeout, connect=5))

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    # -- machines ------------------------------------------------------------------------------------------------

    def machines(self, search: str = "", status: str = "") -> list[Machine]:
        """All of them, newest first. `search` is a part of name, MAC, host name, location or asset tag."""
        return self._all("/machines", {"search": search, "status": status})

    def machine(self, name: str) -> Machine:
        """The machine of this name, else of this id."""
        return _named("machine", name, self.machines(name), lambda: self.machines())

    def add_machine(self, **fields: Any) -> Machine:
        return self._json("POST", "/machines", json=fields)  # type: ignore[no-any-return]

    def set_machine(self, machine_id: int, **fields: Any) -> Machine:
        """None clears a field."""
        return self._json("PUT", f"/machines/{machine_id}", json=fields)  # type: ignore[no-any-return]

    def remove_machine(self, machine_id: int) -> Message:
        return self._json("DELETE", f"/machines/{machine_id}")  # type: ignore[no-any-return]

    # -- images --------------------------------------------------------------------------------------------------

    def images(self, search: str = "", status: str = "") -> list[Image]:
        """All that are not deleted, newest first."""
        return self._all("/images", {"search": search, "status": status})

    def image(self, name: str) -> Image:
        """The image of this name, else of this id."""
        return _named("image", name, self.images(name), lambda: self.images())

    def upload(
        self,
        file: Path,
        name: str,
        *,
        description: str | None = None,
        image_type: str = "system",
        progress: Callable[[int], object] = lambda sent: None,
    ) -> Image:
        """Send a file, in pieces. One that was cut off before goes on where it stopped. `progress` gets bytes sent."""
        size = file.stat().st_size
        found = [image for image in self.images(name, status="uploading") if image["name"] == name]
        sent = 0
        if found:
            image = found[0]
            received = self._json("GET", f"/images/upload/{image['id']}")
            if received["size_bytes"] != size:
                raise NetbootError(
                    f"an upload named {name} of another file ({received['size_bytes']} bytes) is not finished; "
                    f"remove it first: labyard netboot images rm {name}"
                )
            sent = received["received"]
        else:
            given = {"name": name, "filename": file.name, "size_bytes": size, "image_type": image_type}
            image = self._json("POST", "/images/uploads", json=given | {"description": description})
        with file.open("rb") as source:
            tries = 0
            while sent < size:
                progress(sent)
                source.seek(sent)
                piece = source.read(PIECE_BYTES)
                try:
                    answer = self._json("PUT", f"/images/upload/{image['id']}", params={"offset": sent}, content=piece)
                    sent, tries = answer["received"], 0
                except NetbootError as error:
                    tries += 1
                    if error.status not in (0, 409) or tries > 5:
                        raise
                    time.sleep(tries)
                    sent = self._json("GET", f"/images/upload/{image['id']}")["received"]
        progress(sent)
        return self._json("GET", f"/images/{image['id']}")  # type: ignore[no-any-return]

    def import_image(
        self, path: str, name: str, *, description: str | None = None, image_type: str = "system"
    ) -> Image:
        """Register a file that is on the server, where it lies."""
        given = {"name": name, "path": path, "image_type": image_type, "description": description}
        return self._json("POST", "/images/import", json=given)  # type: ignore[no-any-return]

    def convert(self, image_id: int, target_format: str) -> Message:
        return self._json("POST", f"/images/{image_id}/convert", json={"target_format": target_format})  # type: ignore[no-any-return]

    def ingest(self, image_id: int, progress: Callable[[int], object] = lambda percent: None) -> Image:
        """Wait until an image is ready. NetbootError when it turned out bad. `progress` gets percent."""
        while True:
            status = self._json("GET", f"/images/{image_id}/conversion-status")
            progress(status["processing_info"]["progress"])
            if status["status"] == "ready":
                return self._json("GET", f"/images/{image_id}")  # type: ignore[no-any-return]
            if status["status"] == "error":
                raise NetbootError(f"image {status['name']}: {status['error_message']}")
            time.sleep(0.3)

    def remove_image(self, image_id: int) -> Message:
        return self._json("DELETE", f"/images/{image_id}")  # type: ignore[no-any-return]

    # -- sessions ------------------------------------------------------------------------------------------------

    def start(self, machine_id: int, image_id: int, **fields: Any) -> Started:
        """`fields`: session_type, description, boot_method, transport, ssh_keys, user_data."""
        given = {"machine_id": machine_id, "image_id": image_id} | fields
        return self._json("POST", f"{API}/sessions/start", json=given)  # type: ignore[no-any-return]

    def stop(self, session_id: int, keep_overlay: bool = False) -> Message:
        return self._json("POST", f"{API}/sessions/{session_id}/stop", json={"keep_overlay": keep_overlay})  # type: ignore[no-any-return]

    def sessions(self, **filters: Any) -> list[Session]:
        """Newest first. `filters`: status, machine_id, image_id."""
        return self._all(f"{API}/sessions", filters, "sessions")

    def session(self, session_id: int) -> Session:
        return self._json("GET", f"{API}/sessions/{session_id}")  # type: ignore[no-any-return]

    def live_session(self, machine: Machine) -> Session:
        """The session that a stop would end: live, or in error with something left to clean up."""
        for session in self.sessions(machine_id=machine["id"]):
            if session["status"] in LIVE or session["cleanup_pending"]:
                return session
        raise NetbootError(f"machine {machine['name']} has no session; start one: labyard netboot start", 404)

    def script(self, machine_id: int) -> dict[str, Any]:
        return self._json("GET", f"{API}/sessions/machine/{machine_id}/boot-script")  # type: ignore[no-any-return]

    def events(self, limit: int = 100, **filters: Any) -> list[Event]:
        """The newest events, oldest of them first. `filters`: machine_id, session_id, type."""
        page = self._json("GET", "/monitoring/boot-events", params={"limit": limit} | filters)
        return list(reversed(page["events"]))

    def follow(
        self, session_id: int | None = None, last: int | None = None, *, quiet: float = 20, give_up: float = 60
    ) -> Iterator[Event | None]:
        """Events as they come, without end; None whenever nothing came for `quiet` seconds.

        `last` is the id of an event to go on from, 0 for all that there were. A stream that breaks is taken up again
        where it was (Last-Event-ID); NetbootError when that does not work for `give_up` seconds.
        """
        broken = 0.0
        while True:
            headers = {"Last-Event-ID": str(last)} if last is not None else {}
            query = {"session_id": session_id} if session_id is not None else {}
            try:
                with self._stream(f"{API}/sessions/events/stream", query, headers, quiet) as answer:
                    broken = 0.0
                    for line in answer.iter_lines():
                        if line.startswith("data:"):
                            event: Event = json.loads(line[5:])
                            last = event["id"]
                            yield event
                        elif line.startswith(":"):
                            yield None
            except httpx.ReadTimeout:
                yield None
                continue
            except (httpx.TransportError, NetbootError) as error:
                broken = broken or time.monotonic()
                if (isinstance(error, NetbootError) and error.status) or time.monotonic() - broken > give_up:
                    raise error if isinstance(error, NetbootError) else self._unreachable(error) from error
            yield None
            time.sleep(0.5)

    # -- daemons -------------------------------------------------------------------------------------------------

    def reservations(self) -> list[Reservation]:
        return self._json("GET", f"{API}/dhcp/reservations")  # type: ignore[no-any-return]

    def status(self) -> dict[str, dict[str, Any]]:
        """Health of the service, and facts of DHCP and TFTP."""
        return {
            "health": self._json("GET", "/health/detailed"),
            "dhcp": self._json("GET", f"{API}/dhcp/status"),
            "tftp": self._json("GET", f"{API}/tftp/status"),
            "network": self._json("GET", "/monitoring/network-services"),
            "sessions": self._json("GET", f"{API}/sessions/stats"),
        }

    def check(self, repair: bool = False) -> Report:
        """Have the observer look now; with `repair`, mend what it finds."""
        return self._json("POST", f"{API}/observer/check", params={"repair": repair})  # type: ignore[no-any-return]

    def change_password(self, new: str) -> Message:
        answer: Message = self._json(
            "POST", "/auth/change-password", json={"current_password": self._password, "new_password": new}
        )
        if self._file:
            self._file.unlink(missing_ok=True)
        return answer

    # -- inside --------------------------------------------------------------------------------------------------

    def _all(self, path: str, filters: dict[str, Any], key: str = "") -> list[Any]:
        found: list[Any] = []
        query = {name: value for name, value in filters.items() if value not in (None, "")}
        while True:
            page = self._json("GET", path, params=query | {"skip": len(found), "limit": PAGE})
            rows = page[key] if key else page
            found += rows
            if len(rows) < PAGE:
                return found

    def _json(self, method: str, path: str, **given: Any) -> Any:
        answer = self._send(method, path, **given)
        if answer.status_code == 401:
            self._login()
            answer = self._send(method, path, **given)
        return self._body(answer)

    def _send(self, method: str, path: str, **given: Any) -> httpx.Response:
        if self._token is None:
            self._login()
        try:
            return self._http.request(method, path, headers={"Authorization": f"Bearer {self._token}"}, **given)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _stream(self, path: str, query: dict[str, Any], headers: dict[str, str], quiet: float) -> _Stream:
        return _Stream(self, path, query, headers, quiet)

    def _login(self) -> None:
        try:
            answer = self._http.post("/auth/login", json={"username": self.user, "password": self._password})
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
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
            raise NetbootError(
                f"{self.url} answered {answer.status_code} with something that is not JSON: is the netboot service there?",
                answer.status_code,
            ) from None
        if answer.is_success:
            return body
        raise NetbootError(
            error_text(answer.status_code, body, answer.headers), answer.status_code, body.get("error", "")
        )

    def _unreachable(self, error: httpx.TransportError) -> NetbootError:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return NetbootError(f"nothing answers at {self.url}; is the lab up? Build it with: make lab")
        return NetbootError(
            f"{self.url} did not answer ({type(error).__name__}); `labyard status` shows whether its host is well"
        )


class _Stream:
    """An event stream that logs in again when the token has run out, once."""

    def __init__(self, client: Client, path: str, query: dict[str, Any], headers: dict[str, str], quiet: float) -> None:
        self._client = client
        self._given = (path, query, headers, quiet)

    def __enter__(self) -> httpx.Response:
        answer = self._open()
        if answer.status_code == 401:
            answer.close()
            self._client._login()
            answer = self._open()
        self._answer = answer
        if answer.status_code != 200:
            answer.read()
            answer.close()
            self._client._body(answer)
        return answer

    def __exit__(self, *_: object) -> None:
        self._answer.close()

    def _open(self) -> httpx.Response:
        client = self._client
        if client._token is None:
            client._login()
        path, query, headers, quiet = self._given
        request = client._http.build_request(
            "GET",
            path,
            params=query,
            headers=headers | {"Authorization": f"Bearer {client._token}", "Accept": "text/event-stream"},
            timeout=httpx.Timeout(quiet, connect=5),
        )
        return client._http.send(request, stream=True)


def error_text(status: int, body: Any, headers: Any) -> str:
    """One line of the service's error body (contract section 4), with the way out where it has none."""
    detail = body.get("detail", body) if isinstance(body, dict) else body
    if isinstance(detail, list):
        detail = "; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in detail)
    if status == 403:
        return f"{detail}; log in as a user who has that role: --user, or LABYARD_NETBOOT_USER"
    if status == 429:
        return f"too many requests; try again in {headers.get('Retry-After', 'some')} s"
    return str(detail)


def _named(kind: str, name: str, found: list[Any], known: Callable[[], list[Any]]) -> Any:
    for one in found:
        if one["name"] == name:
            return one
    others = known()
    for one in others:
        if str(one["id"]) == name:
            return one
    names = ", ".join(one["name"] for one in others[:12]) + (", …" if len(others) > 12 else "")
    raise NetbootError(f"there is no {kind} {name!r}; there are: {names or 'none yet'}", 404)


def _kept_token(file: Path | None) -> str | None:
    try:
        kept = json.loads(file.read_text()) if file else {}
        return str(kept["token"]) if kept.get("until", 0) > time.time() else None
    except (OSError, ValueError, KeyError):
        return None


def _keep_token(file: Path, tokens: dict[str, Any]) -> None:
    """A cache that cannot be written is no failure: the next command logs in again."""
    until = time.time() + tokens["expires_in"] - 30
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as target:
            json.dump({"token": tokens["access_token"], "until": until}, target)
        temporary.replace(file)
    except OSError:
        pass
