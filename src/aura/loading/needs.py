"""Whether what a task and its steps need of the resources can ever be had: each is declared, and there is enough."""

from collections.abc import Iterator, Mapping

from aura.loading.fields import Path, Reader
from aura.plan import Resource, Semaphore
from aura.sandbox import near
from aura.task import Needs, Task


def check_needs(reader: Reader, task: Task, paths: Mapping[str, Path], declared: Mapping[str, Resource]) -> None:
    """Note what can never be had. ``paths`` are those of the steps, ``declared`` the resources that there are.

    What a run holds it keeps while its steps ask for theirs; a rate is spent and not held.
    """
    _check(reader, (), task.resources, {}, declared)
    held = {name: n for name, n in task.resources.items() if isinstance(declared.get(name), Semaphore)}
    for step in task.all_steps():
        _check(reader, paths[step.name], step.resources, held, declared)


def _check(reader: Reader, path: Path, needs: Needs, held: Needs, declared: Mapping[str, Resource]) -> None:
    for name, count in needs.items():
        at = (*path, "resources", name)
        if name not in declared:
            where = "declare it under `resources` in plan.yaml, or for all plans under [resources] in aura.toml"
            reader.key_problem(at, f"there is no resource {name!r}{near(name, declared)}; {where}")
        for problem in _too_many(name, count, held.get(name, 0), declared):
            reader.problem(at, problem)


def _too_many(name: str, count: int, held: int, declared: Mapping[str, Resource]) -> Iterator[str]:
    there = declared[name].count if name in declared else count + held
    if count > there:
        yield f"{name}: {count} can never be had, since there are {there}"
    elif count + held > there:
        yield f"{name}: {count} more can never be had: the run holds {held} meanwhile, and there are {there}"
