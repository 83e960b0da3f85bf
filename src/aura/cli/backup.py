"""``aura backup``: everything that a server remembers, as one checked file, while it runs or not.

It asks no server: it reads the database itself. How it is copied and checked is in ``stores/backup.py``.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aura.cli.options import config_option, json_option, settings_of
from aura.cli.output import local_time, print_facts, print_json
from aura.errors import ConfigError

if TYPE_CHECKING:
    from aura.settings import Settings

_FILE = click.Path(path_type=Path)


@click.command
@click.argument("file", type=_FILE)
@click.option("--data", type=_FILE, metavar="DIR", help="The data folder.  [~/.local/state/aura]")
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@config_option
@json_option
def backup(file: Path, data: Path | None, force: bool, as_json: bool) -> None:
    """Write all that the server remembers to FILE, and check it.

    The server may run, and is not disturbed. To restore: stop it, put FILE into the data folder as aura.db, remove
    aura.db-wal and aura.db-shm, and start it.
    """
    from aura.stores.backup import back_up
    from aura.stores.folder import DATABASE_NAME
    from aura.stores.sqlite import schema_steps

    settings = settings_of({"data": data})
    database = settings.data / DATABASE_NAME
    _refuse_places(database, file)
    made = back_up(database, file, len(schema_steps()), force, _spare(settings, file), _show if _on_screen() else None)
    at = datetime.fromtimestamp(made.taken_at, UTC)
    if as_json:
        taken_at = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        print_json({"path": str(made.path.absolute()), "bytes": made.bytes, "runs": made.runs, "taken_at": taken_at})
    else:
        print_facts([("path", str(file)), ("bytes", made.bytes), ("runs", str(made.runs)), ("as of", local_time(at))])


def _refuse_places(database: Path, file: Path) -> None:
    """Refuse to back up what is not there, and to the folder that is backed up, where names have a meaning.

    Raises:
        ConfigError: as it says.
    """
    if not _is_there(database):
        raise ConfigError(f"there is no database {database}; name the server's data folder with --data")
    if file.resolve().is_relative_to(database.parent.resolve()):
        raise ConfigError(f"{file} is in the data folder itself; choose another place, best on another disk")


def _is_there(database: Path) -> bool:
    try:
        return database.exists()
    except OSError:
        return True  # whatever is wrong with it is said when it is read


def _spare(settings: "Settings", file: Path) -> int:
    """The room to leave on the disk of the data folder, of which the server wants some."""
    try:
        same = file.absolute().parent.stat().st_dev == settings.data.stat().st_dev
    except OSError:
        return 0  # whatever is wrong with the place is said when the file is made
    return settings.store.min_free if same else 0


def _on_screen() -> bool:
    return sys.stderr.isatty()


def _show(done: int, pages: int) -> None:
    click.echo(f"\r{done / max(pages, 1):4.0%} copied", nl=done == pages, err=True)
