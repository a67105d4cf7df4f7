# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""HTTP between a module and a service of the lab, for the modules of all services: Ansible's own means only."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode

from ansible.module_utils.urls import open_url

if TYPE_CHECKING:
    from typing import IO

    from ansible.module_utils.basic import AnsibleModule

    # An open file is sent piece by piece; its length is to be among the headers.
    Body = dict[str, Any] | bytes | IO[bytes] | None

ARGUMENTS: dict[str, dict[str, Any]] = {
    "url": {"type": "str", "required": True},
    "validate_certs": {"type": "bool", "default": True},
}


class Refused(Exception):
    """The service's answer was an error. `status` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class NoAnswer(Exception):
    """Nothing answers there, or not what the service would."""


class ServiceApi:
    """Calls a service as the module's arguments say. What cannot be helped ends the module (fail_json).

    A service has a class of its own, which gives `headers` what proves who calls.
    """

    service = ""  # its name, in messages
    hints: ClassVar[dict[int, str]] = {}  # the way out of a refusal, by its HTTP status
    timeout = 120  # seconds for one answer

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.url = module.params["url"].rstrip("/")

    def headers(self) -> dict[str, str]:
        return {}

    def call(self, method: str, path: str, body: Body = None, **query: Any) -> Any:
        """The JSON of a good answer, None when it is empty. A refusal ends the module with the service's own words."""
        try:
            return self.ask(method, path, body, **query)
        except Refused as error:
            self.fail(str(error))

    def ask(self, method: str, path: str, body: Body = None, **query: Any) -> Any:
        """As `call`, but raises Refused."""
        try:
            return self.exchange(method, path, body, **query)
        except NoAnswer as error:
            self.fail(str(error))

    def exchange(self, method: str, path: str, body: Body = None, **query: Any) -> Any:
        """As `call`, but raises Refused and NoAnswer."""
        headers = {"Accept": "application/json"} | self.headers()
        data: Any = body
        if isinstance(body, dict):
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        elif body is not None:
            headers["Content-Type"] = "application/octet-stream"
        where = self.url + path + ("?" + urlencode(query) if query else "")
        try:
            with open_url(
                where,
                method=method,
                data=data,
                headers=headers,
                timeout=self.timeout,
                validate_certs=self.module.params["validate_certs"],
                http_agent="labyard",
            ) as answer:
                content = answer.read()
                return json.loads(content) if content else None
        except HTTPError as error:
            raise Refused(error.code, self._error_text(error)) from error
        except (URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            problem = f"nothing answers at {self.url} ({reason}); is the lab up? Build it with: make lab"
            raise NoAnswer(problem) from error
        except ValueError as error:
            raise NoAnswer(f"{self.url} answers, but not with JSON: is the {self.service} service there?") from error

    def fail(self, message: str, **facts: Any) -> NoReturn:
        self.module.fail_json(msg=message, **facts)
        raise AssertionError("fail_json ends the module")

    def _error_text(self, error: HTTPError) -> str:
        """One line of the service's error body, with the way out."""
        try:
            detail = json.loads(error.read())["detail"]
        except (ValueError, KeyError, TypeError, OSError):
            return f"{error.url} answered {error.code}: is the {self.service} service there?"
        if isinstance(detail, list):
            detail = "; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in detail)
        if error.code == 429:
            return f"too many requests; try again in {error.headers.get('Retry-After', 'some')} s"
        hint = self.hints.get(error.code)
        return f"{detail}; {hint}" if hint else str(detail)
