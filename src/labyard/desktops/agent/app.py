"""The agent as an HTTP app: POST /verbs/{name}, and no other route."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import structlog
from anyio import to_thread
from cryptography import x509
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from labyard.core.adapter import AdapterError
from labyard.core.context import Caller, set_caller
from labyard.desktops.adapters import agent_wire as wire
from labyard.desktops.adapters.agent import AgentRefused
from labyard.desktops.agent.verbs import Verbs
from labyard.desktops.https import PEER

log = structlog.get_logger(__name__)

THREADS = 100  # ten starts, ten stops and what is asked of a hundred servers meanwhile
MAX_BODY = 256 * 1024  # bytes
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def build(verbs: Verbs, caller: str | None = None) -> Starlette:
    """`caller` is whose certificate a call must come with; None: the socket is closed to others."""

    async def call(request: Request) -> Response:
        name = request.path_params["name"]
        asked_id = request.headers.get("x-request-id", "")
        set_caller(Caller(request_id=asked_id if _REQUEST_ID.fullmatch(asked_id) else ""))
        if caller is not None and _shown_name(request) != caller:
            return _refusal(403, "AUTH_FORBIDDEN", "this agent answers the service only")
        if name not in verbs.names():
            return _refusal(404, "INTERNAL", f"this agent knows no verb {name[:64]!r}")
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > MAX_BODY:
                return _refusal(413, "INTERNAL", f"the request is longer than {MAX_BODY} bytes")
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        try:
            if name == wire.SEGMENTS_STREAM.name:
                frames = _frames(verbs, body)
                first = await run_in_threadpool(next, frames, b"")
                return StreamingResponse(
                    iterate_in_threadpool(_joined(first, frames)), media_type="application/octet-stream"
                )
            return Response(await run_in_threadpool(verbs.call, name, body), media_type="application/json")
        except ValueError as error:
            return _refusal(400, "INTERNAL", str(error))
        except AgentRefused as error:
            log.warning("refused", verb=name, code=error.code, reason=str(error), log=list(error.log))
            return _refusal(409, error.code, str(error), error.log)
        except AdapterError as error:
            log.warning("failed", verb=name, reason=str(error))
            return _refusal(409, "INTERNAL", str(error))
        except Exception:
            log.exception("unexpected error", verb=name)
            return _refusal(500, "INTERNAL", "the agent failed; its log says why")

    return Starlette(routes=[Route("/verbs/{name}", call, methods=["POST"])])


def _shown_name(request: Request) -> str | None:
    """The common name of the certificate that the caller has shown."""
    shown = request.scope.get("extensions", {}).get(PEER, {}).get("certificate")
    if not shown:
        return None
    names = x509.load_der_x509_certificate(shown).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else None


def _frames(verbs: Verbs, body: bytes) -> Iterator[bytes]:
    for segment in verbs.segments(body):
        yield from wire.frame(segment)


def _joined(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    """An error before the first frame is an answer; later it cuts the stream, and the reader sees that."""
    yield first
    yield from rest


def _refusal(status: int, code: str, message: str, lines: tuple[str, ...] = ()) -> Response:
    body = json.dumps({"code": code, "message": message, "log": list(lines)})
    return Response(body, status_code=status, media_type="application/json")
