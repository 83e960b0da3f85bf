"""``aura check``: validate plans without running any of their code."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aura.cli.options import config_option, json_option, settings_of
from aura.cli.output import one_line, print_json, say
from aura.errors import ExitCode, Problem
from aura.settings import Settings

if TYPE_CHECKING:
    from aura.plan import Plan


@click.command
@click.argument("folders", metavar="[PLANS_DIR]…", nargs=-1, type=click.Path(path_type=Path))
@config_option
@json_option
def check(folders: Sequence[Path], as_json: bool) -> int:
    """Validate plans without running any of their code.

    Each problem is one line, file:line:column: message; exit 1 if there is one. What this machine lacks, such as a
    secret, is a warning.
    """
    settings = settings_of()
    problems: list[Problem] = []
    warnings: list[Problem] = []
    count = 0
    for folder in folders or [_from_here(settings.plans)]:
        plans, found, lacking = _check(folder, settings)
        count += plans
        problems += found
        warnings += lacking
    if as_json:
        shown = {"problems": [_shown(one) for one in problems], "warnings": [_shown(one) for one in warnings]}
        print_json({"plans": count, **shown})
    else:
        for problem in problems:
            click.echo(one_line(str(problem)))
        for warning in warnings:
            say(one_line(f"warning: {warning}"))
        say(f"{_counted(count, 'plan')}, {_counted(len(problems), 'problem')}")
    return ExitCode.FAILED if problems else ExitCode.OK


def _check(folder: Path, settings: Settings) -> tuple[int, list[Problem], list[Problem]]:
    """How many plans there are, their problems and warnings; an editor finds the files that they name from here."""
    from aura.builtin import shipped
    from aura.loading.loader import check_plans

    checked = check_plans(folder, shipped(), settings.server.timezone, settings.resources)
    found = [problem for plan in checked for problem in plan.problems]
    shown = [Problem(str(folder / p.file), p.line, p.column, p.message) for p in found]
    return len(checked), shown, [warning for one in checked for warning in _lacking(folder, one.plan)]


def _lacking(folder: Path, plan: "Plan | None") -> list[Problem]:
    """What this machine lacks for a plan, as far as this user sees it."""
    from aura.secrets import default_providers, secret_warnings

    if plan is None:
        return []
    file = str(folder / plan.name / "plan.yaml")
    return [Problem(file, 1, 1, message) for message in secret_warnings(default_providers(os.environ), plan)]


def _counted(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"


def _from_here(folder: Path) -> Path:
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def _shown(problem: Problem) -> dict[str, str | int]:
    return {"file": problem.file, "line": problem.line, "column": problem.column, "message": problem.message}
