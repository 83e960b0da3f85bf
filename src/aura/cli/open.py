"""``aura open``: a link with which a browser logs in, once and within a minute."""

import os
import sys
import webbrowser

import click

from aura.cli.options import open_client, server_options
from aura.cli.output import say
from aura.errors import Unreachable


@click.command
@server_options
@click.option("--print", "only_print", is_flag=True, help="Print the link and open nothing.")
def open(only_print: bool) -> None:
    """Print a link that logs a browser in, and open it where there is one."""
    with open_client() as client:
        if client.target.uds:
            raise Unreachable("a browser cannot reach a Unix socket; serve on a port for it")
        made = client.login_code()
    link = f"{client.target.url}{made.path}"
    click.echo(link)
    say(f"it can be used once, within {made.expires_in_s:.0f} s")
    if not only_print and _has_browser():
        webbrowser.open(link)


def _has_browser() -> bool:
    """Say whether somebody looks at a screen here."""
    display = sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return display and sys.stdout.isatty()
