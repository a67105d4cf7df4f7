"""Functions when something goes wrong: only what is concerned is, the rest comes back by itself, nothing is left."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from functions import UNIT, Functions, archive, stock_archive
from second_lab import Inventory

from labyard.lab import Lab
from labyard.testing.faas.archives import Member, directory, docker_archive, hard_link, layer, symlink
from labyard.testing.waiting import wait_until

Apply = Callable[..., subprocess.CompletedProcess[str]]
# A Python for Ansible's modules to run under, which has less than the host.
INTERPRETER = "/opt/labyard-check-python"


@pytest.fixture
def functions(lab: Lab) -> Iterator[Functions]:
    found = Functions(lab.host("faas_hosts"), lab.host("probes"))
    before = set(found.good("GET", "/api/list"))
    try:
        yield found
    finally:
        found.remove(*(set(found.good("GET", "/api/list")) - before))


@pytest.fixture
def apply(lab: Lab, functions: Functions, tmp_path: Path) -> Apply:
    """Apply a role with other variables."""
    inventory = Inventory(lab.inventory.path.parent)

    def run(role: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        playbook = tmp_path / f"{role}.yml"
        playbook.write_text(f"- hosts: {functions.host.name}\n  gather_facts: true\n  roles: [{role}]\n")
        return inventory.run(str(playbook), "--extra-vars", json.dumps(variables))

    return run


def traces(functions: Functions) -> str:
    """What a changed host would not leave as it is."""
    folders = "/etc/labyard /etc/systemd/system /opt/labyard /var/lib/labyard /usr/local/bin"
    return functions.host.check(
        f"systemctl show --property MainPID {UNIT}; cat /var/lib/faasd/registry.json; "
        f"ip -4 -oneline address show dev lo; find {folders} -type f -printf '%p %T@\\n' | sort"
    )


def store(functions: Functions) -> str:
    """Images and what is being made of them; addresses; names."""
    return functions.host.check(
        "find /var/lib/faasd/images -maxdepth 3 -printf '%p %l\\n' | sort; ls -A /var/lib/faasd/.scratch;"
        "cat /var/lib/faasd/registry.json; ip -4 -oneline address show dev lo"
    )


class TestTheDaemonIsKilled:
    def test_in_the_middle_of_a_request(self, functions: Functions) -> None:
        """Every function is back at its address, and nothing of what ran is left."""
        slow = functions.deploy("fault-slow", archive("slow", "60"), warm=0)
        stock = functions.deploy("fault-stock", stock_archive(), warm=1)
        parked = functions.parked("fault-stock")
        with ThreadPoolExecutor(1) as pool:
            request = pool.submit(functions.probe.run, f"curl --silent --max-time 120 http://{slow}/")
            wait_until(lambda: functions.containers() - parked, "the request in work")
            doomed = functions.containers()
            killed = functions.process()
            functions.host.check(f"systemctl kill --kill-whom main --signal KILL {UNIT}")
            assert request.result(timeout=120).rc != 0, "its client must not wait for ever"
        wait_until(lambda: functions.process() not in (0, killed) and functions.is_up(), "another daemon")
        assert functions.good("GET", "/api/ip/fault-slow")["ip"] == slow
        assert functions.addresses() >= {slow, stock}
        assert functions.answers(stock)
        wait_until(lambda: not functions.leftovers(doomed), "nothing of it")
        assert functions.host.check("find /tmp -name 'faas-*.sock'") == ""
        assert functions.good("POST", "/api/observer/check")["issues"] == []

    def test_the_runtime_is_not_there(self, functions: Functions, apply: Apply) -> None:
        """The daemon and the role say so; when it is back, so is everything else."""
        stock = functions.deploy("fault-stock", stock_archive())
        program = functions.host.check("command -v runc").strip()
        functions.host.check(f"mv {program} {program}.away")
        try:
            functions.host.run(f"systemctl restart {UNIT}")
            said = "ERROR: the runtime runc is not installed"
            journal = f"journalctl --no-pager --unit {UNIT} --lines 20"
            wait_until(lambda: said in functions.host.check(journal), "the daemon says so")
            assert functions.addresses() == set()
            done = apply("runc_host")
            assert done.returncode != 0
            assert "cannot run containers with runc: runc is not installed" in done.stdout, done.stdout[-3000:]
        finally:
            functions.host.check(f"mv {program}.away {program}")
        wait_until(functions.is_up, "the daemon")
        assert functions.answers(stock)


def hostile() -> dict[str, bytes]:
    """Archives by what is wrong with them; the daemon's own tests have many more."""
    command = {"Cmd": ["/bin/true"]}
    return {
        "traversal": docker_archive([layer({"../../../../etc/labyard/evil": b"x"})], **command),
        "link": docker_archive([layer(symlink("out", "/etc"), {"out/../../../etc/labyard/evil": b"x"})], **command),
        "hard-link": docker_archive([layer(hard_link("shadow", "/etc/shadow"))], **command),
        "whiteout": docker_archive([layer(directory("a"), {"a/.wh...": b""})], **command),
        "junk": b"this is no archive",
        "command": docker_archive([layer(Member("a", b"x"))], Cmd="a text"),
    }


