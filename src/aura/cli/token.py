"""``aura token``: the local token, as the server left it in the data folder, and the tokens that it made for others."""

import click

from aura.api import TokenScope
from aura.cli.options import config_option, duration_of, json_option, open_client, server_options, settings_of
from aura.cli.output import local_time, print_json, print_table, say
from aura.errors import Unreachable

SCOPES = ("read", "logs", "run", "manage", "admin")


@click.group(invoke_without_command=True)
@config_option
@json_option
@click.pass_context
def token(context: click.Context, as_json: bool) -> None:
    """Print the local token; `show` says it too. The others make tokens for other people and programs."""
    if context.invoked_subcommand is None:
        _print_token(as_json)


@token.command
@config_option
@json_option
def show(as_json: bool) -> None:
    """Print the local token."""
    _print_token(as_json)


@token.command
@server_options
@json_option
@click.option("--scope", "scopes", multiple=True, required=True, type=click.Choice(SCOPES), help="What it may do.")
@click.option("--expires", metavar="DURATION", help="How long it is good for, such as 30d; else for ever.")
@click.option("--name", default="", metavar="TEXT", help="What it is for.")
def new(scopes: tuple[TokenScope, ...], expires: str | None, name: str, as_json: bool) -> None:
    """Make a token and print it; nobody is shown it again."""
    expires_s = None if expires is None else duration_of("--expires", expires)
    with open_client() as client:
        made = client.new_token(list(dict.fromkeys(scopes)), name=name, expires_s=expires_s)
    if as_json:
        print_json(made)
    else:
        click.echo(made.token)
        until = f" until {local_time(made.expires_at)}" if made.expires_at else ""
        say(f"token {made.id} may {' '.join(made.scopes)}{until}; it is not shown again")


@token.command("list")
@server_options
@json_option
def list_tokens(as_json: bool) -> None:
    """List the tokens that were made, without their secrets."""
    with open_client() as client:
        found = list(client.tokens())
    if as_json:
        print_json({"items": found})
        return
    rows = [
        (one.id, " ".join(one.scopes), local_time(one.created_at), local_time(one.expires_at), one.made_by, one.name)
        for one in found
    ]
    print_table(("ID", "SCOPES", "MADE", "EXPIRES", "BY", "NAME"), rows)


@token.command
@click.argument("token_id", metavar="ID")
@server_options
def revoke(token_id: str) -> None:
    """Revoke a token: it is refused from now on, and what it has open ends."""
    with open_client() as client:
        client.revoke_token(token_id)


def _print_token(as_json: bool) -> None:
    from aura.client import read_token

    data = settings_of().data
    found = read_token(data)
    if found is None:
        raise Unreachable(f"there is no token in {data}, since no server has run with it; start one with `aura serve`")
    if as_json:
        print_json({"token": found})
    else:
        click.echo(found)
