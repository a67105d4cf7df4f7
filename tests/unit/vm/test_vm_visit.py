"""The four methods on a host that is no VM: here, on this machine itself."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path

import pytest

from labyard.testing.vm.errors import VMError
from labyard.testing.vm.visit import argv, visit
from labyard.testing.waiting import wait_until


class Host:
    """A host of the lab, as far as it is asked."""

    name = "host"

    def __init__(self, url: str) -> None:
        self.url = url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("local://", ["cat", "a b"]),
        ("docker://labyard-h1", ["docker", "exec", "--interactive", "labyard-h1", "cat", "a b"]),
        ("ssh://10.0.0.1?controlpersist=120", ["ssh", "-o", "BatchMode=yes", "10.0.0.1", "cat 'a b'"]),
        (
            "ssh://me@10.0.0.1:2222?controlpersist=120&ssh_identity_file=%2Fkeys%2Fk&sudo=true",
            [*shlex.split("ssh -o BatchMode=yes -i /keys/k -p 2222 me@10.0.0.1"), "sudo -n cat 'a b'"],
        ),
    ],
)
def test_how_a_host_is_reached(url, expected):
    assert argv(Host(url), ["cat", "a b"]) == expected


def test_the_four_methods(tmp_path):
    with visit(Host("local://")) as machine:
        assert machine.run("echo $((6*7))", cwd="/").stdout == "42\n"
        machine.write_file(f"{tmp_path}/file", bytes(3 << 20))
        assert machine.read_file(f"{tmp_path}/file") == bytes(3 << 20)
        process = machine.spawn("exec sleep 300", cwd="/")
        process.kill()
        assert process.wait() == 128 + signal.SIGTERM
        left = machine.spawn("sleep 300", cwd="/").pid
    wait_until(lambda: not is_running(left), "what it left running is gone")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_host_that_cannot_be_reached(monkeypatch, tmp_path):
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho no such container >&2; exit 1\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(VMError, match=r"no agent on host \(docker://gone\): no such container"),
        visit(Host("docker://gone")),
    ):
        pass
