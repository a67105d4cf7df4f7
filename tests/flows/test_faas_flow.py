"""A function's life in the lab: deployed, called over the route, deployed anew, kept over a restart, removed."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from functions import UNIT, Functions, archive, stock_archive
from second_lab import Inventory

from labyard.lab import Lab
from labyard.testing.waiting import wait_until

NAME = "flow"
DECLARED = "flow-declared"
Apply = Callable[..., str]


@pytest.fixture(scope="module")
def functions(lab: Lab) -> Iterator[Functions]:
    found = Functions(lab.host("faas_hosts"), lab.host("probes"))
    try:
        yield found
    finally:
        found.remove(NAME, DECLARED)


@pytest.fixture(scope="module")
def apply(lab: Lab, functions: Functions, tmp_path_factory: pytest.TempPathFactory) -> Apply:
    """Have a function declared, as the role faas does it. Returns what Ansible printed."""
    inventory = Inventory(lab.inventory.path.parent)
    playbook = tmp_path_factory.mktemp("faas") / "functions.yml"
    task = {"ansible.builtin.include_role": {"name": "faas", "tasks_from": "deploy"}}
    playbook.write_text(json.dumps([{"hosts": functions.host.name, "gather_facts": False, "tasks": [task]}]))

    def run(*options: str, **function: Any) -> str:
        variables = {"faas_functions": [{"name": DECLARED, **function}]}
        done = inventory.run(str(playbook), *options, "--extra-vars", json.dumps(variables))
        assert done.returncode == 0, done.stdout[-3000:]
        return done.stdout

    return run


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "stock.tar"
    path.write_bytes(stock_archive())
    return path


def uploads(functions: Functions) -> int:
    """How often anything was deployed on the host so far."""
    lines = functions.host.check("cat /var/lib/faasd/audit.jsonl").splitlines()
    return sum(json.loads(line)["action"] == "new" for line in lines)


def last_result(functions: Functions, name: str) -> str:
    wait_until(lambda: functions.good("GET", f"/api/function/{name}/logs"), "the request in the log")
    return str(functions.good("GET", f"/api/function/{name}/logs")[0]["result"])


def test_from_the_first_deploy_to_the_removal(functions: Functions) -> None:
    ip = functions.deploy(NAME, stock_archive())
    first, _, last = functions.host.value("faas_pool").partition("-")
    assert ipaddress.ip_address(first) <= ipaddress.ip_address(ip) <= ipaddress.ip_address(last)
    assert functions.call(ip, "/test/path") == "Hello from FaaS handler!\nRequest: GET /test/path HTTP/1.1\n"
    assert last_result(functions, NAME) == "ok"

    # The client that the handler sees is the probe itself, and nobody on the way.
    assert functions.deploy(NAME, archive("facts"), tmp="1M") == ip
    seen = json.loads(functions.call(ip))
    assert seen["peer"][0] == functions.probe.address
    assert seen["name"] == [ip, functions.host.value("faas_function_port")]
    assert seen["interfaces"] == ["lo"]

    functions.host.check(f"systemctl restart {UNIT}")
    wait_until(functions.is_up, "the API")
    assert functions.good("GET", f"/api/ip/{NAME}")["ip"] == ip
    assert json.loads(functions.call(ip))["peer"][0] == functions.probe.address

    functions.remove(NAME)
    assert ip not in functions.addresses()
    assert NAME not in functions.good("GET", "/api/list")
    with pytest.raises(RuntimeError):
        functions.call(ip, seconds=5)


def test_functions_of_the_inventory(functions: Functions, apply: Apply, image: Path) -> None:
    """Said first, then done, and never twice; what is unchanged is not uploaded."""
    before = uploads(functions)
    said = apply("--check", "--diff", image=str(image))
    assert "changed=0" not in said
    assert DECLARED not in functions.good("GET", "/api/list") and uploads(functions) == before

    apply(image=str(image))
    ip = functions.good("GET", f"/api/ip/{DECLARED}")["ip"]
    assert functions.answers(ip)
    assert "changed=0" in apply(image=str(image))
    assert uploads(functions) == before + 1

    image.write_bytes(archive("facts"))
    said = apply("--diff", image=str(image), limits={"memory": "64M"})
    assert str(64 << 20) in said and uploads(functions) == before + 2
    assert functions.good("GET", f"/api/function/{DECLARED}")["limits"]["memory"] == 64 << 20
    assert json.loads(functions.call(ip))["peer"][0] == functions.probe.address, "at the address that it had"

    apply(state="absent")
    assert DECLARED not in functions.good("GET", "/api/list")
    assert not functions.host.shell.file(f"/var/lib/labyard/faas/{DECLARED}.tar").exists
