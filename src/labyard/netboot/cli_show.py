"""What `labyard netboot` prints: tables for people, and how far a boot has come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from labyard.client.commands import build, console, state, table
from labyard.netboot.answers import Event, Image, Machine, Report, Reservation, Session

# What each event is evidence of.
EVIDENCE = {
    "dhcp_request": "leased",
    "tftp_request": "script fetched",
    "ipxe_load": "script runs",
    "iscsi_connect": "disk attached",
    "boot_success": "userland",
    "boot_failed": "failed",
}
PHASES = ("dhcp", "tftp", "script", "iscsi", "booted")


def machines(found: Sequence[Machine]) -> None:
    headings = ("Id", "Name", "MAC", "Address", "Firmware", "Status", "Online", "Boots", "Last boot")
    rows = [
        (
            machine["id"],
            machine["name"],
            machine["mac_address"],
            machine["ip_address"] or "from the pool",
            machine["boot_mode"],
            state(machine["status"]),
            "yes" if machine["is_online"] else "no",
            machine["boot_count"],
            moment(machine["last_boot"]),
        )
        for machine in found
    ]
    table(headings, rows, "No machine. Register one: labyard netboot machines add NAME --mac MAC")


def images(found: Sequence[Image]) -> None:
    headings = ("Id", "Name", "Format", "Size", "Status", "Type", "SHA-256", "Trouble")
    rows = [
        (
            image["id"],
            image["name"],
            image["format"],
            size(image["size_bytes"]),
            state(image["status"]),
            image["image_type"],
            (image["checksum_sha256"] or "")[:12],
            image["error_message"],
        )
        for image in found
    ]
    table(headings, rows, "No image. Upload one: labyard netboot images add FILE")


def sessions(found: Sequence[Session], machine_names: Mapping[int, str], image_names: Mapping[int, str]) -> Table:
    headings = ("Id", "Machine", "Image", "Status", "Boot", "Age", "Client")
    rows = [
        (
            session["id"],
            machine_names.get(session["machine_id"], f"(deleted, id {session['machine_id']})"),
            image_names.get(session["image_id"], f"(deleted, id {session['image_id']})"),
            state(session["status"]),
            phase(session),
            age(session["duration_seconds"]),
            session["client_ip"],
        )
        for session in found
    ]
    return build(headings, rows)


def reservations(found: Sequence[Reservation]) -> None:
    headings = ("Machine", "Host label", "MAC", "Address", "Boot file")
    rows = [
        (one["machine_id"], one["label"], one["mac_address"], one["ip_address"] or "from the pool", one["filename"])
        for one in found
    ]
    table(headings, rows, "Nothing is set: reservations are there while their sessions live.")


def event_line(event: Event, machine_name: str) -> Text:
    """One event of one machine, for lists over all machines."""
    line = Text(f"{event['created_at'][:19].replace('T', ' ')}  {machine_name:<16} ")
    line.append_text(_evidence(event))
    return line


def wait_line(event: Event, started_at: str) -> Text:
    """One event of one boot, with the seconds since its session was started."""
    line = Text(f"{seconds_between(started_at, event['created_at']):7.1f} s  ")
    line.append_text(_evidence(event))
    return line


def _evidence(event: Event) -> Text:
    colour = {"boot_success": "bold green", "boot_failed": "bold red"}.get(event["type"], "")
    line = Text(f"{EVIDENCE.get(event['type'], event['type']):<15}", style=colour)
    line.append(f"{event['client_ip'] or '':<16}", style="default not bold")
    line.append(f"{event['message'] or ''}", style="dim")
    return line


def report(found: Report, repair: bool) -> None:
    """What the observer found and mended."""
    if not found["findings"]:
        console.print("What the daemons have is what the database wants: nothing to do.")
        return
    failed = {(one["difference"], one["thing"], one["key"]): one["reason"] for one in found["failed"]}
    rows = []
    for one in found["findings"]:
        reason = failed.get((one["difference"], one["thing"], one["key"]))
        done = f"not mended: {reason}" if reason else "mended" if one in found["repaired"] else "not mended"
        rows.append((one["difference"], one["thing"], one["key"], one["detail"], done))
    table(("Difference", "Thing", "Name", "What", "Now"), rows, "")
    if not repair:
        console.print("`labyard netboot check --repair` mends them; the service does so by itself every 30 s.")


def status(found: Mapping[str, Mapping[str, Any]], url: str) -> None:
    """Health of the service and of what it stands on, and the facts of DHCP and TFTP."""
    health, dhcp, tftp = found["health"], found["dhcp"], found["tftp"]
    facts = {
        "dhcp": f"{dhcp['backend']}: {dhcp['machines_configured']} reservations in {dhcp['config_path']}",
        "tftp": f"{tftp['machine_scripts_count']} machine scripts, {tftp['boot_files_count']} boot files "
        f"in {tftp['tftp_root']}",
    }
    trouble = {"dhcp": dhcp["error"] or dhcp["last_error"], "tftp": tftp["error"]}
    rows = []
    for name, part in health["checks"].items():
        about = part.get("detail") or trouble.get(name) or facts.get(name, "")
        if name == "system":
            about = f"memory {part['memory_percent']:.0f} %, disk {part['disk_percent']:.0f} % in use"
        colour = {"healthy": "green", "disabled": "dim", "degraded": "yellow"}.get(part["status"], "red")
        rows.append((name, Text(part["status"], style=colour), about))
    table(("Part", "Health", "About"), rows, "")
    counts = ", ".join(f"{count} {name}" for name, count in found["sessions"]["status_counts"].items() if count)
    console.print(
        f"{health['service']} {health['version']} at {url} is {health['status']}; sessions: {counts or 'none'}",
        highlight=False,
        soft_wrap=True,
    )


def phase(session: Session) -> Text:
    """A small picture of the boot: one dot for each of dhcp, tftp, script, iscsi, booted."""
    now = session["boot_phase"]
    if now == "failed":
        return Text("✘ failed", style="red")
    reached = PHASES.index(now) + 1 if now in PHASES else 0
    picture = Text("●" * reached, style="green" if now == "booted" else "cyan")
    picture.append("○" * (len(PHASES) - reached), style="dim")
    picture.append(f" {now}")
    if now == "booted" and session["boot_duration_seconds"] is not None:
        picture.append(f" in {session['boot_duration_seconds']:.1f} s")
    return picture


def age(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"


def size(count: int) -> str:
    amount = float(count)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def moment(value: str | None) -> str:
    return value[:16].replace("T", " ") if value else "never"


def seconds_between(before: str, after: str) -> float:
    return (datetime.fromisoformat(after) - datetime.fromisoformat(before)).total_seconds()
