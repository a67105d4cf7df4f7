"""All routes, and what every answer has: JSON errors, CORS."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from labyard.evse.emulator.api import body, car, charger, lab, pages, web_socket
from labyard.evse.emulator.api.body import BadRequest
from labyard.evse.emulator.emulator import Emulator

# A handler returns a Response, what is to be JSON, or None: {"success": true}. One with a second parameter gets the
# request's JSON object.
Handler = Callable[..., Any]

ROUTES: dict[str, dict[str, Handler]] = {
    "/": {"GET": pages.index},
    "/api/status": {"GET": charger.get_status},
    "/api/evse/status": {"GET": charger.get_evse},
    "/api/evse/version": {"GET": charger.get_version},
    "/api/evse/enable": {"POST": charger.enable},
    "/api/evse/disable": {"POST": charger.disable},
    "/api/evse/reset": {"POST": charger.reset},
    "/api/evse/current": {"POST": charger.set_current},
    "/api/evse/service_level": {"POST": charger.set_service_level},
    "/api/evse/lcd": {"GET": charger.get_lcd, "POST": charger.set_lcd},
    "/api/evse/lcd/backlight": {"GET": charger.get_backlight, "POST": charger.set_backlight},
    "/api/ev/status": {"GET": car.get_ev},
    "/api/ev/connect": {"POST": car.connect},
    "/api/ev/disconnect": {"POST": car.disconnect},
    "/api/ev/request_charge": {"POST": car.request_charge},
    "/api/ev/stop_charge": {"POST": car.stop_charge},
    "/api/ev/soc": {"POST": car.set_soc},
    "/api/ev/max_rate": {"POST": car.set_max_rate},
    "/api/ev/mode": {"POST": car.set_mode},
    "/api/ev/direct_current": {"POST": car.set_direct_current},
    "/api/ev/current_variance": {"POST": car.set_variance},
    "/api/errors/trigger": {"POST": charger.trigger_error},
    "/api/errors/clear": {"POST": charger.clear_errors},
    "/api/errors/status": {"GET": charger.get_errors},
    "/api/link/faults": {"GET": lab.get_faults, "POST": lab.set_faults, "DELETE": lab.clear_faults},
    "/api/link/log": {"GET": lab.get_log},
    "/api/clock": {"GET": lab.get_clock, "POST": lab.set_clock},
    "/api/clock/advance": {"POST": lab.advance_clock},
    "/api/openapi.yaml": {"GET": pages.openapi},
    "/api/docs": {"GET": pages.docs},
    "/metrics": {"GET": pages.metrics},
}
# Parts of the page /api/docs.
_ASSETS: dict[str, dict[str, Handler]] = {
    "/api/docs/swagger-ui.css": {"GET": pages.stylesheet},
    "/api/docs/swagger-ui-bundle.js": {"GET": pages.script},
}


def create_app(emulator: Emulator) -> ASGIApp:
    async def socket(web_socket_: WebSocket) -> None:
        await web_socket.serve(web_socket_, emulator)

    app = Starlette(
        routes=[
            *(Route(path, _endpoint(emulator, handlers)) for path, handlers in (ROUTES | _ASSETS).items()),
            WebSocketRoute("/ws", socket),
            Route("/ws", _endpoint(emulator, {"GET": web_socket.refuse})),
        ],
        exception_handlers={HTTPException: _http_error, BadRequest: _bad_request, Exception: _internal_error},
    )
    app.router.redirect_slashes = False
    return AnyOrigin(app)


def _endpoint(emulator: Emulator, handlers: dict[str, Handler]) -> ASGIApp:
    """Serves one path with all its methods."""
    takes_body = {method: len(inspect.signature(handler).parameters) > 1 for method, handler in handlers.items()}

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        method = "GET" if request.method == "HEAD" else request.method
        handler = handlers.get(method)
        if handler is None:
            allowed = ", ".join(handlers)
            raise HTTPException(405, f"{request.url.path} takes {allowed}", headers={"Allow": allowed})
        answer = handler(emulator, await body.read(request)) if takes_body[method] else handler(emulator)
        if inspect.isawaitable(answer):
            answer = await answer
        if not isinstance(answer, Response):
            answer = JSONResponse({"success": True} if answer is None else answer)
        await answer(scope, receive, send)

    return _Endpoint(serve)


class _Endpoint:
    """A class, so that Starlette takes it as an application of its own and leaves the methods to it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


class AnyOrigin:
    """Lets any web page use the API. Starlette's middleware says so only to requests that name an origin."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_open(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["access-control-allow-origin"] = "*"
            await send(message)

        if scope["type"] == "http" and scope["method"] == "OPTIONS":
            allowed = {
                "access-control-allow-methods": "GET, POST, DELETE, OPTIONS",
                "access-control-allow-headers": "*",
            }
            await Response(status_code=204, headers=allowed)(scope, receive, send_open)
            return
        await self._app(scope, receive, send_open)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = f"there is no {request.url.path}" if error.status_code == 404 else error.detail
    return JSONResponse({"error": text}, error.status_code, headers=error.headers)


def _bad_request(_: Request, error: Exception) -> Response:
    assert isinstance(error, BadRequest)
    return JSONResponse(error.answer, error.status)


def _internal_error(_: Request, __: Exception) -> Response:
    return JSONResponse({"error": "internal error; the log has more"}, 500)
