"""Clients of a pair's two APIs (contract sections 3 and 5), for commands and scripts.

They need httpx and the standard library only.
"""

from __future__ import annotations

import base64
from typing import Any

from labyard.client.http import Http
from labyard.client.service import ServiceClient
from labyard.evse.pairs import Credentials

Document = dict[str, Any]

HINTS = {
    401: "give the gateway's user with --user NAME:PASSWORD or LABYARD_EVSE_USER",
    403: "what the group is told, its controller is told",
}


class Emulator(ServiceClient[Http]):
    """Charger and car. `timeout` is seconds for one answer. Every method raises ClientError."""

    def __init__(self, url: str, timeout: float = 5) -> None:
        super().__init__(Http(url, "emulator", timeout, {}))

    def status(self) -> Document:
        """`evse` and `ev`."""
        found: Document = self._http.body(self._http.send("GET", "/api/status"))
        return found

    def do(self, path: str, **given: Any) -> None:
        """POST to a path below /api, such as ev/soc."""
        self._http.body(self._http.send("POST", f"/api/{path}", json=given))


class Gateway(ServiceClient[Http]):
    """`timeout` is seconds for one answer. Every method raises ClientError."""

    def __init__(self, url: str, credentials: Credentials | None = None, timeout: float = 5) -> None:
        super().__init__(Http(url, "gateway", timeout, HINTS))
        self._headers: dict[str, str] = {}
        if credentials is not None:
            token = base64.b64encode(":".join(credentials).encode()).decode()
            self._headers["Authorization"] = f"Basic {token}"

    def status(self) -> Document:
        found: Document = self._call("GET", "/status")
        return found

    def config(self) -> Document:
        found: Document = self._call("GET", "/config")
        return found

    def configure(self, **options: Any) -> bool:
        """Whether anything changed."""
        return bool(self._call("POST", "/config", json=options)["msg"] == "done")

    def group(self) -> Document:
        found: Document = self._call("GET", "/loadsharing/status")
        return found

    def peers(self) -> list[Document]:
        found: list[Document] = self._call("GET", "/loadsharing/peers")
        return found

    def discover(self) -> None:
        """Have it ask by mDNS who is there. It does not wait for answers."""
        self._call("POST", "/loadsharing/discover")

    def _call(self, method: str, path: str, **given: Any) -> Any:
        return self._http.body(self._http.send(method, path, headers=self._headers, **given))
