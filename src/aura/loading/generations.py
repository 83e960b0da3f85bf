"""The plans that are served: for each the last version that could be loaded, as one immutable *generation*.

Theory of operation. ``reload`` reads the whole folder once, checks every plan without running its code, imports the
Python of those that have changed from that same snapshot, checks the uses of its actions, and swaps one reference per
plan. A plan that fails keeps the generation that it had and is *stale*; one that never had any is *broken*. Nothing
else is affected, but for plans that use it (``fitting``).

Whoever knows better than to read everything (``watching``) gives ``reload`` a *reading* of its own, which leaves plans
out of it that nothing has happened to, and says of which ones the last word may not be written yet: such a plan that
cannot be served is put off, and stands as it did.

An import that takes longer than ``PATIENCE`` goes on, in its thread, while others begin. A load that is in a hurry puts
such a plan off as well, and the next load of the plan waits for the same import again: one that hangs thus holds each
load of others by no more than that, until its own time is over. Any other load waits for all of them in the end, for no
longer than for the last one that began: the time of each runs from its own beginning.

A version of a plan with a gate (``gating``) is imported only once it may pass. Until then it is *kept back*: the plan
stands as it did, and the gate has its tests run and asks for this load again when they have ended. That load is given
the very snapshot that was tested.

A run that has started holds its generation itself. Here only the newest is held, so an old one goes, with its modules,
when the last run on it has ended. One that a run began with before a restart is loaded again for it (``load_kept``). A
crash in the middle of a reload loses nothing: the folder is the truth.
"""

import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import anyio
import msgspec

from aura.actions import Action
from aura.errors import ConfigError, PlanError, Problem, RequestError
from aura.loading.crosscheck import Using
from aura.loading.fitting import Loaded, fit_together
from aura.loading.gating import Gatekeeper, OpenGate, Used, remark, trial_of
from aura.loading.generation import Generation, Load
from aura.loading.importing import ImportTimeout, call_abandonable
from aura.loading.loader import NO_RESOURCES, CheckedPlan, check_plan
from aura.loading.snapshot import Snapshot, check_root_safe, read_folder, read_plan
from aura.plan import Plan, Resource
from aura.sandbox import near
from aura.task import Task

#: How long reading and checking the whole folder may take, in seconds; only a dead network drive takes so long.
READ_TIMEOUT = 60.0
#: For how many seconds what could not be imported is not tried again, unless somebody asks for a load of everything.
FAILS_FOR = 60.0
#: For how many seconds a load waits for one import before it begins the next one.
PATIENCE = 0.5

Status = Literal["ready", "stale", "broken"]


class PlanStatus(msgspec.Struct, frozen=True):
    """How a plan stands after a load. ``generation`` is the one that is served; ``warnings`` do not keep it back.

    ``testing`` is the newer version whose tests are running: it is served once they pass.
    """

    name: str
    title: str
    description: str
    status: Status
    generation: str | None
    task_count: int
    errors: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    uses: tuple[str, ...] = ()
    testing: str | None = None


class Found(msgspec.Struct, frozen=True):
    """What a reading has found of one plan. Without a ``snapshot`` it is to stay as it is.

    ``tentative``: it may still be being written, so what is wrong with it is said of it only by a later reading.
    ``hurried``: it is read again soon if its import takes long.
    """

    name: str
    snapshot: Snapshot | None = None
    tentative: bool = False
    hurried: bool = False


class _Checked(msgspec.Struct, frozen=True):
    """What a check has made of what was found. Without ``plan`` the version that is served is that of the folder.

    ``stays``: nothing was read of it.
    """

    plan: CheckedPlan | None = None
    tentative: bool = False
    hurried: bool = False
    stays: bool = False


class _Failed(msgspec.Struct, frozen=True):
    """A version that could not be imported: what was wrong, and when that was known, in the loop's seconds."""

    hash: str
    at: float
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


Reading = Callable[[], Iterable[Found]]


def _see_nothing(_plan: Plan) -> Iterable[str]:
    return ()


