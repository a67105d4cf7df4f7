"""`/override`, `/claims`, `/limit`, `/divertmode`, `/shaper`: contract 5.3, 5.4."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from labyard.evse.gateway.api.http import (
    ApiError,
    json_body,
    json_object,
    message,
    parameters,
    path_number,
    refuse_foreign,
    reply,
    route,
    text_reply,
)
from labyard.evse.gateway.claims import MAX_CLAIMS, Client, Priority, Properties
from labyard.evse.gateway.limit import parse as parse_limit
from labyard.evse.gateway.override import parse as parse_properties

if TYPE_CHECKING:
    from labyard.evse.gateway.app import Gateway

BAD_JSON = "failed to parse JSON"
_TAKEN = f"All {MAX_CLAIMS} claims are taken"


def routes(gateway: Gateway) -> list[BaseRoute]:
    return [*override_routes(gateway), *claim_routes(gateway), *limit_routes(gateway), *mode_routes(gateway)]


def override_routes(gateway: Gateway) -> list[BaseRoute]:
    async def read(_: Request) -> Response:
        return reply(gateway.override.as_json())

    async def create(request: Request) -> Response:
        content = await json_object(request, BAD_JSON)
        try:
            placed = gateway.override.set(content)
        except ValueError as problem:
            raise ApiError(400, str(problem)) from None
        return message("Created", 201) if placed else message(_TAKEN, 500)

    async def toggle(_: Request) -> Response:
        return message("Updated") if gateway.override.toggle() else message(_TAKEN, 500)

    async def release(_: Request) -> Response:
        return message("Deleted") if gateway.override.release() else message("Failed to release manual override", 500)

    return [route("/override", {"GET": read, "POST": create, "PATCH": toggle, "DELETE": release})]


def claim_routes(gateway: Gateway) -> list[BaseRoute]:
    claims = gateway.claims

    async def read_all(_: Request) -> Response:
        return reply([claim.as_json() for claim in claims.all()])

    async def target(_: Request) -> Response:
        found = claims.target()
        return reply({"properties": found.properties.as_json(), "claims": found.winners})

    def client_id(request: Request) -> int:
        return path_number(request, "client", 2**32)

    async def read(request: Request) -> Response:
        claim = claims.get(client_id(request))
        if claim is None:
            raise ApiError(404, "Not found")
        return reply(claim.as_json())

    def foreign_id(request: Request) -> int:
        """ApiError 403: what keeps a house or a group within its supply is not for others to change."""
        client = client_id(request)
        if client == Client.SHAPER:
            raise ApiError(403, f"Claim {client} belongs to the shaper and to load sharing")
        return client

    async def place(request: Request) -> Response:
        client = foreign_id(request)
        content = await json_object(request, BAD_JSON)
        try:
            properties, release = parse_properties(content, Properties())
        except ValueError as problem:
            raise ApiError(400, str(problem)) from None
        return message("done") if claims.set(client, Priority.API, properties, release) else message(_TAKEN, 500)

    async def release(request: Request) -> Response:
        if not claims.release(foreign_id(request)):
            raise ApiError(404, "Not found")
        return message("done")

    return [
        route("/claims", {"GET": read_all}),
        route("/claims/", {"GET": read_all}),
        route("/claims/target", {"GET": target}),
        route("/claims/{client}", {"GET": read, "POST": place, "DELETE": release}),
    ]


def limit_routes(gateway: Gateway) -> list[BaseRoute]:
    async def read(_: Request) -> Response:
        limit = gateway.limits.limit
        return reply({} if limit is None else limit.as_json())

    async def write(request: Request) -> Response:
        try:
            limit = parse_limit(await json_body(request, BAD_JSON))
        except ValueError:
            raise ApiError(400, BAD_JSON) from None
        gateway.automatics.set_limit(limit)
        return message("done", 201)

    async def remove(_: Request) -> Response:
        if gateway.limits.limit is None:
            return message("no limit")
        gateway.automatics.set_limit(None)
        return message("done")

    return [route("/limit", {"GET": read, "POST": write, "DELETE": remove})]


def mode_routes(gateway: Gateway) -> list[BaseRoute]:
    async def choose(request: Request, name: str, choices: tuple[str, ...]) -> int:
        refuse_foreign(request)
        value = (await parameters(request)).get(name, "")
        if value not in choices:
            raise ApiError(400, f"{name} must be {' or '.join(choices)}")
        return int(value)

    async def divert(request: Request) -> Response:
        gateway.divert.mode = await choose(request, "divertmode", ("1", "2"))
        gateway.look_at_supply()
        gateway.hub.publish({"divertmode": gateway.divert.mode, "divert_active": gateway.divert.active})
        return text_reply("Divert Mode changed")

    async def shaper(request: Request) -> Response:
        gateway.shaper.active = bool(await choose(request, "shaper", ("0", "1")))
        gateway.look_at_supply()
        gateway.hub.publish({"shaper": int(gateway.shaper.active)})
        return text_reply("Current Shaper state changed")

    return [
        route("/divertmode", {"GET": divert, "POST": divert}),
        route("/shaper", {"GET": shaper, "POST": shaper}),
    ]
