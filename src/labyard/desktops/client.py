"""A client of desktops' HTTP API, for commands, tests and scripts.

It needs httpx and the standard library only, so that it runs where the service is not installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from labyard.client.http import ClientError, Http
from labyard.client.service import ServiceClient

API = "/api/v1"
PAGE = 100  # the most that a list gives at once
Thing = dict[str, Any]

HINTS = {
    401: "give a token with --token or LABYARD_DESKTOPS_TOKEN; on its host: labyard-desktops token issue",
    500: "its journal has more: journalctl -u labyard-desktops, on its host",
    503: "`labyard-desktops doctor`, on its host, says what is missing",
}


class Client(ServiceClient[Http]):
    """`url` has no path, `timeout` is seconds for one answer, `certificate` (PEM) the service's where nobody else
    vouches for it.

    Every method raises ClientError.
    """

    def __init__(self, url: str, token: str, *, certificate: str = "", timeout: float = 120) -> None:
        super().__init__(Http(url, "desktops", timeout, HINTS, certificate))
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def sessions(self, **filters: str) -> list[Thing]:
        """All of them, newest first. Filters are status, project, environment and owner."""
        return list(self._all("/sessions", "sessions", filters))

    def session(self, session_id: str) -> Thing:
        return self._call("GET", f"/sessions/{_segment(session_id)}")

    def create_session(self, body: Thing) -> Thing:
        return self._call("POST", "/sessions", json=body)

    def turn_session(self, session_id: str, verb: str) -> Thing:
        """`verb` is start, stop, pause or resume. Answers when it is so."""
        return self._call("POST", f"/sessions/{_segment(session_id)}/{verb}")

    def delete_session(self, session_id: str) -> None:
        self._send("DELETE", f"/sessions/{_segment(session_id)}")

    def chunks(self, session_id: str) -> list[Thing]:
        return list(self._all(f"/sessions/{_segment(session_id)}/chunks", "chunks", {}))

    def errors(self, session_id: str) -> list[Thing]:
        found: list[Thing] = self._call("GET", f"/sessions/{_segment(session_id)}/errors")["errors"]
        return found

    def proof(self, session_id: str) -> Thing:
        return self._call("GET", f"/sessions/{_segment(session_id)}/proof")

    def stored_chunk(self, session_id: str, chunk_id: str) -> bytes:
        """The object as it is stored, encrypted."""
        path = f"/sessions/{_segment(session_id)}/chunks/{_segment(chunk_id)}/object"
        return self._send("GET", path)

    def export(self, session_id: str) -> Iterator[bytes]:
        """The whole recording as MP4, in pieces."""
        path = f"{API}/sessions/{_segment(session_id)}/export"
        answer = self._http.send("GET", path, headers=self._headers, stream=True)
        try:
            if not answer.is_success:
                answer.read()
                self._http.body(answer)
            yield from answer.iter_bytes()
        finally:
            answer.close()

    def ledger_key(self) -> str:
        """The ledger's public key, PEM."""
        return str(self._call("GET", "/ledger/key")["public_key"])

    def _all(self, path: str, name: str, filters: dict[str, str]) -> Iterator[Thing]:
        offset = 0
        while True:
            params = {**{key: value for key, value in filters.items() if value}, "limit": PAGE, "offset": offset}
            page = self._call("GET", path, params=params)
            yield from page[name]
            offset += PAGE
            if not page["has_next"]:
                return

    def _call(self, method: str, path: str, **given: Any) -> Thing:
        answer = self._http.send(method, f"{API}{path}", headers=self._headers, **given)
        body = self._http.body(answer)
        if not isinstance(body, dict):
            raise ClientError(f"{self.url} answered with something else than a desktops service would")
        return body

    def _send(self, method: str, path: str) -> bytes:
        """What a good answer holds, as it is."""
        answer = self._http.send(method, f"{API}{path}", headers=self._headers)
        if not answer.is_success:
            self._http.body(answer)
        return answer.content


def _segment(name: str) -> str:
    """An id as one segment of a path, whatever is in it."""
    return "%2E" * len(name) if name in (".", "..") else quote(name, safe="")