class Generations:
    """All plans of a folder, each with the generation that is served."""

    def __init__(
        self,
        root: Path,
        shipped: Mapping[str, Action],
        vars: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
        import_timeout: float = 10.0,
        timezone: str = "UTC",
        resources: Mapping[str, Resource] = NO_RESOURCES,
        look: Callable[[Plan], Iterable[str]] = _see_nothing,
        *,
        guarded: bool = False,
    ) -> None:
        """Serve the plans below ``root``.

        ``vars`` are the machine's own variables by plan name, over those of ``plan.yaml``; ``timezone`` is for plans
        that say none; ``import_timeout`` is in seconds, for each plan; ``resources`` are those of all plans;
        ``look`` says, at each load, what this machine lacks that a plan needs, which keeps none from being served.
        ``guarded``: what somebody else may write to is not loaded, at any load.
        """
        self._root = root
        self._guarded = guarded
        self._look = look
        self._shipped = MappingProxyType(dict(shipped))
        self._vars = vars
        self._import_timeout = import_timeout
        self._timezone = timezone
        self._resources = resources
        self._current: dict[str, Generation] = {}
        self._statuses: dict[str, PlanStatus] = {}
        #: What the last load of each plan warned of.
        self._warnings: dict[str, tuple[Problem, ...]] = {}
        #: What the plans that are served use of others.
        self._using: dict[str, Using] = {}
        #: The plans that the last load could not serve, and of which a later one is to say so.
        self.put_off: frozenset[str] = frozenset()
        #: Says which new versions of plans that have a gate may be served.
        self.gate: Gatekeeper = OpenGate()
        #: The versions that have not passed it, each the newest of its plan.
        self._kept_back: dict[str, CheckedPlan] = {}
        #: The plans that are not in order because they do not fit others: a change of those may heal them.
        self.unfit: frozenset[str] = frozenset()
        #: The newest versions that could not be imported. A plan that is still being written, or that the watcher meets
        #: for the first time, is loaded twice or more as it is, and its import may take as long as it hangs.
        self._failed: dict[str, _Failed] = {}
        #: What is still being imported, one version of a plan at most; its thread is given up when its time is over.
        self._importing: dict[str, Load] = {}
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

    async def reload(self, read: Reading | None = None) -> list[PlanStatus]:
        """Load the folder anew and swap in what could be loaded; give how each plan stands now.

        ``read`` is called in a thread and finds the plans; by itself this reads the whole folder.

        Raises:
            ConfigError: the folder itself is not there, cannot be read or is not safe; nothing changes then.
        """
        async with self._lock:
            found = await self._check(read or self._read_all)
            self._failed = {} if read is None else {name: one for name, one in self._failed.items() if name in found}
            loaded = await self._load_all(found)
            fit_together(loaded)
            self.put_off = frozenset(
                name
                for name, one in loaded.items()
                if one.importing or (found[name].tentative and (one.errors or one.kept_back))
            )
            self.give_up({name for name, one in loaded.items() if one.importing or found[name].stays})
            self._ask_gate(found, loaded, again=read is None)
            for name in self.put_off - self._statuses.keys():
                del loaded[name]
            kept = {name for name in self.unfit if name in found and found[name].stays}
            self.unfit = frozenset(name for name, one in loaded.items() if one.unfit or name in kept)
            self._current = {name: one.generation for name, one in loaded.items() if one.generation}
            self._using = {name: one.using for name, one in loaded.items() if one.generation}
            self._warnings = {name: one.warnings for name, one in loaded.items()}
            self._statuses = {name: self._status(name, one) for name, one in loaded.items()}
        return self.statuses()

    def _status(self, name: str, one: Loaded) -> PlanStatus:
        if name in self.put_off:
            return self._statuses[name]
        testing = self.gate.testing(name)
        lacking = () if one.generation is None else self._look(one.generation.plan)
        warnings = [Problem(f"{name}/plan.yaml", 1, 1, message) for message in lacking]
        return _status(name, one, (*one.warnings, *warnings), testing)

    def _ask_gate(self, found: Mapping[str, _Checked], loaded: Mapping[str, Loaded], *, again: bool) -> None:
        """Have the tests run of what is kept back, and say what is wrong with what has failed."""
        kept = {name: self._kept_back[name] for name, one in found.items() if one.stays and name in self._kept_back}
        self._kept_back = kept | {name: one.kept_back for name, one in loaded.items() if one.kept_back}
        versions = dict(_versions(loaded, self._kept_back))
        for name, one in loaded.items():
            if name in self.put_off or found[name].stays:
                continue
            if one.kept_back is None:
                self.gate.forget(name)
            elif problems := self.gate.ask(trial_of(one.kept_back, versions), again=again):
                one.errors = problems
                one.unfit = bool(one.kept_back.plan and one.kept_back.plan.uses)  # it may have been one of those
        for name in [name for name in self.gate.asked() if name not in found]:
            self.gate.forget(name)

    def is_awaited(self, plan_name: str) -> bool:
        """Whether a plan that is not served has a version in its folder that has not passed its gate."""
        return plan_name in self._kept_back and plan_name not in self._current

    @property
    def awaits_some(self) -> bool:
        """Whether any plan ``is_awaited``."""
        return any(map(self.is_awaited, self._kept_back))

    def close(self) -> None:
        """Serve nothing more, and take the plans' modules out of ``sys.modules`` now: no run is left."""
        self.give_up()
        current, self._current, self._statuses, self._using, self._kept_back = self._current, {}, {}, {}, {}
        for generation in current.values():
            generation.close()

    async def load_kept(self, plan_name: str, hash: str, files: Mapping[str, bytes]) -> Generation:
        """Load a version of a plan from its files as they were; it is served to nobody, and the caller holds it.

        What it uses of other plans is what those serve when it is asked for.

        Raises:
            PlanError: it cannot be loaded any more.
        """
        snapshot = Snapshot(plan_name, os.path.abspath(self._root / plan_name), files, hash)
        outcome = await call_abandonable(partial(self._check_plan, snapshot), READ_TIMEOUT, "aura check of plans")
        if outcome.error is not None:
            raise outcome.error
        checked = outcome.value
        assert checked is not None
        if checked.plan is None:
            raise PlanError(checked.problems)
        load = Load(checked, self._shipped, self.current, self._vars.get(plan_name, {}))
        generation = await load.run(self._import_timeout)
        if generation is None:
            raise PlanError(load.problems)
        return generation

    async def _check(self, read: Reading) -> dict[str, _Checked]:
        """Read the folder and check the plans that have changed."""
        served = {name: generation.hash for name, generation in self._current.items()}
        check = partial(self._check_changed, read, served)
        outcome = await call_abandonable(check, READ_TIMEOUT, "aura check of plans", cut=False)
        if isinstance(outcome.error, ImportTimeout):
            raise ConfigError(f"the plans folder {self._root} cannot be read: {outcome.error}")
        if outcome.error is not None:
            raise outcome.error
        return outcome.value or {}

    def _check_changed(self, read: Reading, served: Mapping[str, str]) -> dict[str, _Checked]:
        if self._guarded:
            check_root_safe(self._root)
        return {one.name: self._check_one(one, served) for one in read()}

    def _check_one(self, one: Found, served: Mapping[str, str]) -> _Checked:
        if one.snapshot is None:
            return _Checked(stays=True)
        unchanged = served.get(one.name) == one.snapshot.hash and not one.snapshot.problems
        return _Checked(None if unchanged else self._check_plan(one.snapshot), one.tentative, one.hurried)

    def _read_all(self) -> Iterable[Found]:
        return (Found(snapshot.name, snapshot) for snapshot in read_folder(self._root, guarded=self._guarded))

    def read(self, name: str) -> Snapshot:
        """Read one plan, for a reading. May be called in any thread."""
        return read_plan(self._root, name, guarded=self._guarded)

    def _check_plan(self, snapshot: Snapshot) -> CheckedPlan:
        return check_plan(snapshot, self._shipped, self._timezone, self._resources)

    async def _load_all(self, found: Mapping[str, _Checked]) -> dict[str, Loaded]:
        """Load what was found. **Cancellation** gives up all imports that are under way."""
        try:
            loaded = {name: await self._load(name, one, PATIENCE) for name, one in found.items()}
            for name, one in found.items():
                if loaded[name].importing and not one.hurried:
                    loaded[name] = await self._load(name, one, math.inf)
        except BaseException:
            self.give_up()
            raise
        return loaded

    async def _load(self, name: str, found: _Checked, patience: float) -> Loaded:
        former, using = self._current.get(name), self._using.get(name, Using(name))
        kept = Loaded(former, using, former, using)
        checked = found.plan
        if checked is None:
            kept.warnings = self._warnings[name]
            kept.errors = self._statuses[name].errors if found.stays else ()
        elif checked.plan is None:
            kept.errors = checked.problems
        elif checked.plan.gate and not self.gate.lets(name, checked.snapshot.hash):
            kept.kept_back = checked
            status = self._statuses.get(name)
            kept.errors = (remark(name, checked.snapshot.hash),)
            if former is not None and status is not None:
                kept.errors, kept.warnings = status.errors, self._warnings[name]
        elif (failed := self._failed_lately(name, checked.snapshot.hash)) is not None:
            kept.errors, kept.warnings = failed.errors, failed.warnings
        else:
            load = self._load_of(name, checked)
            generation = await load.run(self._import_timeout, patience)
            if generation is not None:
                return Loaded(generation, checked.using, former, using, warnings=load.warnings)
            if load.is_importing:
                self._importing[name] = load
                kept.importing, kept.warnings = True, self._warnings.get(name, ())
                kept.errors = (Problem(f"{name}/actions", 1, 1, "its import has not ended yet"),)
                return kept
            kept.errors, kept.warnings = load.problems, load.warnings
            self._failed[name] = _Failed(checked.snapshot.hash, anyio.current_time(), load.problems, load.warnings)
        return kept

    def _load_of(self, name: str, checked: CheckedPlan) -> Load:
        """The load of a version: the one whose import is under way, or a new one."""
        under_way = self._importing.pop(name, None)
        if under_way is not None and under_way.hash == checked.snapshot.hash:
            return under_way
        if under_way is not None:  # of an older version: here, since a new one that hangs as well takes its place
            under_way.give_up()
        return Load(checked, self._shipped, self.current, self._vars.get(name, {}))

    def give_up(self, wanted: Collection[str] = ()) -> None:
        """Give the imports of all but these plans up: nobody waits for what they come to."""
        for name in self._importing.keys() - wanted:
            self._importing.pop(name).give_up()

    def _failed_lately(self, name: str, hash: str) -> _Failed | None:
        failed = self._failed.get(name)
        is_same = failed is not None and failed.hash == hash and anyio.current_time() < failed.at + FAILS_FOR
        return failed if is_same else None


def _versions(
    loaded: Mapping[str, Loaded], kept_back: Mapping[str, CheckedPlan]
) -> Iterator[tuple[str, tuple[Used, tuple[str, ...]]]]:
    """The plans that one under trial meets: as they are served, or, of one that never was, what is kept back of it."""
    for name, one in loaded.items():
        if one.generation is not None:
            yield name, (Used(one.generation.hash, one.generation.files), one.generation.plan.uses)
        elif name in kept_back and (plan := kept_back[name].plan) is not None:
            yield name, (Used(kept_back[name].snapshot.hash, kept_back[name].snapshot.files), plan.uses)


def _status(name: str, one: Loaded, warnings: tuple[Problem, ...], testing: str | None) -> PlanStatus:
    served = one.generation
    plan = served.plan if served else Plan(name, "", {})
    return PlanStatus(
        name=name,
        title=plan.title,
        description=plan.description,
        status="ready" if not one.errors else "stale" if served else "broken",
        generation=served.hash if served else None,
        task_count=len(plan.tasks),
        errors=one.errors,
        warnings=warnings,
        uses=plan.uses,
        testing=testing,
    )
