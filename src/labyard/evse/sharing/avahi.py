"""mDNS through a running avahi-daemon, with its command line tools: for machines where it keeps port 5353 to itself.

It answers from avahi's cache: a gateway that went without a goodbye is seen until its records there expire.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import re
import shutil
import signal
import sys
from collections.abc import Callable, Coroutine

import structlog

from labyard.evse.sharing.directory import Found, reachable_address
from labyard.evse.sharing.mdns import Announcement
from labyard.evse.sharing.network import own_interfaces

log = structlog.get_logger(__name__)

SERVICE, WEB = "_openevse._tcp", "_http._tcp"
_ESTABLISHED = re.compile(r"Established under name '(.+)'")
_TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(\d{3})")
BROWSE_SECONDS = 5.0
PR_SET_PDEATHSIG = 1


def available() -> bool:
    return shutil.which("avahi-publish") is not None and shutil.which("avahi-browse") is not None


class AvahiResponder:
    """As mdns.OwnResponder."""

    def __init__(self, announcement: Announcement, on_heard: Callable[[Found], None], on_gone: Callable[[str], None]):
        self.instance = announcement.hostname
        self._announcement = announcement
        self._on_heard = on_heard
        self._publishers: list[asyncio.subprocess.Process] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """OSError: the tools are not there."""
        await self._announce()

    async def announce(self, announcement: Announcement) -> None:
        if announcement != self._announcement:
            self._announcement = announcement
            self.instance = announcement.hostname
            await self._stop_publishers()
            await self._announce()

    def query(self) -> None:
        if not any(task.get_name() == "browse" for task in self._tasks):
            self._run(self._browse(), "browse")

    async def look_at_interfaces(self) -> None:
        """avahi-daemon does that."""

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self._stop_publishers()

    async def _announce(self) -> None:
        told = self._announcement
        texts = [f"{key}={value}" for key, value in told.properties.items()]
        await self._publish("-s", told.hostname, SERVICE, str(told.port), *texts)
        await self._publish("-s", told.hostname, WEB, str(told.port))

    async def _publish(self, *arguments: str) -> None:
        process = await asyncio.create_subprocess_exec(
            "avahi-publish",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            preexec_fn=_end_with_the_gateway if sys.platform == "linux" else None,
        )
        self._publishers.append(process)
        self._run(self._read(process), "publish")

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while line := (await process.stderr.readline()).decode(errors="replace").strip():
            if found := _ESTABLISHED.match(line):
                self.instance = found[1]
            log.info("avahi-publish", says=line)

    async def _browse(self) -> None:
        process = await asyncio.create_subprocess_exec(
            "avahi-browse",
            *("--resolve", "--parsable", "--terminate", SERVICE),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), BROWSE_SECONDS)
        except TimeoutError:
            output = b""
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        for found in parse_browse(output.decode(errors="replace")):
            if found.instance.lower() != self.instance.lower():
                self._on_heard(found)

    async def _stop_publishers(self) -> None:
        for process in self._publishers:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        for process in self._publishers:
            await process.wait()
        self._publishers.clear()

    def _run(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _end_with_the_gateway() -> None:
    """In the child: also when the gateway is killed, nobody goes on announcing it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def parse_browse(output: str) -> list[Found]:
    """The resolved IPv4 lines of `avahi-browse --resolve --parsable`."""
    seen: dict[str, tuple[list[str], int, dict[str, str]]] = {}
    for line in output.splitlines():
        fields = line.split(";", 9)
        if len(fields) < 10 or fields[0] != "=" or fields[2] != "IPv4" or not fields[8].isdigit():
            continue
        instance = _ESCAPE.sub(lambda found: chr(int(found[1])), fields[3])
        told = dict(text.partition("=")[::2] for text in _TEXT.findall(fields[9]))
        addresses, _, _ = seen.setdefault(instance, ([], int(fields[8]), told))
        addresses.append(fields[7])
    interfaces = own_interfaces() if seen else []
    return [
        Found(
            instance,
            reachable_address(addresses, interfaces),
            port,
            told.get("id", "").lower(),
            told.get("version", ""),
            told.get("ssl") == "1",
            tuple(sorted(addresses)),
        )
        for instance, (addresses, port, told) in seen.items()
    ]
