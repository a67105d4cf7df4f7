"""Pairs 0, 1, 2, … of a host, however they are run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import httpx

from labyard.testing.evse.diagnosis import PairError, no_bridge, not_ready
from labyard.testing.evse.settings import Ports, Settings

# s between two looks. The firmware is slow to start, and looking often would not help it.
POLL_OURS = 0.02
POLL_NATIVE = 0.5


class Backend(Protocol):
    """One way to run pairs."""

    def clean(self, offsets: list[int]) -> None:
        """Take away what an earlier run left of these pairs. PairError: what is in the way is somebody else's."""

    def start(self, offset: int) -> None:
        """All three parts, with empty storage; returns at once."""

    def stop(self, offsets: list[int]) -> None:
        """Bridge, emulator, gateway; returns when they have ended."""

    def restart_native(self, offset: int) -> None:
        """The gateway alone, with its storage."""

    def ended(self, part: str, offset: int) -> bool:
        """Whether a part (emulator, bridge, gateway) is not running."""

    def log(self, part: str, offset: int) -> str:
        """The end of what a part said."""


class Pair(dict[str, Any]):
    """native_url native_port emulator_url emulator_port rapi_port pty_path; `restart_native` is a key and a method."""

    def __init__(self, ports: Ports, restart_native: Callable[[], None]) -> None:
        super().__init__(
            native_url=f"http://127.0.0.1:{ports.gateway}",
            native_port=ports.gateway,
            emulator_url=f"http://127.0.0.1:{ports.emulator}",
            emulator_port=ports.emulator,
            rapi_port=ports.rapi,
            pty_path=str(ports.pty),
            restart_native=restart_native,
        )

    def restart_native(self) -> None:
        """Restart the gateway; it keeps its storage. Returns when it is ready again."""
        self["restart_native"]()


class Pairs:
    """Starts pairs and, at the end of the context, stops them."""

    def __init__(self, settings: Settings, backend: Backend) -> None:
        self.settings = settings
        self._backend = backend
        self._running: list[int] = []

    def start(self, offsets: Iterable[int]) -> list[Pair]:
        """Start pairs side by side and wait until all are ready. PairError says what is wrong, and nothing is left."""
        wanted = list(offsets)
        if both := sorted(set(wanted) & set(self._running)):
            raise PairError(f"pair {both[0]} is running already; give another port_offset")
        self._backend.clean(wanted)
        self._running += wanted
        try:
            for offset in wanted:
                self._backend.start(offset)
            for offset in wanted:
                self._wait(offset)
        except BaseException:
            self.stop(wanted)
            raise
        return [self._pair(offset) for offset in wanted]

    def stop(self, offsets: Iterable[int] | None = None) -> None:
        """These pairs, or all that were started here."""
        ending = list(self._running if offsets is None else offsets)
        self._backend.stop(ending)
        self._running = [offset for offset in self._running if offset not in ending]

    def log(self, part: str, offset: int) -> str:
        """The end of what a part (emulator, bridge, gateway) of a pair said."""
        return self._backend.log(part, offset)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()

    def _pair(self, offset: int) -> Pair:
        def restart() -> None:
            self._backend.restart_native(offset)
            self._wait_for_gateway(offset)

        return Pair(self.settings.ports(offset), restart)

    def _wait(self, offset: int) -> None:
        ports = self.settings.ports(offset)
        self._wait_for_http("emulator", offset, f"http://127.0.0.1:{ports.emulator}/api/status")
        wait_for_pty(ports.pty, self.settings.pty_wait, lambda: self._backend.log("bridge", offset))
        self._wait_for_gateway(offset)

    def _wait_for_gateway(self, offset: int) -> None:
        self._wait_for_http("gateway", offset, f"http://127.0.0.1:{self.settings.ports(offset).gateway}/config")

    def _wait_for_http(self, part: str, offset: int, url: str) -> None:
        poll = POLL_OURS if self.settings.native_binary is None else POLL_NATIVE
        seconds = self.settings.http_wait
        if not wait_for_http_ready(url, seconds, poll, lambda: self._backend.ended(part, offset)):
            raise PairError(f"Pair {offset}: {not_ready(part, url, seconds, self._backend.log(part, offset))}")


def wait_for_http_ready(url: str, seconds: float, poll: float, ended: Callable[[], bool]) -> bool:
    """Whether it answers 200 within so many seconds; False at once when it has ended."""
    end = time.monotonic() + seconds
    # Without verify=False each client reads the certificates of the world, for plain HTTP, too.
    with httpx.Client(timeout=5, verify=False) as http:
        while not ended():
            try:
                if http.get(url).status_code == 200:
                    return True
            except httpx.TransportError:
                pass
            if time.monotonic() > end:
                break
            time.sleep(poll)
    return False


def wait_for_pty(pty: Path, seconds: float, log: Callable[[], str]) -> None:
    """Until the bridge's link leads somewhere. PairError: it does not."""
    end = time.monotonic() + seconds
    while not _leads_somewhere(pty):
        if time.monotonic() > end:
            raise PairError(no_bridge(pty, seconds, log()))
        time.sleep(POLL_OURS)


def _leads_somewhere(link: Path) -> bool:
    """Read, not followed: where fs.protected_symlinks is 1, root may not follow a link of another user in /tmp."""
    try:
        return (link.parent / link.readlink()).exists()
    except OSError:
        return False


def backend_of(settings: Settings, folder: Path) -> Backend:
    """What the settings ask for. `folder` is for storage and logs of processes."""
    if settings.backend == "units":
        from labyard.testing.evse.units import UnitBackend

        return UnitBackend(settings)
    from labyard.testing.evse.processes import ProcessBackend

    return ProcessBackend(settings, folder)
