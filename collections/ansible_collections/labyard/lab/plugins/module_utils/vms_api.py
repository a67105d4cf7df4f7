# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""The VM manager's REST contract (contract section 4) for the vm_* modules."""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import quote

from ansible_collections.labyard.lab.plugins.module_utils import service_api
from ansible_collections.labyard.lab.plugins.module_utils.service_api import Refused, ServiceApi

ARGUMENTS: dict[str, dict[str, Any]] = {
    **service_api.ARGUMENTS,
    "token": {"type": "str", "default": "", "no_log": True},
}


class VmsApi(ServiceApi):
    """Calls the service with the module's token. What cannot be helped ends the module (fail_json)."""

    service = "vms"
    hints: ClassVar[dict[int, str]] = {
        401: "give the service's token",
        500: "its journal has more: journalctl -u labyard-vms, on its host",
    }
    timeout = 180  # a stop waits for the guest, and for another operation on the same VM

    def headers(self) -> dict[str, str]:
        token = self.module.params["token"]
        return {"Authorization": f"Bearer {token}"} if token else {}

    def found(self, path: str) -> dict[str, Any] | None:
        """What is at a path; None when there is nothing."""
        try:
            return dict(self.ask("GET", path))
        except Refused as error:
            if error.status == 404:
                return None
            self.fail(str(error))

    def lacks(self, problem: str) -> None:
        """Something that an earlier task may make is not there: an error, but in check mode, which makes nothing."""
        if not self.module.check_mode:
            self.fail(problem)
        self.module.warn(f"{problem}. Check mode takes it that an earlier task makes it")

    def allow(self, fragment: str, method: str, path: str, body: dict[str, Any] | None = None, **query: Any) -> bool:
        """As `call`; False for a refusal that has the fragment in it, which the contract fixes."""
        try:
            self.ask(method, path, body, **query)
        except Refused as error:
            if fragment in str(error):
                return False
            self.fail(str(error))
        return True


def segment(name: str) -> str:
    """A name as one segment of a path, whatever is in it."""
    return "%2E" * len(name) if name in (".", "..") else quote(name, safe="")
