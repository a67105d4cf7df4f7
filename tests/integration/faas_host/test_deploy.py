"""Deploying: every step has an undo, trees are shared, old versions go when nobody uses them (contract 5 and 6)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from labyard.testing.faas import archives
from labyard.testing.faas.archives import Member, docker_archive, layer, symlink, tar
from labyard.testing.faas.host import Host
from labyard.testing.waiting import PATIENCE, wait_until

Image = Callable[..., bytes]
TINY = docker_archive([layer({"file": b"content"})], Cmd=["/nothing"])
OUT = layer(symlink("out", "../../../../../../../../tmp"), Member("out/hostile", b"x"))


def store(host: Host) -> list[str]:
    return host.listing("/var/lib/faasd/images/.store")


class TestRedeploy:
    def test_new_version_at_the_same_address(self, host: Host, image: Image, layers: list[bytes]) -> None:
        host.start()
        ip = host.function("th", image("one"))
        host.function("other", TINY)
        more = docker_archive([*layers, layer({"more": b""})], Cmd=["python3", "/app/handler.py", "two"])
        assert host.function("th", more) == ip
        assert "Body: two" in host.get(ip).text
        assert list(host.addresses().values()).count("lo:faas") == 2
        assert len(store(host)) == 2, "the first version's tree is gone"

    def test_running_request_ends_on_the_old_tree(self, host: Host, image: Image, layers: list[bytes]) -> None:
        host.start()
        ip = host.function("th", image("one"), {"timeout": 300})
        with host.connect(ip) as client:  # its handler waits for the request
            wait_until(lambda: len(host.leftovers()["containers"]) == 1, "it runs")
            more = docker_archive([*layers, layer({"more": b""})], Cmd=["python3", "/app/handler.py", "two"])
            assert host.function("th", more) == ip
            assert len(store(host)) == 2
            assert "Body: two" in host.get(ip).text
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert b"Body: one" in client.makefile("rb").read()
        wait_until(lambda: len(store(host)) == 1, "the old tree is gone")

    def test_no_request_is_lost_meanwhile(self, host: Host, image: Image) -> None:
        host.start()
        ip = host.function("th", image("0"))
        stop = threading.Event()
        seen: list[str] = []

        def ask() -> None:
            while not stop.is_set():
                reply = host.get(ip)
                seen.append(reply.text if reply.status == 200 else f"{reply.status} {reply.reason}")

        client = threading.Thread(target=ask)
        client.start()
        try:
            for number in range(1, 6):
                assert host.function("th", image(str(number))) == ip
        finally:
            stop.set()
            client.join()
        assert seen
        assert all(text.startswith("Hello from FaaS handler!") for text in seen), seen

    def test_removed_function_leaves_nothing(self, host: Host, image: Image) -> None:
        host.start()
        ip = host.function("th", image())
        assert host.api("DELETE", "/api/function/th").json == {"name": "th", "removed": True}
        with pytest.raises(OSError):
            host.connect(ip, timeout=2)
        assert f"{ip}/32" not in host.addresses()
        assert store(host) == []
        assert host.listing("/var/lib/faasd/images") == [".store"]
        assert host.api("DELETE", "/api/function/th").status == 404

    def test_request_ends_before_its_function_goes(self, host: Host, image: Image) -> None:
        host.start(drain_timeout=PATIENCE)
        host.function("other", image())
        ip = host.function("th", image())
        host.settle()
        with host.connect(ip) as client, ThreadPoolExecutor(1) as threads:
            wait_until(lambda: host.api("GET", "/api/stats").json["at_work"] == 1, "it is at work")
            removal = threads.submit(host.api, "DELETE", "/api/function/th")
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert b"200 OK" in client.makefile("rb").read()
            assert removal.result().status == 200
        assert f"{ip}/32" not in host.addresses()

    def test_request_that_does_not_end_holds_no_removal_up(self, host: Host, image: Image) -> None:
        host.start(drain_timeout=0.2)
        ip = host.function("th", image("slow", "60"), {"timeout": 10})
        with host.connect(ip):
            wait_until(lambda: host.api("GET", "/api/stats").json["at_work"] == 1, "it is at work")
            assert host.api("DELETE", "/api/function/th").status == 200
            assert host.api("GET", "/api/list").json == {}
        host.settle()
        assert store(host) == []

    def test_removal_that_cannot_be_written_changes_nothing(self, host: Host, image: Image) -> None:
        host.path("/var/lib/small").mkdir()
        host.run("mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", "/var/lib/small")
        host.start(root="/var/lib/small")
        ip = host.function("th", image())
        host.run("sh", "-c", "dd if=/dev/zero of=/var/lib/small/filler bs=4k 2>/dev/null; true")
        assert host.api("DELETE", "/api/function/th").status == 507
        host.path("/var/lib/small/filler").unlink()
        assert host.get(ip).status == 200
        assert host.api("DELETE", "/api/function/th").status == 200


class TestStore:
    def test_same_content_is_unpacked_once(self, host: Host, image: Image) -> None:
        host.start()
        replies = [host.deploy(f"f{number}", image(str(number))) for number in range(15)]
        assert [reply.json["reused"] for reply in replies] == [False] + [True] * 14
        assert len({reply.json["key"] for reply in replies}) == 1
        assert len({reply.json["ip"] for reply in replies}) == 15
        assert store(host) == [replies[0].json["key"]]
        names = host.run("find", "/var/lib/faasd/images", "-maxdepth", "3", "-name", "*rootfs*").stdout.split()
        assert len(names) == 15
        for number in (0, 7, 14):
            assert f"Body: {number}" in host.get(replies[number].json["ip"]).text

    def test_tree_is_never_written(self, host: Host, image: Image) -> None:
        host.start()
        ip = host.function("th", image())
        tree = host.path("/var/lib/faasd/images/.store") / store(host)[0] / "tree"

        def state() -> list[tuple[str, float]]:
            return sorted((str(path), path.lstat().st_mtime) for path in tree.rglob("*"))

        before = state()
        for _ in range(3):
            assert host.get(ip).status == 200
        assert state() == before
        assert (tree / "control.sock").stat().st_size == 0

    @pytest.mark.parametrize("shape", ["docker_save_old", "docker_flat", "oci_layout"])
    def test_every_shape_answers(self, host: Host, layers: list[bytes], shape: str) -> None:
        host.start()
        archive = getattr(archives, shape)(layers, Cmd=["python3", "/app/handler.py"])
        assert host.get(host.function("th", archive)).status == 200


class TestRefused:
    @pytest.mark.parametrize(
        ("archive", "reason"),
        [
            (b"junk" * 500, "Invalid Docker image: an archive cannot be read"),
            (b"", "Invalid Docker image: an archive cannot be read"),
            (tar({"file": b""}), "Invalid Docker image: manifest.json not found"),
            (docker_archive([OUT]), "Invalid Docker image: 'out': the link '../../"),
            (docker_archive([layer({"../out": b""})]), "Invalid Docker image: '../out' leads out of the image"),
            (docker_archive([layer({"a": b""})], User="nobody-here"), "Invalid Docker image: user 'nobody-here'"),
            (docker_archive([layer({"proc": b""})]), "Invalid Docker image: /proc is not a directory"),
        ],
    )
    def test_bad_archive_changes_nothing(self, host: Host, image: Image, archive: bytes, reason: str) -> None:
        host.start()
        ip = host.function("th", image())
        trees, addresses = store(host), host.addresses()
        registry = host.path("/var/lib/faasd/registry.json").read_bytes()
        for name in ("th", "new"):
            reply = host.deploy(name, archive)
            assert reply.status == 400
            assert reply.json["detail"].startswith(reason)
            assert reply.reason.startswith(reason)
        assert host.path("/var/lib/faasd/registry.json").read_bytes() == registry
        assert (store(host), host.addresses()) == (trees, addresses)
        assert host.listing("/var/lib/faasd/images") == [".store", "th"]
        assert host.listing("/tmp") == []
        host.settle()
        assert host.get(ip).status == 200

    def test_name(self, host: Host) -> None:
        host.start()
        for name in ("../escape", "a/b", ".hidden", "x" * 64, "1.2.3.4", "a-10.0.0.5-b", "white space", "é"):
            reply = host.api("POST", "/api/new", TINY, {"X-Image-Name": name.encode().decode("latin-1")})
            assert reply.status == 400, name
        there = {".lock", ".scratch", "bundles", "images", "registry.json", "requests"}
        assert set(host.listing("/var/lib/faasd")) == there
        assert host.api("GET", "/api/list").json == {}

    def test_bounds(self, host: Host) -> None:
        host.start(max_upload="1M", max_unpacked="2M", max_entries=100)
        big = docker_archive([layer({"big": b"x" * (1 << 20)})])
        assert host.deploy("big", big).status == 413
        bomb = archives.oci_layout([layer({"zeros": bytes(3 << 20)})])
        assert host.deploy("bomb", bomb).json["detail"] == "Invalid Docker image: it unpacks to more than 2097152 bytes"
        many = docker_archive([layer({f"{number}": b"" for number in range(200)})])
        assert host.deploy("many", many).json["detail"] == "Invalid Docker image: it has more than 100 entries"
        assert host.deploy("fine", TINY).status == 200
        host.settle()

    def test_full_disk(self, host: Host) -> None:
        host.path("/var/lib/small").mkdir()
        host.run("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", "/var/lib/small")
        host.start(root="/var/lib/small")
        assert host.deploy("fits", TINY).status == 200
        reply = host.deploy("does-not", archives.oci_layout([layer({"zeros": bytes(6 << 20)})]))
        assert (reply.status, reply.json["detail"]) == (507, "the disk is full")
        assert host.deploy("too-long", docker_archive([layer({"f": bytes(6 << 20)})])).status == 507
        assert set(host.api("GET", "/api/list").json) == {"fits"}
        assert host.listing("/var/lib/small/.scratch") == []
        assert host.deploy("fits-too", TINY).status == 200

    def test_limits(self, host: Host) -> None:
        host.start()
        for limits, word in (
            ({"memory": "lots"}, "memory"),
            ({"cpu": -1}, "cpu"),
            ({"pids": 1.5}, "pids"),
            ({"colour": 1}, "colour"),
            ({"timeout": True}, "timeout"),
        ):
            reply = host.deploy("th", TINY, limits)
            assert reply.status == 400
            assert word in reply.json["detail"]
        assert host.deploy("th", TINY, {"memory": "64M", "cpu": 0.5}).status == 200
        limits = host.api("GET", "/api/function/th").json["limits"]
        assert (limits["memory"], limits["cpu"], limits["pids"]) == (64 << 20, 0.5, 64)

    def test_same_name_in_order(self, host: Host, image: Image) -> None:
        host.start()
        with ThreadPoolExecutor(4) as threads:
            replies = list(threads.map(lambda number: host.deploy("th", image(str(number))), range(4)))
        assert {reply.status for reply in replies} == {200}
        assert {reply.json["ip"] for reply in replies} == {"10.0.0.10"}
        assert len(store(host)) == 1

    def test_answers_at_once(self, host: Host, image: Image) -> None:
        host.start()
        ip = host.function("th", image())
        host.connect(ip).close()  # refused where nobody listens yet
