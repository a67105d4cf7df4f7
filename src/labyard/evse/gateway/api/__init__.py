"""HTTP only: parse, call the part that does it, shape the answer. One file per kind of thing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import WebSocketRoute
from starlette.types import ASGIApp

from labyard.evse.gateway.api import config, control, device, rapi, schedule, status
from labyard.evse.gateway.api.http import message
from labyard.evse.gateway.auth import Gate

if TYPE_CHECKING:
    from labyard.evse.gateway.app import Gateway


def build(gateway: Gateway) -> ASGIApp:
    """Everything that the gateway serves, behind its gate."""
    app = Starlette(
        routes=[
            WebSocketRoute("/ws", gateway.hub.serve),
            *(route for kind in (status, config, control, schedule, rapi, device) for route in kind.routes(gateway)),
            *gateway.routes,
        ],
        exception_handlers={HTTPException: _http_error, Exception: _error},
    )
    app.router.redirect_slashes = False
    return Gate(app, gateway.auth)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return message("Not found" if error.status_code == 404 else error.detail, error.status_code)


async def _error(_: Request, __: Exception) -> Response:
    """The log has it."""
    return message("Internal error", 500)
