"""Start, sweep, kill -9 and restart, stop, the registry's file, the addresses (contract 2, 7 and 11)."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from labyard.testing.faas.archives import docker_archive, layer
from labyard.testing.faas.host import Host, Reply
from labyard.testing.waiting import PATIENCE, wait_until

Image = Callable[..., bytes]
TINY = docker_archive([layer({"file": b"content"})], Cmd=["/nothing"])


class TestStart:
    def test_folders_and_files(self, host: Host) -> None:
        host.start()
        root = host.path("/var/lib/faasd")
        assert {"images", "bundles", "registry.json"} <= set(host.listing("/var/lib/faasd"))
        assert (root / "images").stat().st_mode & 0o777 == 0o700
        assert json.loads((root / "registry.json").read_text()) == {}
        wait_until(lambda: "[server] FaaS server ready\n" in host.log(), "it is said to be ready")

    def test_systemd_is_told(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.bind(str(host.path("/run/notify")))  #
            systemd.settimeout(PATIENCE)
            host.start()
            assert systemd.recv(100) == b"READY=1"
            host.stop()
            assert systemd.recv(100) == b"STOPPING=1"

    def test_second_instance_is_refused(self, host: Host) -> None:
        host.start()
        done = host.run(sys.executable, "-m", "labyard.faas", check=False)
        assert (done.returncode, done.stdout) == (1, "ERROR: another faasd uses /var/lib/faasd\n")

    def test_runtime_that_is_not_there(self, host: Host) -> None:
        host.launch(runtime="/nonexistent/runc")
        assert host.daemon is not None
        assert host.daemon.wait(timeout=PATIENCE) == 1
        assert host.log() == "ERROR: the runtime /nonexistent/runc is not installed\n"

    def test_runtime_that_cannot(self, host: Host) -> None:
        """Its own words are passed on."""
        fake = host.path("/run/runc")
        fake.write_text('#!/bin/sh\necho "time=now level=error msg=\\"no namespaces for you\\"" >&2\nexit 1\n')
        fake.chmod(0o755)
        host.launch(runtime="/run/runc")
        assert host.daemon is not None
        assert host.daemon.wait(timeout=PATIENCE) == 1
        assert "ERROR: runc cannot run a container here: no namespaces for you\n" in host.log()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_stopped_while_it_starts(self, host: Host, number: int) -> None:
        """As soon as it has its lock a signal is an orderly stop."""
        host.start()
        host.function("th", TINY)
        host.stop()
        for _ in range(5):
            host.path("/var/lib/faasd/.lock").unlink()
            host.launch()
            wait_until(lambda: bool(host.path("/var/lib/faasd/.lock").exists()), "it has its lock")
            assert host.stop(number) == 0
            assert not any(host.leftovers().values())
            assert not [ip for ip in host.addresses() if ip.startswith("10.0.0.")]

    def test_log_that_nobody_reads_stops_nothing(self, host: Host) -> None:
        pipe = host.path("/run/log")
        host.run("mkfifo", "/run/log")
        reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, 8192)
        host.start(program=("sh", "-c", f"exec {sys.executable} -m labyard.faas >/run/log"))
        ip = host.function("th", TINY)
        for _ in range(30):
            assert host.get(ip).status == 502
        assert host.stop() == 0
        assert b"FaaS server ready" in os.read(reading, 1 << 16)
        os.close(reading)

    def test_bad_setting(self, host: Host) -> None:
        host.launch(pool="10.0.0.10")
        assert host.daemon is not None
        assert host.daemon.wait(timeout=PATIENCE) == 1
        assert "LABYARD_FAAS_POOL '10.0.0.10'" in host.log()

    def test_port_of_the_api_is_taken(self, host: Host) -> None:
        host.start()
        host.launch(root="/var/lib/other")
        assert host.daemon is not None
        assert host.daemon.wait(timeout=PATIENCE) == 1
        assert "ERROR: cannot listen on 127.0.0.1:8080" in host.log()


class TestRegistry:
    def test_core_keys_are_enough(self, host: Host, image: Image) -> None:
        """An older daemon's entry with its unpacked directory: no key, no environment."""
        host.start()
        host.function("th", image())
        host.stop()
        root = host.path("/var/lib/faasd")
        tree = next((root / "images/.store").iterdir()) / "tree"
        (root / "images/th/rootfs").unlink()
        tree.rename(root / "images/th/rootfs")
        entry = {"ip": "10.0.0.33", "rootfs": "/var/lib/faasd/images/th/rootfs", "cmd": ["python3", "/app/handler.py"]}
        (root / "registry.json").write_text(json.dumps({"th": entry}))
        host.start()
        assert host.get("10.0.0.33").status == 200
        # Deployed again it keeps its address, and becomes one of ours.
        reply = host.deploy("th", image("new"))
        assert reply.json["ip"] == "10.0.0.33"
        assert "Body: new" in host.get("10.0.0.33").text
        assert (root / "images/th/rootfs").is_symlink()

    def test_shape(self, host: Host) -> None:
        host.start()
        host.function("th", TINY)
        registry = json.loads(host.path("/var/lib/faasd/registry.json").read_text())
        core = {"ip": "10.0.0.10", "rootfs": "/var/lib/faasd/images/th/rootfs", "cmd": ["/nothing"]}
        assert list(registry["th"])[:3] == ["ip", "rootfs", "cmd"]
        assert core.items() <= registry["th"].items()
        assert set(registry["th"]) - set(core) == {"env", "workdir", "user", "key", "limits", "created_at"}
        assert host.api("GET", "/api/list").json == registry

    def test_removed_file_is_harmless(self, host: Host) -> None:
        host.start()
        host.function("th", TINY)
        assert host.stop() == 0
        host.path("/var/lib/faasd/registry.json").unlink()
        host.start()
        assert host.api("GET", "/api/list").json == {}
        assert host.function("th", TINY) == "10.0.0.10"

    def test_unreadable_file_is_kept(self, host: Host) -> None:
        host.start()
        host.function("th", TINY)
        host.stop()
        root = host.path("/var/lib/faasd")
        whole = (root / "registry.json").read_text()
        (root / "registry.json").write_text(whole[:-20])
        host.start()
        assert host.api("GET", "/api/list").json == {}
        kept = [name for name in host.listing("/var/lib/faasd") if name.startswith("registry.json.bad-")]
        assert len(kept) == 1
        # Mended and put back, it has its functions' trees still.
        host.stop()
        (root / "registry.json").write_text(whole)
        host.start()
        assert host.path("/var/lib/faasd/images/th/rootfs/file").read_bytes() == b"content"

    def test_read_again_on_sighup(self, host: Host) -> None:
        host.start()
        host.function("one", TINY)
        host.function("two", TINY)
        path = host.path("/var/lib/faasd/registry.json")
        registry = json.loads(path.read_text())
        registry["three"] = {**registry.pop("two"), "ip": "10.0.0.77"}
        path.write_text(json.dumps(registry))
        assert host.daemon is not None
        host.daemon.send_signal(signal.SIGHUP)
        wait_until(lambda: "Registry read again" in host.log(), "read again")
        assert {ip for ip in host.addresses() if ip.startswith("10.")} == {"10.0.0.10/32", "10.0.0.77/32"}
        assert host.get("10.0.0.77").status == 502
        assert set(host.api("GET", "/api/list").json) == {"one", "three"}
        # One that cannot be used changes nothing.
        path.write_text("{")
        host.daemon.send_signal(signal.SIGHUP)
        wait_until(lambda: "could not be read again" in host.log(), "refused")
        assert set(host.api("GET", "/api/list").json) == {"one", "three"}
        assert host.get("10.0.0.77").status == 502

    def test_edited_by_hand_to_an_address_that_is_not_ours(self, host: Host) -> None:
        """Its function cannot answer; the others do, and it comes back when the address is free."""
        host.run("ip", "addr", "add", "10.0.0.50/32", "dev", "lo")
        host.start()
        host.function("one", TINY)
        host.function("two", TINY)
        path = host.path("/var/lib/faasd/registry.json")
        registry = json.loads(path.read_text())
        registry["one"]["ip"] = "10.0.0.50"
        registry["two"]["ip"] = "10.0.0.60"
        path.write_text(json.dumps(registry))
        assert host.daemon is not None
        host.daemon.send_signal(signal.SIGHUP)
        wait_until(lambda: "Registry read again" in host.log(), "read again")
        assert "cannot add 10.0.0.50" in host.log()
        assert host.get("10.0.0.60").status == 502
        assert ("missing", "address", "10.0.0.50") in {
            (issue["kind"], issue["resource"], issue["key"])
            for issue in host.api("GET", "/api/observer").json["issues"]
        }
        assert host.stop() == 0
        assert {ip for ip in host.addresses() if ip.startswith("10.")} == {"10.0.0.50/32"}

    def test_read_again_while_functions_are_deployed(self, host: Host) -> None:
        """Afterwards each tree is held by whom it should be: the last one to go takes it away."""
        host.start()
        assert host.daemon is not None
        with ThreadPoolExecutor(4) as threads:
            work = [threads.submit(host.function, f"f{number % 4}", TINY) for number in range(24)]
            while not all(one.done() for one in work):
                host.daemon.send_signal(signal.SIGHUP)
        for one in work:
            one.result()
        assert host.api("GET", "/api/observer").json == {"issues": []}
        for number in range(4):
            assert len(host.listing("/var/lib/faasd/images/.store")) == 1
            assert host.api("DELETE", f"/api/function/f{number}").status == 200
        assert host.listing("/var/lib/faasd/images/.store") == []

    def test_valid_at_each_read_under_five_deploys_at_once(self, host: Host) -> None:
        host.start()
        path = host.path("/var/lib/faasd/registry.json")
        read_enough, deployed = threading.Event(), set[str]()

        def deploy(name: str) -> str:
            while True:
                ip = host.function(name, TINY)
                deployed.add(name)
                if read_enough.is_set():
                    return ip

        with ThreadPoolExecutor(5) as threads:
            work = [threads.submit(deploy, f"f{number}") for number in range(5)]
            reads = 0
            try:
                while (reads <= 5 or len(deployed) < 5) and not any(one.done() for one in work):
                    json.loads(path.read_text())
                    reads += 1
            finally:
                read_enough.set()
            ips = {one.result() for one in work}
        assert reads > 5
        assert len(ips) == 5
        assert set(json.loads(path.read_text())) == {f"f{number}" for number in range(5)}
        stored = host.listing("/var/lib/faasd/images/.store")
        assert len(stored) == 1


