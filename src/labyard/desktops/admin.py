"""`labyard-desktops`: what is done on the service's host, as its user. Settings come from the same environment."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from labyard.core.adapter import AdapterError
from labyard.core.context import Caller, set_caller
from labyard.core.logging import configure
from labyard.core.serve import problems
from labyard.desktops.adapters.live import Live
from labyard.desktops.app import PACKAGE, connect, known_agents
from labyard.desktops.doctor import examine
from labyard.desktops.errors import Refusal
from labyard.desktops.keyring import KeyFileError
from labyard.desktops.roles import GIVEN, Role
from labyard.desktops.service import Desktops
from labyard.desktops.settings import Settings

ENVIRONMENT = Path("/etc/labyard/desktops.env")
_TTL = re.compile(r"([1-9][0-9]{0,5})([smh])")
_UNITS = {"s": 1, "m": 60, "h": 3600}

app = typer.Typer(no_args_is_help=True, help="Administration of the desktops service, on its host.")
db = typer.Typer(no_args_is_help=True, help="The tables.")
token = typer.Typer(no_args_is_help=True, help="Tokens for automation.")
key = typer.Typer(no_args_is_help=True, help="Keys.")
app.add_typer(db, name="db")
app.add_typer(token, name="token")
app.add_typer(key, name="key")


def _settings() -> Settings:
    # The service's own, where this command was not given them.
    try:
        readable = os.access(ENVIRONMENT, os.R_OK)
        return Settings(_env_file=ENVIRONMENT if readable else None)  # type: ignore[call-arg]
    except ValidationError as error:
        raise _failed("The settings are wrong:", *problems(Settings, error)) from None


@contextmanager
def _service() -> Iterator[Desktops]:
    """The use cases, without the background work."""
    configure("warning")
    set_caller(Caller(request_id="cli", address="local", username="labyard-desktops", roles=(str(Role.ADMIN),)))
    settings = _settings()
    database, live = connect(settings), Live(settings.redis_url, settings.env)
    try:
        yield Desktops(settings, database, live, known_agents(settings, database))
    except (Refusal, KeyFileError, AdapterError, ValueError) as error:
        raise _failed(str(error)) from None
    except SQLAlchemyError as error:
        raise _failed(f"The database does not answer or has no tables: {type(error).__name__}") from None
    finally:
        live.close()
        database.close()


@db.command("migrate")
def migrate(
    to: Annotated[str, typer.Option(help="A revision; `base` is none.")] = "head",
    back: Annotated[bool, typer.Option("--back", help="Go down to it: what only newer tables hold is lost.")] = False,
) -> None:
    """Bring the tables to a revision, by default the newest."""
    with _service() as service:
        (service.database.migrate_back if back else service.database.migrate)(PACKAGE, to)
    typer.echo(f"The tables are at {to}")


@token.command("issue")
def issue(
    sub: Annotated[str, typer.Option(help="Whom the token is for.")],
    roles: Annotated[str, typer.Option(help="Comma separated.")],
    ttl: Annotated[str, typer.Option(help="Such as 30m or 12h; at most 24h.")] = "1h",
) -> None:
    """Print an access token. It is on the audit log."""
    asked = [name.strip() for name in roles.split(",") if name.strip()]
    wrong = [name for name in asked if name not in GIVEN]
    if wrong or not asked:
        raise _failed(f"--roles {roles}: choose among {', '.join(sorted(GIVEN))}")
    found = _TTL.fullmatch(ttl)
    if not found:
        raise _failed(f"--ttl {ttl}: a number and s, m or h, such as 12h")
    with _service() as service:
        lifetime = timedelta(seconds=int(found[1]) * _UNITS[found[2]])
        typer.echo(service.auth.issue(sub, [Role(name) for name in asked], lifetime))


@key.command("rotate")
def rotate(
    tokens: Annotated[bool, typer.Option("--tokens", help="The key that tokens are signed with, instead.")] = False,
) -> None:
    """Make a new key-encryption key and wrap with it all that older ones wrapped. Chunks stay as they are."""
    with _service() as service:
        if tokens:
            name = service.upkeep.rotate_token_key()
            typer.echo(f"New token key {name}: it signs when the service is started again; older tokens stay good")
        else:
            name, count = service.upkeep.rotate_keys()
            typer.echo(f"New key {name}; wrapped anew: {count}")


@app.command()
def reset(yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Take everything away: only where LABYARD_ENV=test."""
    settings = _settings()
    if not settings.in_test:
        raise _failed(f"LABYARD_ENV is {settings.env}: only an environment called test may be reset")
    if not yes:
        typer.confirm("Every session, server, node and payout of this environment goes. Sure?", abort=True)
    with _service() as service:
        service.upkeep.reset()
    typer.echo("Everything is gone")


@app.command()
def doctor() -> None:
    """Look at what the service stands on. Exit status 1 when something that it needs is not well."""
    settings = _settings()
    configure("error")
    database, live = connect(settings), Live(settings.redis_url, settings.env)
    table = Table("", "What", "ms", "Found", box=None)
    bad = False
    for found in examine(settings, database, live):
        bad = bad or (found.required and not found.good)
        table.add_row("✔" if found.good else "✘", found.name, f"{found.milliseconds:g}", found.detail)
    Console().print(table)
    live.close()
    database.close()
    raise typer.Exit(1 if bad else 0)


def _failed(*lines: str) -> typer.Exit:
    for line in lines:
        typer.echo(line, err=True)
    return typer.Exit(1)


def main() -> None:
    app()
