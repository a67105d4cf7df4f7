"""A client of the netboot service's HTTP API (contract section 5), for commands, tests and scripts.

It needs httpx and the standard library only, so that it runs where the service is not installed.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from labyard.client.http import ClientError
from labyard.client.service import ServiceClient
from labyard.netboot.answers import (
    Conversion,
    Event,
    Image,
    Machine,
    Message,
    Received,
    Report,
    Reservation,
    Script,
    Session,
    Started,
    Stopped,
)
from labyard.netboot.client_http import Connection

API = "/api/v1"
PAGE = 1000  # the most that a list gives at once
PIECE_BYTES = 8 * 1024 * 1024
LIVE = ("starting", "active", "stopping")


def _nothing(done: int) -> None: ...


class Client(ServiceClient[Connection]):
    """`url` has no path, `timeout` is seconds for one answer, `cache` the folder that keeps the token; None for none.

    Every method raises ClientError.
    """

    def __init__(self, url: str, user: str, password: str, *, cache: Path | None = None, timeout: float = 60) -> None:
        super().__init__(Connection(url, user, password, cache, timeout))
        self._call = self._http.call

    def machines(self, search: str = "", status: str = "") -> list[Machine]:
        """All of them, newest first. `search` is a part of name, MAC, host name, location or asset tag."""
        return self._all("/machines", {"search": search, "status": status})

    def machine(self, name: str) -> Machine:
        """The machine of this name, else of this id."""
        found: Machine = _named("machine", name, self.machines())
        return found

    def add_machine(self, **fields: Any) -> Machine:
        return self._call(Machine, "POST", "/machines", json=fields)

    def set_machine(self, machine_id: int, **fields: Any) -> Machine:
        """None clears a field."""
        return self._call(Machine, "PUT", f"/machines/{machine_id}", json=fields)

    def remove_machine(self, machine_id: int) -> Message:
        return self._call(Message, "DELETE", f"/machines/{machine_id}")

    def images(self, search: str = "", status: str = "") -> list[Image]:
        """All that are not deleted, newest first."""
        return self._all("/images", {"search": search, "status": status})

    def image(self, name: str) -> Image:
        """The image of this name, else of this id."""
        found: Image = _named("image", name, self.images())
        return found

    def upload(
        self,
        file: Path,
        name: str,
        *,
        description: str | None = None,
        image_type: str = "system",
        progress: Callable[[int], object] = _nothing,
    ) -> Image:
        """Send a file, in pieces. One that was cut off before goes on where it stopped. `progress` gets bytes sent."""
        size = file.stat().st_size
        if begun := [image for image in self.images(name, status="uploading") if image["name"] == name]:
            image = begun[0]
            received = self._received(image["id"])
            if received["size_bytes"] != size:
                raise ClientError(
                    f"an upload of another file ({received['size_bytes']} bytes) as {name} is not finished; "
                    f"take it away first: labyard netboot images rm {name}"
                )
            sent = received["received"]
        else:
            given = {"name": name, "filename": file.name, "size_bytes": size, "image_type": image_type}
            image = self._call(Image, "POST", "/images/uploads", json=given | {"description": description})
            sent = 0
        tries = 0
        with file.open("rb") as source:
            while sent < size:
                progress(sent)
                source.seek(sent)
                piece = source.read(PIECE_BYTES)
                where = f"/images/upload/{image['id']}"
                try:
                    sent = self._call(Received, "PUT", where, params={"offset": sent}, content=piece)["received"]
                    tries = 0
                except ClientError as error:
                    tries += 1
                    if error.status not in (0, 409) or tries > 5:
                        raise
                    time.sleep(tries)
                    sent = self._received(image["id"])["received"]
        progress(sent)
        return self._call(Image, "GET", f"/images/{image['id']}")

    def _received(self, image_id: int) -> Received:
        return self._call(Received, "GET", f"/images/upload/{image_id}")

    def import_image(
        self, path: str, name: str, *, description: str | None = None, image_type: str = "system"
    ) -> Image:
        """Register a file that is on the server, where it lies."""
        given = {"name": name, "path": path, "image_type": image_type, "description": description}
        return self._call(Image, "POST", "/images/import", json=given)

    def convert(self, image_id: int, target_format: str) -> Message:
        """Begin a conversion; `ingest` waits for its end."""
        return self._call(Message, "POST", f"/images/{image_id}/convert", json={"target_format": target_format})

    def ingest(self, image_id: int, progress: Callable[[int], object] = _nothing) -> Image:
        """Wait until an image is ready. ClientError when it turned out bad. `progress` gets percent."""
        while True:
            state = self._call(Conversion, "GET", f"/images/{image_id}/conversion-status")
            progress(int(state["processing_info"]["progress"]))
            if state["status"] == "ready":
                return self._call(Image, "GET", f"/images/{image_id}")
            if state["status"] == "error":
                raise ClientError(f"image {state['name']}: {state['error_message']}")
            time.sleep(0.3)

    def remove_image(self, image_id: int) -> Message:
        return self._call(Message, "DELETE", f"/images/{image_id}")

    def start(self, machine_id: int, image_id: int, **fields: Any) -> Started:
        """`fields`: session_type, description, boot_method, transport, power, ssh_keys, user_data."""
        given = {"machine_id": machine_id, "image_id": image_id} | fields
        return self._call(Started, "POST", f"{API}/sessions/start", json=given)

    def stop(self, session_id: int, keep_overlay: bool = False, power: str = "none") -> Stopped:
        given = {"keep_overlay": keep_overlay, "power": power}
        return self._call(Stopped, "POST", f"{API}/sessions/{session_id}/stop", json=given)

    def sessions(self, limit: int | None = None, **filters: Any) -> list[Session]:
        """Newest first. `filters`: status, machine_id, image_id."""
        return self._all(f"{API}/sessions", filters, "sessions", limit)

    def session(self, session_id: int) -> Session:
        return self._call(Session, "GET", f"{API}/sessions/{session_id}")

    def live_session(self, machine: Machine) -> Session:
        """The session that a stop would end: live, or in error with something left to clean up."""
        for session in self.sessions(machine_id=machine["id"]):
            if session["status"] in LIVE or session["cleanup_pending"]:
                return session
        name = machine["name"]
        how = f"labyard netboot start {shlex.quote(name)} IMAGE"
        raise ClientError(f"machine {name} has no session; start one: {how}", 404)

    def script(self, machine_id: int) -> Script:
        return self._call(Script, "GET", f"{API}/sessions/machine/{machine_id}/boot-script")

    def events(self, limit: int = 100, **filters: Any) -> list[Event]:
        """The newest events, oldest of them first. `filters`: machine_id, session_id, type."""
        query = {name: value for name, value in filters.items() if value is not None}
        page = self._call(dict[str, Any], "GET", "/monitoring/boot-events", params={"limit": limit} | query)
        return list(reversed(page["events"]))

    def follow(
        self, session_id: int | None = None, last: int | None = None, *, quiet: float = 20, give_up: float = 60
    ) -> Iterator[Event | None]:
        """Events as they come, without end; None whenever nothing came for `quiet` seconds.

        `last` is the id of an event to go on from, 0 for all that there were. A stream that breaks is taken up again
        where it was (Last-Event-ID); ClientError when that does not work for `give_up` seconds.
        """
        query = {} if session_id is None else {"session_id": session_id}
        if last is None:
            last = max((event["id"] for event in self.events(limit=1)), default=0)
        broken: float | None = None
        while True:
            headers = {"Last-Event-ID": str(last)}
            try:
                with self._http.stream(f"{API}/sessions/events/stream", query, headers, quiet) as lines:
                    broken = None
                    for line in lines:
                        if line.startswith("data:"):
                            event: Event = json.loads(line[5:])
                            last = event["id"]
                            yield event
                        elif line.startswith(":"):
                            yield None
            except httpx.ReadTimeout:
                yield None
                continue
            except (httpx.TransportError, ClientError) as error:
                told = error if isinstance(error, ClientError) else self._http.unreachable(error)
                broken = broken or time.monotonic()
                if told.status or time.monotonic() - broken > give_up:
                    raise told from error
            yield None
            time.sleep(0.5)

    def reservations(self) -> list[Reservation]:
        return self._call(list[Reservation], "GET", f"{API}/dhcp/reservations")

    def status(self) -> dict[str, dict[str, Any]]:
        """Health of the service, facts of DHCP, TFTP and iSCSI, and how many sessions there are."""
        paths = {
            "health": "/health/detailed",
            "dhcp": f"{API}/dhcp/status",
            "tftp": f"{API}/tftp/status",
            "network": "/monitoring/network-services",
            "sessions": f"{API}/sessions/stats",
        }
        return {name: self._call(dict[str, Any], "GET", path) for name, path in paths.items()}

    def check(self, repair: bool = False) -> Report:
        """Have the observer look now; with `repair`, mend what it finds."""
        return self._call(Report, "POST", f"{API}/observer/check", params={"repair": repair})

    def change_password(self, new: str) -> Message:
        given = {"current_password": self._http.password, "new_password": new}
        answer = self._call(Message, "POST", "/auth/change-password", json=given)
        self._http.forget_token()
        return answer

    def _all(self, path: str, filters: dict[str, Any], key: str = "", limit: int | None = None) -> list[Any]:
        found: list[Any] = []
        query = {name: value for name, value in filters.items() if value not in (None, "")}
        while True:
            page = {"skip": len(found), "limit": min(limit or PAGE, PAGE)}
            rows: list[Any]
            if key:
                rows = self._call(dict[str, Any], "GET", path, params=query | page)[key]
            else:
                rows = self._call(list[Any], "GET", path, params=query | page)
            found += rows
            if len(rows) < PAGE or (limit and len(found) >= limit):
                return found[:limit]


def _named(kind: str, name: str, known: list[Any]) -> Any:
    by_id = [one for one in known if str(one["id"]) == name]
    for one in [one for one in known if one["name"] == name] + by_id:
        return one
    names = ", ".join(one["name"] for one in known[:12]) + (", …" if len(known) > 12 else "")
    raise ClientError(f"there is no {kind} {name!r}; there are: {names or 'none yet'}", 404)
