"""Fixtures of a lab: `pytest --lab inventories/local` gives tests a built lab, its hosts, its machines and probes.

def test_boot_server_answers(dhcp_probe):
    assert dhcp_probe.exchange("52:54:00:00:00:99", arch=0).boot_file == "boot/undionly.kpxe"
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labyard.inventory import InventoryError
from labyard.lab import DEFAULT_INVENTORY, Lab, LabHost
from labyard.testing.charger_group import EvseGroup, first_group, wait_for_pairs
from labyard.testing.machines import PoweredMachine
from labyard.testing.netboot import NetbootApi
from labyard.testing.probes import DhcpProbe, IscsiProbe, TftpProbe


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--lab`, or the environment's LABYARD_INVENTORY, or the local inventory."""
    parser.getgroup("labyard").addoption(
        "--lab",
        metavar="INVENTORY",
        default=os.environ.get("LABYARD_INVENTORY", str(DEFAULT_INVENTORY)),
        help="inventory of the built lab to test against (default: %(default)s)",
    )


def load_lab(config: pytest.Config) -> Lab:
    """The lab of this run. pytest.UsageError when the inventory is of no use."""
    try:
        return Lab(Path(config.getoption("--lab")))
    except InventoryError as error:
        raise pytest.UsageError(f"--lab: {error}") from error


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> Lab:
    """The built lab. A host that does not answer fails every test that uses the lab, with the way out."""
    lab = load_lab(request.config)
    for host in lab.hosts():
        result = host.run("true")
        if result.rc != 0:
            pytest.fail(
                f"lab host {host.name} ({host.url}) does not answer: {result.stderr.strip()}\nBuild the lab: make lab"
            )
    return lab


@pytest.fixture(scope="session")
def boot_host(lab: Lab) -> LabHost:
    """The host that serves diskless machines (group `netboot`)."""
    return lab.host("netboot")


@pytest.fixture(scope="session")
def probe_host(lab: Lab) -> LabHost:
    """The host that probes and load come from (group `probes`)."""
    return lab.host("probes")


@pytest.fixture(scope="session")
def dhcp_probe(probe_host: LabHost) -> DhcpProbe:
    """A DHCP client on the lab segment."""
    return DhcpProbe(probe_host, str(probe_host.value("lab_interface")))


@pytest.fixture(scope="session")
def tftp_probe(probe_host: LabHost, boot_host: LabHost) -> TftpProbe:
    """A TFTP client of the boot server."""
    return TftpProbe(probe_host, boot_host.address)


@pytest.fixture(scope="session")
def iscsi_probe(probe_host: LabHost, boot_host: LabHost) -> Callable[[str], IscsiProbe]:
    """Makes an iSCSI client of the boot server that takes the given initiator name."""

    def probe(initiator: str) -> IscsiProbe:
        return IscsiProbe(
            probe_host,
            boot_host.address,
            initiator=initiator,
            user=str(boot_host.value("iscsi_target_chap_user")),
            secret=str(boot_host.value("iscsi_target_chap_secret")),
        )

    return probe


@pytest.fixture(scope="session")
def netboot_api(lab: Lab) -> NetbootApi:
    """The netboot service of the lab, logged in as admin."""
    return NetbootApi(lab)


@pytest.fixture(scope="session")
def evse_group(request: pytest.FixtureRequest) -> EvseGroup:
    """The first charger group of the lab, whole and without cars. It needs no host but those of evse_hosts."""
    lab = load_lab(request.config)
    for host in lab.hosts("evse_hosts"):
        if (result := host.run("true")).rc != 0:
            pytest.fail(f"lab host {host.name} does not answer: {result.stderr.strip()}\nBuild the lab: make lab")
    group = first_group(lab)
    for pair in group.pairs:
        pair.car("disconnect")
    wait_for_pairs(lambda: group.is_whole, f"all chargers of {group.entry['id']} online; set it up: playbooks/evse.yml")
    return group


@pytest.fixture
def machine(lab: Lab) -> Iterator[Callable[[str], PoweredMachine]]:
    """Gives machines of the lab by name, and switches off at the end what the test used."""
    used: list[PoweredMachine] = []

    def take(name: str) -> PoweredMachine:
        if name not in lab.machines:
            raise InventoryError(f"unknown machine {name!r}; lab_machines has: {', '.join(lab.machines)}")
        used.append(PoweredMachine(lab, lab.machines[name]))
        return used[-1]

    yield take
    for taken in used:
        taken.power_off()
