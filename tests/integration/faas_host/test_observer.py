"""The observer names what differs, mends it when told to, and leaves requests alone (contract 11.4)."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from labyard.testing.faas.host import Host
from labyard.testing.waiting import wait_until

Image = Callable[..., bytes]
UNKNOWN = "faas-00000000-0000-4000-8000-000000000000"


@pytest.fixture
def up(host: Host, image: Image) -> Host:
    host.start()
    host.function("th", image())
    return host


def look(host: Host) -> set[tuple[str, str, str]]:
    return {
        (issue["kind"], issue["resource"], issue["key"]) for issue in host.api("GET", "/api/observer").json["issues"]
    }


def mend(host: Host) -> dict[str, Any]:
    return dict(host.api("POST", "/api/observer/check?repair=1").json)


def check_mended(host: Host, *expected: tuple[str, str, str]) -> None:
    assert look(host) == set(expected)
    # Only when it is told to: looking twice mends nothing.
    assert host.api("POST", "/api/observer/check").json["issues"]
    report = mend(host)
    assert len(report["repaired"]) == len(expected), report
    assert report["failed"] == []
    assert look(host) == set()
    assert host.get("10.0.0.10").status == 200
    host.settle()


def test_nothing_to_tell(up: Host) -> None:
    assert up.api("GET", "/api/observer").json == {"issues": []}


def test_flushed_addresses(up: Host) -> None:
    up.run("ip", "addr", "flush", "dev", "lo", "label", "lo:faas")
    check_mended(up, ("missing", "address", "10.0.0.10"))


def test_address_of_another_length(up: Host) -> None:
    up.run("ip", "addr", "del", "10.0.0.10/32", "dev", "lo")
    up.run("ip", "addr", "add", "10.0.0.10/24", "dev", "lo", "label", "lo:faas")
    check_mended(up, ("drift", "address", "10.0.0.10"))


def test_address_that_nobody_registered(up: Host) -> None:
    up.run("ip", "addr", "add", "10.0.0.20/32", "dev", "lo", "label", "lo:faas")
    check_mended(up, ("orphan", "address", "10.0.0.20"))


def test_link(up: Host) -> None:
    link = up.path("/var/lib/faasd/images/th/rootfs")
    link.unlink()
    check_mended(up, ("missing", "link", "th"))
    assert link.is_symlink()
    other = up.path("/var/lib/faasd/images/.store/0000/tree")
    other.mkdir(parents=True)
    link.unlink()
    link.symlink_to("../.store/0000/tree")
    check_mended(up, ("drift", "link", "th"), ("orphan", "tree", "0000"))


def test_lost_tree_is_told_and_cannot_be_mended(up: Host, image: Image) -> None:
    key = up.api("GET", "/api/function/th").json["key"]
    shutil.rmtree(up.path(f"/var/lib/faasd/images/.store/{key}"))
    assert look(up) == {("missing", "tree", "th")}
    assert mend(up)["repaired"] == []
    up.function("th", image())
    assert look(up) == set()
    assert up.get("10.0.0.10").status == 200


def test_what_nobody_owns(up: Host) -> None:
    up.path(f"/var/lib/faasd/bundles/{UNKNOWN}").mkdir()
    up.path("/var/lib/faasd/images/nobody").mkdir()
    up.run("python3", "-c", f"import socket; socket.socket(socket.AF_UNIX).bind('/tmp/{UNKNOWN}.sock')")
    check_mended(
        up,
        ("orphan", "bundle", UNKNOWN),
        ("orphan", "link", "nobody"),
        ("orphan", "socket", f"{UNKNOWN}.sock"),
    )


def test_container_that_nobody_owns(up: Host) -> None:
    key = up.api("GET", "/api/function/th").json["key"]
    bundle = up.path(f"/run/{UNKNOWN}")
    bundle.mkdir()
    config = {
        "ociVersion": "1.0.0",
        "process": {"args": ["python3", "-c", "import time; time.sleep(60)"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "root": {"path": f"/var/lib/faasd/images/.store/{key}/tree", "readonly": True},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]},
    }
    config["process"]["env"] = ["PATH=/usr/bin"]
    (bundle / "config.json").write_text(json.dumps(config))
    command = f"runc --root /run/faasd/runc run --detach --bundle /run/{UNKNOWN} {UNKNOWN} </dev/null >/dev/null 2>&1"
    up.run("sh", "-c", command)
    check_mended(up, ("orphan", "container", UNKNOWN))


def test_requests_in_flight_are_no_difference(up: Host, image: Image) -> None:
    ip = up.function("slow", image("slow", "1"), {"warm": 2})
    seen: list[int] = []
    looked_enough = threading.Event()

    def ask() -> None:
        while not looked_enough.is_set():
            seen.append(up.get(ip).status)

    with ThreadPoolExecutor(8) as threads:
        work = [threads.submit(ask) for _ in range(8)]
        looks = 0
        try:
            while (looks <= 3 or len(seen) < 16) and not any(one.done() for one in work):
                assert mend(up)["issues"] == []
                looks += 1
        finally:
            looked_enough.set()
        for one in work:
            one.result()
    assert looks > 3
    assert set(seen) == {200}


def test_finding_is_logged_once_by_itself(host: Host, image: Image) -> None:
    host.start(observer_interval=0.3)
    host.function("th", image())
    host.run("ip", "addr", "flush", "dev", "lo", "label", "lo:faas")
    wait_until(lambda: "[server] Observer: missing address 10.0.0.10 th\n" in host.log(), "it is logged")
    host.api("POST", "/api/observer/check?repair=1")
    assert host.log().count("[server] Observer: missing address 10.0.0.10") == 1
    assert host.get("10.0.0.10").status == 200
