"""`/time`, `/emeter`, `/logs`, `/restart`, `/login`, `/metrics`, the clock of the lab, and what is only a stub in the
contract: 5.4, 8."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from labyard.evse.gateway import metrics
from labyard.evse.gateway.api.http import (
    ApiError,
    json_object,
    message,
    path_number,
    refuse_foreign,
    reply,
    route,
    text_reply,
)
from labyard.evse.gateway.options import BadOption
from labyard.evse.gateway.timekeeping import iso, offset, parse_time

if TYPE_CHECKING:
    from labyard.evse.gateway.app import Gateway

MAX_ADVANCE = 86400  # seconds at once: each of them is lived through
_BAD_JSON = "Could not parse JSON"


def routes(gateway: Gateway) -> list[BaseRoute]:
    return [
        *time_routes(gateway),
        *log_routes(gateway),
        *login_routes(gateway),
        *device_routes(gateway),
        *lab_routes(gateway),
    ]


def time_routes(gateway: Gateway) -> list[BaseRoute]:
    wall, options = gateway.wall, gateway.options

    async def read(_: Request) -> Response:
        local = wall.local()
        synchronised = wall.synchronised
        return reply(
            {
                "time": iso(local),
                "local_time": local.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "offset": offset(local),
                "uptime": int(gateway.clock.now()),
                "ntp_enabled": options["sntp_enabled"],
                "ntp_host": options["sntp_hostname"],
                "ntp_synchronised": synchronised is not None,
                "ntp_last_sync": iso(synchronised) if synchronised else "",
            }
        )

    async def write(request: Request) -> Response:
        content = await json_object(request, _BAD_JSON)
        try:
            moment = parse_time(content["time"]) if "time" in content else None
        except (ValueError, TypeError):
            raise ApiError(400, "time must be ISO 8601 and of this century") from None
        try:
            options.update({key: content[key] for key in ("sntp_enabled", "time_zone") if key in content})
        except BadOption as refusal:
            raise ApiError(400, str(refusal)) from None
        if moment is not None:
            wall.set(moment)
        if content.get("sync_now") is True:
            wall.synchronise()
        await gateway.tell_time()
        return message("done")

    return [route("/time", {"GET": read, "POST": write})]


def log_routes(gateway: Gateway) -> list[BaseRoute]:
    async def limits(_: Request) -> Response:
        return reply({"min": gateway.log.oldest, "max": gateway.log.newest})

    async def block(request: Request) -> Response:
        entries = gateway.log.read(path_number(request, "number", 2**31))
        if entries is None:
            raise ApiError(404, "Not found")
        return reply(entries)

    return [route("/logs", {"GET": limits}), route("/logs/{number}", {"GET": block})]


def login_routes(gateway: Gateway) -> list[BaseRoute]:
    auth, wall = gateway.auth, gateway.wall

    async def login(request: Request) -> Response:
        content = await json_object(request, _BAD_JSON)
        if not auth.enabled:
            return message("ok")
        if not wall.is_set and not _set_clock(content.get("now")):
            raise ApiError(503, "The clock is not set")
        if not auth.right(str(content.get("user", "")), str(content.get("pass", ""))):
            if auth.too_many_failures():
                raise ApiError(429, "Too many failed logins")
            auth.failed()
            raise ApiError(401, "Wrong user or password")
        cookie = auth.new_session(content.get("remember") is True)
        return reply({"msg": "ok"}, headers={"Set-Cookie": cookie})

    def _set_clock(now: Any) -> bool:
        """`now` is seconds since 1970."""
        try:
            wall.set(parse_time(datetime.fromtimestamp(now, UTC).isoformat()))
        except (TypeError, ValueError, OverflowError, OSError):
            return False
        return True

    return [route("/login", {"POST": login})]


def device_routes(gateway: Gateway) -> list[BaseRoute]:
    async def reset_meter(request: Request) -> Response:
        content = await json_object(request, _BAD_JSON, may_be_empty=True)
        energy = gateway.energy
        hard = content.get("hard") is True
        if hard:
            energy.switches = 0
        if content.get("import") is True:
            gateway.records.reset_energy(gateway.evse.total_wh / 1000)
        else:
            gateway.records.reset_energy(0.0 if hard else energy.total)
        return message("done")

    async def restart(request: Request) -> Response:
        content = await json_object(request, _BAD_JSON)
        device = content.get("device")
        if not isinstance(device, str):
            raise ApiError(400, "device must be gateway or evse")
        return await _restart(device)

    async def restart_by_link(request: Request) -> Response:
        refuse_foreign(request)
        return await _restart("gateway")

    async def _restart(device: str) -> Response:
        if device == "gateway":
            gateway.stop(True)
        elif device == "evse":
            await gateway.manager.rapi.send("$FR")
        else:
            raise ApiError(404, f"Device not found: {device[:32]}")
        return message(f"restart {device}")

    async def describe(_: Request) -> Response:
        return text_reply("openevse")

    return [
        route("/emeter", {"DELETE": reset_meter}),
        route("/restart", {"GET": restart_by_link, "POST": restart}),
        route("/emoncms/describe", {"GET": describe}),
    ]


def lab_routes(gateway: Gateway) -> list[BaseRoute]:
    clock = gateway.clock

    async def scrape(_: Request) -> Response:
        measures = [measure for source in gateway.measures for measure in source()]
        content, media_type = metrics.render([*metrics.own(gateway), *measures])
        return Response(content, media_type=media_type)

    async def read_clock(_: Request) -> Response:
        return reply({"mode": clock.mode, "scale": clock.scale, "now_s": clock.now()})

    async def set_clock(request: Request) -> Response:
        content = await json_object(request, _BAD_JSON)
        mode = content.get("mode", clock.mode)
        if mode not in ("real", "scaled", "manual"):
            raise ApiError(400, "mode must be real, scaled or manual")
        scale = _number(content, "scale", clock.scale)
        now = _number(content, "now_s", clock.now()) if "now_s" in content else None
        try:
            clock.set(mode, scale, now)
        except ValueError as problem:
            raise ApiError(400, str(problem)) from None
        return await read_clock(request)

    async def advance(request: Request) -> Response:
        content = await json_object(request, _BAD_JSON)
        if "seconds" not in content:
            raise ApiError(400, "Missing required 'seconds' parameter")
        seconds = _number(content, "seconds", 0.0)
        if seconds > MAX_ADVANCE:
            raise ApiError(400, f"seconds must be at most {MAX_ADVANCE}")
        try:
            await clock.advance(seconds)
        except ValueError as problem:
            raise ApiError(400, str(problem)) from None
        return await read_clock(request)

    return [
        route("/metrics", {"GET": scrape}),
        route("/labyard/clock", {"GET": read_clock, "POST": set_clock}),
        route("/labyard/clock/advance", {"POST": advance}),
    ]


def _number(content: dict[str, Any], key: str, default: float) -> float:
    value = content.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e12:
        raise ApiError(400, f"{key} must be a number")
    return float(value)
