"""Control groups of version 2, in a kernel whose controllers nobody else has."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labyard.testing.faas.archives import docker_archive
from labyard.testing.faas.stock import HANDLER, handler_layer, small_python_layer
from labyard.testing.waiting import PATIENCE

ROOT = Path(__file__).parents[3]
ROOT_GROUP = "/sys/fs/cgroup"
AWAIT_NO_GROUP = "until [ -z \"$(find /sys/fs/cgroup -name 'faas-*')\" ]; do sleep 0.1; done"


@pytest.fixture(scope="module")
def guest_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The daemon, and a handler that behaves as its name says."""
    folder = tmp_path_factory.mktemp("single")
    subprocess.run([sys.executable, ROOT / "scripts/faas_single.py", folder], check=True)
    layers = [small_python_layer(), handler_layer(ROOT / "tests/integration/faas/fixtures/test-handler/handler.py")]
    archives = {
        f"/root/{mode}.tar": docker_archive(layers, Cmd=["python3", HANDLER, mode])
        for mode in ("echo", "memory", "fork")
    }
    return {"/root/faasd.py": (folder / "faasd.py").read_bytes(), **archives}


@pytest.fixture
def start(vm: Any, guest_files: dict[str, bytes]) -> Callable[[str, str], Any]:
    """Starts the daemon in a group, with that runtime, and waits until it answers; its process."""
    for path, content in guest_files.items():
        vm.write_file(path, content)

    def run(group: str, runtime: str) -> Any:
        # An emulated guest beside other work takes its time, and this is not about the daemon's.
        settings = {"RUNTIME": runtime, "CONNECT_TIMEOUT": "60", "EXEC_TIMEOUT": "300"}
        vm.run(f"mkdir -p {group}")
        process = vm.spawn(
            f"echo $$ >{group}/cgroup.procs && exec python3 /root/faasd.py",
            env={f"LABYARD_FAAS_{name}": value for name, value in settings.items()},
        )
        vm.run("until curl -fs http://localhost:8080/health; do sleep 0.1; done", timeout=60 * vm.time_scale)
        return process

    return run


@pytest.fixture
def deploy(vm: Any) -> Callable[..., dict[str, Any]]:
    def run(mode: str, **limits: object) -> dict[str, Any]:
        headers = f"-H 'X-Image-Name: {mode}' -H 'X-Faas-Limits: {json.dumps(limits)}'"
        done = vm.run(f"curl -sS {headers} --data-binary @/root/{mode}.tar http://localhost:8080/api/new")
        return dict(json.loads(done.stdout))

    return run


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_limits_and_groups(
    vm: Any, start: Callable[[str, str], Any], deploy: Callable[..., dict[str, Any]], runtime: str
) -> None:
    # A group that was given no memory controller: the limit is named, the others hold.
    vm.run(f"echo -memory >{ROOT_GROUP}/cgroup.subtree_control")
    daemon = start(f"{ROOT_GROUP}/poor", runtime)
    health = json.loads(vm.run("curl -s http://localhost:8080/health").stdout)
    assert (health["runtime"], health["not_enforced"]) == (runtime, ["memory"])
    forks = deploy("fork", pids=20)
    assert forks["not_enforced"] == ["memory"]
    assert vm.run(f"curl -s {forks['ip']}").stdout.endswith("Resource temporarily unavailable")
    daemon.kill()
    assert daemon.wait(timeout=PATIENCE) == 0

    # One that was given all of them.
    vm.run(f"mkdir {ROOT_GROUP}/lab")
    for group in (ROOT_GROUP, f"{ROOT_GROUP}/lab"):
        vm.run(f"echo '+memory +cpu +pids' >{group}/cgroup.subtree_control")
    parent = f"{ROOT_GROUP}/lab/faas"
    start(parent, runtime)
    assert "not_enforced" not in json.loads(vm.run("curl -s http://localhost:8080/health").stdout)
    hog = deploy("memory", memory="48M")
    assert "without an answer: out of memory" in vm.run(f"curl -s {hog['ip']}").stdout
    # A client that sends nothing keeps its container.
    echo = deploy("echo", cpu=1.5)
    vm.run(AWAIT_NO_GROUP, timeout=60)
    client = vm.spawn(f"sleep 300 | curl -s telnet://{echo['ip']}:80")
    vm.run("until find /sys/fs/cgroup -name 'faas-*' | grep .; do sleep 0.1; done", timeout=60)
    (group,) = vm.run("find /sys/fs/cgroup -name 'faas-*'").stdout.split()
    assert str(Path(group).parent) == parent
    limits = vm.run(f"cat {group}/cpu.max {group}/memory.max {group}/pids.max").stdout.split()
    assert limits == ["150000", "100000", str(512 << 20), "64"]
    client.kill()
    vm.run(AWAIT_NO_GROUP, timeout=60)
