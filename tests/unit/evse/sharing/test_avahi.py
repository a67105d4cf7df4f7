"""The responder that uses avahi's tools, with others in their place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from labyard.testing.waiting import wait_until

GATEWAY = """
import asyncio, sys
import uvloop
from labyard.evse.sharing.avahi import AvahiResponder
from labyard.evse.sharing.mdns import Announcement

async def main():
    told = Announcement("openevse-1", 8001, {"id": "abc"})
    responder = AvahiResponder(told, lambda found: None, lambda instance: None)
    await responder.start()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await responder.announce(Announcement("openevse-2", 8001, {"id": "abc"}))
    await asyncio.sleep(3600)

uvloop.run(main())
"""


def running(folder: Path) -> dict[int, str]:
    """The publishers that live, and what they publish."""
    found = {}
    for path in folder.glob("*.pid"):
        with suppress(OSError):  # it may end between two looks
            if Path(f"/proc/{path.stem}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                found[int(path.stem)] = path.read_text().strip()
    return found


def wait_for_names(names: list[str], folder: Path) -> None:
    wait_until(lambda: sorted(running(folder).values()) == sorted(names), lambda: f"{names} run, not {running(folder)}")


def test_nobody_announces_a_gateway_that_was_killed(tmp_path: Path) -> None:
    tool = tmp_path / "avahi-publish"
    tool.write_text(
        f'#!/bin/sh\necho "$2 $3 $4" > {tmp_path}/$$.new && mv {tmp_path}/$$.new {tmp_path}/$$.pid\nexec sleep 600\n'
    )
    tool.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    gateway = subprocess.Popen(
        [sys.executable, "-c", GATEWAY], env=os.environ | {"PATH": path}, stdin=subprocess.PIPE, text=True
    )
    assert gateway.stdin is not None
    try:
        wait_for_names(["openevse-1 _openevse._tcp 8001", "openevse-1 _http._tcp 8001"], tmp_path)
        gateway.stdin.write("\n")
        gateway.stdin.flush()
        wait_for_names(["openevse-2 _openevse._tcp 8001", "openevse-2 _http._tcp 8001"], tmp_path)
    finally:
        gateway.kill()
        gateway.wait()
    try:
        wait_for_names([], tmp_path)
    finally:
        for pid in running(tmp_path):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
