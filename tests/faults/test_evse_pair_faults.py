"""What the role evse_pair refuses: said with the field and the way out, before anything is changed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from second_lab import Inventory

from labyard.lab import Lab, LabHost
from labyard.testing.waiting import wait_until

Apply = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def charger_host(lab: Lab) -> LabHost:
    """The one with the fewest pairs."""
    return lab.hosts("evse_hosts")[-1]


@pytest.fixture
def apply(lab: Lab, charger_host: LabHost, tmp_path: Path) -> Apply:
    """Apply the role with other variables, and an environment."""
    inventory = Inventory(lab.inventory.path.parent)
    playbook = tmp_path / "pairs.yml"
    playbook.write_text(f"- hosts: {charger_host.name}\n  gather_facts: true\n  roles: [evse_pair]\n")

    def run(variables: dict[str, Any], **environment: str) -> subprocess.CompletedProcess[str]:
        return inventory.run(str(playbook), "--extra-vars", json.dumps(variables), **environment)

    return run


def traces(host: LabHost) -> str:
    """What a changed pair would not leave as it is: its processes, files and settings."""
    return host.check(
        "systemctl list-units --all --plain --no-legend 'labyard-evse-*';"
        "systemctl show --property MainPID 'labyard-evse-*';"
        "find /etc/labyard /etc/systemd/system /opt/labyard -type f -printf '%p %T@\\n' | sort"
    )


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"evse_pair_count": 24}, "With these bases 23 pairs fit"),
        ({"evse_pair_count": 3, "evse_pair_rapi_base_port": 8078}, "3 pairs do not fit"),
        ({"evse_pair_time_scale": 500}, "evse_pair_time_scale is 500"),
        ({"evse_pair_emulator_impl": "docker"}, "Docker not available on"),
    ],
    ids=str,
)
def test_it_is_named_and_nothing_changes(
    charger_host: LabHost, apply: Apply, variables: dict[str, Any], said: str
) -> None:
    before = traces(charger_host)
    done = apply(variables)
    assert done.returncode != 0 and said in done.stdout, done.stdout[-3000:]
    assert traces(charger_host) == before


def test_a_native_firmware_that_is_not_there(charger_host: LabHost, apply: Apply) -> None:
    before = traces(charger_host)
    done = apply({"evse_pair_gateway_impl": "native"}, NATIVE_BINARY_PATH="./native_program")
    assert done.returncode != 0
    for words in (
        "Binary not found",
        "./native_program on the control machine",
        "NATIVE_BINARY_PATH=",
        "pio run -e native",
    ):
        assert words in done.stdout, done.stdout[-3000:]
    assert traces(charger_host) == before


def test_a_port_that_somebody_has(charger_host: LabHost, apply: Apply) -> None:
    count = charger_host.value("evse_pair_count")
    port = charger_host.value("evse_pair_gateway_base_port") + count
    charger_host.check(f"systemd-run --unit stranger --property Type=exec python3 -m http.server {port}")
    try:
        wait_until(lambda: charger_host.check(f"ss -H -lnt sport = :{port}"), f"somebody has port {port}")
        before = traces(charger_host)
        done = apply({"evse_pair_count": count + 1})
        assert done.returncode != 0
        assert f"port {port} is taken by python3 stranger.service (pid " in done.stdout, done.stdout[-3000:]
        assert "evse_pair_gateway_base_port" in done.stdout
        assert traces(charger_host) == before
    finally:
        charger_host.check("systemctl stop stranger")


def test_a_folder_for_terminals_that_is_closed(charger_host: LabHost, apply: Apply) -> None:
    before = traces(charger_host)
    charger_host.check("chmod 755 /tmp")
    try:
        done = apply({})
    finally:
        charger_host.check("chmod 1777 /tmp")
    assert done.returncode != 0 and "chmod 1777 /tmp" in done.stdout, done.stdout[-3000:]
    assert traces(charger_host) == before
