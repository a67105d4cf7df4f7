"""A wrong inventory or machine: refused with the field and the way out, and nothing is touched."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
from second_lab import ROOT, Inventory

Snapshot = Callable[[], dict[str, set[str]]]


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("group_vars/all/lab.yml", 'mac: "52:54:00:77:00:01"', 'mac: "52:54:00:77:00"', "lab_machines[m1].mac"),
        (
            "group_vars/all/lab.yml",
            "52:54:00:77:00:02",
            "52:54:00:77:00:01",
            "MAC address 52:54:00:77:00:01 is used twice",
        ),
        ("group_vars/all/lab.yml", "address: 10.77.1.2", "address: 10.77.0.2", "address 10.77.0.2 is used twice"),
        ("group_vars/all/lab.yml", "address: 10.77.1.2", "address: 10.99.1.2", "lab_machines[m2].address: 10.99.1.2"),
        ("group_vars/all/lab.yml", "iqn.2025-01.lab.labyard", "iqn.2025-01.lab_x", "lab_machines[m1].iqn"),
        ("group_vars/all/lab.yml", "firmware: uefi", "firmware: efi", "lab_machines[m2].firmware: 'efi' is neither"),
        ("group_vars/all/evse.yml", "evse2/1]", "evse2/7]", "evse_groups[garage].members: there is no pair evse2/7"),
        (
            "group_vars/all/evse.yml",
            "evse2/1]",
            "evse1/0]",
            "evse_groups[garage].members: evse1/0 is in evse_groups[gara",
        ),
        (
            "group_vars/all/evse.yml",
            "budget_amps: 40",
            "budget_amps: 35",
            "evse_groups[garage].budget_amps: 35 A are too",
        ),
        ("hosts.yml", "    probes:\n      hosts:", "    probez:\n      hosts:", "group probez: no playbook knows it"),
        ("hosts.yml", "lab_address: 10.77.0.4", "lab_address: 10.77.0.3", "address 10.77.0.3 is used twice"),
    ],
)
def test_a_wrong_inventory_is_refused_before_anything_is_touched(
    inventory: Inventory, take_snapshot: Snapshot, file: str, old: str, new: str, said: str
) -> None:
    inventory.edit(old, new, file)
    before = take_snapshot()
    done = inventory.run("site.yml")
    assert done.returncode != 0 and said in done.stdout, done.stdout[-3000:]
    assert "Nothing was touched" in done.stdout
    assert "PLAY [Have an engine" not in done.stdout, "the run went on"
    assert take_snapshot() == before


def test_all_mistakes_are_reported_at_once(inventory: Inventory) -> None:
    inventory.edit("firmware: uefi", "firmware: efi")
    inventory.edit("address: 10.77.1.3", "address: 10.77.1.4")
    done = inventory.run("playbooks/preflight.yml")
    assert "firmware: 'efi'" in done.stdout and "address 10.77.1.4 is used twice" in done.stdout


def test_a_subnet_in_use_is_refused(inventory: Inventory) -> None:
    subprocess.run(["ip", "link", "add", "labyard-busy", "type", "bridge"], check=True)
    try:
        subprocess.run(["ip", "address", "add", "10.81.0.1/24", "dev", "labyard-busy"], check=True)
        inventory.edit("10.76.0.0/24", "10.81.0.0/24")
        done = inventory.run("site.yml")
    finally:
        subprocess.run(["ip", "link", "delete", "labyard-busy"], check=True)
    assert done.returncode != 0
    assert "10.81.0.0/24 is in use on this machine (10.81.0.0/24 on labyard-busy)" in done.stdout, done.stdout[-3000:]


def test_too_little_space_is_refused(inventory: Inventory) -> None:
    done = inventory.run("site.yml", "--extra-vars", "preflight_free_gib=1000000")
    assert done.returncode != 0 and "1000000 are needed; make room there" in done.stdout


def test_an_engine_that_does_not_answer_is_named(inventory: Inventory, take_snapshot: Snapshot) -> None:
    before = take_snapshot()
    done = inventory.run(
        "site.yml", "--extra-vars", "lab_engine_wait_seconds=2", DOCKER_HOST="unix:///var/empty/no-engine.sock"
    )
    assert done.returncode != 0 and "The Docker engine does not answer after 2 s" in done.stdout, done.stdout[-3000:]
    assert "DOCKER_HOST" in done.stdout
    assert take_snapshot() == before


def test_without_root_nothing_is_installed() -> None:
    # By standard input, since the checkout may be closed to other users.
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "bash", "-s"],
        input=(ROOT / "scripts/bootstrap").read_text(),
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "building a lab needs root" in done.stderr and "sudo make lab" in done.stderr
