"""A client of desktops' HTTP API, for commands, tests and scripts.

It needs httpx and the standard library only, so that it runs where the service is not installed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from labyard.client.http import ClientError, Http
from labyard.client.service import ServiceClient

API = "/api/v1"
PAGE = 100  # the most that a list gives at once
Thing = dict[str, Any]
SERVER_ID = re.compile(r"rdp-[0-9a-f]{16}")

HINTS = {
    401: "give a token with --token or LABYARD_DESKTOPS_TOKEN; `labyard desktops login NAME` prints one",
    403: "the token lacks a role for this: `labyard desktops token --roles …` prints one that has it",
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

    def ready(self) -> Thing:
        """What the service stands on, well or not. Needs no token."""
        found: Thing = self._http.body(self._http.send("GET", "/ready"), also=503)
        return found

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

    def servers(self, **filters: str) -> list[Thing]:
        """All RDP servers. Filters are status, user_id and node_id."""
        return list(self._all("/rdp/servers", "servers", filters))

    def server(self, server: str) -> Thing:
        """One, by its id, or by its name where no other has it."""
        if SERVER_ID.fullmatch(server):
            return self._call("GET", f"/rdp/servers/{server}")
        found = [one for one in self.servers() if one["name"] == server]
        if len(found) > 1:
            raise ClientError(f"{server} is the name of several: {', '.join(one['server_id'] for one in found)}", 404)
        if not found:
            raise ClientError(f"no RDP server has the name {server}; `labyard desktops servers list` has them", 404)
        return found[0]

    def create_server(self, body: Thing) -> Thing:
        return self._call("POST", "/rdp/servers", json=body)

    def turn_server(self, server_id: str, verb: str) -> Thing:
        """`verb` is start, stop or restart. Answers when it is so."""
        return self._call("POST", f"/rdp/servers/{_segment(server_id)}/{verb}")

    def delete_server(self, server_id: str) -> None:
        self._send("DELETE", f"/rdp/servers/{_segment(server_id)}")

    def test_server(self, server_id: str, username: str = "", password: str = "") -> Thing:
        """A real negotiation and login; without a user with the server's own account."""
        body = {"username": username, "password": password} if username else {}
        return self._call("POST", f"/rdp/servers/{_segment(server_id)}/test-connection", json=body)

    def of_server(self, server_id: str, what: str, **query: str) -> Thing:
        """`what` is service-status, usage, usage/history, alerts, sessions or credentials."""
        return self._call("GET", f"/rdp/servers/{_segment(server_id)}/{what}", params=query)

    def nodes(self, **filters: str) -> list[Thing]:
        """All nodes. Filters are pool_id, status, node_type and name."""
        return list(self._all("/nodes", "nodes", filters))

    def node(self, node: str) -> Thing:
        """One, by its name or its id."""
        if found := self.nodes(name=node):
            return found[0]
        return self._call("GET", f"/nodes/{_segment(node)}")

    def register_node(self, body: Thing) -> Thing:
        return self._call("POST", "/nodes", json=body)

    def turn_node(self, node_id: str, verb: str, **query: str) -> Thing:
        """`verb` is start, stop, maintenance or enrolment."""
        return self._call("POST", f"/nodes/{_segment(node_id)}/{verb}", params=query)

    def move_node(self, node_id: str, pool_id: str) -> Thing:
        return self._call("PUT", f"/nodes/{_segment(node_id)}/pool", json={"pool_id": pool_id})

    def delete_node(self, node_id: str) -> None:
        self._send("DELETE", f"/nodes/{_segment(node_id)}")

    def of_node(self, node_id: str, what: str, **query: str) -> Thing:
        """`what` is usage, usage/history or alerts."""
        return self._call("GET", f"/nodes/{_segment(node_id)}/{what}", params=query)

    def node_statistics(self) -> Thing:
        return self._call("GET", "/nodes/statistics")

    def pools(self) -> list[Thing]:
        return list(self._all("/nodes/pools", "pools", {}))

    def create_pool(self, body: Thing) -> Thing:
        return self._call("POST", "/nodes/pools", json=body)

    def delete_pool(self, pool_id: str) -> None:
        self._send("DELETE", f"/nodes/pools/{_segment(pool_id)}")

    def pool(self, pool_id: str) -> Thing:
        return self._call("GET", f"/nodes/pools/{_segment(pool_id)}")

    def pool_statistics(self, pool_id: str) -> Thing:
        return self._call("GET", f"/nodes/pools/{_segment(pool_id)}/statistics")

    def submit_poot(self, body: Thing) -> Thing:
        return self._call("POST", "/poot/submit", json=body)

    def poot(self, poot_id: str) -> Thing:
        return self._call("GET", f"/poot/{_segment(poot_id)}")

    def validate_poot(self, poot_id: str) -> Thing:
        return self._call("POST", f"/poot/{_segment(poot_id)}/validate")

    def validate_poots(self, poot_ids: list[str]) -> Thing:
        """At most 100."""
        return self._call("POST", "/poot/batch/validate", json={"poot_ids": poot_ids})

    def pay_poot(self, poot_id: str, wallet: str) -> Thing:
        return self._call("POST", f"/poot/{_segment(poot_id)}/payout", json={"wallet_address": wallet})

    def pay_poots(self, poot_ids: list[str], wallet: str) -> Thing:
        """All or nothing, at most 1000."""
        return self._call("POST", "/poot/batch/payout", json={"poot_ids": poot_ids, "wallet_address": wallet})

    def poot_history(self, limit: int, node_id: str = "") -> list[Thing]:
        """The newest, at most 100."""
        query = {"limit": limit} | ({"node_id": node_id} if node_id else {})
        found: list[Thing] = self._call("GET", "/poot/history", params=query)["poot_history"]
        return found

    def poot_statistics(self, node_id: str = "") -> Thing:
        path = f"/poot/nodes/{_segment(node_id)}/statistics" if node_id else "/poot/statistics"
        return self._call("GET", path)

    def login(self, username: str, password: str) -> Thing:
        """A pair of tokens."""
        return self._call("POST", "/auth/token", json={"username": username, "password": password})

    def logout(self) -> None:
        """Ends the login that this client's token is of."""
        self._send("POST", "/auth/revoke")

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
