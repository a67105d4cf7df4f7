"""Commands of `labyard desktops` about sessions."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from labyard.client.commands import JsonOption, console, print_json, state, table, working
from labyard.client.http import ClientError
from labyard.desktops.cli_types import client, moment
from labyard.desktops.client import Thing

SessionArgument = Annotated[str, typer.Argument(metavar="SESSION", help="A session's id.")]
ShownStatus = Annotated[str, typer.Option(help="Only those that are created, recording, paused, stopped, failed.")]
NOTHING = "No session. Record one: labyard desktops record Demo --seconds 10"


def sessions(ctx: typer.Context, status: ShownStatus = "", project: str = "", as_data: JsonOption = False) -> None:
    """The sessions, newest first.

    [bold]labyard desktops sessions --status recording[/]
    """
    found = client(ctx).sessions(status=status, project=project)
    if as_data:
        print_json(found)
        return
    rows = [
        (one["session_id"], one["name"], state(one["status"]), one["owner"], _target(one), moment(one["started_at"]))
        for one in found
    ]
    table(("Session", "Name", "Status", "Owner", "Records", "Started"), rows, NOTHING)


def show(ctx: typer.Context, session: SessionArgument, as_data: JsonOption = False) -> None:
    """All there is to tell of one session."""
    api = client(ctx)
    found, errors = api.session(session), api.errors(session)
    if as_data:
        print_json({**found, "errors": errors})
        return
    recording, storage = (found["statistics"][name] for name in ("recording_stats", "storage_stats"))
    rows: list[tuple[str, Any]] = [
        ("name", found["name"]),
        ("status", state(found["status"])),
        ("ended by", found["stop_reason"]),
        ("records", _target(found)),
        ("started", moment(found["started_at"])),
        ("stopped", moment(found["stopped_at"])),
        ("seconds", f"{recording['total_duration_seconds']:.1f}, paused {recording['paused_duration_seconds']:.1f}"),
        ("frames", f"{recording['total_frames']}, dropped {recording['dropped_frames']}"),
        ("chunks", f"{storage['chunks_count']}, {storage['compressed_size_bytes']} bytes"),
        *(("gap", f"{gap['from']} to {gap['to']}: {gap['reason']}") for gap in found["gaps"]),
        *(("error", f"{error['code']}: {error['message']}") for error in errors if not error["recovered"]),
    ]
    table(("What", "Value"), [row for row in rows if row[1]], "")


def record(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="What the session is to be called.")],
    host: Annotated[str, typer.Option(help="The RDP server. Without a running one there, one of yours is taken.")] = (
        "localhost"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535)] = 3389,
    user: Annotated[str, typer.Option(help="Whom the desktop is for.")] = "labyard",
    own: Annotated[bool, typer.Option("--own-server", help="Make an RDP server for this session.")] = False,
    frame_rate: Annotated[int, typer.Option(min=1, max=120, help="Frames a second.")] = 10,
    seconds: Annotated[float, typer.Option(min=0, help="Stop after so long. 0: it goes on.")] = 0,
    as_data: JsonOption = False,
) -> None:
    """Create a session and record it.

    [bold]labyard desktops record Demo --own-server --seconds 10[/]
    """
    api = client(ctx)
    target: Thing = {"host": host, "port": port, "username": user, "provisioning": "auto" if own else "attach"}
    with working("waiting for the first frame"):
        made = api.create_session({"name": name, "rdp_config": target, "recording_config": {"frame_rate": frame_rate}})
        session_id = made["session_id"]
        answer = api.turn_session(session_id, "start")
    if seconds:
        try:
            with working(f"recording {session_id}"):
                time.sleep(seconds)
        finally:
            answer = api.turn_session(session_id, "stop")
    if as_data:
        print_json(answer)
    else:
        console.print(f"[bold]{escape(session_id)}[/] is {answer['status']}.", highlight=False)


def start(ctx: typer.Context, session: SessionArgument) -> None:
    """Record a session that was created."""
    answer = client(ctx).turn_session(session, "start")
    console.print(f"[bold]{escape(session)}[/] records {escape(_target(answer))}.", highlight=False)


def stop(ctx: typer.Context, session: SessionArgument, as_data: JsonOption = False) -> None:
    """Stop a recording. It is sealed and in the ledger when this ends."""
    with working("sealing"):
        answer = client(ctx).turn_session(session, "stop")
    if as_data:
        print_json(answer)
        return
    anchored = answer["anchoring"]
    text = f"{anchored['chunk_count']} chunks, at height {anchored['block_height']} of the ledger"
    console.print(f"[bold]{escape(session)}[/] is stopped: {text}.", highlight=False)


def pause(ctx: typer.Context, session: SessionArgument) -> None:
    """Capture nothing until it is resumed."""
    _turn(ctx, session, "pause")


def resume(ctx: typer.Context, session: SessionArgument) -> None:
    """Go on with a recording that is paused."""
    _turn(ctx, session, "resume")


def verify(
    ctx: typer.Context,
    session: SessionArgument,
    key: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="The ledger's public key. Without it the service is asked."),
    ] = None,
) -> None:
    """Prove here that no byte of a recording was changed. Exits with 1, and names what is bad.

    Checked are every chunk, their order and count, the ledger's entry, and the signed head over it.

    [bold]labyard desktops verify sess-0123456789abcdef --key ledger.pem[/]
    """
    # Here, since the other commands do without these libraries.
    from labyard.desktops.evidence.ledger import BadEvidence
    from labyard.desktops.evidence.proofs import check_session
    from labyard.desktops.evidence.verify import Unusable, public_key

    api = client(ctx)
    try:
        trusted = public_key(key.read_bytes() if key else api.ledger_key().encode(), str(key or api.url))
        with working("checking every chunk"):
            count = check_session(api.proof(session), lambda chunk: api.stored_chunk(session, chunk), trusted)
    except BadEvidence as bad:
        raise ClientError(f"{session} is BAD: {bad}") from bad
    except Unusable as error:
        raise ClientError(str(error)) from error
    console.print(f"[green]good[/]: {escape(session)}, {count} chunks, as they were recorded.", highlight=False)


def export(
    ctx: typer.Context,
    session: SessionArgument,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.mp4", dir_okay=False, help="Where to.")],
) -> None:
    """The whole recording as a video that plays, without pauses and gaps. It is on the service's audit log."""
    part = output.with_name(f"{output.name}.part")
    try:
        with working("fetching the video"), part.open("wb") as file:
            for piece in client(ctx).export(session):
                file.write(piece)
        part.replace(output)
    except OSError as error:
        raise ClientError(f"{output} cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    console.print(f"{escape(str(output))} has [bold]{escape(session)}[/].", highlight=False, soft_wrap=True)


def delete(ctx: typer.Context, session: SessionArgument) -> None:
    """Delete a session. Its data key is destroyed: nobody reads the recording any more."""
    client(ctx).delete_session(session)
    console.print(f"[bold]{escape(session)}[/] is deleted.", highlight=False)


def _turn(ctx: typer.Context, session: str, verb: str) -> None:
    answer = client(ctx).turn_session(session, verb)
    console.print(f"[bold]{escape(session)}[/] is {answer['status']}.", highlight=False)


def _target(session: Thing) -> str:
    """What it records, once that is known."""
    binding = session.get("binding")
    if not binding:
        return ""
    return f"{binding['server_id'] or binding['host']} ({binding['kind']})"
