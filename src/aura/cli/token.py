"""``aura token``: the local token, as the server left it in the data folder."""

import click

from aura.cli.options import config_option, json_option, settings_of
from aura.cli.output import print_json
from aura.errors import Unreachable


@click.group(invoke_without_command=True)
@config_option
@json_option
@click.pass_context
def token(context: click.Context, as_json: bool) -> None:
    """Print the local token; `show` says it too."""
    if context.invoked_subcommand is None:
        _print_token(as_json)


@token.command
@config_option
@json_option
def show(as_json: bool) -> None:
    """Print the local token."""
    _print_token(as_json)


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
