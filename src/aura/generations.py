"""The plans that are served: for each the last version that could be loaded, as one immutable *generation*.

Theory of operation. ``reload`` reads the whole folder once, checks every plan without running its code, imports the
Python of those that have changed from that same snapshot, checks the uses of its actions, and swaps one reference per
plan. A plan that fails keeps the generation that it had and is *stale*; one that never had any is *broken*. Nothing
else is affected: each plan is on its own.

A run that has started holds its generation itself. Here only the newest is held, so an old one goes, with its modules,
when the last run on it has ended. One that a run began with before a restart is loaded again for it (``load_kept``). A
crash in the middle of a reload loses nothing: the folder is the truth.
"""

import os
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Literal

import anyio
import msgspec

from aura.actions import Action, is_action
from aura.errors import ConfigError, PlanError, Problem, RequestError
from aura.importing import ImportTimeout, Package, call_abandonable, new_threads
from aura.loader import CheckedPlan, check_plan
from aura.plan import Plan, Task
from aura.sandbox import near
from aura.snapshot import Snapshot, read_folder
from aura.usecheck import Known, check_uses

#: How long reading and checking the whole folder may take, in seconds; only a dead network drive takes so long.
READ_TIMEOUT = 60.0

Status = Literal["ready", "stale", "broken"]


class Generation:
    """One loaded version of a plan, known by its content's hash.

    ``actions`` are the plan's own by bare name; ``files`` is what it was loaded from, by path below the plan's folder.
    """

    __slots__ = ("__weakref__", "_package", "_shipped", "actions", "files", "hash", "name", "plan")

    def __init__(
        self,
        plan: Plan,
        snapshot: Snapshot,
        actions: Mapping[str, Action],
        shipped: Mapping[str, Action],
        package: Package,
    ) -> None:
        self.name = plan.name
        self.plan = plan
        self.hash = snapshot.hash
        self.files = snapshot.files
        self.actions = MappingProxyType(dict(actions))
        self._shipped = shipped
        self._package = package

    @property
    def code_prefix(self) -> str:
        """What the file names of its code begin with, such as ``lab@3f2a91c04b7d/``."""
        return self._package.code_prefix

    def action(self, full_name: str) -> Action:
        """Find a shipped action, or one of this plan's own, as ``<plan>.<name>``.

        Raises:
            KeyError: there is none.
        """
        family, _, bare = full_name.rpartition(".")
        return self.actions[bare] if family == self.name else self._shipped[full_name]

    def close(self) -> None:
        """Take its modules out of ``sys.modules``, though references to it may be left."""
        self._package.close()

    def __repr__(self) -> str:
        return f"<generation {self.hash[:12]} of {self.name}>"


class PlanStatus(msgspec.Struct, frozen=True):
    """How a plan stands after a load. ``generation`` is the one that is served; ``warnings`` do not keep it back."""

    name: str
    title: str
    description: str
    status: Status
    generation: str | None
    task_count: int
    errors: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


