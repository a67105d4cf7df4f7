"""`/schedule`: contract 5.4."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from labyard.evse.gateway.api.http import ApiError, json_body, json_object, message, path_number, reply, route
from labyard.evse.gateway.timekeeping import week_seconds

if TYPE_CHECKING:
    from labyard.evse.gateway.app import Gateway

_BAD_JSON = "failed to parse JSON"


def routes(gateway: Gateway) -> list[BaseRoute]:
    schedule = gateway.schedule

    async def read_all(_: Request) -> Response:
        return reply(schedule.as_json())

    async def plan(_: Request) -> Response:
        return reply(schedule.plan(*week_seconds(gateway.wall.local())))

    def put(content: Any) -> Response:
        try:
            events = schedule.parse(content)
        except ValueError as problem:
            raise ApiError(400, str(problem)) from None
        schedule.put(*events)
        gateway.automatics.schedule_changed()
        return message("done")

    async def write_all(request: Request) -> Response:
        return put(await json_body(request, _BAD_JSON))

    def number(request: Request) -> int:
        return path_number(request, "number", 2**31)

    async def read(request: Request) -> Response:
        event = schedule.events.get(number(request))
        if event is None:
            raise ApiError(404, "Not found")
        return reply(event.as_json())

    async def write(request: Request) -> Response:
        return put(await json_object(request, _BAD_JSON) | {"id": number(request)})

    async def remove(request: Request) -> Response:
        if not schedule.remove(number(request)):
            raise ApiError(404, "Not found")
        gateway.automatics.schedule_changed()
        return message("done")

    return [
        route("/schedule", {"GET": read_all, "POST": write_all}),
        route("/schedule/", {"GET": read_all, "POST": write_all}),
        route("/schedule/plan", {"GET": plan}),
        route("/schedule/{number}", {"GET": read, "POST": write, "DELETE": remove}),
    ]
