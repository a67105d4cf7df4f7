"""The host runs out of descriptors or of space: requests are told, nothing hangs, and all is well again afterwards."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from labyard.testing.faas.archives import docker_archive, layer
from labyard.testing.faas.host import Host
from labyard.testing.waiting import wait_until

Image = Callable[..., bytes]
TINY = docker_archive([layer({"file": b"content"})], Cmd=["/nothing"])
FILL = "dd if=/dev/zero of={}/filler bs=4k 2>/dev/null; true"


def test_descriptors(host: Host, image: Image) -> None:
    program = ("prlimit", "--nofile=80:80", sys.executable, "-m", "labyard.faas")
    # The daemon's own patience: a handler that cannot be accepted has descriptors which others wait for.
    host.start(program=program, total_concurrency=256, observer_interval=1, connect_timeout=None)
    ip = host.function("th", image(), {"concurrency": 256})
    assert host.get(ip).status == 200
    host.settle()
    before = host.descriptors()

    def ask(_: int) -> int:
        try:
            return host.get(ip).status
        except (http.client.HTTPException, ConnectionError):
            return 0

    with ThreadPoolExecutor(100) as threads:
        answers = list(threads.map(ask, range(100)))
    assert any(status == 200 for status in answers)
    assert any(status != 200 for status in answers), "there were enough descriptors for all of them"
    host.settle()
    assert host.get(ip).status == 200
    host.settle()
    wait_until(lambda: host.descriptors() <= before, lambda: f"{host.descriptors()} as before: {before}")
    assert host.api("GET", "/api/observer").json == {"issues": []}


def test_space_of_the_runtime_s_folder(host: Host, image: Image) -> None:
    host.path("/run/faasd").mkdir()
    host.run("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", "/run/faasd")
    host.start(warm=1)
    ip = host.function("th", image())
    wait_until(lambda: host.api("GET", "/api/function/th").json["pool"]["parked"] == 1, "one is parked")
    host.run("sh", "-c", FILL.format("/run/faasd"))
    # The parked one answers; after that a container cannot be started, and the client is told.
    assert host.get(ip).status == 200
    wait_until(lambda: "no handlers are parked for 60 s" in host.log(), "no other one can be parked")
    host.settle()
    host.run("sh", "-c", FILL.format("/run/faasd"))
    answer = host.get(ip)
    wait_until(lambda: len(host.logs("th")) == 2, "both requests are in the log")
    assert (answer.status, host.logs("th")[0]["result"]) == (502, "start_failed")
    host.path("/run/faasd/filler").unlink()
    assert host.get(ip).status == 200
    assert host.stop() == 0
    host.settle()


def test_space_of_the_root(host: Host, image: Image) -> None:
    host.path("/var/lib/small").mkdir()
    host.run("mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", "/var/lib/small")
    host.start(root="/var/lib/small")
    ip = host.function("th", image())
    assert host.get(ip).status == 200
    host.last("th")
    registry = host.path("/var/lib/small/registry.json").read_bytes()
    host.run("sh", "-c", FILL.format("/var/lib/small"))
    for name in ("th", "new"):
        reply = host.deploy(name, TINY)
        assert (reply.status, reply.json["detail"]) == (507, "the disk is full")
    answer = host.get(ip)
    assert (answer.status, "space" in answer.reason) == (502, True)
    # What cannot be written is not forgotten.
    wait_until(lambda: len(host.logs("th")) == 2, "both requests are in the log")
    assert host.path("/var/lib/small/registry.json").read_bytes() == registry
    host.path("/var/lib/small/filler").unlink()
    assert host.get(ip).status == 200
    assert host.function("new", TINY) != ip
    assert set(json.loads(host.path("/var/lib/small/registry.json").read_bytes())) == {"th", "new"}
    assert host.stop() == 0
    assert host.listing("/var/lib/small/.scratch") == []
    host.start(root="/var/lib/small")
    assert [entry["status"] for entry in host.logs("th")] == [0, 502, 0]
