"""`/status`: contract 5.1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from labyard.evse.gateway.api.http import ApiError, json_object, reply, route
from labyard.evse.gateway.vehicle import number

if TYPE_CHECKING:
    from labyard.evse.gateway.app import Gateway

MEASUREMENTS = ("voltage", "shaper_live_pwr", "solar", "grid_ie")


def routes(gateway: Gateway) -> list[BaseRoute]:
    async def read(_: Request) -> Response:
        return reply(gateway.status())

    async def write(request: Request) -> Response:
        content = await json_object(request, "Could not parse JSON")
        now = gateway.clock.now()
        try:
            measured = {key: number(content, key) for key in MEASUREMENTS if key in content}
            if measured.get("voltage", 1) <= 0:
                raise ValueError("voltage must be more than 0")
            of_vehicle = gateway.vehicle.take(content, gateway.options["vehicle_data_src"], now)
        except ValueError as problem:
            raise ApiError(400, str(problem)) from None
        if "voltage" in measured:
            await gateway.tell_voltage(measured["voltage"])
        if "shaper_live_pwr" in measured:
            gateway.shaper.measured(measured["shaper_live_pwr"], now)
        if "solar" in measured:
            gateway.divert.measured_solar(measured["solar"], now)
        elif "grid_ie" in measured:
            gateway.divert.measured_grid(measured["grid_ie"], now)
        if measured:
            gateway.look_at_supply()
        return reply(content | {"vehicle_state_update": 0} if of_vehicle else content)

    return [route("/status", {"GET": read, "POST": write})]
