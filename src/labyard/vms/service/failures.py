"""How an operation over several things fails (contract sections 4.1 and 13.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import structlog

from labyard.core.adapter import AdapterError
from labyard.core.errors import ServiceError

log = structlog.get_logger(__name__)

# What the world may answer at any time. Anything else is a fault of ours, and ends as 500.
EXPECTED = (AdapterError, OSError)


def refused(detail: str) -> ServiceError:
    return ServiceError(400, "refused", detail)


def reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


@contextmanager
def failing_as(what: str) -> Iterator[None]:
    """What the hypervisor, the network, an image tool or the file system refuses is answered as 400, `Failed to …`."""
    try:
        yield
    except EXPECTED as error:
        log.warning("operation failed", what=what, error=reason(error))
        raise refused(f"Failed to {what}: {reason(error)}") from error


class Undo(ExitStack):
    """The undoing of finished steps, newest first, unless `done()` is called. One that fails does not stop the rest."""

    def step(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.callback(quietly, call, *arguments)

    def done(self) -> None:
        self.pop_all()


def quietly(call: Callable[..., Any], *arguments: Any) -> None:
    """Call, and only log what it raises: the failure that led here is the one to tell of."""
    try:
        call(*arguments)
    except Exception:
        log.exception("could not undo", step=getattr(call, "__qualname__", str(call)))
