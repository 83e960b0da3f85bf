"""One loaded version of a plan, a *generation*, and how it is made: import, services, actions, uses, variables.

Which generation of a plan is served, and what becomes of the others, is for ``generations``. A generation holds no
other one: an action of another plan is that of the generation served when it is asked for, and whoever calls it holds
that as long as it runs.
"""

import inspect
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType, ModuleType
from typing import Any

import msgspec

from aura.actions import Action, is_action
from aura.errors import ActionMissing, Problem, RequestError
from aura.loading.importing import Abandonable, Outcome, Package, code_of, new_threads
from aura.loading.loader import CheckedPlan
from aura.loading.snapshot import Snapshot
from aura.loading.usecheck import Known, check_uses
from aura.plan import Plan
from aura.sandbox import near
from aura.servicedef import Service, circle_message, find_circle, is_service, service_name


class Generation:
    """One loaded version of a plan, known by its content's hash.

    ``actions`` and ``services`` are the plan's own by bare name; ``files`` is what it was loaded from, by path below
    the plan's folder, ``size`` their bytes together.
    """

    __slots__ = (
        "__weakref__",
        "_package",
        "_served",
        "_shipped",
        "actions",
        "files",
        "hash",
        "name",
        "plan",
        "services",
        "size",
    )

    def __init__(
        self,
        plan: Plan,
        snapshot: Snapshot,
        actions: Mapping[str, Action],
        services: Mapping[str, Service],
        shipped: Mapping[str, Action],
        served: "Callable[[str], Generation]",
        package: Package,
    ) -> None:
        self.name = plan.name
        self.plan = plan
        self.hash = snapshot.hash
        self.files = snapshot.files
        self.size = sum(map(len, snapshot.files.values()))
        self.actions = MappingProxyType(dict(actions))
        self.services = MappingProxyType(dict(services))
        self._shipped = shipped
        self._served = served
        self._package = package

    @property
    def code_prefix(self) -> str:
        """What the file names of its code begin with, such as ``lab@3f2a91c04b7d/``."""
        return self._package.code_prefix

    @property
    def code_prefixes(self) -> tuple[str, ...]:
        """What the file names of code that its steps may run begin with: its own, and that of the plans it uses."""
        return self.code_prefix, *map(code_of, self.plan.uses)

    def action(self, full_name: str) -> Action:
        """Find a shipped action, or one of this plan's own or of a plan that it uses, as ``<plan>.<name>``.

        Raises:
            ActionMissing: there is none.
        """
        home = self.home_of(full_name)
        family, _, bare = full_name.rpartition(".")
        own = family == home.name
        found = home.actions.get(bare) if own else home._shipped.get(full_name)
        if found is None:
            known = near(bare, home.actions) if own else ""
            raise ActionMissing(f"there is no action {full_name!r} in the version that is served{known}")
        return found

    def home_of(self, full_name: str) -> "Generation":
        """The generation whose code and variables an action has: of a plan that this one uses, the one served now.

        Raises:
            ActionMissing: that plan is not served.
        """
        if not self.plan.uses:
            return self
        family = full_name.rpartition(".")[0]
        if family not in self.plan.uses:
            return self
        try:
            return self._served(family)
        except RequestError as refused:
            raise ActionMissing(f"there is no action {full_name!r}: {refused.detail}") from None

    def close(self) -> None:
        """Take its modules out of ``sys.modules``, though references to it may be left."""
        self._package.close()

    def __repr__(self) -> str:
        return f"<generation {self.hash[:12]} of {self.name}>"


