"""Parked handlers: quick, never in the way, and never the reason of a failure (contract 10)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from labyard.testing.faas.archives import docker_archive, layer
from labyard.testing.faas.host import Host
from labyard.testing.waiting import wait_until

Image = Callable[..., bytes]


def parked(host: Host, name: str) -> int:
    return int(host.api("GET", "/api/stats").json["functions"][name]["pool"]["parked"])


def await_parked(host: Host, name: str, count: int = 1) -> None:
    wait_until(lambda: parked(host, name) == count, lambda: f"{count} parked: {parked(host, name)}")


def pid_of_parked(host: Host) -> int:
    """Of the only one, once what is left of those before it is gone and the runtime has said which process it is."""

    def pid() -> int | None:
        there = host.listing("/run/faasd/warm")
        return int(host.path(f"/run/faasd/warm/{there[0]}/pid").read_text()) if len(there) == 1 else None

    return wait_until(pid, "one is parked", despite=(OSError, ValueError))


def await_warm_hit(host: Host, ip: str) -> None:
    """Ask until a parked handler serves: that a function is asked for keeps its pool filled."""

    def hits() -> int:
        return int(host.api("GET", "/api/function/th").json["stats"]["warm_hits"])

    before = hits()

    def is_hit() -> bool:
        assert host.get(ip).status == 200
        return hits() > before

    wait_until(is_hit, "a parked handler serves")


@pytest.mark.parametrize("freeze", [0, 1])
def test_parked_handlers_serve_and_are_replaced(host: Host, image: Image, freeze: int) -> None:
    host.start(warm=1, warm_freeze=freeze)
    ip = host.function("th", image())
    for number in range(10):
        await_parked(host, "th")
        reply = host.get(ip, f"/{number}")
        assert f"GET /{number} " in reply.text
    assert host.listing("/var/lib/faasd/bundles") == []
    assert [name for name in host.listing("/tmp") if name.startswith("faas-")] == []
    stats = host.api("GET", "/api/function/th").json
    assert (stats["stats"]["warm_hits"], stats["stats"]["warm_misses"]) == (10, 0)
    await_parked(host, "th")
    # The runtime says a moment later which process it is.
    wait_until(lambda: host.api("GET", "/api/function/th").json["pool"]["rss"] > 1 << 20, "its memory is known")
    assert host.stop() == 0
    host.settle()


def test_burst_is_served_by_parked_and_cold_alike(host: Host, image: Image) -> None:
    host.start(warm=2)
    ip = host.function("th", image())
    await_parked(host, "th", 2)
    with ThreadPoolExecutor(12) as threads:
        assert [reply.status for reply in threads.map(host.get, [ip] * 24)] == [200] * 24
    await_parked(host, "th", 2)
    stats = host.api("GET", "/api/stats").json["functions"]["th"]
    assert stats["warm_hits"] >= 2
    assert stats["warm_hits"] + stats["warm_misses"] == 24


def test_dead_parked_handler_is_nobody_s_trouble(host: Host, image: Image) -> None:
    """Killed where it is parked, once it is noticed and once it is not yet."""
    host.start(warm=1)
    ip = host.function("th", image())
    for _ in range(10):
        await_parked(host, "th")
        os.kill(pid_of_parked(host), signal.SIGKILL)
        assert host.get(ip).status == 200
        # One that serves in between: after three deaths in a row that it noticed, the daemon parks none for a while.
        await_parked(host, "th")
        assert host.get(ip).status == 200
    assert set(host.api("GET", "/api/stats").json["functions"]["th"]["results"]) == {"ok"}


def test_handler_that_does_not_stay_is_given_up_for_a_while(host: Host, image: Image) -> None:
    host.start(warm=1)
    ip = host.function("dies", image("dies-parked", "0.1"))
    wait_until(lambda: "dies: no handlers are parked for 60 s" in host.log(), "it is given up")
    host.settle()
    # Requests go on, cold: this one ends as the handler does.
    # Whether it had connected by then is between the two.
    assert host.get(ip).json["detail"].startswith("handler exited with code 3 ")
    host.settle()


def test_new_version_discards_what_is_parked(host: Host, image: Image, layers: list[bytes]) -> None:
    host.start(warm=1)
    ip = host.function("th", image("one"))
    await_parked(host, "th")
    more = docker_archive([*layers, layer({"more": b""})], Cmd=["python3", "/app/handler.py", "two"])
    host.function("th", more)
    for _ in range(5):
        assert "Body: two" in host.get(ip).text
    wait_until(lambda: len(host.listing("/var/lib/faasd/images/.store")) == 1, "the old tree is gone")


def test_removed_function_s_handlers_end(host: Host, image: Image) -> None:
    host.start(warm=2)
    host.function("th", image())
    await_parked(host, "th", 2)
    assert host.api("DELETE", "/api/function/th").status == 200
    host.settle()


def test_idle_pool_empties_and_fills_again(host: Host, image: Image) -> None:
    host.start(warm=1, warm_idle=2)
    ip = host.function("th", image())
    await_warm_hit(host, ip)
    wait_until(lambda: host.api("GET", "/api/function/th").json["pool"]["wanted"] == 0, "none is wanted")
    host.settle()
    assert parked(host, "th") == 0
    await_warm_hit(host, ip)


def test_at_most_half_of_all_slots(host: Host, image: Image) -> None:
    host.start(warm=1, total_concurrency=4)
    for number in range(4):
        host.function(f"f{number}", image())
    wait_until(lambda: sum(parked(host, f"f{number}") for number in range(4)) == 2, "two are parked")
    time.sleep(2)  # a third would come within that time
    assert sum(parked(host, f"f{number}") for number in range(4)) == 2


def test_time_limit_begins_with_the_request(host: Host, image: Image) -> None:
    host.start(warm=1)
    ip = host.function("th", image("slow", "0"), {"timeout": 8, "warm": 1})
    await_parked(host, "th")
    time.sleep(8.5)
    assert host.get(ip).status == 200


def test_restart_fills_it_again(host: Host, image: Image) -> None:
    host.start(warm=1)
    host.function("th", image())
    await_parked(host, "th")
    host.stop()
    host.start(warm=1)
    await_parked(host, "th")


def test_nothing_leaks(host: Host, image: Image) -> None:
    host.start(warm=1)
    ip = host.function("th", image(), {"warm": 1})
    host.function("th", image())

    def state() -> tuple[int, int, int]:
        await_parked(host, "th")
        wait_until(lambda: len(host.leftovers()["containers"]) == 1, "only the parked one is left")
        return host.descriptors(), host.threads(), len(host.children())

    for _ in range(3):
        host.get(ip)
    before = state()
    for _ in range(50):
        assert host.get(ip).status == 200

    def is_as_before() -> bool:
        return all(now <= then for now, then in zip(state(), before, strict=True))

    wait_until(is_as_before, lambda: f"{state()} as before: {before}")
