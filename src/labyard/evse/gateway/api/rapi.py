"""`/r` and `/rapi`: commands straight to the EVSE: contract 5.4."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from labyard.evse.gateway.api.http import ApiError, parameters, refuse_foreign, reply, route, text_reply
from labyard.evse.gateway.rapi_client import Reply, Result
from labyard.evse.gateway.settings import send_flag
from labyard.evse.rapi import encode

if TYPE_CHECKING:
    from labyard.evse.gateway.app import Gateway

_CHECKSUM = re.compile(r"\^[0-9A-Fa-f]{2}$")
# One command, not a way to smuggle in a second.
_COMMAND = re.compile(r"\$[!-#%-~][ -#%-~\x80-\xff]*")
# What to read again after a command that changes it.
_READ_AGAIN = {"FE": "$GS", "FS": "$GS", "FD": "$GS", "SC": "$GC", "SL": "$GE", "FF": "$GE", "SA": "$GA"}

_PAGE = """<!DOCTYPE html>
<html><head><title>RAPI</title></head><body>
<form action="r" method="get"><label>Command <input name="rapi" value="{command}"></label> <button>Send</button></form>
<p>{command}</p><p>&gt;{result}</p>
</body></html>
"""


class Passage:
    """Remembers the last `$ST`: a controller that does not know `$GD` is spoken for."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._timer = "0 0 0 0"

    async def send(self, command: str) -> Reply:
        gateway = self._gateway
        command = _CHECKSUM.sub("", command)
        if not _COMMAND.fullmatch(command) or not all(guard(command) for guard in gateway.rapi_guards):
            return Reply(Result.BLOCKED)
        result = await send_flag(gateway.manager.rapi, command, sequenced=False)
        name = command[1:3].upper()
        if name == "ST" and result.ok:
            self._timer = command[3:].strip()
        elif name == "GD" and result.result is Result.NK:
            text = encode("OK", self._timer).decode("latin-1").strip()
            return Reply(Result.OK, tuple(self._timer.split()), text)
        if result.ok and name in _READ_AGAIN:
            await gateway.manager.read(_READ_AGAIN[name])
        return result


def routes(gateway: Gateway) -> list[BaseRoute]:
    passage = Passage(gateway)

    async def pass_on(request: Request) -> Response:
        given = await parameters(request)
        command = given.get("rapi", "").strip()
        as_json = given.get("json", "0") not in ("", "0", "false")
        if not command:
            if as_json:
                raise ApiError(400, "Missing required 'rapi' parameter")
            return text_reply(_PAGE.format(command="", result=""), media_type="text/html")
        refuse_foreign(request)
        if not command.startswith("$"):
            command = f"${command}"
        answer = await passage.send(command)
        if answer.result in (Result.OK, Result.NK):
            status, key, text = 200, "ret", answer.text
        else:
            status = 400 if answer.result is Result.BLOCKED else 500
            key, text = "error", f"RAPI_RESPONSE_{answer.result.name}"
        if as_json:
            return reply({"cmd": command, key: text}, status)
        page = _PAGE.format(command=html.escape(command), result=html.escape(text))
        return text_reply(page, status, "text/html")

    return [route(path, {"GET": pass_on, "POST": pass_on}) for path in ("/r", "/rapi")]
