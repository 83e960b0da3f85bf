"""``aura serve``: the service in the foreground."""

from pathlib import Path

import click

from aura.cli.options import config_option, settings_of
from aura.cli.output import say

_FOLDER = click.Path(path_type=Path)


@click.command
@click.option("--plans", type=_FOLDER, metavar="DIR", help="The folder of the plans.  [plans]")
@click.option("--data", type=_FOLDER, metavar="DIR", help="The folder of what Aura remembers.  [~/.local/state/aura]")
@click.option("--host", metavar="H", help="The address to listen on.  [127.0.0.1]")
@click.option("--port", type=int, metavar="P", help="The port to listen on; 0 takes a free one.  [8700]")
@click.option("--uds", type=_FOLDER, metavar="PATH", help="Listen on this Unix socket instead.")
@click.option("--no-reload", "reload", flag_value=False, default=None, help="Never look for changed plans by itself.")
@click.option("--no-auth", is_flag=True, help="Ask for no token; on loopback or a Unix socket only.")
@config_option
def serve(
    plans: Path | None,
    data: Path | None,
    host: str | None,
    port: int | None,
    uds: Path | None,
    reload: bool | None,
    no_auth: bool,
) -> int:
    """Run the service in the foreground.

    One line on stdout says when it accepts requests: aura: ready on http://127.0.0.1:8700. SIGTERM or Ctrl-C stop it;
    a second one stops it sooner.
    """
    flags = {"plans": plans, "data": data, "host": host, "port": port, "uds": uds, "reload": reload, "no_auth": no_auth}
    settings = settings_of(flags)
    if no_auth:
        say("aura: warning: --no-auth: every user of this machine can run commands here")
    from aura.serving import run_server

    return run_server(settings)
