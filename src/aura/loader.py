"""Checks plans: from the files of a folder to ``Plan`` objects, with every problem found, and no code of a plan run.

``snapshot`` reads the files, ``yamlfile`` makes data of them, ``planfile`` and ``taskfile`` know the grammar,
``pyscan`` looks at the Python, ``usecheck`` at how steps use actions. Importing the Python is for ``generations``.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from aura.actions import Action
from aura.errors import PlanError, Problem
from aura.fields import Reader
from aura.plan import NAME_PATTERN, RESERVED_PLAN_NAMES, Plan, Task
from aura.planfile import PlanHead, read_plan_head
from aura.pyscan import scan
from aura.sandbox import near
from aura.snapshot import TOP_FILES, Snapshot, read_folder
from aura.stepfile import ActionUse
from aura.taskfile import TaskDraft, read_task
from aura.usecheck import check_uses, known_actions, name_problems
from aura.yamlfile import load

T = TypeVar("T")

_NAME = re.compile(NAME_PATTERN)
_NAME_RULE = "a name is small letters, digits, - and _, 64 at most, and begins with a letter or digit"


class CheckedPlan(msgspec.Struct, frozen=True):
    """One plan's folder as checked. ``plan`` is None if there are problems; ``uses`` are its uses of actions."""

    name: str
    plan: Plan | None
    problems: tuple[Problem, ...]
    snapshot: Snapshot
    uses: tuple[ActionUse, ...] = ()


def check_plans(root: Path, shipped: Mapping[str, Action], timezone: str = "UTC") -> list[CheckedPlan]:
    """Check all plans of a folder; ``timezone`` is for plans that say none.

    Raises:
        ConfigError: the folder is not there or cannot be read.
    """
    return [check_plan(snapshot, shipped, timezone) for snapshot in read_folder(root)]


def check_plan(snapshot: Snapshot, shipped: Mapping[str, Action], timezone: str = "UTC") -> CheckedPlan:
    """Check one plan."""
    return _PlanCheck(snapshot, shipped).check(timezone)


class _PlanCheck:
    """The check of one plan, collecting problems as it goes."""

    def __init__(self, snapshot: Snapshot, shipped: Mapping[str, Action]) -> None:
        self._snapshot = snapshot
        self._name = snapshot.name
        self._shipped = shipped
        self._problems = list(snapshot.problems)
        self._readers: list[Reader] = []

    def check(self, timezone: str) -> CheckedPlan:
        self._check_folder()
        head = self._read("plan.yaml", read_plan_head) or PlanHead()
        drafts = self._read_tasks(head)
        uses = tuple(use for draft in drafts for use in draft.uses)
        self._check_python(uses)
        for reader in self._readers:
            self._problems += reader.problems
        plan = None if self._problems else self._plan(head, [draft.task for draft in drafts], timezone)
        return CheckedPlan(self._name, plan, tuple(sorted(self._problems)), self._snapshot, uses)

    def _problem(self, path: str, message: str) -> None:
        self._problems.append(Problem(f"{self._name}/{path}".rstrip("/"), 1, 1, message))

    def _check_folder(self) -> None:
        if self._name in RESERVED_PLAN_NAMES:
            self._problem("", f"no plan can be called {self._name!r}: shipped actions have that name")
        elif not _NAME.fullmatch(self._name):
            self._problem("", f"the folder's name {self._name!r} cannot be a plan's; {_NAME_RULE}")
        for path in self._snapshot.files:
            if path.endswith(".yml"):
                self._problem(path, f"name it {path.removesuffix('.yml')}.yaml")
            elif "/" not in path and path.endswith(".yaml") and path not in TOP_FILES:
                self._problem(path, f"this is no file of a plan{near(path, TOP_FILES)}; tasks are in tasks/")
        for path in ("schedule.yaml", "interrupts.yaml"):
            if path in self._snapshot.files:
                self._problem(path, f"{path} is not supported yet")

    def _read(self, path: str, read: Callable[[Reader], T]) -> T | None:
        """Read one YAML file of the plan, if it is there and can be read."""
        content = self._snapshot.files.get(path)
        if content is None:
            return None
        try:
            reader = Reader(load(content, f"{self._name}/{path}"))
        except PlanError as error:
            self._problems += error.problems
            return None
        self._readers.append(reader)
        if reader.document.value is None:
            reader.problem((), "the file is empty")
            return None
        return read(reader)

    def _read_tasks(self, head: PlanHead) -> list[TaskDraft]:
        drafts = []
        for path in self._snapshot.files:
            if not path.startswith("tasks/") or not path.endswith(".yaml"):
                continue
            name = path.removeprefix("tasks/").removesuffix(".yaml")
            if not all(_NAME.fullmatch(part) for part in name.split("/")):
                self._problem(path, f"{name!r} cannot be a task's name; {_NAME_RULE}")
            read = partial(read_task, plan_name=self._name, name=name, head=head, qualify=self._qualify)
            draft = self._read(path, read)
            if draft is not None:
                drafts.append(draft)
        return drafts

    def _qualify(self, action: str) -> str:
        """Give the full name of an action as a step names it."""
        return action if not action or "." in action or action in self._shipped else f"{self._name}.{action}"

    def _check_python(self, uses: tuple[ActionUse, ...]) -> None:
        found = scan(self._name, self._snapshot.files)
        self._problems += found.problems
        if "actions.py" in self._snapshot.files and any(p.startswith("actions/") for p in self._snapshot.files):
            self._problem("actions.py", "there is a folder actions as well; a plan has one or the other")
        self._problems += name_problems(found, self._shipped)
        check_uses(self._name, uses, known_actions(self._name, self._shipped, found), complete=found.complete)

    def _plan(self, head: PlanHead, tasks: list[Task], timezone: str) -> Plan:
        return Plan(
            name=self._name,
            directory=self._snapshot.directory,
            tasks={task.name: task for task in tasks},
            title=head.title,
            description=head.description,
            timezone=head.timezone or timezone,
            vars=head.vars,
        )
