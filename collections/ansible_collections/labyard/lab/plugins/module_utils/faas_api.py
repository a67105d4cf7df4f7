# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""The control API of faasd (contract section 4) for modules."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from ansible_collections.labyard.lab.plugins.module_utils import service_api
from ansible_collections.labyard.lab.plugins.module_utils.service_api import NoAnswer, Refused, ServiceApi

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

ARGUMENTS: dict[str, dict[str, Any]] = {
    **service_api.ARGUMENTS,
    "token": {"type": "str", "default": "", "no_log": True},
}


class FaasApi(ServiceApi):
    """Calls the daemon with the module's token. What cannot be helped ends the module (fail_json)."""

    service = "faas"
    hints: ClassVar[dict[int, str]] = {
        401: "give the daemon's token",
        500: "its journal has more: journalctl -u labyard-faas, on its host",
    }
    timeout = 600  # unpacking a large image takes a while

    def __init__(self, module: AnsibleModule) -> None:
        super().__init__(module)
        self._about: dict[str, str] = {}  # headers that say what an upload is

    def headers(self) -> dict[str, str]:
        token = self.module.params["token"]
        return ({"Authorization": f"Bearer {token}"} if token else {}) | self._about

    def function(self, name: str) -> dict[str, Any] | None:
        """A function as it is registered; None when there is none. In check mode also when nothing answers, with a
        warning: an earlier task may start the daemon."""
        try:
            found = self.exchange("GET", "/api/list").get(name)
        except Refused as error:
            self.fail(str(error))
        except NoAnswer as error:
            if not self.module.check_mode:
                self.fail(str(error))
            self.module.warn(f"{error}. Check mode takes it that an earlier task starts it")
            return None
        return dict(found) if found else None

    def deploy(self, name: str, image: str, limits: dict[str, Any]) -> dict[str, Any]:
        """Upload an archive; the daemon's answer. It is read in pieces, whatever its size."""
        self._about = {"X-Image-Name": name, "Content-Length": str(os.path.getsize(image))}
        if limits:
            self._about["X-Faas-Limits"] = json.dumps(limits)
        try:
            with open(image, "rb") as archive:
                return dict(self.call("POST", "/api/new", archive))
        finally:
            self._about = {}

    def remove(self, name: str) -> None:
        self.call("DELETE", f"/api/function/{quote(name, safe='')}")