class Generations:
    """All plans of a folder, each with the generation that is served."""

    def __init__(
        self,
        root: Path,
        shipped: Mapping[str, Action],
        vars: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
        import_timeout: float = 10.0,
        timezone: str = "UTC",
    ) -> None:
        """Serve the plans below ``root``.

        ``vars`` are the machine's own variables by plan name, over those of ``plan.yaml``; ``timezone`` is for plans
        that say none; ``import_timeout`` is in seconds, for each plan.
        """
        self._root = root
        self._shipped = MappingProxyType(dict(shipped))
        self._vars = vars
        self._import_timeout = import_timeout
        self._timezone = timezone
        self._current: dict[str, Generation] = {}
        self._statuses: dict[str, PlanStatus] = {}
        # one load at a time: two would race for which content is the newer
        self._lock = anyio.Lock()

    def shipped(self) -> Mapping[str, Action]:
        """The shipped actions by full name."""
        return self._shipped

    def statuses(self) -> list[PlanStatus]:
        """How each plan stands, in the order of their names."""
        return list(self._statuses.values())

    def current(self, plan_name: str) -> Generation:
        """Give the generation of a plan that is served.

        Raises:
            RequestError: ``unknown_plan``, with a near name, or ``plan_broken``, with its first problem.
        """
        generation = self._current.get(plan_name)
        if generation is not None:
            return generation
        status = self._statuses.get(plan_name)
        if status is None:
            known = near(plan_name, self._statuses)
            raise RequestError("unknown_plan", f"there is no plan {plan_name!r}{known}")
        raise RequestError("plan_broken", f"the plan {plan_name!r} cannot be loaded: {status.errors[0]}")

    def task(self, plan_name: str, task_name: str) -> tuple[Generation, Task]:
        """Give a task and the generation that it is of.

        Raises:
            RequestError: ``unknown_task``, with a near name, or what ``current`` raises.
        """
        generation = self.current(plan_name)
        task = generation.plan.tasks.get(task_name)
        if task is None:
            known = near(task_name, generation.plan.tasks)
            raise RequestError("unknown_task", f"the plan {plan_name} has no task {task_name!r}{known}")
        return generation, task

    async def reload(self) -> list[PlanStatus]:
        """Load the folder anew and swap in what could be loaded; give how each plan stands now.

        Raises:
            ConfigError: the folder itself is not there or cannot be read; nothing changes then.
        """
        async with self._lock:
            found = await self._check()
            loaded = {name: await self._load(name, checked) for name, checked in found.items()}
            self._current = {name: generation for name, (generation, _) in loaded.items() if generation}
            self._statuses = {name: status for name, (_, status) in loaded.items()}
        return self.statuses()

    def close(self) -> None:
        """Serve nothing more, and take the plans' modules out of ``sys.modules`` now: no run is left."""
        current, self._current, self._statuses = self._current, {}, {}
        for generation in current.values():
            generation.close()

    async def load_kept(self, plan_name: str, hash: str, files: Mapping[str, bytes]) -> Generation:
        """Load a version of a plan from its files as they were; it is served to nobody, and the caller holds it.

        Raises:
            PlanError: it cannot be loaded any more.
        """
        snapshot = Snapshot(plan_name, os.path.abspath(self._root / plan_name), files, hash)
        check = partial(check_plan, snapshot, self._shipped, self._timezone)
        outcome = await call_abandonable(check, READ_TIMEOUT, "aura check of plans")
        if outcome.error is not None:
            raise outcome.error
        checked = outcome.value
        assert checked is not None
        if checked.plan is None:
            raise PlanError(checked.problems)
        load = _Load(checked, self._shipped, self._vars.get(plan_name, {}))
        generation = await load.run(self._import_timeout)
        if generation is None:
            raise PlanError(load.problems)
        return generation

    async def _check(self) -> dict[str, CheckedPlan | None]:
        """Read the folder and check the plans that have changed; of the others, None."""
        served = {name: generation.hash for name, generation in self._current.items()}
        outcome = await call_abandonable(partial(self._check_changed, served), READ_TIMEOUT, "aura check of plans")
        if isinstance(outcome.error, ImportTimeout):
            raise ConfigError(f"the plans folder {self._root} cannot be read: {outcome.error}")
        if outcome.error is not None:
            raise outcome.error
        return outcome.value or {}

    def _check_changed(self, served: Mapping[str, str]) -> dict[str, CheckedPlan | None]:
        found: dict[str, CheckedPlan | None] = {}
        for snapshot in read_folder(self._root):
            unchanged = served.get(snapshot.name) == snapshot.hash and not snapshot.problems
            found[snapshot.name] = None if unchanged else check_plan(snapshot, self._shipped, self._timezone)
        return found

    async def _load(self, name: str, checked: CheckedPlan | None) -> tuple[Generation | None, PlanStatus]:
        former = self._current.get(name)
        if checked is None:
            return former, _status(name, former, (), self._statuses[name].warnings)
        if checked.plan is None:
            return former, _status(name, former, checked.problems)
        load = _Load(checked, self._shipped, self._vars.get(name, {}))
        generation = await load.run(self._import_timeout)
        return generation or former, _status(name, generation or former, load.problems, load.warnings)