class TestHistory:
    def test_requests_are_kept_across_restarts(self, host: Host, image: Image) -> None:
        host.start()
        ip = host.function("th", image("exit-early", "3"))
        replies: list[Reply] = []
        for _ in range(2):
            replies.append(host.get(ip))
            wait_until(lambda: len(host.logs("th")) == len(replies), "it is there")
        for number in (signal.SIGTERM, signal.SIGKILL):
            host.stop(number)
            host.start()
            replies.append(host.get(ip))
            wait_until(lambda: len(host.logs("th")) == len(replies), "the new one is there, too")
        entries = host.logs("th")[::-1]
        assert [entry["id"] for entry in entries] == [reply.json["request_id"] for reply in replies]
        for entry in entries:
            assert (entry["result"], entry["status"], entry["exit_code"]) == ("exited", 502, 3)
            assert entry["stderr"] == "something is wrong\n"
            assert entry["ms"] > 0
        assert host.faas("logs", "th").stdout.count(b"something is wrong") == 4
        # A new version has the function's history; a function of the same name that comes later has not.
        assert host.function("th", image("exit-early", "4")) == ip
        assert len(host.logs("th")) == 4
        assert host.path("/var/lib/faasd/requests").stat().st_mode & 0o777 == 0o700
        assert host.api("DELETE", "/api/function/th").status == 200
        assert host.listing("/var/lib/faasd/requests") == []
        host.function("th", image())
        assert host.logs("th") == []

    def test_what_is_nobody_s_is_swept(self, host: Host) -> None:
        host.start()
        host.stop()
        host.path("/var/lib/faasd/requests/gone").mkdir()
        host.start()
        assert host.listing("/var/lib/faasd/requests") == []


