"""``aura version``."""

import platform
import sqlite3

import click

from aura import __version__
from aura.cli.options import json_option
from aura.cli.output import print_json


@click.command
@json_option
def version(as_json: bool) -> None:
    """Print the version of this command."""
    if as_json:
        sqlite = sqlite3.sqlite_version
        print_json({"version": __version__, "python": platform.python_version(), "sqlite": sqlite})
    else:
        click.echo(f"aura {__version__}")
