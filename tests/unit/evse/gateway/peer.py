"""An EVSE that answers from a table: for tests of what the gateway makes of answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from labyard.evse.gateway.rapi_client import RapiClient
from labyard.evse.rapi import decode, encode

ANSWERS = {
    "GV": "OK 8.2.1 5.0.1",
    "GF": "OK 0 0 0",
    "GE": "OK 32 0001",
    "GC": "OK 6 80 32 32",
    "GA": "OK 220 0",
    "GI": "OK EVSE01ABCDEF",
    "GS": "OK 01 0 01 0000",
    "GP": "OK 250 -2560 -2560",
    "GU": "OK 0 0",
    "GG": "OK 0 240000",
    "S1": "OK",
}


class Peer:
    """`answers` by command with its arguments, or by its name; None: it keeps silent. `sequenced`: it repeats ids."""

    def __init__(self, sequenced: bool = True) -> None:
        self.answers: dict[str, str | Callable[[str], str] | None] = dict(ANSWERS)
        self.heard: list[str] = []
        self.sequenced = sequenced
        self._client: RapiClient | None = None

    def plug(self, client: RapiClient) -> None:
        self._client = client
        client.attach(self._write)

    def say(self, text: str) -> None:
        """An asynchronous line."""
        assert self._client is not None
        self._client.received(encode(*text.split()))

    def _write(self, data: bytes) -> None:
        frame = decode(data.rstrip(b"\r"))
        command = " ".join(frame.tokens)
        self.heard.append(command)
        answer = self.answers.get(command, self.answers.get(frame.tokens[0], "NK"))
        if callable(answer):
            answer = answer(command)
        if answer is None:
            return
        if frame.sequence and not self.sequenced:
            answer = "NK"
        assert self._client is not None
        reply = encode(*answer.split(), sequence=frame.sequence if self.sequenced else None)
        asyncio.get_running_loop().call_soon(self._client.received, reply)