class TestKilled:
    @pytest.mark.parametrize(("warm", "freeze"), [(0, 0), (1, 0), (1, 1)])
    def test_every_function_is_back_and_nothing_is_left(self, host: Host, image: Image, warm: int, freeze: int) -> None:
        host.start(warm=warm, warm_freeze=freeze)
        ips = {name: host.function(name, image()) for name in ("one", "two")}
        for name in ips:
            wait_until(lambda n=name: host.api("GET", f"/api/function/{n}").json["pool"]["parked"] == warm, "parked")
        with host.connect(ips["one"]), host.connect(ips["two"]):  # handlers wait for the requests
            wait_until(lambda: host.api("GET", "/api/stats").json["at_work"] == 2, "both are at work")
            wait_until(lambda: len(host.leftovers()["containers"]) >= 2, "containers run")
            host.stop(signal.SIGKILL)
        left = host.leftovers()
        assert left["bundles" if not warm else "warm"], "the test is to find something to sweep"
        scratch = host.path("/var/lib/faasd/.scratch/upload")
        scratch.write_text("half")
        host.path("/tmp/faas-00000000-0000-4000-8000-000000000000.sock").touch()
        host.run("ip", "addr", "add", "10.0.0.200/32", "dev", "lo", "label", "lo:faas")
        host.start(warm=0)
        host.settle()
        assert "10.0.0.200/32" not in host.addresses()
        assert host.api("GET", "/api/observer").json == {"issues": []}
        for name, ip in ips.items():
            assert host.api("GET", f"/api/ip/{name}").json["ip"] == ip
            assert host.get(ip).status == 200

    def test_killed_in_the_middle_of_a_container_s_start(self, host: Host, image: Image) -> None:
        host.start()
        ip = host.function("th", image())
        for _ in range(5):
            with ThreadPoolExecutor(4) as threads:
                pending = [threads.submit(self._ask_until_it_is_gone, host, ip) for _ in range(4)]
                wait_until(lambda: bool(host.leftovers()["bundles"]), "one is being started", pause=0.01)
                host.stop(signal.SIGKILL)
                for one in pending:
                    one.result()
            host.start()
            host.settle()
        assert host.get(ip).status == 200

    def test_killed_in_the_middle_of_a_deploy(self, host: Host) -> None:
        """Its link leads to the new version already, and the registry does not."""
        host.start()
        host.function("th", TINY)
        host.function("other", docker_archive([layer({"file": b"new"})]))
        host.stop(signal.SIGKILL)
        link = host.path("/var/lib/faasd/images/th/rootfs")
        before = link.readlink()
        link.unlink()
        link.symlink_to(host.path("/var/lib/faasd/images/other/rootfs").readlink())
        host.start()
        assert link.readlink() == before
        assert host.api("GET", "/api/observer").json == {"issues": []}

    def test_stopped_in_the_middle_of_a_deploy(self, host: Host) -> None:
        host.start()
        with host.connect("127.0.0.1", 8080) as link:
            link.sendall(b"POST /api/new HTTP/1.1\r\nX-Image-Name: th\r\nContent-Length: 1000\r\n\r\nabc")
            host.path("/var/lib/faasd/.scratch/half-unpacked").mkdir()
            assert host.stop() == 0
        assert host.listing("/var/lib/faasd/.scratch") == []
        host.start()
        assert host.api("GET", "/api/list").json == {}

    @staticmethod
    def _ask_until_it_is_gone(host: Host, ip: str) -> None:
        try:
            while True:
                host.get(ip)
        except OSError:
            return
        except Exception as error:
            assert type(error).__module__ == "http.client"


