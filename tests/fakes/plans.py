"""Plans folders for tests, written from a mapping of paths to texts."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

from aura.actions import Action, action
from aura.context import Context
from aura.duration import Duration
from aura.loading.loader import CheckedPlan, check_plans
from aura.task import Task


def write_files(root: Path, files: Mapping[str, str]) -> Path:
    """Write files below a folder, their common indentation taken away; give the folder."""
    for path, text in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text), encoding="utf-8")
    return root


@action
async def log(ctx: Context, message: str, level: str = "info") -> None:
    """Write a line to the log."""


@action
async def sleep(duration: Duration) -> None:
    """Wait."""


@action(name="shell.run")
async def run(argv: list[str | int], cwd: str | None = None) -> dict[str, int]:
    """Run a command."""
    return {"exit_code": 0}


@action(name="task.run")
async def run_task(task: str, plan: str | None = None, inputs: dict[str, Any] = {}) -> Any:  # noqa: B006
    """Run a task."""


#: As much of the shipped actions as tests of the loader need.
SHIPPED = {made.name: made for made in [Action.of(one) for one in (log, sleep, run, run_task)]}


def check_files(root: Path, files: Mapping[str, str]) -> list[CheckedPlan]:
    """Write a plans folder and check it."""
    return check_plans(write_files(root, files), SHIPPED)


def problems_of(root: Path, files: Mapping[str, str]) -> list[str]:
    """Write a plans folder, check it, and give every problem as ``file:line:column: message``."""
    return [str(problem) for plan in check_files(root, files) for problem in plan.problems]


#: A step that does nothing wrong.
LOG = "{action: log, params: {message: x}}"
_ACTIONS = """
from aura import action, Context

@action
async def ping(ctx: Context, host: str, count: int = 1) -> int:
    return count
"""


def task_of(root: Path, text: str) -> Task:
    """Check a plan ``lab`` with one task, which must be right, and one action of its own, ``ping``; give the task."""
    (checked,) = check_files(root, {"lab/tasks/t.yaml": text, "lab/actions.py": _ACTIONS})
    assert checked.plan is not None, checked.problems
    return checked.plan.tasks["t"]


def problems_in(root: Path, text: str) -> list[str]:
    """Check the same plan, and give the problems of the task without its file name."""
    found = problems_of(root, {"lab/tasks/t.yaml": text, "lab/actions.py": _ACTIONS})
    return [problem.removeprefix("lab/tasks/t.yaml:") for problem in found]