def test_hostile_archives_are_refused_and_leave_nothing(functions: Functions) -> None:
    """New names and names that are in use, whose function goes on answering."""
    stock = functions.deploy("fault-stock", stock_archive())
    before = store(functions)
    for what, image in hostile().items():
        for name in ("fault-hostile", "fault-stock"):
            headers = {"X-Image-Name": name}
            status, answer = functions.ask("POST", "/api/new", body=image, headers=headers)
            assert status == 400 and "Invalid Docker image" in answer["detail"], f"{what}: {status} {answer}"
        assert store(functions) == before, what
        assert not functions.host.shell.file("/etc/labyard/evil").exists, what
    assert functions.answers(stock)


def test_one_name_deployed_by_two_at_once_is_one_function(functions: Functions) -> None:
    with ThreadPoolExecutor(2) as pool:
        deployed = [pool.submit(functions.deploy, "fault-same", image) for image in (stock_archive(), archive("facts"))]
        (ip,) = {one.result() for one in deployed}
    assert functions.good("GET", "/api/list")["fault-same"]["ip"] == ip
    assert functions.deploy("fault-same", stock_archive()) == ip
    assert functions.answers(ip)


def test_a_wrong_inventory_is_refused(inventory: Inventory) -> None:
    """All mistakes at once, each with host and field."""
    inventory.edit("10.0.0.10-10.0.0.254", "10.0.1.10-10.0.1.20", "group_vars/all/faas.yml")
    functions = "[{name: ../up, state: absent}, {name: a, image: /no.tar, limits: {pids: none}}]"
    inventory.edit(
        "faas_functions: []", f"faas_functions: {functions}\nfaas_memory: lots", "group_vars/faas_hosts/faas.yml"
    )
    done = inventory.run("playbooks/preflight.yml")
    assert done.returncode != 0
    for said in (
        "Nothing was touched",
        "faas_pool of faas1: 10.0.1.10-10.0.1.20 is not in faas_network 10.0.0.0/24",
        "faas_memory of faas1: 'lots' is not a size such as 256M",
        "faas_functions[../up] of faas1.name: '../up' is no name",
        "faas_functions[a] of faas1.image: there is no file '/no.tar' on the control machine",
        "faas_functions[a] of faas1.limits.pids: 'none' is not a number",
    ):
        assert said in done.stdout, done.stdout[-3000:]


class TestTheRoleRefuses:
    @pytest.mark.parametrize(
        ("variables", "said"),
        [
            ({"faas_token": "short"}, "faas_token must have at least 16 characters"),
            (
                {"faas_functions": [{"name": "a", "image": "/nowhere/a.tar"}]},
                "faas_functions[a].image: there is no file",
            ),
        ],
        ids=["token", "image"],
    )
    def test_values_that_are_wrong(
        self, functions: Functions, apply: Apply, variables: dict[str, Any], said: str
    ) -> None:
        before = traces(functions)
        done = apply("faas", **variables)
        assert done.returncode != 0 and said in done.stdout, done.stdout[-3000:]
        assert traces(functions) == before

    def test_a_port_that_somebody_has(self, functions: Functions, apply: Apply) -> None:
        port = functions.port + 1
        functions.host.check(f"systemd-run --unit stranger --property Type=exec python3 -m http.server {port}")
        try:
            wait_until(lambda: functions.host.check(f"ss -H -lnt sport = :{port}"), "the stranger")
            before = traces(functions)
            done = apply("faas", faas_api_port=port)
            assert done.returncode != 0
            assert f"port {port} is taken by python3 stranger.service" in done.stdout, done.stdout[-3000:]
            assert traces(functions) == before
        finally:
            functions.host.check("systemctl stop stranger")

    @pytest.mark.parametrize(
        ("less", "said"),
        [
            ("setpriv --bounding-set -sys_admin python3", "It lacks the capability CAP_SYS_ADMIN"),
            (
                "unshare --mount sh -c 'mount -t tmpfs none /sys/fs/cgroup; exec python3 \"$@\"' sh",
                "It lacks a cgroup mount",
            ),
        ],
        ids=["capability", "cgroup"],
    )
    def test_a_host_that_cannot_run_containers(self, functions: Functions, apply: Apply, less: str, said: str) -> None:
        """As if this host's own engine had given it less: the check runs so."""
        before = traces(functions)
        program = f'#!/bin/sh\nexec {less} "$@"\n'
        functions.host.check(f"printf %%s %s >{INTERPRETER}; chmod 755 {INTERPRETER}", program)
        try:
            done = apply("runc_host", ansible_python_interpreter=INTERPRETER)
        finally:
            functions.host.check(f"rm {INTERPRETER}")
        assert done.returncode != 0
        assert "cannot run containers with runc" in done.stdout and said in done.stdout, done.stdout[-3000:]
        assert traces(functions) == before
