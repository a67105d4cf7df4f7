"""A manager with a peer, on a clock that is moved by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evse.gateway.peer import Peer
from labyard.evse.clock import Clock
from labyard.evse.gateway.claims import Claims
from labyard.evse.gateway.evse import Evse
from labyard.evse.gateway.manager import Manager
from labyard.evse.gateway.options import Options
from labyard.evse.gateway.storage import Storage
from labyard.testing.waiting import wait_until_async


class Rig:
    def __init__(self, directory: Path) -> None:
        self.clock = Clock()
        self.clock.set("manual")
        self.evse = Evse()
        self.claims = Claims()
        self.options = Options(Storage(directory))
        self.manager = Manager(self.clock, self.evse, self.claims, self.options)
        self.peer = Peer()

    def plug(self) -> None:
        self.peer.plug(self.manager.rapi)
        self.manager.link_opened()

    async def until(self, holds: Callable[[], Any]) -> None:
        await wait_until_async(holds, lambda: f"it was heard: {self.peer.heard}", pause=0.001)

    async def quiet(self) -> None:
        """Until nothing more is said, and what was said is answered or given up."""
        heard, turns = -1, 0
        while turns < 50:
            if heard != len(self.peer.heard) or self.manager.rapi._pending:
                heard, turns = len(self.peer.heard), 0
                await asyncio.sleep(0.001)
            turns += 1
            await asyncio.sleep(0)

    async def ready(self) -> None:
        self.plug()
        await self.until(lambda: self.manager.ready)
        await self.quiet()
        self.peer.heard.clear()

    async def pass_seconds(self, seconds: int) -> None:
        for _ in range(seconds):
            await self.clock.advance(1)
            await self.quiet()

    def sleeps(self) -> None:
        """From now on the peer does as it is told."""

        def go(state: str) -> Callable[[str], str]:
            def answer(_: str) -> str:
                self.peer.answers["GS"] = f"OK {state} 0 01 0000"
                asyncio.get_running_loop().call_soon(self.peer.say, f"AT {state} 01 32 0000")
                return "OK"

            return answer

        self.peer.answers |= {"FS": go("FE"), "FD": go("FF"), "FE": go("01")}

    def sets_pilot(self, most: int = 80) -> None:
        def answer(command: str) -> str:
            amps = min(int(command.split()[1]), most)
            self.peer.answers["GC"] = f"OK 6 80 {amps} 32"
            return f"{'OK' if amps == int(command.split()[1]) else 'NK'} {amps}"

        self.peer.answers["SC"] = answer
