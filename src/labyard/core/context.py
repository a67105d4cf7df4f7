"""Who asks, and in which request: set once per request, read by the audit log, the error bodies and the logs."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Caller:
    """`username` is None before authentication, and for what a service does by itself.

    `roles` only where a service's users have several; `user_agent` is what the client calls itself.
    """

    request_id: str = ""
    address: str = ""
    username: str | None = None
    roles: tuple[str, ...] = ()
    user_agent: str = ""


_NOBODY = Caller()
_caller: ContextVar[Caller] = ContextVar("caller", default=_NOBODY)


def caller() -> Caller:
    return _caller.get()


def set_caller(value: Caller) -> None:
    _caller.set(value)


def set_username(username: str, roles: tuple[str, ...] = ()) -> None:
    _caller.set(replace(_caller.get(), username=username, roles=roles))
