"""`labyard desktops login`, `logout` and `token`."""

from __future__ import annotations

from typing import Annotated

import typer

from labyard.client.commands import JsonOption, console, print_json
from labyard.client.http import ClientError
from labyard.desktops import cli_where
from labyard.desktops.cli_types import client


def login(
    ctx: typer.Context,
    user: Annotated[
        str, typer.Argument(help="A user of the service. The password is asked for, on a terminal or not.")
    ],
    as_data: JsonOption = False,
) -> None:
    """Print a token of a user, good for 15 minutes. --json has the refresh token as well.

    [bold]export LABYARD_DESKTOPS_TOKEN=$(labyard desktops login alice)[/]
    """
    password = typer.prompt("Password", hide_input=True, err=True)
    try:
        given = ctx.obj.stranger.login(user, password)
    except ClientError as error:
        if error.status == 401:
            how = "an administrator makes users: POST /api/v1/users"
            raise ClientError(f"no user {user} with that password; {how}", 401) from None
        raise
    if as_data:
        print_json(given)
    else:
        print(given["access_token"])


def logout(ctx: typer.Context) -> None:
    """End the login that LABYARD_DESKTOPS_TOKEN is of: none of its tokens counts any more."""
    if not ctx.obj.token:
        raise ClientError("there is no token to end: set LABYARD_DESKTOPS_TOKEN")
    client(ctx).logout()
    console.print("The token and its login count no more.")


def token(
    ctx: typer.Context,
    roles: Annotated[str, typer.Option(help="Comma separated. docs/desktops.md has all.")] = cli_where.ROLES,
    ttl: Annotated[str, typer.Option(help="Such as 30m or 12h; at most 24h.")] = "1h",
    user: Annotated[
        str, typer.Option(help="Whom it is for: sessions and servers that are made with it are theirs.")
    ] = ("labyard"),
) -> None:
    """Print a token for automation, made on the lab's host by its administrator. It is on the audit log.

    [bold]export LABYARD_DESKTOPS_TOKEN=$(labyard desktops token --roles admin --ttl 30m)[/]
    """
    print(ctx.obj.run(cli_where.issue(user, roles, ttl)))
