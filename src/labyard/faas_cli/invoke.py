"""`labyard faas invoke`: ask a function, and be told why it did not answer."""

from __future__ import annotations

import base64
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from labyard.client.commands import JsonOption, print_json, working
from labyard.client.http import ClientError
from labyard.faas_cli import show
from labyard.faas_cli.cli_types import NameArgument, client, where
from labyard.faas_cli.client import Client, Document
from labyard.faas_cli.times import milliseconds

LOG_SECONDS = 2.0  # that a request may take from its answer to the log
PAUSE = 0.05  # s between two looks


def invoke(
    ctx: typer.Context,
    name: NameArgument,
    path: Annotated[str, typer.Argument(help="Path and query.")] = "/",
    method: Annotated[str, typer.Option("--method", "-X", help="GET; with a body POST.")] = "",
    header: Annotated[list[str] | None, typer.Option("--header", "-H", help="NAME: VALUE; may be repeated.")] = None,
    body: Annotated[str | None, typer.Option("--body", "-d", help="Text, @FILE, or @- for standard input.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for each part of the answer.")] = 60,
    headers: Annotated[bool, typer.Option("--include", "-i", help="Show the answer's headers, too.")] = False,
    as_data: JsonOption = False,
) -> None:
    """Send a function one HTTP request, from its host, and show status, times and body.

    The body goes to standard output, all else to standard error. Exits with 1 for a status from 400 on, and when no
    answer comes; when the daemon answered in the handler's place, with what the handler wrote.

    [bold]labyard faas invoke hello[/]

    [bold]labyard faas invoke hello '/search?q=labyard' -H 'Accept: application/json' | jq[/]

    [bold]labyard faas invoke hello /upload -d @picture.png -X PUT[/]

    The first request after a while starts a container (cold); one that finds a parked handler is many times as quick:
    labyard faas stats hello shows both. Elsewhere in the lab it is: curl http://ADDRESS/ (labyard faas list).
    """
    api = client(ctx)
    content = _content(body)
    asked = {
        "ip": api.function(name)["ip"],
        "port": where(ctx).port,
        "method": method.upper() or ("GET" if content is None else "POST"),
        "path": path if path.startswith("/") else f"/{path}",
        "headers": [_split(one) for one in header or []],
        "body": None if content is None else base64.b64encode(content).decode(),
        "timeout": timeout,
    }
    with working(f"asking {name}"):
        answer = where(ctx).send(asked)
    if "error" in answer:
        raise ClientError(
            f"{name} at {asked['ip']} did not answer {answer['error']}; labyard faas logs {name} --last 1"
        )
    told = base64.b64decode(answer.pop("body"))
    why = _why(api, name, answer["status"], told)
    if as_data:
        text = told.decode(errors="replace")
        print_json(answer | {"body": text, "from": where(ctx).here} | ({"request": why} if why else {}))
    else:
        _tell(answer, told, where(ctx).here, headers)
        if why:
            _explain(name, why)
    raise typer.Exit(1 if answer["status"] >= 400 else 0)


def _tell(answer: Document, body: bytes, here: str, headers: bool) -> None:
    screen = Console(stderr=True)
    status = Text(
        f"{answer['status']} {answer['reason']}", style="bold red" if answer["status"] >= 400 else "bold green"
    )
    first, last, connected = (milliseconds(answer[key]) for key in ("first", "last", "connected"))
    screen.print(
        status.append(f"  {last}", "bold"), f"(connected {connected}, first byte {first}), from {here}", highlight=False
    )
    for key, value in answer["headers"] if headers else ():
        screen.print(Text(f"{key}: ", style="dim") + Text(value))
    if body and sys.stdout.isatty() and b"\0" in body:
        screen.print(f"{show.size(len(body))} that are no text; have them in a file: … > FILE", highlight=False)
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(body)
    if body and not body.endswith(b"\n") and sys.stdout.isatty():
        sys.stdout.buffer.write(b"\n")
    sys.stdout.flush()


def _why(api: Client, name: str, status: int, body: bytes) -> Document | None:
    """The log's record of a request for which the daemon had to answer: such an answer names its id."""
    if status < 500:
        return None
    try:
        said: Any = json.loads(body)
    except ValueError:
        return None
    if not isinstance(said, dict) or "request_id" not in said:
        return None
    end = time.monotonic() + LOG_SECONDS
    while True:
        for record in api.logs(name, 100):
            if record["id"] == said["request_id"]:
                return record
        if time.monotonic() > end:
            return None
        time.sleep(PAUSE)


def _explain(name: str, record: Document) -> None:
    screen = Console(stderr=True)
    screen.print(Text(f"The daemon answered for the handler: {record['result']}", style="red"))
    lines = record["stderr"].splitlines()
    for line in lines[-10:]:
        screen.print(Text(f"    {line}", style="dim"), soft_wrap=True)
    if not lines:
        screen.print("It wrote nothing.")
    screen.print(f"More: labyard faas logs {shlex.quote(name)} --failed", highlight=False, soft_wrap=True)


def _content(body: str | None) -> bytes | None:
    if body is None or not body.startswith("@"):
        return None if body is None else body.encode()
    if body == "@-":
        return sys.stdin.buffer.read()
    try:
        return Path(body[1:]).expanduser().read_bytes()
    except OSError as error:
        raise ClientError(f"--body {body}: {error.strerror}") from error


def _split(header: str) -> tuple[str, str]:
    name, colon, value = header.partition(":")
    if not colon or not name.strip():
        raise ClientError(f"--header {header!r} is not NAME: VALUE")
    return name.strip(), value.strip()
