"""More pairs on a host, fewer, and none that runs: the others do not notice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from second_lab import Inventory

from labyard.lab import Lab, LabHost

Apply = Callable[..., str]


@pytest.fixture(scope="module")
def charger_host(lab: Lab) -> LabHost:
    """The one with the fewest pairs."""
    return lab.hosts("evse_hosts")[-1]


@pytest.fixture(scope="module")
def apply(lab: Lab, charger_host: LabHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apply]:
    """Apply the role with other variables; at the end as the inventory says. Returns what Ansible printed."""
    inventory = Inventory(lab.inventory.path.parent)
    playbook = tmp_path_factory.mktemp("evse") / "pairs.yml"
    playbook.write_text(f"- hosts: {charger_host.name}\n  gather_facts: true\n  roles: [evse_pair]\n")

    def run(*options: str, **variables: Any) -> str:
        done = inventory.run(str(playbook), *options, "--extra-vars", json.dumps(variables))
        assert done.returncode == 0, done.stdout[-3000:]
        return done.stdout

    try:
        yield run
    finally:
        run()


def processes(host: LabHost, number: int) -> list[str]:
    units = " ".join(f"labyard-evse-{part}@{number}" for part in ("emulator", "bridge", "gateway"))
    return host.check(f"systemctl show --property MainPID --value {units}").split()


def test_a_pair_more_and_a_pair_less(charger_host: LabHost, apply: Apply) -> None:
    count = charger_host.value("evse_pair_count")
    before = [processes(charger_host, number) for number in range(count)]
    storage = charger_host.shell.file(f"/var/lib/labyard/evse/pair-{count}")

    said = apply("--check", evse_pair_count=count + 1)
    assert "changed=0" not in said
    assert processes(charger_host, count) == ["0", "0", "0"] and not storage.exists

    apply(evse_pair_count=count + 1)
    assert "0" not in processes(charger_host, count) and storage.exists

    apply(evse_pair_count=count)
    assert processes(charger_host, count) == ["0", "0", "0"] and not storage.exists
    assert not charger_host.shell.file(f"/tmp/rapi_pty_{count}").exists
    assert not charger_host.shell.file(f"/etc/labyard/services.d/evse_pair_{count}.json").exists
    assert [processes(charger_host, number) for number in range(count)] == before, "the other pairs were restarted"
    assert "changed=0" in apply(evse_pair_count=count)


def test_pairs_can_be_stopped(charger_host: LabHost, apply: Apply) -> None:
    count = charger_host.value("evse_pair_count")
    apply(evse_pair_run="stopped")
    assert {process for number in range(count) for process in processes(charger_host, number)} == {"0"}
    enabled = charger_host.run("systemctl is-enabled labyard-evse-pair@0.target")
    assert enabled.stdout.strip() == "disabled"
