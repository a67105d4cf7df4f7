"""Which address a function gets: the lowest of the pool that nobody has (contract section 7)."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from labyard.faas.adapters.loopback import Loopback
from labyard.faas.errors import FaasError
from labyard.faas.registry import Registry
from labyard.faas.settings import Settings


class Addresses:
    def __init__(self, settings: Settings, registry: Registry, loopback: Loopback) -> None:
        self._settings, self._registry, self._loopback = settings, registry, loopback
        self._lock = threading.Lock()
        self._promised: set[str] = set()

    @contextmanager
    def promise(self) -> Iterator[str]:
        """An address that nobody else is given meanwhile. FaasError 503 when there is none."""
        with self._lock:
            foreign = self._loopback.foreign()
            taken = {function.ip for function in self._registry.all().values()} | self._promised | foreign
            ip = next((ip for ip in self._pool() if ip not in taken), None)
            if ip is None:
                raise FaasError("No IPs available", 503)
            self._promised.add(ip)
        try:
            yield ip
        finally:
            with self._lock:
                self._promised.discard(ip)

    def _pool(self) -> Iterator[str]:
        for number in range(int(self._settings.pool_first), int(self._settings.pool_last) + 1):
            yield str(ipaddress.IPv4Address(number))
