"""Checks plans: from the files of a folder to ``Plan`` objects, with every problem found, and no code of a plan run.

``snapshot`` reads the files, ``yamlfile`` makes data of them, ``planfile`` and ``taskfile`` know the grammar,
``pyscan`` looks at the Python, ``usecheck`` at how steps use actions, ``crosscheck`` at what plans use of each other.
Importing the Python is for ``generations``.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import msgspec

from aura.actions import Action
from aura.errors import PlanError, Problem
from aura.interrupt import Rule
from aura.loading.crosscheck import Offer, TaskStart, Using, check_using, using_of
from aura.loading.fields import Reader
from aura.loading.interruptfile import read_interrupts
from aura.loading.planfile import PlanHead, read_plan_head
from aura.loading.pyscan import Scan, scan
from aura.loading.schedulefile import read_schedule
from aura.loading.snapshot import TOP_FILES, Snapshot, read_folder
from aura.loading.stepfile import ActionUse
from aura.loading.taskfile import TaskDraft, read_task
from aura.loading.triggerfile import Place
from aura.loading.usecheck import check_uses, known_actions, name_problems
from aura.loading.yamlfile import load
from aura.plan import RESERVED_PLAN_NAMES, Plan, Resource
from aura.sandbox import near
from aura.schedule import Item
from aura.task import NAME_PATTERN, Task

T = TypeVar("T")
#: There is none that all plans have.
NO_RESOURCES: Mapping[str, Resource] = MappingProxyType({})

_NAME = re.compile(NAME_PATTERN)
_NAME_RULE = "a name is small letters, digits, - and _, 64 at most, and begins with a letter or digit"


class CheckedPlan(msgspec.Struct, frozen=True):
    """One plan's folder as checked. ``plan`` is None if there are problems; ``uses`` are its uses of actions.

    ``using`` is what it wants of others, ``offer`` what others may use of it as far as no import is needed to know it.
    """

    name: str
    plan: Plan | None
    problems: tuple[Problem, ...]
    snapshot: Snapshot
    using: Using
    offer: Offer
    uses: tuple[ActionUse, ...] = ()


def check_plans(
    root: Path, shipped: Mapping[str, Action], timezone: str = "UTC", resources: Mapping[str, Resource] = NO_RESOURCES
) -> list[CheckedPlan]:
    """Check all plans of a folder, also against each other.

    ``timezone`` is for plans that say none, ``resources`` are those of all plans.

    Raises:
        ConfigError: the folder is not there or cannot be read.
    """
    checked = [check_plan(snapshot, shipped, timezone, resources) for snapshot in read_folder(root)]
    offers = {one.name: one.offer for one in checked}
    return [_with(one, check_using(one.using, offers)) for one in checked]


def _with(checked: CheckedPlan, problems: Sequence[Problem]) -> CheckedPlan:
    if not problems:
        return checked
    found = tuple(sorted((*checked.problems, *problems)))
    return msgspec.structs.replace(checked, plan=None, problems=found)


def check_plan(
    snapshot: Snapshot,
    shipped: Mapping[str, Action],
    timezone: str = "UTC",
    resources: Mapping[str, Resource] = NO_RESOURCES,
) -> CheckedPlan:
    """Check one plan by itself, without what it uses of others."""
    return _PlanCheck(snapshot, shipped, resources).check(timezone)


class _PlanCheck:
    """The check of one plan, collecting problems as it goes."""

    def __init__(self, snapshot: Snapshot, shipped: Mapping[str, Action], resources: Mapping[str, Resource]) -> None:
        self._snapshot = snapshot
        self._name = snapshot.name
        self._shipped = shipped
        self._resources = resources
        self._problems = list(snapshot.problems)
        self._readers: list[Reader] = []

    def check(self, timezone: str) -> CheckedPlan:
        self._check_folder()
        said = self._read("plan.yaml", partial(read_plan_head, plan_name=self._name))
        head = said or PlanHead()
        drafts = self._read_tasks(head)
        places, items, rules = self._read_triggers(head)
        uses = (*(use for draft in drafts for use in draft.uses), *(use for place in places for use in place.uses))
        found = self._check_python(uses)
        for reader in self._readers:
            self._problems += reader.problems
        plan = None if self._problems else self._plan(head, [draft.task for draft in drafts], items, rules, timezone)
        return CheckedPlan(
            name=self._name,
            plan=plan,
            problems=tuple(sorted(self._problems)),
            snapshot=self._snapshot,
            using=self._using(said, uses, tuple(start for place in places for start in place.starts)),
            offer=Offer(found.actions, found.complete, self._task_names() | {d.task.name: d.task for d in drafts}),
            uses=uses,
        )

    def _using(self, head: PlanHead | None, uses: tuple[ActionUse, ...], starts: tuple[TaskStart, ...]) -> Using:
        """What it wants of others; nothing if its plan.yaml, which says which, cannot be read."""
        if head is None and "plan.yaml" in self._snapshot.files:
            return Using(self._name)
        reader = next((one for one in self._readers if one.document.file == f"{self._name}/plan.yaml"), None)
        return using_of(self._name, head.uses if head else (), reader, uses, starts)

    def _task_names(self) -> dict[str, Task | None]:
        files = [path for path in self._snapshot.files if path.startswith("tasks/") and path.endswith(".yaml")]
        return {path.removeprefix("tasks/").removesuffix(".yaml"): None for path in files}

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
            draft = self._read(path, partial(read, shared=self._resources))
            if draft is not None:
                drafts.append(draft)
        return drafts

    def _read_triggers(self, head: PlanHead) -> tuple[list[Place], dict[str, Item], dict[str, Rule]]:
        """Read schedule.yaml and interrupts.yaml; what is left to check of them is in the places."""
        places: list[Place] = []

        def read(reader: Reader, content: Callable[[Place], T]) -> T:
            places.append(Place(reader, self._name, head, self._qualify))
            return content(places[-1])

        items = self._read("schedule.yaml", partial(read, content=read_schedule))
        rules = self._read("interrupts.yaml", partial(read, content=read_interrupts))
        return places, items or {}, rules or {}

    def _qualify(self, action: str) -> str:
        """Give the full name of an action as a step names it."""
        return action if not action or "." in action or action in self._shipped else f"{self._name}.{action}"

    def _check_python(self, uses: tuple[ActionUse, ...]) -> Scan:
        found = scan(self._name, self._snapshot.files)
        self._problems += found.problems
        if "actions.py" in self._snapshot.files and any(p.startswith("actions/") for p in self._snapshot.files):
            self._problem("actions.py", "there is a folder actions as well; a plan has one or the other")
        self._problems += name_problems(found, self._shipped)
        check_uses(self._name, uses, known_actions(self._name, self._shipped, found), complete=found.complete)
        return found

    def _plan(
        self,
        head: PlanHead,
        tasks: list[Task],
        items: Mapping[str, Item],
        rules: Mapping[str, Rule],
        timezone: str,
    ) -> Plan:
        return Plan(
            name=self._name,
            directory=self._snapshot.directory,
            tasks={task.name: task for task in tasks},
            title=head.title,
            description=head.description,
            timezone=head.timezone or timezone,
            vars=head.vars,
            secrets=head.secrets,
            uses=head.uses,
            resources=head.resources,
            rules=rules,
            items=items,
            gate=head.gate,
            gate_timeout=head.gate_timeout,
        )
