"""Request bodies: strict JSON, judged only after the caller and the path (contract section 3)."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from fastapi import Request

MAX_DEPTH = 32


class _Malformed:
    """In place of a body that is no JSON: no model takes it, so the answer comes where a wrong field's would."""

    def __repr__(self) -> str:
        return "a body that is no JSON"


MALFORMED = _Malformed()


class LateJson(Request):
    """A request whose body may be anything until a model looks at it."""

    async def json(self) -> Any:
        if not hasattr(self, "_strict"):
            self._strict = parse(await self.body())
        return self._strict


def parse(body: bytes) -> Any:
    """The value, or MALFORMED: also for NaN, for numbers without end, and for what is nested too deep."""
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return MALFORMED
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        return MALFORMED
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        level = [
            item
            for outer in level
            if isinstance(outer, (dict, list))
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
        depth += 1
    return depth
