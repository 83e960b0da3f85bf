"""``aura check``: validate plans without running any of their code."""

from collections.abc import Sequence
from pathlib import Path

import click

from aura.cli.options import config_option, json_option, settings_of
from aura.cli.output import one_line, print_json, say
from aura.errors import ExitCode, Problem
from aura.settings import Settings


@click.command
@click.argument("folders", metavar="[PLANS_DIR]…", nargs=-1, type=click.Path(path_type=Path))
@config_option
@json_option
def check(folders: Sequence[Path], as_json: bool) -> int:
    """Validate plans without running any of their code.

    Each problem is one line, file:line:column: message; exit 1 if there is one.
    """
    settings = settings_of()
    problems: list[Problem] = []
    count = 0
    for folder in folders or [_from_here(settings.plans)]:
        plans, found = _check(folder, settings)
        count += plans
        problems += found
    if as_json:
        print_json({"plans": count, "problems": [_shown(problem) for problem in problems]})
    else:
        for problem in problems:
            click.echo(one_line(str(problem)))
        say(f"{_counted(count, 'plan')}, {_counted(len(problems), 'problem')}")
    return ExitCode.FAILED if problems else ExitCode.OK


def _check(folder: Path, settings: Settings) -> tuple[int, list[Problem]]:
    """How many plans there are, and their problems, with files named so that an editor finds them from here."""
    from aura.builtin import shipped
    from aura.loader import check_plans

    checked = check_plans(folder, shipped(), settings.server.timezone, settings.resources)
    found = [problem for plan in checked for problem in plan.problems]
    return len(checked), [Problem(str(folder / p.file), p.line, p.column, p.message) for p in found]


def _counted(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"


def _from_here(folder: Path) -> Path:
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def _shown(problem: Problem) -> dict[str, str | int]:
    return {"file": problem.file, "line": problem.line, "column": problem.column, "message": problem.message}
