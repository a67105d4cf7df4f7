"""What `labyard vms` prints: tables for people."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.text import Text

from labyard.client.commands import console, state, table
from labyard.vms.answers import Check, Disk, Health, Issue, Lease, Metadata, Network, Observer, Template, Vm

UNWELL = ("not found", "error")
IDLE = ("stopped", "not initialized", "skipped")
SEEN = {True: "yes", False: "no", None: "not known"}


def templates(found: Sequence[Template]) -> None:
    rows = [(one["name"], one["cpu_count"], memory(one)) for one in found]
    how = "No template. Make one: labyard vms templates create small --cpus 1 --memory 512"
    table(("Name", "CPUs", "Memory"), rows, how)


def vms(found: Sequence[Vm], empty: str) -> None:
    headings = ("Name", "State", "Address", "Template", "CPUs", "Memory", "Trouble")
    rows = []
    for vm in found:
        template = vm["vm_template"]
        made_from = (template["name"], template["cpu_count"], memory(template)) if template else ("(deleted)", "", "")
        trouble = vm["state_reason"] if vm["state"] == "error" else ""
        rows.append((vm["id"], state(vm["state"]), vm["local_ip"], *made_from, trouble))
    table(headings, rows, empty)


def vm(found: Vm, metadata: Metadata, disks: Sequence[Disk]) -> None:
    """All there is to tell of one."""
    template = found["vm_template"]
    given = [name for name in ("hostname", "user_data", "ssh_keys") if metadata.get(name)]
    rows: list[tuple[str, Any]] = [
        ("name", found["id"]),
        ("state", state(found["state"])),
        ("why", found["state_reason"]),
        ("template", f"{template['name']}: {sizes(template)}" if template else None),
        ("address", found["local_ip"]),
        ("MAC", found["mac"]),
        ("network", found["network_mode"]),
        ("runs by", found["domain_type"]),
        ("UUID, in Redfish", found["domain_uuid"]),
        ("metadata", ", ".join(given)),
        *((f"disk {disk['target'] or ''}".strip(), f"{label(disk)}, {disk['size']} GiB") for disk in disks),
    ]
    table(("What", "Value"), [row for row in rows if row[1]], "")


def disks(found: Sequence[Disk]) -> None:
    headings = ("Disk", "Label", "Size", "State", "VM", "Target")
    rows = [
        (
            disk["id"],
            disk["mount_point"],
            f"{disk['size']} GiB",
            state(disk["state"]),
            disk["vm_id"],
            disk["target"],
        )
        for disk in found
    ]
    table(headings, rows, "No disk. Make one: labyard vms disks create 5 --label data")


def metadata(found: Metadata) -> None:
    """What the guest is told, in full."""
    told = [(name, found.get(name)) for name in ("hostname", "ssh_keys", "user_data")]
    name = shlex.quote(found["vm_id"])
    how = f"The guest is told its name only. Set more: labyard vms metadata set {name} --ssh-key ~/.ssh/id_ed25519.pub"
    table(("What", "Value"), [row for row in told if row[1]], how)


def network(config: Network, leases: Sequence[Lease]) -> None:
    if "subnet" not in config:
        console.print("There is no lab network: the service's network mode is user or none.")
        return
    vlan = str(config["vlan_id"]) + ("" if config.get("vlan_applied") else ", not applied to guests' ports")
    rows = [
        ("subnet", config["subnet"]),
        ("gateway", config["gateway"]),
        ("DNS", ", ".join(config["dns"])),
        ("bridge", config["bridge_name"]),
        ("libvirt network", config.get("network_name")),
        ("mode", config.get("mode")),
        ("VLAN", vlan),
        ("guests held to their address", "yes" if config.get("ip_mac_filter") else "no"),
        ("addresses", f"{len(config['allocated_ips'])} in use, {config['available_ips']} free"),
    ]
    table(("What", "Value"), rows, "")
    headings = ("Address", "MAC", "VM", "Since", "Seen by DHCP")
    given = [(one["ip"], one["mac"], one["vm_id"], moment(one["acquired_at"]), SEEN[one["seen"]]) for one in leases]
    table(headings, given, "No VM has an address: each gets one when it starts.")


def mended(issues: Sequence[Issue]) -> None:
    for one in issues:
        console.print(f"[green]mended[/] {one['issue_type']} of {escape(one['resource_id'])}: {escape(one['details'])}")


def check(found: Check) -> None:
    """What the observer found."""
    if found["issues"]:
        rows = [(one["issue_type"], one["resource_id"], one["details"], remedy(one)) for one in found["issues"]]
        table(("Issue", "Of", "What", "Way out"), rows, "")
    elif found["status"] == "ok":
        console.print("What runs and lies there is what the database says.")


def remedy(issue: Issue) -> str:
    """A person's next step."""
    name = shlex.quote(issue["resource_id"])
    ways = {
        "vm_state_mismatch": f"labyard vms check --repair, or: labyard vms restart {name}",
        "missing_disk": f"bring the file back, or: labyard vms disks delete {name}",
        "disk_state_inconsistent": "labyard vms check --repair",
        "orphan_disk": "remove the file",
        "orphan_process": "end it: virsh destroy, or kill",
    }
    return ways.get(issue["issue_type"], "")


def status(health: Health, url: str) -> None:
    rows = []
    for name, value in health["checks"].items():
        colour = "red" if value.startswith(UNWELL) else "yellow" if value.startswith(IDLE) else "green"
        rows.append((name, Text(value, style=colour)))
    table(("Part", "Health"), rows, "")
    console.print(f"{health['service']} at {url} is {health['status']}", highlight=False, soft_wrap=True)


def observed(found: Observer) -> None:
    """One line of what the observer does by itself."""
    if "last_issues_count" not in found:
        console.print("The observer has not begun.")
        return
    count = found["last_issues_count"]
    line = f"The observer is {found['status']}, looks every {found['check_interval']:g} s, and found "
    line += f"{count} issues last: labyard vms check" if count else "nothing last"
    console.print(line + (f"; it failed: {found['last_error']}" if found.get("last_error") else ""), highlight=False)


def label(disk: Disk) -> str:
    """What people call a disk: its label, else its id. An attached one without a label has its device for one."""
    return disk["mount_point"] or disk["id"]


def sizes(template: Template) -> str:
    count = template["cpu_count"]
    return f"{count} CPU{'' if count == 1 else 's'}, {memory(template)}"


def memory(template: Template) -> str:
    return f"{template['ram_amount']} MiB"


def moment(value: str | None) -> str:
    return value[:19].replace("T", " ") if value else ""
