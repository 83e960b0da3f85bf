"""``aura doctor``: what an operator needs to know of this machine, these settings and this data, on a page.

It changes nothing. What is on the disk is looked at in ``folders`` and ``database``, what may grow in ``bounds``.
"""

import os
import platform
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from aura import __version__
from aura.cli.findings import Finding, fail, ok, show, warn
from aura.cli.options import config_file, json_option, open_client, server_options, settings_of
from aura.errors import ClientError, ConfigError, ExitCode

if TYPE_CHECKING:
    from aura.settings import Settings

#: The first SQLite without the fault that two connections which checkpoint at once can bring about.
SOUND_SQLITE = (3, 51, 3)
CLOCK_TIMEOUT = 2.0


@click.command
@server_options
@json_option
def doctor(as_json: bool) -> int:
    """Check what a server needs, and change nothing.

    Settings, folders, database, plans, clock, bounds: each line says ok, warn or fail, what was looked at, what was
    found, and what to do. Exit 1 if something fails.
    """
    return ExitCode.OK if show(_findings(), as_json) else ExitCode.FAILED


def _findings() -> Iterator[Finding]:
    yield ok("aura", f"{__version__} on Python {platform.python_version()}, {platform.platform()}")
    yield _check_sqlite()
    try:
        settings = settings_of()
        yield from _check_settings(settings)
    except ConfigError as error:
        what, _, advice = str(error).partition("; ")
        yield fail("settings", what, advice or "see docs/reference/settings.md")
        return
    from aura.cli.bounds import check_bounds
    from aura.cli.database import check_database
    from aura.cli.folders import check_data, check_plans_folder, is_held

    yield from check_data(settings)
    if settings.data.is_dir():
        yield from check_database(settings.data)
    yield from check_plans_folder(settings)
    yield from _check_clock()
    yield from check_bounds(settings)
    yield from _check_server(is_held(settings.data))


def _check_sqlite() -> Finding:
    if sqlite3.sqlite_version_info >= SOUND_SQLITE:
        return ok("sqlite", sqlite3.sqlite_version)
    sound = ".".join(map(str, SOUND_SQLITE))
    detail = f"{sqlite3.sqlite_version}; before {sound} a rare fault can damage a database that two programs checkpoint"
    return warn("sqlite", detail, "let no other program write to aura.db; Aura alone is safe")


def _check_settings(settings: "Settings") -> Iterator[Finding]:
    from aura.config import origins, setting_names

    said = origins(os.environ, config_file())
    yield ok("settings", f"{len(said)} of {len(setting_names())} are not left to their default")
    for name, source in sorted(said.items()):
        yield ok(f"setting {name}", f"{_value(settings, name)} from {source}")


def _value(settings: "Settings", name: str) -> Any:
    node: Any = settings
    for part in name.split("."):
        node = node[part] if isinstance(node, dict) else getattr(node, part)
    return node


def _check_clock() -> Iterator[Finding]:
    """Whether somebody keeps the clock right; where nothing says so, that is said."""
    command = shutil.which("timedatectl")
    synchronized = ""
    if command:
        argv = [command, "show", "--property=NTPSynchronized", "--value"]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=CLOCK_TIMEOUT, check=False)
            synchronized = done.stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            synchronized = ""
    if synchronized == "no":
        yield warn("clock", "not synchronized by NTP", "`timedatectl set-ntp true`, or let another service set it")
    else:
        yield ok("clock", "synchronized by NTP" if synchronized == "yes" else "nothing here says who sets it")


def _check_server(held: bool) -> Iterator[Finding]:
    try:
        with open_client() as client:
            status = client.status()
            where = str(client.target)
    except ClientError as error:
        what, _, advice = str(error).partition("; ")
        if held:
            yield fail("server", f"one holds the data folder, but {what}", advice or "see its log")
        else:
            yield ok("server", what)
        return
    if status.version == __version__:
        yield ok("server", f"{status.state} at {where}, version {status.version}")
    else:
        detail = f"version {status.version} at {where}, while this command is {__version__}"
        yield warn("server", detail, "restart the server, or use its own command")
    for reason in status.reasons:
        yield warn("server", reason, "see `aura status` and its log")
