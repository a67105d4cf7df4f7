"""One gateway: its parts joined, and the places where another part (load sharing) plugs in.

A part is a function `install(gateway: Gateway) -> None` in PARTS below, called once, before anything is served. It may
use and add to:

- `gateway.options`: `options[key]`; `options.update({...})` sets with validation, `options.keep({...})` sets typed
  values without guards (read-only keys such as loadsharing_config_version). `options.guard(check)`: `check(typed,
  client)` sees what a write is about to set, typed and in range, with the address of the sender ("" = the gateway
  itself); it may add values to the dict (role=member sets loadsharing_enabled; a change raises
  loadsharing_config_version there, so that config_version rises by 1 only) and refuses with `BadOption(text,
  status=403)`. `options.on_change(listener)` gets the set of keys that changed. `options.version` is config_version.
  Ranges of loadsharing_* are in options.py.
- `gateway.identity.device_id` (lower case), `gateway.hostname` (option hostname), `gateway.port` (HTTP),
  `identity.BUILDENV`, `identity.VERSION`; `gateway.credentials()`: user and password for calls to peers, None
  without.
- `gateway.storage`: JSON files of this gateway, `read(name)`, `write(name, content)`.
- `gateway.clock`: evse/clock.py. Heartbeats, cycles and rotation wait on it; timeouts of sockets are real.
- `gateway.caps.set("loadsharing", Cap(current, off))`, None to take it away: claim 65548 at 5000, shared with the
  shaper. `gateway.claims` is there for anything else: set(client, priority, Properties(...)), release(client),
  target().
- `gateway.local()`: LocalStatus (amp in mA, voltage, pilot, vehicle, state, min, max, charging).
  `gateway.evse.on_change(listener)`: names of what changed (state, vflags, pilot, amp, min, configured_max, …).
  `gateway.asleep_by_others()`: something other than claim 65548 keeps the EVSE asleep (loadsharing_ready = not that).
- `gateway.routes.extend([...])`: Starlette routes; api/http.py has `route`, `reply`, `message`, `json_object`,
  `ApiError`.
- `gateway.status_fields.append(f)`: f() is a dict that is merged into /status.
- `gateway.hub.handle("loadsharing", f)`: f(value, client address), may be async. `gateway.hub.publish({...})` to all.
- `gateway.versions.bump("loadsharing_peers_version")`: counts it in /status, and tells the clients of /ws.
- `gateway.tasks.append(f)`: `f()` is awaited as a task from when the server listens, and cancelled at the end.
  `gateway.closers.append(f)`: awaited at the end, 1 s for all (mDNS goodbye).
- `gateway.metrics`: a prometheus registry, made at the first scrape: `gateway.collectors.append(f)`, f(registry).
- `gateway.rapi_guards.append(f)`: f("$SC 16 V") returns False to block a command of /rapi.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.routing import BaseRoute

from labyard.evse.clock import Clock
from labyard.evse.gateway.claims import Claims, SafetyCaps
from labyard.evse.gateway.evse import Evse, LocalStatus
from labyard.evse.gateway.identity import Identity
from labyard.evse.gateway.options import Options
from labyard.evse.gateway.storage import Storage
from labyard.evse.gateway.versions import Versions
from labyard.evse.gateway.ws import Hub

PARTS: tuple[Callable[[Gateway], None], ...] = ()


class Gateway:
    """Holds the parts together. Nothing runs before `run`."""

    def __init__(self, options: Options, storage: Storage, identity: Identity, clock: Clock) -> None:
        self.options = options
        self.storage = storage
        self.identity = identity
        self.clock = clock
        self.port: int = options["www_http_port"]
        self.claims = Claims()
        self.caps = SafetyCaps(self.claims)
        self.evse = Evse()
        self.hub = Hub(self.status)
        self.versions = Versions(self.hub.publish)
        self.routes: list[BaseRoute] = []
        self.status_fields: list[Callable[[], dict[str, Any]]] = []
        self.tasks: list[Callable[[], Awaitable[None]]] = []
        self.closers: list[Callable[[], Awaitable[None]]] = []
        self.collectors: list[Callable[[Any], None]] = []
        self.rapi_guards: list[Callable[[str], bool]] = []

    @property
    def hostname(self) -> str:
        return str(self.options["hostname"])

    def credentials(self) -> tuple[str, str] | None:
        """User and password that this gateway asks of others and shows to its peers; None: no password is set."""
        if not self.options["www_password"]:
            return None
        return self.options["www_username"], self.options["www_password"]

    def local(self) -> LocalStatus:
        raise NotImplementedError

    def asleep_by_others(self) -> bool:
        raise NotImplementedError

    def status(self) -> dict[str, Any]:
        raise NotImplementedError
