"""The control API: HTTP only; parse, authorise, call the service, shape the answer (contract section 4)."""

from __future__ import annotations

import hmac
import json
import re
import socket
import tempfile
import threading
from collections.abc import Callable
from typing import Any

from labyard.faas.audit import Audit
from labyard.faas.errors import BadRequest, FaasError
from labyard.faas.image.layers import disk_error
from labyard.faas.log import log
from labyard.faas.names import check_name
from labyard.faas.observer import Observer
from labyard.faas.service import Service
from labyard.faas.wire import Request, json_reply, read_request, reply, send_and_linger

CONNECTIONS = 32
IDLE = 60.0  # s without a byte of a body
ROOM = 5.0  # s that a connection waits for a thread: they are taken until clients have read their answers
LINGER = 10.0  # s to read away an upload that was refused, so that its sender gets to read why
SHOWN_REQUESTS = 20
Route = Callable[[Request, str, str], bytes]  # request, the path's last part, peer


class Api:
    def __init__(
        self, service: Service, observer: Observer, audit: Audit, sockets: list[socket.socket], token: str | None
    ) -> None:
        self._service, self._observer, self._audit = service, observer, audit
        self._sockets, self._token = sockets, token
        self._room = threading.BoundedSemaphore(CONNECTIONS)
        self._stopped = False
        self._routes: list[tuple[str, str, Route]] = [
            ("POST", r"/api/new", self._new),
            ("GET", r"/api/ip/([^/]*)", self._ip),
            ("GET", r"/api/list", self._list),
            ("GET", r"/api/function/([^/]*)", self._show),
            ("DELETE", r"/api/function/([^/]*)", self._remove),
            ("GET", r"/api/function/([^/]*)/logs", self._logs),
            ("GET", r"/api/stats", self._stats),
            ("GET", r"/metrics", self._metrics),
            ("GET", r"/health", self._health),
            ("GET", r"/api/observer", self._look),
            ("POST", r"/api/observer/check", self._check),
        ]

    def start(self) -> None:
        for listener in self._sockets:
            threading.Thread(target=self._accept, args=(listener,), name="api", daemon=True).start()

    def stop(self) -> None:
        self._stopped = True
        for listener in self._sockets:
            # Wakes the thread in accept, which close alone does not.
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopped:
            try:
                connection, (peer, _) = listener.accept()
            except OSError as error:
                if not self._stopped:
                    log("api", f"cannot accept: {error.strerror}")
                    threading.Event().wait(0.1)
                continue
            # Others wait in the backlog meanwhile, which beats being refused when many come at once.
            if not self._room.acquire(timeout=ROOM):
                send_and_linger(connection, json_reply(503, {"detail": "too many connections"}), seconds=0)
                connection.close()
                continue
            try:
                threading.Thread(target=self._serve, args=(connection, peer), name=f"api {peer}", daemon=True).start()
            except RuntimeError:
                self._room.release()
                connection.close()

    def _serve(self, connection: socket.socket, peer: str) -> None:
        try:
            answer = self._answer(connection, peer)
            if answer:
                send_and_linger(connection, answer, self._service.settings.max_upload, LINGER)
        finally:
            connection.close()
            self._room.release()

    def _answer(self, connection: socket.socket, peer: str) -> bytes:
        try:
            request = read_request(connection)
            if request is None:
                return b""
            connection.settimeout(IDLE)
            answer = self._route(request, peer)
            return answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if request.method == "HEAD" else answer
        except TimeoutError:
            return _error(408, "the request did not come in time")
        except FaasError as error:
            return _error(error.status, str(error))
        except ConnectionError:
            return b""
        except OSError as error:
            failure = disk_error(error)
            log("api", f"{failure}")
            return _error(failure.status if failure.status != 400 else 500, str(failure))
        except Exception as error:
            log("api", f"{type(error).__name__}: {error}")
            return _error(500, "the daemon failed; its log says why")

    def _route(self, request: Request, peer: str) -> bytes:
        matches = [
            (method, match, route)
            for method, pattern, route in self._routes
            if (match := re.fullmatch(pattern, request.path))
        ]
        if not matches:
            return _error(404, f"there is no {request.path}")
        if request.path != "/health" and not self._may(request):
            return _error(401, "a valid token is needed", {"WWW-Authenticate": "Bearer"})
        for method, match, route in matches:
            if method == request.method:
                return route(request, match[1] if match.groups() else "", peer)
        allowed = ", ".join(method for method, _, _ in matches)
        return _error(405, f"{request.method} is not for {request.path}", {"Allow": allowed})

    def _may(self, request: Request) -> bool:
        if self._token is None:
            return True
        given = request.headers.get("authorization", "")
        return hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode())

    def _new(self, request: Request, _: str, peer: str) -> bytes:
        name = request.headers.get("x-image-name")
        if not name:
            raise BadRequest("Missing X-Image-Name header")
        check_name(name)
        limits = _limits(request)
        self._service.settings.limits.with_changes(limits)
        request.go_on()
        try:
            with tempfile.TemporaryFile(dir=self._service.settings.scratch) as archive:
                for piece in request.body(self._service.settings.max_upload):
                    archive.write(piece)
                archive.flush()
                archive.seek(0)
                deployed = self._service.deploy(name, archive, limits)
        except (FaasError, OSError) as error:
            self._audit.add(peer, "new", name, f"failed: {error}")
            raise
        function = deployed.function
        self._audit.add(peer, "new", name, f"ok {function.ip} {function.key}")
        answer: dict[str, Any] = {"name": name, "ip": function.ip, "cmd": list(function.cmd)}
        answer.update(key=function.key, reused=deployed.reused)
        if deployed.not_enforced:
            answer["not_enforced"] = deployed.not_enforced
        return json_reply(200, answer)

    def _ip(self, request: Request, name: str, peer: str) -> bytes:
        return json_reply(200, {"name": name, "ip": self._service.get(name).ip})

    def _list(self, request: Request, _: str, peer: str) -> bytes:
        return json_reply(200, self._service.registry.as_entries())

    def _show(self, request: Request, name: str, peer: str) -> bytes:
        return json_reply(200, self._service.show(name))

    def _remove(self, request: Request, name: str, peer: str) -> bytes:
        try:
            self._service.remove(name)
        except (FaasError, OSError) as error:
            self._audit.add(peer, "remove", name, f"failed: {error}")
            raise
        self._audit.add(peer, "remove", name, "ok")
        return json_reply(200, {"name": name, "removed": True})

    def _logs(self, request: Request, name: str, peer: str) -> bytes:
        self._service.get(name)
        limit = request.query.get("limit", str(SHOWN_REQUESTS))
        if not re.fullmatch("[0-9]{1,9}", limit):
            raise BadRequest(f"limit {limit!r} is not a number")
        return json_reply(200, self._service.history.last(name, int(limit)))

    def _stats(self, request: Request, _: str, peer: str) -> bytes:
        return json_reply(200, self._service.overview())

    def _metrics(self, request: Request, _: str, peer: str) -> bytes:
        text = "\n".join(self._service.metrics()) + "\n"
        return reply(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")

    def _health(self, request: Request, _: str, peer: str) -> bytes:
        return json_reply(200, self._service.health())

    def _look(self, request: Request, _: str, peer: str) -> bytes:
        return json_reply(200, self._observer.check(repair=False))

    def _check(self, request: Request, _: str, peer: str) -> bytes:
        repair = request.query.get("repair", "0") in ("1", "true")
        report = self._observer.check(repair)
        if repair:
            self._audit.add(peer, "repair", "", f"{len(report['repaired'])} mended, {len(report['failed'])} failed")
        return json_reply(200, report)


def _limits(request: Request) -> dict[str, Any]:
    text = request.headers.get("x-faas-limits", "{}")
    try:
        limits = json.loads(text)
    except (ValueError, RecursionError):
        raise BadRequest("X-Faas-Limits is not JSON") from None
    if not isinstance(limits, dict):
        raise BadRequest("X-Faas-Limits is not a JSON object")
    return limits


def _error(status: int, detail: str, headers: dict[str, str] | None = None) -> bytes:
    return json_reply(status, {"detail": detail}, detail, headers)
