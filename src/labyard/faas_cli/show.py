"""What `labyard faas` prints: tables for people."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from labyard.client.commands import console, table
from labyard.faas_cli import times
from labyard.faas_cli.client import Document

NONE = "No function. Make one: labyard faas deploy NAME image.tar"
SHORT_KEY = 12  # characters of a content's hash that people need


def functions(found: Mapping[str, Document], stats: Mapping[str, Document]) -> None:
    rows = []
    for name, function in found.items():
        counted = stats.get(name, {})
        rows.append(
            (
                name,
                function["ip"],
                shlex.join(function["cmd"]),
                counted.get("requests", 0),
                _failures(counted),
                counted.get("pool", {}).get("parked", 0),
            )
        )
    table(("Name", "Address", "Command", "Requests", "Failed", "Parked"), rows, NONE)


def function(found: Document) -> None:
    """All there is to tell of one."""
    limits = found["limits"]
    pool, stats = found["pool"], found["stats"]
    parked = f"{pool.get('parked', 0)} of {limits['warm']}"
    if pool.get("rss"):
        parked += f", {size(pool['rss'])}"
    rows: list[tuple[str, Any]] = [
        ("name", found["name"]),
        ("address", found["ip"]),
        ("command", shlex.join(found["cmd"])),
        ("environment", "\n".join(found.get("env", []))),
        ("working directory", found.get("workdir")),
        ("user", ":".join(map(str, found.get("user", [])))),
        ("deployed", found.get("created_at")),
        ("content", found.get("key", "")[:SHORT_KEY]),
        ("memory", size(limits["memory"])),
        ("processor", f"{limits['cpu']:g} of a core"),
        ("processes", limits["pids"]),
        ("/tmp", size(limits["tmp"])),
        ("time limit", f"{limits['timeout']:g} s"),
        ("at once", limits["concurrency"]),
        ("not enforced here", Text(", ".join(found["not_enforced"]), style="yellow")),
        ("parked handlers", parked),
        ("requests", _counted(stats)),
    ]
    table(("What", "Value"), [row for row in rows if row[1]], "")


def requests(records: Sequence[Document]) -> None:
    """One after the other, the newest last, each with what its handler wrote."""
    for record in records:
        console.print(request(record), soft_wrap=True)
        for line in record["stderr"].splitlines():
            console.print(Text(f"    {line}", style="dim"), soft_wrap=True)


def request(record: Document) -> Text:
    """One line of a request. 0 is the status where the handler answered: what it said is between it and its client."""
    well = record["result"] == "ok"
    line = Text.assemble(
        (record["time"], "dim"),
        "  ",
        (f"{record['result']:<9}", "green" if well else "red"),
        f" {times.milliseconds(record['ms']):>7}  ",
        ("parked" if record["warm"] else "cold  ", times.WARM if record["warm"] else times.COLD),
        f"  {record['client']}",
    )
    if record["status"]:
        line.append(f"  answered {record['status']} for it", "red")
    if record["exit_code"]:
        line.append(f"  exit code {record['exit_code']}", "red")
    return line.append(f"  {record['id']}", "dim")


def stats(found: Document, lines: Mapping[str, Text]) -> None:
    """A row for each function; `lines` are pictures of their last requests."""
    rows = []
    for name, counted in found["functions"].items():
        rows.append(
            (
                name,
                counted["requests"],
                _failures(counted),
                counted["warm_hits"],
                counted["warm_misses"],
                times.milliseconds(counted["median_ms"]),
                times.milliseconds(counted["worst_ms"]),
                lines[name],
            )
        )
    headings = ("Name", "Requests", "Failed", "Hits", "Misses", "Median", "Worst", "The last ones, to now")
    table(headings, rows, NONE)
    if rows:
        counts = ("at work", found["at_work"]), ("waiting", found["waiting"]), ("containers", found["containers"])
        console.print(", ".join(f"{what}: {count}" for what, count in counts), highlight=False)


def statistics(found: Document, records: Sequence[Document]) -> None:
    """Counters of one function, and how long its last requests took."""
    console.print(f"[bold]{found['name']}[/] {_counted(found['stats'])}", highlight=False)
    if records:
        console.print(times.histogram(records))
        console.print(times.LEGEND)


def issues(found: Document) -> None:
    """What the observer found, and what it mended."""
    mended = [_what(one) for one in found.get("repaired", [])]
    failed = {_what(one): one["error"] for one in found.get("failed", [])}
    rows = []
    for one in found["issues"]:
        what = _what(one)
        way_out = "labyard faas check --repair"
        if what in mended:
            way_out = "mended"
        elif what in failed:
            way_out = f"not mended: {failed[what]}"
        elif one["resource"] == "tree" and one["kind"] == "missing":
            way_out = f"labyard faas deploy {shlex.quote(one['key'])} …"
        rows.append((*what, one["details"], way_out))
    table(("Issue", "Of", "Which", "What", "Way out"), rows, "All that is registered is there, and nothing else.")


def size(count: int) -> str:
    """Bytes, as people write them."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024  # type: ignore[assignment]
    return f"{count:.4g} GiB"


def _counted(stats: Document) -> str:
    if not stats["requests"]:
        return "was not asked yet"
    words = [f"{stats['requests']} requests"]
    words += [f"{count} {result}" for result, count in stats["results"].items() if result != "ok"]
    if stats["warm_hits"] or stats["warm_misses"]:
        words.append(f"{stats['warm_hits']} found a parked handler, {stats['warm_misses']} did not")
    if stats["median_ms"] is not None:
        words.append(f"median {times.milliseconds(stats['median_ms'])}")
        words.append(f"worst {times.milliseconds(stats['worst_ms'])}")
    return ", ".join(words)


def _failures(counted: Mapping[str, Any]) -> Text:
    failed = sum(count for result, count in counted.get("results", {}).items() if result != "ok")
    return Text(str(failed), style="red" if failed else "")


def _what(one: Document) -> tuple[str, str, str]:
    return one["kind"], one["resource"], one["key"]
