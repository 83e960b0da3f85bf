"""The command ``aura``: which commands there are, and how what goes wrong becomes a line and an exit code.

A command's module is imported when it is asked for, so that each is as quick as what it needs.
"""

import os
import traceback
from collections.abc import Sequence
from importlib import import_module

import click

from aura.cli.options import server_options
from aura.cli.output import one_line, say
from aura.errors import AuraError, BadInputs, ClientError, ConfigError, ExitCode, PlanError, Refused, StoreError

#: command → the module that has it, in the order of the help. A command's function is named after it.
COMMANDS = {
    "serve": "serve",
    "init": "init",
    "check": "check",
    "test": "test",
    "run": "run",
    "ps": "runs",
    "runs": "runs",
    "show": "runs",
    "logs": "logs",
    "cancel": "steer",
    "pause": "steer",
    "resume": "steer",
    "priority": "steer",
    "rerun": "steer",
    "answer": "answer",
    "emit": "emit",
    "interrupts": "interrupts",
    "why": "why",
    "schedule": "schedule",
    "queue": "queue",
    "files": "files",
    "plans": "plans",
    "tasks": "plans",
    "actions": "actions",
    "graph": "graph",
    "status": "system",
    "start": "system",
    "stop": "system",
    "reload": "system",
    "token": "token",
    "backup": "backup",
    "doctor": "doctor",
    "open": "open",
    "schema": "schema",
    "completion": "completion",
    "version": "version",
}
HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class LazyGroup(click.Group):
    """A group whose commands are imported one by one."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        if cmd_name not in COMMANDS:
            return None
        found = getattr(import_module(f"aura.cli.{COMMANDS[cmd_name]}"), cmd_name)
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.NoSuchCommand(args[0], possibilities=COMMANDS, ctx=ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings=HELP)
@server_options
@click.pass_context
def aura(context: click.Context) -> None:
    """Aura runs plans: on demand, stopped cleanly, never lost."""
    if os.environ.get("NO_COLOR"):
        context.color = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` (else the command line) names; the result is the exit code."""
    try:
        return _code(aura.main(None if argv is None else list(argv), "aura", standalone_mode=False))
    except (click.Abort, KeyboardInterrupt):
        say("aura: interrupted")
        return ExitCode.INTERRUPTED
    except click.ClickException as error:
        return _usage(error)
    except Exception as error:
        return _failed(error)


def _code(result: object) -> int:
    return result if isinstance(result, int) else ExitCode.OK


def _usage(error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    say(f"aura: {one_line(error.format_message())}")
    say(f"see: {context.command_path if context else 'aura'} --help")
    return ExitCode.USAGE


def _failed(error: Exception) -> int:
    match error:
        case Refused() | BadInputs():
            say(f"aura: {one_line(str(error))}")
            for field in error.errors:
                say(f"  {one_line(field.path)}: {one_line(field.message)}")
            return error.exit_code
        case ConfigError() | ClientError() | StoreError():
            say(f"aura: {one_line(str(error))}")
            return error.exit_code
        case PlanError():
            say("\n".join(f"aura: {one_line(str(problem))}" for problem in error.problems))
            return ExitCode.FAILED
        case AuraError():
            say(f"aura: {one_line(str(error))}")
            return ExitCode.INTERNAL
        case OSError():
            say(f"aura: {one_line(str(error))}")
            return ExitCode.IO
    traceback.print_exception(error)
    say(f"aura: {type(error).__name__}: this is a bug in Aura; report it with the lines above")
    return ExitCode.INTERNAL
