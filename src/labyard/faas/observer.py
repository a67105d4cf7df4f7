"""Compares the registry with what there is: addresses, listeners, links, trees, containers, bundles, sockets (11.4).

What requests have in hand is no difference. A look that finds something looks again at once, and only what both saw
counts: a deploy in between is none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from labyard.faas.container import REQUEST_SOCKETS
from labyard.faas.log import log
from labyard.faas.names import is_container_id, is_request_socket
from labyard.faas.registry import Function
from labyard.faas.service import Service
from labyard.faas.sweep import is_dead, remove_container, remove_path


@dataclass(frozen=True)
class Finding:
    """`kind` is missing, orphan or drift. Without a repair only a deploy or removal mends it."""

    kind: str
    resource: str
    key: str
    details: str = ""
    repair: Callable[[], object] | None = field(default=None, compare=False, repr=False)

    def as_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "resource": self.resource, "key": self.key, "details": self.details}


class Observer:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)
        self.last: list[Finding] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def check(self, repair: bool) -> dict[str, Any]:
        """What differs now; with `repair`, mended as far as it can be."""
        with self._lock:
            first = set(self._look())
            found = [finding for finding in self._look() if finding in first] if first else []
            repaired, failed = [], []
            for finding in found if repair else []:
                if finding.repair is None:
                    continue
                try:
                    finding.repair()
                    repaired.append(finding.as_dict())
                except Exception as error:
                    failed.append({**finding.as_dict(), "error": str(error) or type(error).__name__})
            self.last = found
        answer: dict[str, Any] = {"issues": [finding.as_dict() for finding in found]}
        return {**answer, "repaired": repaired, "failed": failed} if repair else answer

    def _run(self) -> None:
        while not self._stopped.wait(self._service.settings.observer_interval):
            try:
                before = set(self.last)
                self.check(repair=False)
                self._service.place.runtime.calls.reap_strays()
                for finding in self.last:
                    if finding not in before:
                        log(
                            "server",
                            f"Observer: {finding.kind} {finding.resource} {finding.key} {finding.details}".strip(),
                        )
            except Exception as error:
                log("server", f"Observer: cannot look: {type(error).__name__}: {error}")

    def _look(self) -> Iterator[Finding]:
        yield from self._addresses()
        yield from self._links()
        yield from self._trees()
        yield from self._containers()

    def _addresses(self) -> Iterator[Finding]:
        service = self._service
        seen, listening, failing = (
            service.loopback.observed(),
            service.dispatcher.listening(),
            service.dispatcher.not_listening(),
        )
        wanted = {function.ip: function for function in service.registry.all().values()}
        for ip, function in wanted.items():
            if ip not in seen:
                yield Finding("missing", "address", ip, function.name, partial(service.loopback.apply, [ip]))
            elif seen[ip] != 32:
                details = f"/{seen[ip]} instead of /32"
                yield Finding("drift", "address", ip, details, partial(self._readdress, ip))
            if function.name not in listening:
                repair = partial(service.dispatcher.listen, function.name, ip)
                yield Finding("missing", "listener", function.name, failing.get(function.name, ""), repair)
        for ip in seen:
            if ip not in wanted:
                yield Finding("orphan", "address", ip, "", partial(self._remove_address, ip))

    def _readdress(self, ip: str) -> None:
        self._service.loopback.remove([ip])
        self._service.loopback.apply([ip])

    def _remove_address(self, ip: str) -> None:
        if ip not in {function.ip for function in self._service.registry.all().values()}:
            self._service.loopback.remove([ip])

    def _links(self) -> Iterator[Finding]:
        service = self._service
        names, wanted = service.images.names(), service.registry.all()
        for name, function in wanted.items():
            tree_there = service.rootfs(function).is_dir()
            if not tree_there:
                yield Finding("missing", "tree", name, "its image is gone: deploy it again")
            elif name not in names or not names[name]:
                yield Finding("missing", "link", name, "", partial(self._relink, function))
            elif function.key and names[name] != function.key:
                details = f"leads to {names[name]} instead of {function.key}"
                yield Finding("drift", "link", name, details, partial(self._relink, function))
        for name in names:
            if name not in wanted:
                yield Finding("orphan", "link", name, "", partial(self._forget, name))

    def _relink(self, function: Function) -> None:
        with self._service.lock(function.name):
            if function.key and self._service.registry.get(function.name) is function:
                self._service.images.point(function.name, function.key)

    def _forget(self, name: str) -> None:
        with self._service.lock(name):
            if self._service.registry.get(name) is None:
                self._service.images.forget(name)

    def _trees(self) -> Iterator[Finding]:
        images = self._service.images
        for key in images.unheld():
            yield Finding("orphan", "tree", key, "", partial(images.remove_unheld, key))

    def _containers(self) -> Iterator[Finding]:
        place = self._service.place
        settings = place.settings
        # What there is first, who uses it after: a container that begins in between is known.
        running = place.runtime.observed()
        bundles = [path for folder in (settings.bundles, settings.warm) for path in folder.iterdir()]
        sockets = [path for path in REQUEST_SOCKETS.iterdir() if is_request_socket(path.name)]
        used = self._service.server.containers
        ids = {container.id for container in used}
        for name in running - ids:
            yield Finding("orphan", "container", name, "", partial(remove_container, place, name))
        for path in bundles:
            if path.name not in ids and is_container_id(path.name):
                yield Finding("orphan", "bundle", path.name, "", partial(remove_path, path))
        yield from self._sockets(sockets, {container.socket_path for container in used})

    @staticmethod
    def _sockets(found: list[Path], used: set[Path]) -> Iterator[Finding]:
        for path in found:
            if path not in used and is_dead(path):
                yield Finding("orphan", "socket", path.name, "", partial(remove_path, path))
