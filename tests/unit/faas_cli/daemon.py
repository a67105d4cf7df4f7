"""The daemon's real API, registry, images and counters in this process. Only containers and addresses are played.

Functions have addresses of 127.0.0.0/8, which are there without being made.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from ports import free_port

from labyard.faas.adapters.cgroups import Cgroups
from labyard.faas.adapters.images import Images
from labyard.faas.adapters.loopback import Loopback
from labyard.faas.api import Api
from labyard.faas.audit import Audit
from labyard.faas.call import Call
from labyard.faas.container import Place
from labyard.faas.history import History
from labyard.faas.observer import Observer
from labyard.faas.registry import Registry
from labyard.faas.service import Service
from labyard.faas.settings import read_settings
from labyard.faas.stats import Record


class Addresses:
    """In place of those on `lo`."""

    def __init__(self) -> None:
        self.there: dict[str, int] = {}

    def apply(self, addresses: Iterable[str]) -> None:
        self.there |= dict.fromkeys(addresses, 32)

    def remove(self, addresses: Iterable[str]) -> list[str]:
        return [ip for ip in list(addresses) if self.there.pop(ip, None)]

    def observed(self) -> dict[str, int]:
        return dict(self.there)

    def foreign(self) -> set[str]:
        return set()


class PlayedService(Service):
    """Answers in the handler's place: the request's line and body, or what `fail` says."""

    fail = ""

    def _launch(self, call: Call) -> None:
        threading.Thread(target=self._play, args=(call,), daemon=True).start()

    def _play(self, call: Call) -> None:
        record = Record(call.id, "2026-11-26T08:00:00Z", call.client, "ok", 0, 0.9, True, 0, "")
        if self.fail:
            record = Record(call.id, record.time, call.client, "exited", 502, 41.5, False, 3, "it broke\nhere\n")
        with call.sock.makefile("rb") as reading:
            line = reading.readline().decode().split()
            headers = http.client.parse_headers(reading)
            body = reading.read(int(headers.get("Content-Length", 0)))
        words = f"{line[0]} {line[1]} {headers.get('X-Test', '')}\n".encode()
        said = {"detail": self.fail, "function": call.function, "request_id": call.id}
        content = json.dumps(said).encode() if self.fail else words + body
        status = f"502 {self.fail}" if self.fail else "200 OK"
        head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(content)}\r\n\r\n"
        # Here before the answer, so that tests need not wait for the record and the slot.
        self.stats.add(call.function, record)
        self.dispatcher.done(call)
        if self.fail != "close":
            call.sock.sendall(head.encode() + content)
        call.sock.close()


class Daemon:
    def __init__(self, folder: Path, **settings: object) -> None:
        self.port = free_port()
        given = {"ROOT": folder / "root", "RUN": folder / "run", "POOL": "127.8.0.10-127.8.0.12"} | settings
        self.settings = read_settings(
            {f"LABYARD_FAAS_{name}": str(value) for name, value in (given | {"FUNCTION_PORT": self.port}).items()}
        )
        for path in (self.settings.bundles, self.settings.warm):
            path.mkdir(parents=True)
        images = Images(self.settings)
        images.prepare()
        registry = Registry(self.settings.registry, self.settings.limits)
        runtime = SimpleNamespace(name="runc", observed=set)
        cgroups = Cgroups(version=2, enforced=frozenset({"memory", "pids"}))
        self.addresses = Addresses()
        place = Place(self.settings, cast(Any, runtime), cgroups)
        self.service = PlayedService(
            place, registry, images, cast(Loopback, self.addresses), History(folder / "history")
        )
        self.service.dispatcher.start()
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        audit = Audit(self.settings.audit)
        self._api = Api(self.service, Observer(self.service), audit, [listener], self.settings.token())
        self._api.start()

    def close(self) -> None:
        self._api.stop()
        self.service.dispatcher.stop()

    def ask(self, ip: str) -> None:
        connection = http.client.HTTPConnection(ip, self.port, timeout=30)
        connection.request("GET", "/")
        connection.getresponse().read()
        connection.close()
