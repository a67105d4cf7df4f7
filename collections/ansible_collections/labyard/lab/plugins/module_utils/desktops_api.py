# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""The desktops service's REST contract (contract section 3) for its modules."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

from ansible_collections.labyard.lab.plugins.module_utils import service_api
from ansible_collections.labyard.lab.plugins.module_utils.service_api import ServiceApi

if TYPE_CHECKING:
    from urllib.error import HTTPError

ARGUMENTS: dict[str, dict[str, Any]] = {
    **service_api.ARGUMENTS,
    "token": {"type": "str", "required": True, "no_log": True},
}
API = "/api/v1"
PAGE = 100  # the most that a list answers at once


class DesktopsApi(ServiceApi):
    """Calls the service with the module's token. Paths are below /api/v1."""

    service = "desktops"
    hints: ClassVar[dict[int, str]] = {
        401: "give an access token of POST /api/v1/auth/token, or of: labyard-desktops token issue",
        403: "give a token with one of these roles",
        500: "its journal has more: journalctl -u labyard-desktops, on its host",
    }

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.module.params['token']}"}

    def exchange(self, method: str, path: str, body: dict[str, Any] | bytes | None = None, **query: Any) -> Any:
        return super().exchange(method, API + path, body, **query)

    def all(self, path: str, key: str, **query: Any) -> list[dict[str, Any]]:
        """A whole list, page by page."""
        rows: list[dict[str, Any]] = []
        while True:
            answer = self.call("GET", path, limit=PAGE, offset=len(rows), **query)
            rows += answer[key]
            if not answer["has_next"]:
                return rows

    def _error_text(self, error: HTTPError) -> str:
        try:
            found = json.loads(error.read())["error"]
            message = str(found["message"])
        except (ValueError, KeyError, TypeError, OSError):
            return f"{error.url} answered {error.code}: is the {self.service} service there?"
        hint = self.hints.get(error.code)
        return f"{message}; {hint}" if hint else message


def given(value: Any) -> Any:
    """Without what was left out: Ansible makes None of it, at any depth."""
    if isinstance(value, dict):
        return {name: given(item) for name, item in value.items() if item is not None}
    return [given(item) for item in value] if isinstance(value, list) else value


def differs(wanted: dict[str, Any], has: dict[str, Any] | None) -> list[str]:
    """Where what is there is not as wanted, as dotted names. What is not mentioned may be anything."""
    found = []
    for name, value in wanted.items():
        other = (has or {}).get(name)
        if isinstance(value, dict) and isinstance(other, dict):
            found += [f"{name}.{inner}" for inner in differs(value, other)]
        elif value != other:
            found.append(name)
    return found
