# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""The netboot service's HTTP API (contract sections 4 and 5) for the netboot_* modules: login and the kept token."""

from __future__ import annotations

import hashlib
import json
import os
import time
from typing import TYPE_CHECKING, Any, ClassVar

from ansible_collections.labyard.lab.plugins.module_utils import service_api
from ansible_collections.labyard.lab.plugins.module_utils.service_api import Refused, ServiceApi

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

API = "/api/v1"
PAGE = 1000  # the most that a list gives at once
LIVE = ("starting", "active", "stopping")

ARGUMENTS: dict[str, dict[str, Any]] = {
    **service_api.ARGUMENTS,
    "username": {"type": "str", "default": "admin"},
    "password": {"type": "str", "required": True, "no_log": True},
}


class NetbootApi(ServiceApi):
    """Calls the service as the user of the module's arguments. What cannot be helped ends the module (fail_json)."""

    service = "netboot"
    hints: ClassVar[dict[int, str]] = {403: "give the username and password of a user who has that role"}

    def __init__(self, module: AnsibleModule) -> None:
        super().__init__(module)
        self._file = token_file(self.url, module.params["username"], module.params["password"])
        self._token = _kept_token(self._file)

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def ask(self, method: str, path: str, body: dict[str, Any] | bytes | None = None, **query: Any) -> Any:
        """As `call`, but raises Refused. Logs in when it must."""
        if self._token is None:
            self._login()
        try:
            return super().ask(method, path, body, **query)
        except Refused as error:
            if error.status != 401:
                raise
        self._login()
        return super().ask(method, path, body, **query)

    def named(self, kind: str, name: str) -> dict[str, Any] | None:
        """The machine or image (`kind`: machines, images) of exactly this name."""
        skip = 0
        while True:
            page = self.call("GET", f"/{kind}", search=name, skip=skip, limit=PAGE)
            for one in page:
                if one["name"] == name:
                    return dict(one)
            if len(page) < PAGE:
                return None
            skip += PAGE

    def session_of(self, machine_id: int) -> dict[str, Any] | None:
        """The machine's session that a stop would end: live, or in error with something left to clean up."""
        for session in self.call("GET", f"{API}/sessions", machine_id=machine_id, limit=20)["sessions"]:
            if session["status"] in LIVE or session["cleanup_pending"]:
                return dict(session)
        return None

    def _login(self) -> None:
        given = {"username": self.module.params["username"], "password": self.module.params["password"]}
        self._token = None
        try:
            tokens = super().ask("POST", "/auth/login", given)
        except Refused as error:
            if error.status == 401:
                self.fail(
                    f"{self.url} refuses user {given['username']} with this password; give the right one (five wrong "
                    "ones lock the name for 30 minutes)"
                )
            self.fail(str(error))
        self._token = tokens["access_token"]
        _keep_token(self._file, tokens)


def token_file(url: str, user: str, password: str) -> str:
    """Where the token of a login is kept: the file that labyard.netboot.client_http names, so that both share it."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    digest = hashlib.pbkdf2_hmac("sha256", password.encode(), f"{url}\0{user}".encode(), 50_000)
    return os.path.join(folder, "labyard", f"netboot-{digest.hex()[:32]}.json")


def _kept_token(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as source:
            kept = json.load(source)
        return str(kept["token"]) if kept.get("until", 0) > time.time() else None
    except (OSError, ValueError, KeyError, AttributeError):
        return None


def _keep_token(path: str, tokens: dict[str, Any]) -> None:
    """A cache that cannot be written is no failure: the next task logs in again."""
    temporary = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as target:
            json.dump({"token": tokens["access_token"], "until": time.time() + tokens["expires_in"] - 30}, target)
        os.replace(temporary, path)
    except OSError:
        pass
