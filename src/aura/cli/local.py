"""``aura run --local``: a server in this process, for one run, of which nothing is left.

It is a whole server on a store in memory, with its door on a free port of this machine's own and its token known here
alone: what a command asks it, and so what the user sees, is the same as of any other server.
"""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from aura.cli.options import settings_of
from aura.cli.output import one_line, say
from aura.config import Settings
from aura.errors import ExitCode, WorkLeft
from aura.events import LEVELS

if TYPE_CHECKING:
    from aura.client import Client


@contextmanager
def open_local(plans: Path | None, detach: bool = False) -> Iterator["Client"]:
    """A client of a server of its own, which ends with the block; one that hangs ends the process with 70.

    SIGTERM and SIGHUP are what Ctrl-C is. A KeyboardInterrupt that leaves the block hurries the end.
    """
    if detach:
        raise click.UsageError("--detach leaves the run to a server, and --local has none: leave one of them out")
    from aura.client import Client, Target
    from aura.embed import start
    from aura.server import leave_hard

    settings = _private(settings_of({"plans": plans}))
    _be_a_server(settings)
    try:
        with start(settings.plans, settings=settings, http=True) as server:
            try:
                with Client(Target(server.address, server.token), agent="aura-cli") as client:
                    yield client
            except KeyboardInterrupt:
                server.hurry()
                raise
    except WorkLeft as error:
        say(f"aura: {one_line(str(error))}")
        leave_hard(ExitCode.INTERNAL)


def _private(settings: Settings) -> Settings:
    """The same settings, but for the door, which nobody else is to find, and gates: one has come to try things."""
    door = msgspec.structs.replace(settings.server, host="127.0.0.1", port=0, uds=None, tls_cert=None, tls_key=None)
    return msgspec.structs.replace(settings, server=door, no_auth=False, gated=False)


def _be_a_server(settings: Settings) -> None:
    """Have this process treat plans as ``aura serve`` does; it has nothing else to do."""
    os.umask(0o077)
    logging.getLogger().setLevel(max(LEVELS[settings.logs.level], logging.INFO))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
