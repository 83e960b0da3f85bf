"""Opens a world for tests of the kernel: plans made in Python, lanes and graces as wanted, any store."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.lowlevel
import msgspec

from aura.actions import Action, action
from aura.config import load_settings
from aura.errors import PlanError, Problem, RequestError
from aura.expressions import condition, template
from aura.lifecycle import StepState, Stop
from aura.loading.generations import Generations, PlanStatus
from aura.plan import Plan, Resource
from aura.run import Cause, Request, RunRecord, StepRecord
from aura.runs.liverun import LiveRun
from aura.servicedef import Service
from aura.store import StoreBackend
from aura.stores.disk import Disk
from aura.stores.memory import MemoryBackend
from aura.task import Dependency, Loop, Retry, Source, Step, Task
from aura.testing.virtual_time import LIMIT, VirtualLoop
from aura.testing.world import World, open_world

SUCCEEDED = frozenset({StepState.SUCCEEDED})


def after(*names: str) -> tuple[Dependency, ...]:
    """Depend on the success of these steps."""
    return tuple(Dependency(name, SUCCEEDED) for name in names)


def step(name: str, function: Callable[..., Any], needs: tuple[str, ...] = (), **keys: Any) -> tuple[Step, Any]:
    """A step whose action is a Python function."""
    at = f"test.yaml:{name}"
    for key in ("params", "outputs"):
        keys[key] = {k: template(v, at) for k, v in keys.get(key, {}).items()}
    if "when" in keys:
        keys["when"] = condition(keys["when"], at)
    if "retry" in keys:
        keys["retry"] = Retry(**_asked(keys["retry"], at, "when"))
    if "loop" in keys:
        given = _asked(keys["loop"], at, "while_", "until")
        keys["loop"] = Loop(**given | {k: template(given[k], at) for k in ("for_each", "times") if k in given})
    keys.setdefault("depends_on", after(*needs))
    return Step(name=name, action=f"p.{name}", source=Source("test.yaml", 1), **keys), function


def _asked(given: Mapping[str, Any], at: str, *names: str) -> dict[str, Any]:
    """These keys with their conditions read."""
    return {**given, **{name: condition(given[name], at) for name in names if name in given}}


def task(name: str, *steps: tuple[Step, Any], **keys: Any) -> tuple[Task, dict[str, Any]]:
    """A task of such steps; ``finally_`` and the ``on_…`` are lists of them as well."""
    functions = {made.name: function for made, function in steps}
    for handler in ("finally_", "on_failure", "on_cancel", "on_preempt", "on_resume"):
        given = keys.pop(handler, ())
        keys[handler] = {made.name: made for made, _ in given}
        functions |= {made.name: function for made, function in given}
    if "returns" in keys:
        keys["returns"] = template(keys["returns"], "test.yaml:1")
    made = Task(name=name, plan_name="p", source=Source("test.yaml", 1), steps={s.name: s for s, _ in steps}, **keys)
    return made, functions


class PythonGeneration:
    """A generation of tasks made in Python; has what the work layer asks of ``generations.Generation``."""

    def __init__(
        self,
        tasks: Mapping[str, tuple[Task, dict[str, Any]]],
        hash: str = "g1",
        services: Sequence[Callable[..., Any]] = (),
    ) -> None:
        self.hash = hash
        self.files = {"plan.yaml": hash.encode()}
        self.size = len(hash)
        self.plan = Plan(name="p", directory="/nowhere", tasks={name: made for name, (made, _) in tasks.items()})
        self.code_prefixes = (__file__.rsplit("/", 1)[0],)
        known = [function.__name__ for function in services]
        self.services = {name: Service.of(made, "p", known) for name, made in zip(known, services, strict=True)}
        self._actions = {
            f"p.{name}": Action.of(action(function), "p", self.services)
            for _, functions in tasks.values()
            for name, function in functions.items()
        }

    def home_of(self, name: str) -> "PythonGeneration":
        return self

    def action(self, name: str) -> Action:
        return self._actions[name]


class PythonGenerations:
    """Serves one such generation; a test may replace it."""

    def __init__(self, *tasks: tuple[Task, dict[str, Any]], services: Sequence[Callable[..., Any]] = ()) -> None:
        made = {task.name: (task, functions) for task, functions in tasks}
        self.now: PythonGeneration | None = PythonGeneration(made, services=services)

    def current(self, plan_name: str) -> PythonGeneration:
        if self.now is None or plan_name != "p":
            raise RequestError("unknown_plan", f"there is no plan {plan_name!r}")
        return self.now

    def task(self, plan_name: str, task_name: str) -> tuple[PythonGeneration, Task]:
        generation = self.current(plan_name)
        if task_name not in generation.plan.tasks:
            raise RequestError("unknown_task", f"there is no task {task_name!r}")
        return generation, generation.plan.tasks[task_name]

    def statuses(self) -> list[PlanStatus]:
        return []

    def is_awaited(self, _plan_name: str) -> bool:
        return False

    async def reload(self, _read: object = None) -> list[PlanStatus]:
        return []

    def give_up(self) -> None:
        pass

    async def load_kept(self, plan_name: str, hash: str, files: Mapping[str, bytes]) -> PythonGeneration:
        raise PlanError([Problem(f"{plan_name}/plan.yaml", 1, 1, f"{hash} cannot be made of {len(files)} files")])


class Opened(World):
    """A world of plans made in Python, and short words for what tests of the kernel ask of it.

    ``left`` has the exit codes with which the server wanted to leave.
    """

    left: list[int]

    async def begin_run(self, task_name: str, **keys: Any) -> LiveRun:
        """Submit, and give the live run."""
        accepted = await self.engine.submit(Request("p", task_name, **keys), Cause("api"))
        return self.engine.runtime.open[accepted.cid]

    async def record(self, task_name: str, **keys: Any) -> RunRecord:
        """Submit, and give the record of the ended run."""
        return (await self.run(task_name, **keys)).record

    async def ended(self, run: LiveRun | str) -> RunRecord:
        with anyio.fail_after(LIMIT):
            return await self.engine.history.wait_run(run if isinstance(run, str) else run.cid)

    def stop(self, run: LiveRun, kind: Stop, grace: float | None = None) -> str:
        return self.engine.stops.request_stop(run, kind, kind.label, grace)[0].name.lower()

    async def steps(self, run: LiveRun | str) -> dict[str, StepRecord]:
        cid = run if isinstance(run, str) else run.cid
        return {s.name: s for s in (await self.engine.history.get_run(cid)).steps}

    async def history(self, cid: str) -> list[str]:
        """The names of the run's events, in order, a step's with its name."""
        entries = await self.engine.history.run_entries(cid, 0, 1000)
        records = [e.record() for e in entries if e.kind == "event"]
        return [f"{r['name']} {r['step']}" if r["step"] else r["name"] for r in records]


def virtual_loop() -> VirtualLoop:
    """The loop that the test runs on."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


