"""`labyard desktops nodes …`: the machines that carry desktops and recordings."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.markup import escape

from labyard.client.commands import JsonOption, console, print_json, state, table, working
from labyard.client.http import ClientError
from labyard.desktops.cli_types import (
    GIB,
    HistoryOption,
    NodeArgument,
    NodeArguments,
    alerts,
    client,
    facts,
    gib,
    moment,
    sums,
)
from labyard.desktops.cli_types import usage as shown_usage
from labyard.desktops.client import Thing

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""Nodes: the machines that carry desktops and recordings.

    [bold]labyard desktops nodes register rack-1 --cores 16 --memory 64 --storage 1000 --agent https://10.0.0.11:8444[/]

    [bold]labyard desktops nodes enrol rack-1[/]

    [bold]labyard desktops nodes start rack-1[/]

    The service's own host is the node `node_local`, without anybody's doing.""",
)


class Kind(StrEnum):
    """What a node is for (contract 7.2)."""

    WORKER = "worker"
    VALIDATOR = "validator"
    STORAGE = "storage"
    COMPUTE = "compute"


@app.command(name="list")
def list_(
    ctx: typer.Context,
    pool: Annotated[str, typer.Option(help="Only those in this pool.")] = "",
    status: Annotated[str, typer.Option(help="Only those that are active, inactive, unreachable, maintenance.")] = "",
    as_data: JsonOption = False,
) -> None:
    """The nodes, with state, pool and reputation."""
    found = client(ctx).nodes(pool_id=pool, status=status)
    if as_data:
        print_json(found)
        return
    rows = [
        (one["node_id"], one["name"], state(one["status"]), one["pool_id"], _size(one["hardware_info"]),
         "yes" if one["agent"] or one["hardware_observed"] else "no", f"{one['reputation']:.1f}",
         moment(one["last_heartbeat"]))
        for one in found
    ]  # fmt: skip
    headings = ("Node", "Name", "Status", "Pool", "Hardware", "Agent", "Reputation", "Heard of")
    empty = "No node is like that." if pool or status else "No node. labyard desktops nodes register --help"
    table(headings, rows, empty)


@app.command()
def show(ctx: typer.Context, node: NodeArgument, as_data: JsonOption = False) -> None:
    """All there is to tell of one: what it declared, what its agent found, what it scored."""
    api = client(ctx)
    found = api.node(node)
    warned = api.of_node(found["node_id"], "alerts")
    if as_data:
        print_json({**found, "alerts": warned})
        return
    agent, place = found["agent"] or {}, found["location"] or {}
    observed = found["hardware_observed"]
    facts(
        [
            ("node", found["node_id"]),
            ("name", found["name"]),
            ("kind", found["node_type"]),
            ("status", state(found["status"])),
            ("pool", found["pool_id"]),
            ("declared", _size(found["hardware_info"])),
            ("found", _size(observed) if observed else "nothing: it has no agent, and hosts no desktops"),
            ("trouble", "it declared more than was found; the smaller counts" if found["hardware_mismatch"] else None),
            ("where", ", ".join(place[name] for name in ("city", "region", "country") if place.get(name))),
            ("sessions at once", found["configuration"].get("max_sessions")),
            ("agent", agent.get("address")),
            ("agent heard of", moment(agent.get("last_seen"))),
            ("heard of", moment(found["last_heartbeat"])),
            ("its clock is off by", _seconds(found["clock_skew_seconds"])),
            ("reputation", f"{found['reputation']:.1f}"),
            ("last score", found["poot_score"]),
            ("started", moment(found["started_at"])),
        ]
    )
    alerts(warned)


@app.command()
def register(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="3 to 100 characters; no other node may have it.")],
    cores: Annotated[int, typer.Option(min=1, help="How many its processor has.")],
    memory: Annotated[float, typer.Option(min=1, help="GiB.")],
    storage: Annotated[float, typer.Option(min=10, help="GiB.")],
    kind: Annotated[Kind, typer.Option(help="What it is for.")] = Kind.WORKER,
    frequency: Annotated[float, typer.Option(min=100, help="MHz.")] = 2000,
    architecture: Annotated[str, typer.Option(help="As uname -m says.")] = "x86_64",
    memory_type: Annotated[str, typer.Option(help="DDR3, DDR4, DDR5, LPDDR4, LPDDR5, ECC, HBM.")] = "DDR4",
    storage_type: Annotated[str, typer.Option(help="SSD, HDD, NVMe, eMMC.")] = "SSD",
    pool: Annotated[str, typer.Option(help="Where it goes.")] = "pool_workers",
    max_sessions: Annotated[int, typer.Option(min=1, max=1000, help="Sessions at once.")] = 10,
    agent: Annotated[
        str, typer.Option(metavar="URL", help="Where its agent listens, as https://HOST:8444. Without: declared only.")
    ] = "",
    as_data: JsonOption = False,
) -> None:
    """Register a node with what it has. It is inactive until it is started.

    [bold]labyard desktops nodes register rack-1 --cores 16 --memory 64 --storage 1000[/]
    """
    hardware = {
        "cpu": {"cores": cores, "frequency_mhz": frequency, "architecture": architecture},
        "memory": {"total_bytes": round(memory * GIB), "type": memory_type},
        "storage": {"total_bytes": round(storage * GIB), "type": storage_type},
    }
    configuration: Thing = {"max_sessions": max_sessions} | ({"agent_address": agent} if agent else {})
    body = {"name": name, "node_type": kind.value, "hardware_info": hardware, "configuration": configuration}
    made = client(ctx).register_node(body | {"initial_pool_id": pool})
    if as_data:
        print_json(made)
        return
    next_step = "enrol" if agent else "start"
    how = f"next: labyard desktops nodes {next_step} {made['node_id']}"
    console.print(f"[bold]{escape(name)}[/] is registered in {made['pool_id']}; {how}", highlight=False, soft_wrap=True)