class TestStop:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_addresses_go_and_are_logged(self, host: Host, number: int) -> None:
        host.start()
        for name in ("one", "two"):
            host.function(name, TINY)
        assert host.stop(number) == 0
        assert not [ip for ip in host.addresses() if ip.startswith("10.0.0.")]
        for ip in ("10.0.0.10", "10.0.0.11"):
            assert host.log().count(f"[shutdown] Removed {ip} from loopback interface\n") == 1

    def test_foreign_address_survives(self, host: Host) -> None:
        host.run("ip", "addr", "add", "10.0.0.99/24", "dev", "lo")
        host.start()
        host.function("th", TINY)
        assert host.addresses()["10.0.0.10/32"] == "lo:faas"
        host.stop()
        assert {ip for ip in host.addresses() if ip.startswith("10.")} == {"10.0.0.99/24"}

    def test_addresses_of_an_older_version_go_too(self, host: Host) -> None:
        host.start()
        host.run("ip", "addr", "add", "10.0.0.50/24", "dev", "lo", "label", "lo:faas")
        host.stop()
        assert not [ip for ip in host.addresses() if ip.startswith("10.0.0.")]


class TestAddresses:
    def test_neighbours_are_not_hijacked(self, host: Host) -> None:
        host.start()
        host.function("th", TINY)
        assert "dev lo" not in host.run("ip", "route", "get", "10.0.0.200", check=False).stdout

    def test_used_addresses_are_skipped_and_lowest_free_is_taken(self, host: Host) -> None:
        host.run("ip", "addr", "add", "10.0.0.11/24", "dev", "lo")
        host.start()
        assert [host.function(name, TINY) for name in ("a", "b", "c")] == ["10.0.0.10", "10.0.0.12", "10.0.0.13"]
        assert host.api("DELETE", "/api/function/b").status == 200
        assert host.function("d", TINY) == "10.0.0.12"

    def test_pool_is_exhausted(self, host: Host) -> None:
        host.start(pool="10.0.0.10-10.0.0.12")
        for number in range(3):
            host.function(f"f{number}", TINY)
        reply = host.deploy("one-too-many", TINY)
        assert (reply.status, reply.reason) == (503, "No IPs available")
        assert reply.json["detail"] == "No IPs available"
        assert set(host.api("GET", "/api/list").json) == {"f0", "f1", "f2"}
        assert "one-too-many" not in host.listing("/var/lib/faasd/images")
        host.settle()

    def test_whole_pool(self, host: Host) -> None:
        """245 registered functions come up, the next one is refused, and all addresses go."""
        host.start()
        host.function("f0", TINY)
        host.stop()
        path = host.path("/var/lib/faasd/registry.json")
        entry = json.loads(path.read_text())["f0"]
        path.write_text(json.dumps({f"f{n}": {**entry, "ip": f"10.0.0.{n}"} for n in range(10, 255)}))
        host.start()
        assert host.api("GET", "/health").json["functions"] == 245
        assert host.deploy("more", TINY).reason == "No IPs available"
        assert host.get("10.0.0.254").status == 502
        assert host.stop() == 0
        assert not [ip for ip in host.addresses() if ip.startswith("10.0.0.")]
