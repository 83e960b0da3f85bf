"""Plans against each other: whether what a plan uses of others is there, and the tasks that its steps run by name.

What others offer is known in part when a folder is checked (``pyscan`` has read their Python, nobody has run it), and
wholly when they have been imported: ``Offer`` says which. Neither the plan that is checked nor what was found in it
before is changed, so that a plan may be checked again whenever one that it uses has changed.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from aura.errors import Problem
from aura.expressions import Template, template
from aura.loading.fields import Path, Reader
from aura.loading.inputs import Check
from aura.loading.recursion import Name, chain_back
from aura.loading.stepfile import ActionUse
from aura.loading.usecheck import Known, check_parameters
from aura.plan import RESERVED_PLAN_NAMES
from aura.sandbox import near
from aura.task import Step, Task

#: Actions that run the task that their parameters name.
TASK_ACTIONS = ("task.run", "task.start")


class Offer(msgspec.Struct, frozen=True):
    """What a plan has for those that use it, itself included.

    ``actions`` are by bare name; ``complete`` says that there are no others. A task that cannot be read is None.
    ``broken`` is why it cannot be loaded, if it cannot.
    """

    actions: Mapping[str, Known]
    complete: bool
    tasks: Mapping[str, Task | None]
    broken: Problem | None = None


class TaskStart(msgspec.Struct, frozen=True):
    """A task that a file names at ``path``, beside it its plan and inputs; without inputs it is only named."""

    reader: Reader
    path: Path
    plan_name: str
    task_name: str
    inputs: Mapping[str, Template] | None = None


class Using(msgspec.Struct, frozen=True):
    """What a plan wants of others: their names, as ``plan.yaml`` has them, and the steps that need a look.

    ``starts`` are what its schedule and its rules start.
    """

    plan_name: str
    uses: tuple[str, ...] = ()
    head: Reader | None = None
    steps: tuple[ActionUse, ...] = ()
    starts: tuple[TaskStart, ...] = ()


def using_of(
    plan_name: str,
    uses: tuple[str, ...],
    head: Reader | None,
    steps: tuple[ActionUse, ...],
    starts: tuple[TaskStart, ...] = (),
) -> Using:
    """Keep what depends on other plans, or on which tasks there are, and nothing else."""
    wanted = tuple(use for use in steps if _is_foreign(plan_name, use) or use.step.action in TASK_ACTIONS)
    return Using(plan_name, uses, head if uses else None, wanted, starts)


def check_using(using: Using, offers: Mapping[str, Offer]) -> tuple[Problem, ...]:
    """Give what is wrong with a plan's uses of what is offered, by the names of plans; its own offer is among them."""
    if not using.uses and not using.steps and not using.starts:
        return ()
    return tuple(_CrossCheck(using, offers).problems())


def _is_foreign(plan_name: str, use: ActionUse) -> bool:
    family = use.step.action.rpartition(".")[0]
    return bool(family) and family != plan_name and family not in RESERVED_PLAN_NAMES


