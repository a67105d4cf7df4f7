"""What is read from consoles, sockets and inventories."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from second_lab import Inventory as SecondInventory

from labyard.inventory import Inventory, InventoryError
from labyard.lab import Lab, LabHost
from labyard.status import _listens
from labyard.testing import Console

ROOT = Path(__file__).parents[2]
SOCKETS = """udp UNCONN 0 0 10.77.0.2:67 0.0.0.0:*
tcp LISTEN 0 511 10.77.0.2%eth1:80 0.0.0.0:*
u_str LISTEN 0 64 /run/libvirt/libvirt-sock 123 * 0
"""


@pytest.mark.parametrize(
    ("address", "listens"),
    [
        ("10.77.0.2:67/udp", True),
        ("10.77.0.2:67/tcp", False),
        ("10.77.0.2:6/udp", False),
        ("/run/libvirt/libvirt-sock", True),
        ("/run/other", False),
    ],
)
def test_listeners_are_found_in_what_ss_prints(address: str, listens: bool) -> None:
    assert _listens(address, SOCKETS) == listens


def test_console_reports_are_read_among_noise() -> None:
    console = Console(
        "[ 0.0] boot\r\nLABYARD userland=up uptime=1.6\r\nnoise LABYARD no=no\nLABYARD done=failed\nLABYARD done=ok\n"
    )
    assert console.reports == {"userland": "up", "uptime": "1.6", "done": "ok"}
    assert console.tail(1) == "LABYARD done=ok"


def test_unknown_group_and_missing_file_name_the_way_out(tmp_path: Path) -> None:
    inventory = Inventory(ROOT / "inventories/local")
    with pytest.raises(InventoryError, match=r"unknown host group 'vm_host'; .* has: .*vm_hosts"):
        inventory.hosts("vm_host")
    with pytest.raises(InventoryError, match="there is no inventory at"):
        Inventory(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({"ansible_connection": "docker", "ansible_host": "labyard-boot1"}, "docker://labyard-boot1"),
        ({"ansible_connection": "local"}, "local://"),
        ({"ansible_host": "192.0.2.1", "ansible_user": "root"}, "ssh://root@192.0.2.1?controlpersist=120"),
        (
            {"ansible_host": "192.0.2.1", "ansible_user": "lab", "ansible_port": 2222},
            "ssh://lab@192.0.2.1:2222?controlpersist=120&sudo=true",
        ),
    ],
)
def test_hosts_are_reached_as_ansible_reaches_them(tmp_path: Path, variables: dict[str, object], url: str) -> None:
    path = tmp_path / "hosts.yml"
    path.write_text(yaml.safe_dump({"all": {"hosts": {"one": variables}}}))
    assert LabHost("one", Inventory(path)).url == url


@pytest.mark.parametrize(
    ("playbook", "dhcp"), [("netboot", "kea"), ("netboot", "isc"), ("vms", "kea"), ("probes", "kea")]
)
def test_inventory_names_the_roles_that_the_playbook_applies(tmp_path: Path, playbook: str, dhcp: str) -> None:
    inventory = SecondInventory.copied_to(tmp_path / "inventory")
    inventory.edit("lab_dhcp: kea", f"lab_dhcp: {dhcp}")
    (play,) = yaml.safe_load((ROOT / f"playbooks/{playbook}.yml").read_text())
    applied = [entry["role"] for entry in play["roles"] if entry.get("when") in (None, f"lab_dhcp == '{dhcp}'")]
    for host in Lab(inventory.folder).hosts(play["hosts"]):
        assert host.roles == applied
