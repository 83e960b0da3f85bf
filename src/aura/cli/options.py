"""What many commands share: the options that say which server, and the client that comes of them.

``--server`` and ``--config`` may stand before the command or after it; they are kept in click's ``meta``.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from aura.config import Settings, load_settings
from aura.duration import parse_duration
from aura.lifecycle import RunState

if TYPE_CHECKING:
    from aura.client import Client

F = TypeVar("F", bound=Callable[..., Any])
#: What ``--state`` takes.
RUN_STATES = click.Choice([state.value for state in RunState])
_SERVER, _CONFIG = "aura.server", "aura.config"


def _keep(key: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def keep(context: click.Context, _: click.Parameter, value: Any) -> Any:
        if value is not None:
            context.meta[key] = value
        return value

    return keep


def config_option(command: F) -> F:
    """``--config FILE``."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        expose_value=False,
        callback=_keep(_CONFIG),
        help="Read this file instead of ./aura.toml.",
    )(command)


def server_options(command: F) -> F:
    """``--server URL`` and ``--config FILE``."""
    return click.option(
        "--server",
        metavar="URL",
        expose_value=False,
        callback=_keep(_SERVER),
        help="The server's address, or unix:PATH; else AURA_SERVER, else the settings.",
    )(config_option(command))


json_option = click.option("--json", "as_json", is_flag=True, help="Print the server's JSON.")


def plan_and_task(text: str | None) -> tuple[str | None, str | None]:
    """Split ``PLAN[/TASK]`` into its names; what is missing is None."""
    plan_name, _, task_name = (text or "").partition("/")
    return plan_name or None, task_name or None


def duration_of(option: str, text: str) -> float:
    """Read the duration that an option got, in seconds.

    Raises:
        click.BadParameter: it is none.
    """
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from None


#: Days that have a name: how many ago.
_DAYS = {"today": 0, "yesterday": 1}


def time_of(_: click.Context, parameter: click.Parameter, text: str | None) -> datetime | None:
    """Read a time, in this machine's zone if it names none, or a duration as so long ago; the callback of an option.

    ``today`` and ``yesterday`` are when those days began.

    Raises:
        click.BadParameter: it is none of these.
    """
    if text is None:
        return None
    if text in _DAYS:
        day = datetime.now() - timedelta(days=_DAYS[text])
        return day.replace(hour=0, minute=0, second=0, microsecond=0).astimezone()
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        pass
    try:
        return datetime.now().astimezone() - timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        message = f"{text!r} is neither a time, such as 2026-11-22T05:00 or yesterday, nor a duration, such as 2h"
        raise click.BadParameter(message, param=parameter) from None


def settings_of(flags: Mapping[str, Any] | None = None) -> Settings:
    """The settings, with the flags of this command.

    Raises:
        ConfigError: they cannot be used.
    """
    return load_settings(flags or {}, os.environ, config_file())


def config_file() -> Path | None:
    """The settings file that ``--config`` names, if it does."""
    config: Path | None = click.get_current_context().meta.get(_CONFIG)
    return config


@contextmanager
def open_client() -> Iterator["Client"]:
    """A client of the server that the options, the environment or the settings name; closed at the end."""
    from aura.client import Client, find_target

    server = click.get_current_context().meta.get(_SERVER)
    with Client(find_target(settings_of(), os.environ, server), agent="aura-cli") as client:
        yield client
