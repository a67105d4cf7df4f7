"""What people read: the first page, the API's description and its page, the metrics."""

from __future__ import annotations

import importlib.util
from functools import cache
from html import escape
from pathlib import Path

from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response

from labyard.evse.emulator.emulator import Emulator

DESCRIPTION = Path(__file__).with_name("openapi.yaml")

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Labyard EVSE emulator</title>
<h1>Labyard EVSE emulator</h1>
<p>Firmware {firmware}, protocol {protocol}; state <b>{state}</b>, {amps:.1f} of {capacity} A.</p>
<ul><li><a href="/api/status">/api/status</a><li><a href="/api/docs">/api/docs</a>
<li><a href="/api/openapi.yaml">/api/openapi.yaml</a><li><a href="/metrics">/metrics</a></ul></html>
"""
_DOCS = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Labyard EVSE emulator: API</title>
<link rel="stylesheet" href="/api/docs/swagger-ui.css"><div id="api"></div>
<script src="/api/docs/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "/api/openapi.yaml", dom_id: "#api"})</script></html>
"""


def index(emulator: Emulator) -> Response:
    evse = emulator.evse
    return HTMLResponse(
        _PAGE.format(
            firmware=escape(evse.firmware),
            protocol=escape(evse.protocol),
            state=evse.state.name.lower(),
            amps=evse.current,
            capacity=evse.pilot.amps,
        )
    )


def openapi(_: Emulator) -> Response:
    return PlainTextResponse(DESCRIPTION.read_text(encoding="utf-8"), media_type="text/yaml")


def docs(_: Emulator) -> Response:
    return HTMLResponse(_DOCS)


def stylesheet(_: Emulator) -> Response:
    return FileResponse(_assets() / "swagger-ui.css")


def script(_: Emulator) -> Response:
    return FileResponse(_assets() / "swagger-ui-bundle.js")


def metrics(emulator: Emulator) -> Response:
    # Loaded when first asked for: it would be a good part of the time to start.
    from labyard.evse.emulator.metrics import CONTENT_TYPE, render

    return Response(render(emulator), media_type=CONTENT_TYPE)


@cache
def _assets() -> Path:
    """Where fastapi-offline has the page's files: labs have no internet. It is not loaded for that."""
    found = importlib.util.find_spec("fastapi_offline")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "static"
