"""`/config`: contract 5.2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from labyard.evse.gateway import identity
from labyard.evse.gateway.api.http import NO_CACHE, ApiError, json_object, reply, route
from labyard.evse.gateway.options import BadOption

if TYPE_CHECKING:
    from labyard.evse.gateway.app import Gateway


def document(gateway: Gateway) -> dict[str, Any]:
    evse, device_id = gateway.evse, gateway.identity.device_id
    return {
        **gateway.options.public(),
        "buildenv": identity.BUILDENV,
        "version": identity.VERSION,
        "wifi_serial": device_id.upper(),
        "protocol": "-",
        "espinfo": "labyard",
        "espflash": 0,
        "firmware": evse.firmware,
        "evse_serial": evse.serial,
        "chip_id": device_id,
        "min_current_hard": evse.min,
        "max_current_hard": evse.hardware_max,
        "mqtt_supported_protocols": ["mqtt"],
        "http_supported_protocols": ["http"],
    }


def routes(gateway: Gateway) -> list[BaseRoute]:
    async def read(_: Request) -> Response:
        return reply(document(gateway))

    async def write(request: Request) -> Response:
        values = await json_object(request, "Could not parse JSON")
        if request.headers.get("x-storage") == "factory":
            raise ApiError(423, "Factory settings are locked")
        client = request.client.host if request.client else ""
        try:
            changed = gateway.options.update(values, client)
        except BadOption as refusal:
            raise ApiError(refusal.status, str(refusal)) from None
        # What lives in the EVSE is there before the answer is, so that it can be read back.
        await gateway.manager.flush()
        return reply({"config_version": gateway.options.version, "msg": "done" if changed else "no change"})

    async def options(_: Request) -> Response:
        return Response(headers={"Allow": "GET, POST, OPTIONS"})

    wrong_method = Response(status_code=405, headers=NO_CACHE)
    return [route("/config", {"GET": read, "POST": write, "OPTIONS": options}, wrong_method)]
