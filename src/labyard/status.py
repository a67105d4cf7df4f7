"""What is running in a lab, asked of the lab itself: hosts, daemons, addresses, health, machines."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

from rich.console import Console
from rich.table import Table

from labyard.lab import Lab, LabHost
from labyard.testing.machines import PoweredMachine


@dataclass(frozen=True)
class DaemonStatus:
    """A daemon that a role runs. `trouble` is empty when its unit is active and it listens where it should."""

    role: str
    unit: str
    listen: list[str]
    about: str
    trouble: str


@dataclass(frozen=True)
class HostStatus:
    """A lab host. `trouble` is empty when it answers."""

    name: str
    address: str
    trouble: str
    daemons: list[DaemonStatus] = field(default_factory=list)


@dataclass(frozen=True)
class MachineStatus:
    """A diskless machine; `state` is libvirt's, or how far the running machine has come."""

    name: str
    vm_host: str
    mac: str
    address: str
    firmware: str
    state: str


@dataclass(frozen=True)
class LabStatus:
    """The whole lab."""

    inventory: str
    hosts: list[HostStatus]
    machines: list[MachineStatus]

    @property
    def healthy(self) -> bool:
        """Whether every host answers and every daemon is well."""
        return not any(host.trouble or any(daemon.trouble for daemon in host.daemons) for host in self.hosts)


def _listens(address: str, sockets: str) -> bool:
    """Whether `ss` output has a listener for `address:port/protocol`, or a socket's path."""
    endpoint, _, protocol = address.partition("/")
    if not endpoint:  # a path begins with the slash
        return address in sockets.split()
    return any(
        words[0] == protocol and (words[4] == endpoint or words[4].split("%")[0] == endpoint)
        for words in (line.split() for line in sockets.splitlines())
        if len(words) > 4
    )


def host_status(host: LabHost) -> HostStatus:
    """Ask one host for the cards its roles left, and look whether what they say is so."""
    cards = host.run("find /etc/labyard/services.d -name '*.json' -exec cat {} + 2>/dev/null | tr -d '\\n'")
    if cards.exit_status not in (0, 1) or "rror" in cards.stderr:
        return HostStatus(host.name, host.address, (cards.stderr.strip() or "does not answer").splitlines()[-1])
    decoder, text, found = json.JSONDecoder(), cards.stdout, []
    while text:
        card, end = decoder.raw_decode(text)
        found.append(card)
        text = text[end:]
    if not found:
        return HostStatus(host.name, host.address, "")
    units = " ".join(card["unit"] for card in found)
    states = host.run(f"systemctl is-active {units}").stdout.split()
    sockets = host.run("ss -H -lntu; ss -H -lx").stdout
    daemons = []
    for card, state in zip(found, states, strict=True):
        silent = [address for address in card["listen"] if not _listens(address, sockets)]
        trouble = (
            f"unit is {state}" if state != "active" else f"does not listen on {', '.join(silent)}" if silent else ""
        )
        daemons.append(DaemonStatus(card["name"], card["unit"], card["listen"], card["about"], trouble))
    return HostStatus(host.name, host.address, "", sorted(daemons, key=lambda daemon: daemon.role))


def machine_status(machine: PoweredMachine) -> MachineStatus:
    """Ask the VM host whether the machine is on, and its console how far it has come."""
    about = machine.machine
    state = machine.power()
    if state == "running":
        reports = machine.console().reports
        state = "in userland" if "userland" in reports else "on, not in userland yet"
    return MachineStatus(about.name, about.vm_host, about.mac, about.address, about.firmware, state)


def lab_status(lab: Lab) -> LabStatus:
    """Ask every host, side by side."""
    with ThreadPoolExecutor(8) as pool:
        hosts = list(pool.map(host_status, lab.hosts()))
        well = {host.name for host in hosts if not host.trouble}
        carried = [PoweredMachine(lab, machine) for machine in lab.machines.values() if machine.vm_host in well]
        machines = list(pool.map(machine_status, carried))
    return LabStatus(str(lab.inventory.path), hosts, machines)


def as_json(status: LabStatus) -> str:
    """For programs: the status with `healthy`."""
    return json.dumps({"healthy": status.healthy, **asdict(status)}, indent=2)


def _health(trouble: str) -> str:
    return f"[red]✘ {trouble}[/]" if trouble else "[green]✔ well[/]"


def print_status(status: LabStatus, console: Console) -> None:
    """For people: a table of hosts and daemons, and one of machines."""
    hosts = Table(title=f"Lab of {status.inventory}", title_justify="left", header_style="bold")
    # On a narrow terminal the last column would fold every row.
    headings = ("Host", "Address", "Daemon", "Listens on", "Health", "About")[: 6 if console.width >= 110 else 5]
    for heading in headings:
        hosts.add_column(heading, overflow="fold")
    for host in status.hosts:
        if not host.daemons:
            hosts.add_row(host.name, host.address, "-", "", _health(host.trouble))
        for index, daemon in enumerate(host.daemons):
            name, address = (host.name, host.address) if index == 0 else ("", "")
            cells = (name, address, daemon.role, "\n".join(daemon.listen), _health(daemon.trouble), daemon.about)
            hosts.add_row(*cells[: len(headings)])
        hosts.add_section()
    console.print(hosts)
    if status.machines:
        machines = Table(title="Diskless machines", title_justify="left", header_style="bold")
        for heading in ("Machine", "On", "MAC", "Address", "Firmware", "State"):
            machines.add_column(heading)
        for machine in status.machines:
            machines.add_row(
                machine.name, machine.vm_host, machine.mac, machine.address, machine.firmware, machine.state
            )
        console.print(machines)


NEXT_STEPS = """
[bold]What to try next[/]
  labyard boot m1          power a diskless machine on and watch it boot from the network
  labyard evse list        the charger pairs: what they do, and who shares a supply
  labyard faas --help      make a function of a container image, and ask it
  labyard desktops --help  make a remote desktop, record it, and prove the recording
  labyard status           this table again, from the live lab
  make test-fast           lint and unit tests; `make test` proves all of it
[dim](`labyard` is .venv/bin/labyard; `make destroy` takes the lab away)[/]"""
