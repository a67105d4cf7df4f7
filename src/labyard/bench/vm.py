"""VMs of the fixture `vm`; no lab is needed, only the image (`make vm-image`)."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from tempfile import TemporaryDirectory

from labyard.bench.bench import Bench, Measure, MeasureError
from labyard.testing.vm.errors import VMError
from labyard.testing.vm.image.manifest import DEFAULT_FOLDER
from labyard.testing.vm.session import VMSession

CACHE = "LABYARD_VM_CACHE"
BOOTS = 3
FRESH = 10


@contextmanager
def _empty_cache() -> Iterator[None]:
    """As on a machine that has never made a snapshot."""
    before = os.environ.get(CACHE)
    with TemporaryDirectory(prefix="labyard-bench-") as folder:
        os.environ[CACHE] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[CACHE]
            else:
                os.environ[CACHE] = before


@cache
def _times(bench: Bench) -> dict[str, float]:
    """Medians: the first VM of all, and each after it, until it has answered."""
    image = bench.checkout / DEFAULT_FOLDER
    try:
        chosen = VMSession(image, "auto")
        chosen.close()
        boots, fresh = [], list[float]()
        for number in range(BOOTS):
            with _empty_cache():
                session = VMSession(image, chosen.accel)
                try:
                    boots.append(_fresh(session))
                    if number == BOOTS - 1:
                        fresh = [_fresh(session) for _ in range(FRESH)]
                finally:
                    session.close()
    except VMError as error:
        raise MeasureError(str(error)) from error
    bench.say(f"with {chosen.accel}: first {_shown(boots)}; further {_shown(fresh)} s")
    return {"boot": statistics.median(boots), "fresh": statistics.median(fresh)}


def _fresh(session: VMSession) -> float:
    began = time.perf_counter()
    vm = session.fresh()
    taken = time.perf_counter() - began
    vm.close()
    return taken


def _shown(times: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in times)


def boot_s(bench: Bench) -> float:
    """Seconds until the first VM of all is ready, snapshot included."""
    return _times(bench)["boot"]


def fresh_s(bench: Bench) -> float:
    """Seconds until each further fresh VM is ready."""
    return _times(bench)["fresh"]


MEASURES: dict[str, Measure] = {"vm.boot_s": boot_s, "vm.fresh_s": fresh_s}
