"""`labyard desktops poot …`: proofs of operational trust, their scores, and what they are paid."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from labyard.client.commands import JsonOption, console, print_json, state, table, working
from labyard.client.http import ClientError
from labyard.core.clock import as_text, now
from labyard.desktops.cli_types import PootArguments, client, facts, moment
from labyard.desktops.client import Thing

BATCH = 100  # validated at once
PAID = 1000  # paid at once

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""What nodes did (PoOT), what it scores, and what that pays.

    [bold]labyard desktops poot submit rack-1[/]

    [bold]labyard desktops poot validate poot_0123456789abcdef[/]

    [bold]labyard desktops poot pay poot_0123456789abcdef --wallet W1[/]

    Agents submit by themselves: at the end of each session, and hourly.""",
)


@app.command()
def submit(
    ctx: typer.Context,
    node: Annotated[str, typer.Argument(help="A node's id or name. One that is not registered is taken, and flagged.")],
    data: Annotated[str, typer.Option(help="What it put out, as text.")] = "",
    file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The same from a file; at most 1 MiB of UTF-8.")
    ] = None,
    session: Annotated[str, typer.Option(help="The session that it was done for.")] = "",
    as_data: JsonOption = False,
) -> None:
    """Submit a record of a node's work, with the time of now and a nonce of its own."""
    if data and file:
        raise typer.BadParameter("--data or --file, not both")
    try:
        output = file.read_text() if file else data
    except UnicodeDecodeError:
        raise ClientError(f"{file} is no text in UTF-8; encode it: base64 {file}") from None
    made_at = as_text(now())
    body = {"node_id": node, "output_data": output or f"by hand at {made_at}", "timestamp": made_at}
    body |= {"nonce": secrets.token_urlsafe(24)} | ({"session_id": session} if session else {})
    made = client(ctx).submit_poot(body)
    if as_data:
        print_json(made)
        return
    flags = f" ({', '.join(made['flags'])})" if made["flags"] else ""
    how = f"score it: labyard desktops poot validate {made['poot_id']}"
    console.print(f"[bold]{made['poot_id']}[/] is submitted{flags}; {how}", highlight=False, soft_wrap=True)


@app.command()
def validate(ctx: typer.Context, poots: PootArguments, as_data: JsonOption = False) -> None:
    """Score records, once and for good. Of one the parts of its score are told. Exits with 1 when one is not valid."""
    api = client(ctx)
    if len(poots) == 1:
        one = api.validate_poot(poots[0])
        results: list[Thing] = [one]
    else:
        with working(f"validating {len(poots)}"):
            results = [item for some in _parts(poots, BATCH) for item in api.validate_poots(some)["results"]]
    bad = [one for one in results if not one["is_valid"]]
    if as_data:
        print_json(results)
    elif len(results) == 1:
        _tell_score(results[0])
    else:
        rows = [(one["poot_id"], _verdict(one), one.get("score"), _why(one)) for one in results]
        table(("PoOT", "Verdict", "Score", "Remarks"), rows, "")
    raise typer.Exit(1 if bad else 0)


@app.command()
def pay(
    ctx: typer.Context,
    poots: PootArguments,
    wallet: Annotated[str, typer.Option(help="Where it is booked to: up to 128 printable ASCII characters.")],
    as_data: JsonOption = False,
) -> None:
    """Book what valid records are worth, each once. Several are all paid, or none.

    [bold]labyard desktops poot pay poot_0123456789abcdef --wallet W1[/]
    """
    if len(poots) > PAID:
        raise ClientError(f"at most {PAID} are paid at once")
    api = client(ctx)
    if len(poots) == 1:
        paid = api.pay_poot(poots[0], wallet)
        total = f"{paid['amount']:g}"
    else:
        paid = api.pay_poots(poots, wallet)
        total = paid["total_amount_exact"]
    if as_data:
        print_json(paid)
        return
    console.print(f"{total} USDT are booked for {wallet}.", highlight=False, markup=False, soft_wrap=True)


@app.command()
def show(ctx: typer.Context, poot: Annotated[str, typer.Argument(metavar="POOT")], as_data: JsonOption = False) -> None:
    """One record: what became of it."""
    found = client(ctx).poot(poot)
    if as_data:
        print_json(found)
        return
    facts(
        [
            ("PoOT", found["poot_id"]),
            ("status", state(found["status"])),
            ("node", found["node_id"] + ("" if found["node_registered"] else " (not registered)")),
            ("session", found["session_id"]),
            ("score", found["score"]),
            ("from", found["metrics_source"]),
            ("remarks", ", ".join(found["flags"])),
            ("submitted", moment(found["submitted_at"])),
            ("validated", moment(found["validated_at"])),
            ("payout", found["payout_id"]),
        ]
    )


@app.command()
def history(
    ctx: typer.Context,
    node: Annotated[str, typer.Option(help="Only this node's.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=100, help="At most so many.")] = 20,
    as_data: JsonOption = False,
) -> None:
    """The last records, newest first.

    [bold]labyard desktops poot history --node rack-1[/]
    """
    found = client(ctx).poot_history(limit, node)
    if as_data:
        print_json(found)
        return
    rows = [
        (one["poot_id"], one["node_id"], state(one["status"]), one["score"], "yes" if one["payout_id"] else "no",
         moment(one["submitted_at"]))
        for one in found
    ]  # fmt: skip
    table(("PoOT", "Node", "Status", "Score", "Paid", "Submitted"), rows, "Nothing was submitted.")


@app.command()
def statistics(
    ctx: typer.Context,
    node: Annotated[str, typer.Argument(help="Of one node: id or name. Without: of all.")] = "",
    as_data: JsonOption = False,
) -> None:
    """How many records there are, what they scored and what was paid."""
    found = client(ctx).poot_statistics(node)
    if as_data:
        print_json(found)
        return
    counts = ("total_poot", "validated_poot", "pending_poot", "rejected_poot", "expired_poot")
    average = found["average_score"]
    facts(
        [
            ("node", found.get("node_id")),
            *((name.removesuffix("_poot"), found[name]) for name in counts if name in found),
            ("average score", None if average is None else f"{average:.4f}"),
            ("payouts", f"{found['total_payouts']}: {found['total_payout_amount']:g} USDT"),
            ("reputation", found.get("reputation")),
        ]
    )


def _tell_score(found: Thing) -> None:
    weights = found["weights"]
    parts = [(name, f"{value:.2f} x {weights[name]:g}") for name, value in found["factors"].items()]
    rows: list[tuple[str, Any]] = [
        ("verdict", _verdict(found)),
        ("score", found["score"]),
        *parts,
        ("confidence", found["confidence"]),
        ("measured", found["metrics_source"]),
        ("remarks", _why(found)),
    ]
    facts(rows)


def _verdict(found: Thing) -> Text:
    if found.get("error"):
        return Text("unknown", style="red")
    return Text("valid", style="green") if found["is_valid"] else Text("rejected", style="red")


def _why(found: Thing) -> str:
    if error := found.get("error"):
        return str(error["message"])
    return ", ".join([*found["errors"], *found["flags"]])


def _parts(ids: list[str], size: int) -> Iterator[list[str]]:
    for at in range(0, len(ids), size):
        yield ids[at : at + size]
