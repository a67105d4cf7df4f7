"""A client of the functions' control API (contract section 4), for commands, tests and scripts.

It needs httpx and the standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx

from labyard.client.http import ClientError, Http
from labyard.client.service import ServiceClient
from labyard.faas_cli.archive import Archive

Document = dict[str, Any]

SECONDS = 60.0  # for one answer
UNPACKING = 900.0  # s for the answer to a deploy: the daemon unpacks the image before it gives one
HINTS = {
    401: "give it with --token, LABYARD_FAAS_TOKEN or LABYARD_FAAS_TOKEN_FILE",
    408: "is the link to the host that slow? Try again",
    413: "its host's LABYARD_FAAS_MAX_UPLOAD allows more",
    500: "its journal has more: journalctl -u labyard-faas, on its host",
    507: "make room below /var/lib/faasd, on its host",
}
# The way out of a refusal, by a fragment that the contract fixes.
WAYS_OUT = {
    "manifest.json not found": "docker save IMAGE writes one that can be deployed",
    "No IPs available": "take one away: labyard faas rm NAME",
    "cannot listen on": "see which program that is, on its host: ss -ltnp",
}


class Client(ServiceClient[Http]):
    """`url` has no path, `token` is empty for a service that wants none. Every method raises ClientError."""

    def __init__(self, url: str, token: str = "") -> None:
        super().__init__(Http(url, "functions", SECONDS, HINTS))
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def deploy(self, name: str, archive: Archive, limits: Mapping[str, str]) -> Document:
        """Make a function of an image archive, or its next version. `limits` as X-Faas-Limits takes them."""
        headers = {"X-Image-Name": _header(name), "Content-Type": "application/x-tar"}
        if archive.length is not None:
            headers["Content-Length"] = str(archive.length)
        if limits:
            headers["X-Faas-Limits"] = json.dumps(limits)
        wait = httpx.Timeout(SECONDS, read=UNPACKING)
        given = {"headers": headers, "content": archive.pieces(), "timeout": wait}
        deployed: Document = self._call("POST", "/api/new", about=name, **given)
        return deployed

    def functions(self) -> dict[str, Document]:
        """What is registered, by name: ip, cmd, key, limits, …"""
        found: dict[str, Document] = self._call("GET", "/api/list")
        return found

    def function(self, name: str) -> Document:
        """Record, limits in force, counters and parked handlers of one."""
        found: Document = self._of(name, "GET")
        return found

    def logs(self, name: str, limit: int) -> list[Document]:
        """Its last requests, newest first."""
        found: list[Document] = self._of(name, "GET", f"/logs?limit={limit}")
        return found

    def remove(self, name: str) -> None:
        self._of(name, "DELETE")

    def stats(self) -> Document:
        """Counters of each of `functions`, and what is at work and waiting."""
        found: Document = self._call("GET", "/api/stats")
        return found

    def health(self) -> Document:
        found: Document = self._call("GET", "/health")
        return found

    def check(self, repair: bool) -> Document:
        """Have the observer look now. With `repair` the answer has `repaired` and `failed`, too."""
        found: Document = self._call("POST", f"/api/observer/check?repair={int(repair)}")
        return found

    def _of(self, name: str, method: str, what: str = "") -> Any:
        try:
            return self._call(method, f"/api/function/{quote(name, safe='')}{what}", about=name)
        except ClientError as error:
            if error.status != 404:
                raise
            known = list(self.functions())
            names = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
            raise ClientError(f"there is no function {name!r}; there are: {names or 'none yet'}", 404) from error

    def _call(self, method: str, path: str, *, about: str = "", **given: Any) -> Any:
        """The body of a good answer. A refusal says what it is `about`, and the way out."""
        given["headers"] = given.get("headers", {}) | self._headers
        answer = self._http.send(method, path, **given)
        try:
            return self._http.body(answer)
        except ClientError as error:
            text = f"{about}: {error}" if about else str(error)
            ways = [way_out for fragment, way_out in WAYS_OUT.items() if fragment in text]
            raise ClientError("; ".join([text, *ways]), error.status) from error


def _header(name: str) -> str:
    """A name as a header's value, whatever is in it: what the service does not take, it says itself."""
    return name.encode("ascii", "backslashreplace").decode().replace("\n", "\\n").replace("\r", "\\r")
