"""Parked handlers: containers whose process has connected and waits for a client (contract section 10)."""

from __future__ import annotations

import resource
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labyard.faas.call import Call
from labyard.faas.container import Container
from labyard.faas.log import log
from labyard.faas.serving import Order, Server
from labyard.faas.stats import Stats

FAILURES = 3
PAUSE = 60.0  # s without parked handlers after that many failures in a row
LOOK = 1.0  # s between two looks for functions that nobody asks for


@dataclass(eq=False)
class Parked:
    container: Container
    order: Order
    call: Call | None = None
    unwanted: bool = False


@dataclass
class Stock:
    """One function's handlers. `order` is what new ones are made of; None when there are to be none."""

    order: Order | None = None
    parked: deque[Parked] = field(default_factory=deque)
    starting: Order | None = None  # what is being started of it: one at a time
    used: float = field(default_factory=time.monotonic)
    failures: int = 0
    off_until: float = 0.0


class Pool:
    """`busy` says whether requests wait: then none is started ahead. `done` is told when a call has been served."""

    def __init__(
        self,
        server: Server,
        stats: Stats,
        busy: Callable[[], bool],
        borrow: Callable[[str], Order | None],
        give_back: Callable[[Order], None],
        done: Callable[[Call], None],
    ) -> None:
        self._server = server
        self._settings = server.place.settings
        self._stats = stats
        self._busy = busy
        self._borrow = borrow
        self._give_back = give_back
        self._done = done
        self._stocks: dict[str, Stock] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._keep_filled, name="pool", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End all parked handlers and start no more."""
        with self._changed:
            self._stopped = True
            for stock in self._stocks.values():
                self._empty(stock)
            self._changed.notify_all()

    def renew(self, name: str, order: Order | None) -> None:
        """A function is there, in a new version, or (None) no more. Handlers of an older version are ended."""
        with self._changed:
            if order is None:
                stock = self._stocks.pop(name, Stock())
                stock.order = None  # of a handler that is being started, too
            else:
                stock = self._stocks.setdefault(name, Stock())
                stock.order, stock.used, stock.failures, stock.off_until = order, time.monotonic(), 0, 0.0
            self._empty(stock)
            self._changed.notify_all()

    def take(self, call: Call) -> bool:
        """Give a call to a parked handler. False when there is none; then it is to be served cold."""
        with self._changed:
            stock = self._stocks.get(call.function)
            if stock is None or stock.order is None:
                return False
            stock.used = time.monotonic()
            parked = stock.parked.popleft() if stock.parked else None
            if parked is not None:
                parked.call = call
                parked.container.wake()
                stock.failures = 0
            if stock.order.limits.warm:
                self._stats.pool(call.function, hit=parked is not None)
                self._changed.notify_all()
            return parked is not None

    def state(self) -> dict[str, dict[str, Any]]:
        """By function: how many are parked, wanted, and the bytes of memory that the parked ones take."""
        with self._changed:
            stocks = {name: (list(stock.parked), self._wanted(stock)) for name, stock in self._stocks.items()}
        return {
            name: {"parked": len(parked), "wanted": wanted, "rss": sum(_rss(p.container.pid) for p in parked)}
            for name, (parked, wanted) in stocks.items()
        }

    def _empty(self, stock: Stock) -> None:
        for parked in stock.parked:
            parked.unwanted = True
            parked.container.wake()
        stock.parked.clear()

    def _wanted(self, stock: Stock) -> int:
        now = time.monotonic()
        idle = now - stock.used > self._settings.warm_idle
        if self._stopped or stock.order is None or idle or now < stock.off_until:
            return 0
        return stock.order.limits.warm

    def _keep_filled(self) -> None:
        with self._changed:
            while not self._stopped:
                name = self._next()
                if name is None:
                    self._changed.wait(LOOK)
                    continue
                # One at a time: a start takes a whole core, and requests come first.
                order = self._borrow(name)
                if order is None:
                    self._changed.wait(LOOK)  # it is being removed
                    continue
                stock = self._stocks[name]
                stock.starting = order
                try:
                    threading.Thread(target=self._park, args=(order, stock), name=f"park {name}", daemon=True).start()
                except RuntimeError:  # the system has no more threads
                    stock.starting = None
                    self._give_back(order)
                    self._changed.wait(LOOK)
                while stock.starting is order and not self._stopped:
                    self._changed.wait()

    def _next(self) -> str | None:
        """A function that lacks a handler. Those of functions that nobody asks for any more are ended."""
        total = sum(len(stock.parked) for stock in self._stocks.values())
        lacking = None
        for name, stock in self._stocks.items():
            wanted = self._wanted(stock)
            if wanted == 0:
                self._empty(stock)
            elif len(stock.parked) < wanted and lacking is None:
                lacking = name
        room = total < max(1, self._settings.total_concurrency // 2)
        return lacking if room and not self._busy() else None

    def _park(self, order: Order, stock: Stock) -> None:
        """The life of one handler: start, wait for a call, serve it."""
        try:
            container = self._server.make(order, parked=True)
        except OSError as error:
            log("request", f"{order.function.name}: a handler could not be parked: {error.strerror}")
            self._started(stock, order)
            self._give_back(order)
            return
        parked = Parked(container, order)
        served = False
        try:
            if self._connect(parked, stock):
                self._wait(parked, stock)
            if parked.call:
                served = self._serve(parked, parked.call)
        finally:
            self._started(stock, order)
            self._server.discard(container)
            try:
                if parked.call and not served:
                    # It had died where it was parked, and nobody is to notice: served cold, once.
                    self._server.serve(parked.call, order)
            finally:
                if parked.call:
                    self._done(parked.call)
                self._give_back(order)

    def _started(self, stock: Stock, order: Order) -> None:
        with self._changed:
            if stock.starting is order:
                stock.starting = None
                self._changed.notify_all()

    def _connect(self, parked: Parked, stock: Stock) -> bool:
        failure = self._server.await_handler(parked.container)
        with self._changed:
            self._started(stock, parked.order)
            current = stock.order and stock.order.function is parked.order.function
            if not current or self._wanted(stock) == 0:
                return False
            if failure is not None:
                self._failed(parked, stock, failure.detail)
                return False
            if self._settings.warm_freeze:
                parked.container.freeze(True)
            stock.parked.append(parked)
            return True

    def _wait(self, parked: Parked, stock: Stock) -> None:
        container = parked.container
        while not (parked.call or parked.unwanted or container.ended or container.peer is None):
            container.step(None)
        with self._changed:
            if parked in stock.parked:
                stock.parked.remove(parked)
                self._failed(parked, stock, "it ended while it was parked")
                self._changed.notify_all()

    def _failed(self, parked: Parked, stock: Stock, reason: str) -> None:
        name = parked.order.function.name
        log("request", f"{name}: a handler could not be parked: {reason}")
        stock.failures += 1
        if stock.failures >= FAILURES:
            stock.failures, stock.off_until = 0, time.monotonic() + PAUSE
            log("request", f"{name}: no handlers are parked for {PAUSE:g} s")

    def _serve(self, parked: Parked, call: Call) -> bool:
        if parked.container.frozen:
            parked.container.freeze(False)
        return self._server.serve_parked(parked.container, call)


def _rss(pid: int) -> int:
    """Resident bytes of a process; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0