@app.command()
def enrol(ctx: typer.Context, node: NodeArgument, as_data: JsonOption = False) -> None:
    """A token with which a node's agent gets its certificate: good once, for 15 minutes.

    The certificate takes the place of an older one. The agent's side is in roles/desktop_node/README.md.
    """
    api = client(ctx)
    offered = api.turn_node(api.node(node)["node_id"], "enrolment")
    if as_data:
        print_json(offered)
        return
    print(offered["enrolment_token"])
    note = typer.style(f"good until {moment(offered['expires_at'])} UTC; the agent reads it from its input", dim=True)
    typer.echo(note, err=True)


@app.command()
def start(ctx: typer.Context, nodes: NodeArguments) -> None:
    """Make nodes active. Those with an agent are asked what they have."""
    api = client(ctx)
    for name in nodes:
        node_id = api.node(name)["node_id"]
        with working(f"starting {name}"):
            api.turn_node(node_id, "start")
        console.print(f"[bold]{escape(name)}[/] is active.", highlight=False)


@app.command()
def stop(
    ctx: typer.Context,
    nodes: NodeArguments,
    drain: Annotated[bool, typer.Option("--drain", help="Stop the RDP servers that run there first.")] = False,
) -> None:
    """Make nodes inactive. One on which RDP servers run is refused, unless they may be stopped.

    [bold]labyard desktops nodes stop rack-1 --drain[/]
    """
    api = client(ctx)
    for name in nodes:
        node_id = api.node(name)["node_id"]
        with working(f"stopping {name}"):
            api.turn_node(node_id, "stop", drain=str(drain).lower())
        console.print(f"[bold]{escape(name)}[/] is inactive.", highlight=False)


@app.command()
def delete(ctx: typer.Context, nodes: NodeArguments) -> None:
    """Take nodes out of the register: inactive ones that host no RDP servers."""
    api = client(ctx)
    for name in nodes:
        api.delete_node(api.node(name)["node_id"])
        console.print(f"[bold]{escape(name)}[/] is deleted.", highlight=False)


@app.command()
def move(
    ctx: typer.Context,
    node: NodeArgument,
    pool: Annotated[str, typer.Argument(help="A pool's id; `labyard desktops pools list` has them.")],
) -> None:
    """Put a node into another pool.

    [bold]labyard desktops nodes move rack-1 pool_compute[/]
    """
    api = client(ctx)
    node_id = api.node(node)["node_id"]
    try:
        there = api.move_node(node_id, pool)
    except ClientError as error:
        if error.status != 400:
            raise
        raise ClientError(f"no pool is called {pool}; `labyard desktops pools list` has them", 400) from error
    console.print(f"[bold]{escape(node)}[/] is in {there['pool_id']}, one of {there['node_count']}.", highlight=False)


@app.command()
def usage(ctx: typer.Context, node: NodeArgument, history: HistoryOption = "", as_data: JsonOption = False) -> None:
    """What a node uses, in percent of the whole machine.

    `service-host, shared` is the service's own host, measured in the place of a node without an agent.
    """
    api = client(ctx)
    node_id = api.node(node)["node_id"]
    if history:
        samples = api.of_node(node_id, "usage/history", duration=history)["usage_history"]
    else:
        samples = [api.of_node(node_id, "usage")]
    if as_data:
        print_json(samples if history else samples[0])
        return
    shown_usage(samples)
    alerts(api.of_node(node_id, "alerts"))


@app.command()
def statistics(ctx: typer.Context, as_data: JsonOption = False) -> None:
    """All nodes together."""
    found = client(ctx).node_statistics()
    if as_data:
        print_json(found)
        return
    facts([*sums(found), ("pools", found["total_pools"])])


def _size(hardware: dict[str, Any]) -> str:
    cores = hardware["cpu"]["cores"]
    memory, storage = (gib(hardware[name]["total_bytes"]) for name in ("memory", "storage"))
    return f"{cores} cores, {memory}, {storage} of disk"


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.1f} s"