class _CrossCheck:
    """One check of one plan. Its readers are its own: what they collect goes with them."""

    def __init__(self, using: Using, offers: Mapping[str, Offer]) -> None:
        self._using = using
        self._offers = offers
        self._readers: dict[int, Reader] = {}

    def problems(self) -> Iterator[Problem]:
        for index, name in enumerate(self._using.uses):
            self._check_plan(index, name)
        for use in self._using.steps:
            renewed = msgspec.structs.replace(use, reader=self._reader(use.reader))
            if use.step.action in TASK_ACTIONS:
                self._check_task(renewed)
            else:
                self._check_action(renewed)
        for start in self._using.starts:
            self._check_start(msgspec.structs.replace(start, reader=self._reader(start.reader)))
        for reader in self._readers.values():
            yield from reader.problems

    def _reader(self, of: Reader) -> Reader:
        return self._readers.setdefault(id(of.document), Reader(of.document))

    def _check_plan(self, index: int, name: str) -> None:
        offer = self._offers.get(name)
        if offer is None:
            message = f"there is no plan {name!r}{near(name, self._others())}"
        elif offer.broken is not None:
            message = f"the plan {name}, which this one uses, cannot be loaded: {offer.broken}"
        else:
            return
        assert self._using.head is not None
        self._reader(self._using.head).problem(("uses", index), message)

    def _others(self) -> list[str]:
        return [name for name in self._offers if name != self._using.plan_name]

    def _opened(self, reader: Reader, path: Path, name: str, families: Iterable[str] = ()) -> Offer | None:
        """The offer of a plan that may be used; None, and why not, for any other. ``families`` may be meant as well."""
        offer = self._offers.get(name)
        if name == self._using.plan_name or name in self._using.uses:
            return offer if offer is not None and offer.broken is None else None  # else it was said at ``uses``
        if offer is None:
            reader.problem(path, f"there is no plan {name!r}{near(name, (*self._others(), *families))}")
        else:
            message = f"plan {self._using.plan_name} does not use {name}: add `uses: [{name}]` to plan.yaml"
            reader.problem(path, message)
        return None

    # -- actions

    def _check_action(self, use: ActionUse) -> None:
        path, name = (*use.path, "action"), use.step.action
        family, _, bare = name.rpartition(".")
        offer = self._opened(use.reader, path, family, RESERVED_PLAN_NAMES)
        if offer is None:
            return
        action = offer.actions.get(bare)
        if action is not None:
            check_parameters(use, action)
        elif offer.complete:
            use.reader.problem(path, f"the plan {family} has no action {bare!r}{near(bare, offer.actions)}")

    # -- tasks

    def _check_task(self, use: ActionUse) -> None:
        """Check the task that a step runs, as far as what it says is constant."""
        params = (*use.path, "params")
        plan_name = _constant(use.step.params.get("plan"))
        plan_name = self._using.plan_name if plan_name is None else plan_name
        task_name = _constant(use.step.params.get("task"))
        if not isinstance(plan_name, str):
            return
        offer = self._opened(use.reader, (*params, "plan"), plan_name)
        if offer is None or not isinstance(task_name, str):
            return
        given = use.step.params.get("inputs")
        inputs = {} if given is None else given.value
        # one expression as a whole: a run will tell
        known = inputs if isinstance(inputs, dict) else None
        _check_task(use.reader, (*params, "task"), plan_name, offer, task_name, known)
        if use.step.action == "task.run":
            self._check_recursion(use, (*params, "task"), (plan_name, task_name))

    def _check_recursion(self, use: ActionUse, path: Path, target: Name) -> None:
        """Say where a task would run inside itself; of each such chain at the first of this plan's tasks in it."""
        own = next((name for name in self._own_tasks() if self._has(name, use.step)), None)
        chain = [] if own is None else chain_back(own, target, self._find)
        if own is not None and chain and own == min(name for name in chain if name[0] == own[0]):
            names = " -> ".join("/".join(name) for name in [own, *chain])
            use.reader.problem(path, f"a task cannot run inside itself: {names}")

    def _own_tasks(self) -> list[Name]:
        return [(self._using.plan_name, name) for name in self._offers[self._using.plan_name].tasks]

    def _find(self, name: Name) -> Task | None:
        offer = self._offers.get(name[0])
        return offer.tasks.get(name[1]) if offer else None

    def _has(self, name: Name, step: Step) -> bool:
        task = self._find(name)
        return task is not None and any(one.source == step.source for one in task.all_steps())

    def _check_start(self, start: TaskStart) -> None:
        offer = self._opened(start.reader, (*start.path[:-1], "plan"), start.plan_name)
        if offer is not None and start.task_name:  # without one it was reported when the file was read
            inputs = None if start.inputs is None else {name: one.value for name, one in start.inputs.items()}
            _check_task(start.reader, start.path, start.plan_name, offer, start.task_name, inputs)


class _Unknown:
    """What only a run can tell."""


def _constant(given: Template | None) -> Any:
    """What a parameter says, None if it is not given."""
    if given is None:
        return None
    return given.value if given.constant else _Unknown()


def _check_task(
    reader: Reader, path: Path, plan_name: str, offer: Offer, task_name: str, given: Mapping[str, Any] | None
) -> None:
    """Check a task that is named at a path, and what it is given beside it; None if only a run can tell."""
    if task_name not in offer.tasks:
        reader.problem(path, f"the plan {plan_name} has no task {task_name!r}{near(task_name, offer.tasks)}")
    elif (task := offer.tasks[task_name]) is not None and given is not None:
        _check_inputs(reader, task, (*path[:-1], "inputs"), given)


def _check_inputs(reader: Reader, task: Task, path: Path, given: Mapping[str, Any]) -> None:
    label = f"{task.plan_name}/{task.name}"
    for name in given:
        if name not in task.inputs:
            reader.key_problem((*path, name), f"the task {label} has no input {name!r}{near(name, task.inputs)}")
    missing = [name for name, one in task.inputs.items() if not one.has_default and name not in given]
    if missing:
        place = path if given else (*path[:-1], "task")
        reader.key_problem(place, f"the task {label} needs the input {', '.join(missing)}")
    schemas = task.inputs_schema["properties"]
    for name, value in given.items():
        if name in schemas and template(value, "").constant:
            check = Check()
            check.value(name, schemas[name], value)
            for error in check.errors:
                reader.problem((*path, name), f"the task {label}: {error.path}: {error.message}")
