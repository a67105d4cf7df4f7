"""The use cases: deploy, remove, show (contract sections 4.2 and 5)."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from labyard.faas.adapters.images import Images, Stored
from labyard.faas.adapters.loopback import Loopback
from labyard.faas.call import Call
from labyard.faas.container import Place
from labyard.faas.dispatcher import Dispatcher
from labyard.faas.errors import FaasError, NotFound
from labyard.faas.history import History
from labyard.faas.lingering import Lingering
from labyard.faas.log import log
from labyard.faas.pool import Pool
from labyard.faas.registry import Function, Registry
from labyard.faas.serving import Order, Server
from labyard.faas.stats import Stats

TICK = 0.01  # s between two looks whether a function's requests have ended


@dataclass(frozen=True)
class Deployed:
    function: Function
    reused: bool  # the content was in the store already
    not_enforced: list[str]


class Service:
    def __init__(self, place: Place, registry: Registry, images: Images, loopback: Loopback, history: History) -> None:
        self.place = place
        self.settings = place.settings
        self.registry = registry
        self.images = images
        self.loopback = loopback
        self.history = history
        self.stats = Stats(history)
        self.lingering = Lingering()
        self.server = Server(place, self.stats, self.lingering)
        self.dispatcher = Dispatcher(
            port=self.settings.function_port,
            total=self.settings.total_concurrency,
            queue_timeout=self.settings.queue_timeout,
            launch=self._launch,
            turn_away=self._turn_away,
            limit=self._concurrency,
        )
        self.pool = Pool(
            self.server,
            self.stats,
            busy=self.dispatcher.busy,
            borrow=self._borrow,
            give_back=self._give_back,
            done=self.dispatcher.done,
        )
        self._names = threading.Lock()
        self._changing: dict[str, threading.Lock] = {}
        # Held while the set of functions changes, which is quick: a deploy unpacks before.
        self._change = threading.Lock()
        self._stopped = False

    def lock(self, name: str) -> threading.Lock:
        """Held while a function is changed: of one name one after the other, of different names side by side."""
        with self._names:
            return self._changing.setdefault(name, threading.Lock())

    def deploy(self, name: str, archive: IO[bytes], limits: Mapping[str, Any]) -> Deployed:
        """Make a function of an image archive, or a new version of it. FaasError; then all is as it was before."""
        self.settings.limits.with_changes(limits)
        with self.lock(name), ExitStack() as undo:
            stored = self.images.add(archive)
            undo.callback(self.images.release, stored.key)
            log("extract", f"{name}: {'used again' if stored.reused else 'unpacked'}: {stored.key}")
            log("entrypoint", f"{name}: {list(stored.process.cmd)}")
            with self._change:
                function, before = self._switch(name, stored, dict(limits))
            undo.pop_all()
            if before:
                self.images.release(before.key)
        log("api", f"✓ Deployed {name} at {function.ip}")
        return Deployed(function, stored.reused, self.not_enforced())

    def _switch(self, name: str, stored: Stored, limits: dict[str, Any]) -> tuple[Function, Function | None]:
        """Let a name stand for an image: the function, and what it was before. FaasError, OSError: all is undone."""
        if self._stopped:
            raise FaasError("the daemon is stopping", 503)
        before = self.registry.get(name)
        ip = before.ip if before else self._free_address()
        function = self._function(name, ip, stored, limits)
        with ExitStack() as undo:
            if not before:
                undo.callback(self.loopback.remove, [ip])
            self.loopback.apply([ip])
            where = self.images.point(name, stored.key)
            undo.callback(self.images.point_back, name, where)
            self.registry.put(function)
            undo.callback(self._put_back, name, before)
            if reason := self.dispatcher.listen(name, ip):
                if not before:
                    self.dispatcher.unlisten(name)  # else it is tried again for the version before
                raise FaasError(reason, 503)
            undo.pop_all()
        self._begin(function)
        return function, before

    def _free_address(self) -> str:
        """The lowest of the pool that nobody has. FaasError 503 when there is none."""
        taken = {function.ip for function in self.registry.all().values()} | self.loopback.foreign()
        for number in range(int(self.settings.pool_first), int(self.settings.pool_last) + 1):
            ip = str(ipaddress.IPv4Address(number))
            if ip not in taken:
                return ip
        raise FaasError("No IPs available", 503)

    def _function(self, name: str, ip: str, stored: Stored, limits: dict[str, Any]) -> Function:
        return Function(
            name=name,
            ip=ip,
            rootfs=str(self.images.rootfs(name)),
            cmd=stored.process.cmd,
            env=stored.process.env,
            workdir=stored.process.workdir,
            user=stored.user,
            groups=stored.groups,
            key=stored.key,
            limits=limits,
            created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )

    def _put_back(self, name: str, before: Function | None) -> None:
        if before:
            self.registry.put(before)
        else:
            self.registry.remove(name)

    def remove(self, name: str) -> None:
        """Take a function away. Requests that are under way have DRAIN_TIMEOUT: without its address none can end.

        NotFound. OSError when the registry cannot be written: then all is as it was before.
        """
        with self.lock(name):
            function = self.get(name)
            self.dispatcher.unlisten(name)
            deadline = time.monotonic() + self.settings.drain_timeout
            while self.dispatcher.has_requests(name) and time.monotonic() < deadline:
                time.sleep(TICK)
            with self._change:
                try:
                    self.registry.remove(name)
                except OSError:
                    self.dispatcher.listen(name, function.ip)
                    raise
                self._withdraw(function)
                self.images.forget(name)
            self.stats.forget(name)
            self.images.release(function.key)
        log("api", f"Removed {name} from {function.ip}")

    def _withdraw(self, function: Function) -> None:
        """Let a function answer no more. Its tree is held still."""
        self.dispatcher.unlisten(function.name)
        self.pool.renew(function.name, None)
        self.loopback.remove([function.ip])

    def install(self, function: Function) -> None:
        """Let a registered function answer: at the start, and when the registry was read again."""
        self.images.hold(function.key)
        self.dispatcher.listen(function.name, function.ip)
        self._begin(function)

    def _begin(self, function: Function) -> None:
        self.stats.begin(function.name)
        self.pool.renew(function.name, self._order(function))

    def reload(self) -> None:
        """Read the registry again, and make what runs like it. ValueError, OSError: all stays as it is."""
        with self._change:
            before = self.registry.all()
            self.registry.reload()
            after = self.registry.all()
            gone = [function for name, function in before.items() if after.get(name) != function]
            fresh = [function for name, function in after.items() if before.get(name) != function]
            for function in gone:
                self._withdraw(function)
            self.add_addresses(fresh)
            for function in fresh:
                self.install(function)
        for function in gone:
            self.images.release(function.key)
            if function.name not in after:
                self.stats.forget(function.name)
        log("init", f"Registry read again: {len(after)} functions")

    def add_addresses(self, functions: Iterable[Function]) -> None:
        """Add registered functions' addresses. One that cannot be is logged: the others are there."""
        try:
            self.loopback.apply(function.ip for function in functions)
        except FaasError as error:
            log("init", str(error))  # its listener is tried again and again, and the observer names it

    def close(self) -> list[str]:
        """Take all addresses away, for good; those that are gone."""
        with self._change:
            self._stopped = True
            return self.loopback.remove(self.loopback.observed())

    def get(self, name: str) -> Function:
        function = self.registry.get(name)
        if function is None:
            raise NotFound(f"Image {name} not found")
        return function

    def show(self, name: str) -> dict[str, Any]:
        """A function's record, limits in force, counters."""
        function = self.get(name)
        return {
            "name": name,
            **function.as_entry(),
            "limits": function.allowed(self.settings.limits).as_dict(),
            "not_enforced": self.not_enforced(),
            "stats": self.stats.of(name),
            "pool": self.pool.state().get(name, {}),
        }

    def overview(self) -> dict[str, Any]:
        pool = self.pool.state()
        return {
            "functions": {
                name: {**self.stats.of(name), "at_work": self.dispatcher.at_work(name), "pool": pool.get(name, {})}
                for name in self.registry.all()
            },
            **self.dispatcher.state(),
            "containers": len(self.server.containers),
        }

    def health(self) -> dict[str, Any]:
        failing = self.dispatcher.not_listening()
        answer: dict[str, Any] = {
            "status": "degraded" if failing else "ok",
            "runtime": self.place.runtime.name,
            "functions": len(self.registry.all()),
        }
        if failing:
            answer["not_listening"] = failing
        if missing := self.not_enforced():
            answer["not_enforced"] = missing
        return answer

    def metrics(self) -> list[str]:
        """Lines of Prometheus' text format."""
        state = self.dispatcher.state()
        lines = self.stats.metrics()
        for name, text, value in (
            ("faas_functions", "Registered functions.", len(self.registry.all())),
            ("faas_requests_at_work", "Requests that have a slot.", state["at_work"]),
            ("faas_requests_waiting", "Requests that wait for one.", state["waiting"]),
            ("faas_containers", "Containers, parked ones too.", len(self.server.containers)),
            ("faas_listeners_failed", "Functions that cannot be listened for.", len(self.dispatcher.not_listening())),
        ):
            lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge", f"{name} {value}"]
        for key, text in (("parked", "Parked handlers."), ("rss", "Bytes of memory that parked handlers take.")):
            lines += [f"# HELP faas_pool_{key} {text}", f"# TYPE faas_pool_{key} gauge"]
            for function, pool in sorted(self.pool.state().items()):
                lines.append(f'faas_pool_{key}{{function="{function}"}} {pool[key]}')
        return lines

    def not_enforced(self) -> list[str]:
        return self.place.cgroups.missing

    def rootfs(self, function: Function) -> Path:
        """The tree itself and not the link to it, which the next deploy changes."""
        return self.images.tree(function.key) if function.key else Path(function.rootfs).resolve()

    def _order(self, function: Function) -> Order:
        return Order(function, function.allowed(self.settings.limits), self.rootfs(function))

    def _concurrency(self, name: str) -> int:
        function = self.registry.get(name)
        return function.allowed(self.settings.limits).concurrency if function else 1

    def _borrow(self, name: str) -> Order | None:
        """A function as it is registered now, its tree held until `_give_back`."""
        while function := self.registry.get(name):
            self.images.hold(function.key)
            if self.registry.get(name) is function:
                return self._order(function)
            self.images.release(function.key)
        return None

    def _give_back(self, order: Order) -> None:
        self.images.release(order.function.key)

    def _launch(self, call: Call) -> None:
        if self.pool.take(call):
            return
        try:
            threading.Thread(target=self._serve, args=(call,), name=f"call {call.id}", daemon=True).start()
        except RuntimeError:  # the system has no more threads
            self._turn_away(call, "no_slot", 503, "the daemon cannot start another thread")
            self.dispatcher.done(call)

    def _serve(self, call: Call) -> None:
        order = self._borrow(call.function)
        try:
            if order is None:
                self._turn_away(call, "removed", 503, "the function has been removed")
            else:
                self.server.serve(call, order)
        finally:
            if order:
                self._give_back(order)
            self.dispatcher.done(call)

    def _turn_away(self, call: Call, result: str, status: int, detail: str) -> None:
        self.server.turn_away(call, result, status, detail, {"Retry-After": "1"})
