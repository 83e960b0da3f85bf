"""Tasks that would run inside themselves: chains of ``task.run`` that name their tasks and plans as they are.

What only a run can tell, a name that an expression gives, is for ``children``.
"""

from collections.abc import Callable, Iterator

from aura.expressions import Template
from aura.task import Step, Task

#: (plan, task)
Name = tuple[str, str]
#: Gives a task, None if it is not there or cannot be read.
Find = Callable[[Name], Task | None]


def chain_back(to: Name, first: Name, find: Find) -> list[Name]:
    """The shortest chain of tasks, each run by a step of the one before, from ``first`` to ``to``; empty if none is."""
    chains = [[first]]
    seen = {first}
    for chain in chains:
        if chain[-1] == to:
            return chain
        for name in _run_by(chain[-1], find):
            if name not in seen:
                seen.add(name)
                chains.append([*chain, name])
    return []


def _run_by(name: Name, find: Find) -> Iterator[Name]:
    """The tasks that a task runs in its own place, as far as its file says which."""
    task = find(name)
    for step in task.all_steps() if task else ():
        if step.action == "task.run" and (found := named_by(step, name[0])):
            yield found


def named_by(step: Step, plan_name: str) -> Name | None:
    """The task that a step of a plan names; None if only a run can tell."""
    plan, task = step.params.get("plan"), step.params.get("task")
    plan_name = plan_name if plan is None or (plan.constant and plan.value is None) else _text(plan)
    task_name = "" if task is None else _text(task)
    return (plan_name, task_name) if plan_name and task_name else None


def _text(given: Template) -> str:
    """What a parameter says; nothing if it is not a text as it stands."""
    return given.value if given.constant and isinstance(given.value, str) else ""