class Load:
    """The load of one plan that has passed its check: import, services, actions, uses, variables.

    ``is_importing``: its import was waited for in vain; it goes on, and ``run`` may be called again.
    """

    def __init__(
        self,
        checked: CheckedPlan,
        shipped: Mapping[str, Action],
        served: Callable[[str], Generation],
        overrides: Mapping[str, Any],
    ) -> None:
        self._checked = checked
        self._shipped = shipped
        self._served = served
        self._overrides = overrides
        self._problems: list[Problem] = []
        self._warnings: list[Problem] = []
        snapshot = checked.snapshot
        self.hash = snapshot.hash
        self._package = Package(snapshot.name, snapshot.directory, snapshot.hash, snapshot.files)
        self._import: Abandonable[list[ModuleType]] | None = None
        self._threads: list[threading.Thread] = []
        self.is_importing = False

    @property
    def problems(self) -> tuple[Problem, ...]:
        return tuple(sorted(self._problems))

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return tuple(self._warnings)

    async def run(self, timeout: float, patience: float = math.inf) -> Generation | None:
        """Give the generation, or None if there are problems, or if it ``is_importing`` after ``patience`` seconds.

        **Cancellation** gives the import up.
        """
        package, modules = self._package, list[ModuleType]()
        if package.sources:
            try:
                outcome = await self._imported(timeout, patience)
            except BaseException:
                self.give_up()
                raise
            self.is_importing = outcome is None
            if outcome is None:
                return None
            modules = self._modules(outcome)
        plan = self._plan()
        services = self._services(package, modules)
        actions = self._actions(package, modules, services)
        if not self._problems:
            self._check_uses(actions)
        if self._problems:
            package.close()
            return None
        snapshot = self._checked.snapshot
        return Generation(plan, snapshot, actions, services, self._shipped, self._served, package)

    def give_up(self) -> None:
        """Have its import end: nobody asks for it any more."""
        if self._import is not None:
            self._import.give_up()
        self._package.close()

    def _plan(self) -> Plan:
        plan = self._checked.plan
        assert plan is not None
        for name in self._overrides:
            if name not in plan.vars:
                message = f"the settings override the variable {name!r}, which is not here{near(name, plan.vars)}"
                self._problems.append(Problem(f"{plan.name}/plan.yaml", 1, 1, message))
        return msgspec.structs.replace(plan, vars={**plan.vars, **self._overrides})

    async def _imported(self, timeout: float, patience: float) -> Outcome[list[ModuleType]] | None:
        if self._import is None:
            self._threads = threading.enumerate()
            name = f"aura import of {self._package.plan_name}"
            self._import = Abandonable(self._package.import_actions, timeout, name)
        return await self._import.wait(patience)

    def _modules(self, outcome: Outcome[list[ModuleType]]) -> list[ModuleType]:
        package, self._import = self._package, None
        if outcome.error is not None:
            self._problems.append(package.problem(outcome.error))
            return []
        for thread in new_threads(self._threads):
            message = f"the import started a thread, {thread.name}, which will outlive this version of the plan"
            self._warnings.append(Problem(f"{package.plan_name}/actions", 1, 1, message))
        return outcome.value or []

    def _services(self, package: Package, modules: list[ModuleType]) -> dict[str, Service]:
        functions = list(_marked(package, modules, is_service))
        known = {service_name(function) for function in functions}
        found: dict[str, Service] = {}
        for function in functions:
            place = _place(package, function)
            try:
                service = Service.of(function, package.plan_name, known)
            except Exception as error:
                self._problems.append(Problem(*place, str(error)))
                continue
            if service.name in found:
                message = f"there is another service {service.name!r}; its name is unique"
                self._problems.append(Problem(*place, message))
            found[service.name] = service
        if circle := find_circle({name: service.needs for name, service in found.items()}):
            self._problems.append(Problem(*_place(package, found[circle[0]].function), circle_message(circle)))
        return found

    def _actions(
        self, package: Package, modules: list[ModuleType], services: Mapping[str, Service]
    ) -> dict[str, Action]:
        found: dict[str, Action] = {}
        for function in _marked(package, modules, is_action):
            file, line, _ = _place(package, function)
            try:
                action = Action.of(function, package.plan_name, services)
                bare = action.name.removeprefix(f"{package.plan_name}.")
            except Exception as error:
                self._problems.append(Problem(file, line, 1, str(error)))
                continue
            if bare in found or bare in self._shipped or bare in services:
                self._problems.append(Problem(file, line, 1, f"there is another {bare!r}; an action's name is unique"))
            found[bare] = action
        return found

    def _check_uses(self, actions: Mapping[str, Action]) -> None:
        name = self._checked.name
        known: dict[str, Known] = {**self._shipped, **{f"{name}.{bare}": action for bare, action in actions.items()}}
        check_uses(name, self._checked.uses, known, complete=True)
        for reader in {id(use.reader): use.reader for use in self._checked.uses}.values():
            self._problems += reader.problems


def _marked(package: Package, modules: list[ModuleType], is_marked: Callable[[object], bool]) -> Iterator[Any]:
    """The functions of a package that are marked, each once, and not what it imported from elsewhere to call it."""
    functions = {id(value): value for module in modules for value in vars(module).values() if is_marked(value)}
    for function in functions.values():
        if str(function.__module__).startswith(package.name):
            yield function


def _place(package: Package, function: Any) -> tuple[str, int, int]:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return (package.shown_file(code.co_filename), code.co_firstlineno, 1) if code else ("", 1, 1)