def _status(
    name: str, served: Generation | None, errors: tuple[Problem, ...], warnings: tuple[Problem, ...] = ()
) -> PlanStatus:
    status: Status = "ready" if not errors else "stale" if served else "broken"
    plan = served.plan if served else Plan(name, "", {})
    return PlanStatus(
        name=name,
        title=plan.title,
        description=plan.description,
        status=status,
        generation=served.hash if served else None,
        task_count=len(plan.tasks),
        errors=errors,
        warnings=warnings,
    )


class _Load:
    """The load of one plan that has passed its check: import, actions, uses, variables."""

    def __init__(self, checked: CheckedPlan, shipped: Mapping[str, Action], overrides: Mapping[str, Any]) -> None:
        self._checked = checked
        self._shipped = shipped
        self._overrides = overrides
        self._problems: list[Problem] = []
        self._warnings: list[Problem] = []

    @property
    def problems(self) -> tuple[Problem, ...]:
        return tuple(sorted(self._problems))

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return tuple(self._warnings)

    async def run(self, timeout: float) -> Generation | None:
        """Give the generation, or None if there are problems."""
        snapshot = self._checked.snapshot
        package = Package(snapshot.name, snapshot.directory, snapshot.hash, snapshot.files)
        plan = self._plan()
        actions = await self._import(package, timeout) if package.sources else {}
        if not self._problems:
            self._check_uses(actions)
        if self._problems:
            package.close()
            return None
        return Generation(plan, snapshot, actions, self._shipped, package)

    def _plan(self) -> Plan:
        plan = self._checked.plan
        assert plan is not None
        for name in self._overrides:
            if name not in plan.vars:
                message = f"the settings override the variable {name!r}, which is not here{near(name, plan.vars)}"
                self._problems.append(Problem(f"{plan.name}/plan.yaml", 1, 1, message))
        return msgspec.structs.replace(plan, vars={**plan.vars, **self._overrides})

    async def _import(self, package: Package, timeout: float) -> dict[str, Action]:
        before = threading.enumerate()
        outcome = await call_abandonable(package.import_actions, timeout, f"aura import of {package.plan_name}")
        if outcome.error is not None:
            self._problems.append(package.problem(outcome.error))
            return {}
        for thread in new_threads(before):
            message = f"the import started a thread, {thread.name}, which will outlive this version of the plan"
            self._warnings.append(Problem(f"{package.plan_name}/actions", 1, 1, message))
        return self._actions(package, outcome.value or [])

    def _actions(self, package: Package, modules: list[ModuleType]) -> dict[str, Action]:
        found: dict[str, Action] = {}
        functions = {id(value): value for module in modules for value in vars(module).values() if is_action(value)}
        for function in functions.values():
            if not str(function.__module__).startswith(package.name):
                continue  # such as a shipped action, imported to be called
            code = getattr(function, "__code__", None)
            file, line = (package.shown_file(code.co_filename), code.co_firstlineno) if code else ("", 1)
            try:
                action = Action.of(function, package.plan_name)
                bare = action.name.removeprefix(f"{package.plan_name}.")
            except Exception as error:
                self._problems.append(Problem(file, line, 1, str(error)))
                continue
            if bare in found or bare in self._shipped:
                self._problems.append(Problem(file, line, 1, f"there is another action {bare!r}; its name is unique"))
            found[bare] = action
        return found

    def _check_uses(self, actions: Mapping[str, Action]) -> None:
        name = self._checked.name
        known: dict[str, Known] = {**self._shipped, **{f"{name}.{bare}": action for bare, action in actions.items()}}
        check_uses(name, self._checked.uses, known, complete=True)
        for reader in {id(use.reader): use.reader for use in self._checked.uses}.values():
            self._problems += reader.problems