async def until(condition: Callable[[], object]) -> None:
    """Let turns of the loop, and if need be time, pass until a condition holds."""
    await virtual_loop().wait_until(condition)


async def quiet() -> None:
    """Let everything happen that can happen at this time."""
    await virtual_loop().wait_quiet()


async def turns(count: int) -> None:
    """Let exactly so many turns of the loop pass, to meet something half-way."""
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def opened(
    folder: Path,
    *tasks: tuple[Task, dict[str, Any]],
    backend: StoreBackend | None = None,
    grace: float = 0.3,
    lanes: Mapping[str, int] | None = None,
    generations: Any = None,
    faults: int = 0,
    resources: Mapping[str, Resource] | None = None,
    disk: Disk | None = None,
    **lane_keys: Any,
) -> AsyncIterator[Opened]:
    """Open an engine over these tasks, and stop it at the end. It must have had ``faults`` engine faults by then."""
    settings = load_settings({"data": folder / "data", "plans": folder}, {}, None, folder)
    changed = {
        name: msgspec.structs.replace(lane, limit=(lanes or {}).get(name, lane.limit), **lane_keys)
        for name, lane in settings.lanes.items()
    }
    server_settings = msgspec.structs.replace(settings.server, grace=grace)
    settings = msgspec.structs.replace(settings, lanes=changed, server=server_settings, resources=resources or {})
    left: list[int] = []
    async with open_world(
        folder / "p",
        settings=settings,
        backend=backend or MemoryBackend(),  # not a world's own: a unit that fails is to fail at once, and alone
        generations=cast(Generations, generations or PythonGenerations(*tasks)),
        leave=left.append,
        kind=Opened,
        disk=disk,
    ) as kit:
        kit.left = left
        await quiet()  # that it has started is an event of its own, and on record then
        yield kit
    assert len(kit.engine.runtime.faults) == faults, list(kit.engine.runtime.faults)
