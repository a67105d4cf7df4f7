"""`/loadsharing/…` and `/labyard/faults`: contract 5.5, 8.3. HTTP only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from labyard.evse.gateway.api.http import ApiError, json_object, message, reply, route
from labyard.evse.sharing import documents
from labyard.evse.sharing.member import READ_ONLY
from labyard.evse.sharing.network import HostPort, split_host

if TYPE_CHECKING:
    from labyard.evse.sharing.part import Sharing

_WRONG_DELETE = "Use DELETE /loadsharing/peers/{host}"
_BAD_FORMAT = "Invalid host format - must contain domain or IP"


def routes(sharing: Sharing) -> list[BaseRoute]:
    def idempotent() -> bool:
        return bool(sharing.gateway.options["loadsharing_compat"] == "idempotent")

    def writable() -> None:
        if sharing.is_member:
            raise ApiError(403, READ_ONLY)

    async def read(_: Request) -> Response:
        return reply(documents.peers(sharing, with_self=idempotent()))

    async def add(request: Request) -> Response:
        writable()
        content = await json_object(request, "Invalid JSON")
        host = _host(content.get("host"))
        if sharing.me.is_me(host):
            raise ApiError(400, "Cannot add local device as peer")
        if sharing.book.find(host) is not None:
            return message("already in group") if idempotent() else message("Peer already in group", 400)
        try:
            peer = sharing.book.add(host)
        except ValueError as problem:
            raise ApiError(400, str(problem)) from None
        if content.get("reciprocal", idempotent()) is True:
            sharing.controller.introduce(peer)
        return message("done")

    async def remove(request: Request) -> Response:
        writable()
        text = request.path_params["host"]
        if not text.strip():
            raise ApiError(400, "Invalid path")
        try:
            host = split_host(text)
        except ValueError:
            raise ApiError(404, "Peer not found") from None
        if sharing.me.is_me(host):
            raise ApiError(400, "Cannot remove local device from group")
        peer = sharing.book.find(host)
        if peer is None:
            raise ApiError(404, "Peer not found")
        sharing.book.remove(peer)
        sharing.controller.let_go(peer)
        return message("done")

    async def no_host(_: Request) -> Response:
        return message(_WRONG_DELETE, 405)

    async def discover(_: Request) -> Response:
        sharing.discover()
        return message("done")

    async def status(_: Request) -> Response:
        return reply(documents.group_status(sharing))

    async def faults(_: Request) -> Response:
        return reply(sharing.faults.as_json())

    async def set_faults(request: Request) -> Response:
        content = await json_object(request, "Invalid JSON")
        try:
            sharing.faults.set(content)
        except ValueError as problem:
            raise ApiError(400, str(problem)) from None
        return reply(sharing.faults.as_json())

    async def clear_faults(_: Request) -> Response:
        sharing.faults.clear()
        return message("done")

    return [
        route("/loadsharing/peers", {"GET": read, "POST": add, "DELETE": no_host}),
        route("/loadsharing/peers/{host:path}", {"DELETE": remove}),
        route("/loadsharing/discover", {"POST": discover}),
        route("/loadsharing/status", {"GET": status}),
        route("/labyard/faults", {"GET": faults, "POST": set_faults, "DELETE": clear_faults}),
    ]


def _host(value: object) -> HostPort:
    if not isinstance(value, str):
        raise ApiError(400, "Missing required 'host' parameter")
    if not value.strip():
        raise ApiError(400, "Host cannot be empty")
    if len(value) > 255 or not ("." in value or ":" in value):
        raise ApiError(400, _BAD_FORMAT)
    try:
        return split_host(value)
    except ValueError:
        raise ApiError(400, _BAD_FORMAT) from None
