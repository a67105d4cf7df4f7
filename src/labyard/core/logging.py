"""Logs to standard output, for the journal: JSON, or key=value on a terminal. Secrets are left out."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping, Sequence
from typing import Any

# structlog loads rich for coloured tracebacks, which no service prints: 0.2 s of each start and 6 MB.
if "rich" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment]
    import structlog

    del sys.modules["rich"]
else:
    import structlog

from labyard.core.context import caller

HIDDEN = "********"
_SECRET = re.compile(r"passw|secret|token|authori[sz]ation|cookie|api_?key", re.IGNORECASE)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")
_USERINFO = re.compile(r"(?i)\b(https?://)[^/\s@]+@")
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")


def is_secret(name: str) -> bool:
    """Whether a key of this name holds what nobody may read."""
    return _SECRET.search(name) is not None


def redact(value: Any) -> Any:
    """The same value, with `********` for what stands under a secret key, at any depth, and for tokens in texts."""
    if isinstance(value, dict):
        return {
            key: HIDDEN if is_secret(str(key)) and item is not None else redact(item) for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redact(item) for item in value]
    if isinstance(value, str):
        return _USERINFO.sub(rf"\1{HIDDEN}@", _JWT.sub(HIDDEN, _BEARER.sub(rf"\1 {HIDDEN}", value)))
    return value


def _redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    cleaned: dict[str, Any] = redact(dict(event))
    return cleaned


def _add_request(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if request_id := caller().request_id:
        event.setdefault("request_id", request_id)
    return event


def configure(level: str = "info", as_json: bool | None = None, handlers: Sequence[logging.Handler] = ()) -> None:
    """Send structlog and the standard library's logging to standard output, and to `handlers`.

    `as_json` None: unless it is a terminal.
    """
    if as_json is None:
        as_json = not sys.stdout.isatty()
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_request,
        # As text, without the values of local variables: those may be secrets.
        structlog.processors.format_exc_info,
        _redact,
    ]
    render: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(default=str)
        if as_json
        else structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"])
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
    )
    root = logging.getLogger()
    root.handlers[:] = [logging.StreamHandler(sys.stdout), *handlers]
    for handler in root.handlers:
        handler.setFormatter(formatter)
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.propagate = True
    for noisy in ("httpx", "httpcore", "sqlalchemy.engine", "multipart"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
