"""Where the pictures are that recorders of this node capture: the desktops of its RDP servers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labyard.desktops.adapters.agent import AgentRefused
from labyard.desktops.agent.rdp.servers import Servers
from labyard.desktops.keyring import write_private

NO_TARGET = "SES_NO_RDP_TARGET"
MOST = 64 * 1024  # bytes of cookies


class NodeDisplays:
    """`recorder.recorders.Displays`. A recorder gets a copy of the display's cookie, in `cookies`: nothing else of the
    server's files."""

    def __init__(self, servers: Servers, cookies: Path) -> None:
        self._servers = servers
        self._cookies = cookies

    def open(self, session_id: str, target: Mapping[str, Any]) -> tuple[int, Path | None]:
        if target.get("kind") != "display":
            raise AgentRefused("this is no desktop of a server on this node", NO_TARGET)
        display, cookie = self._servers.display(str(target.get("server_id")))
        self._cookies.mkdir(parents=True, exist_ok=True, mode=0o700)
        mine = self._cookies / session_id
        try:
            # Not a link: the desktop's user made this file, and could name any other.
            with os.fdopen(os.open(cookie, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                content = file.read(MOST)
        except OSError as error:
            raise AgentRefused(f"the display has no cookie: {error.strerror}", NO_TARGET) from None
        write_private(mine, content, replace=True)
        return display, mine

    def close(self, session_id: str) -> None:
        (self._cookies / session_id).unlink(missing_ok=True)
