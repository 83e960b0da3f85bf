"""A world: Aura's own engine over a store in memory, in virtual time, for tests of plans and of Aura itself.

Theory of operation. ``open_world`` starts the real server without its HTTP door, on a store in memory and a clock that
goes with the virtual loop (``virtual_time``). Nothing in it is a stand-in but the time and the disk: the runs go
through admission, lanes, attempts and seals as they do in ``aura serve``.

The test's body is the one thing outside. What it waits for passes time: ``run`` and ``settle`` until runs have ended,
``until`` until something is so, ``advance`` for as long as it says. When the body waits and nobody can go on, it gets a
``Deadlock`` that names what everyone waits for; the world is then stopped like any other server.

What a crash does: a world has none yet; its store ends with it.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from secrets import token_urlsafe as random_text
from typing import Any

import anyio

from aura.config import Settings, load_settings
from aura.engine.engine import Engine
from aura.loading.generations import Generations
from aura.reasons import branches, details, head
from aura.records.reading import get_run, get_steps
from aura.run import Cause, Request, RunRecord, StepRecord
from aura.runs.liverun import LiveRun
from aura.server import Server
from aura.store import StoreBackend
from aura.stores.disk import Disk
from aura.stores.memory import MemoryBackend
from aura.testing.virtual_time import LIMIT, Deadlock, VirtualClock, VirtualLoop


class Run:
    """One run of a world. What it shows is on record now: nothing of it can be undone by a failing commit."""

    def __init__(self, world: "World", cid: str) -> None:
        self._world = world
        self.cid = cid

    def __repr__(self) -> str:
        return f"<Run {self.record.task_name} {self.cid} {self.state}>"

    @property
    def live(self) -> LiveRun | None:
        """The run in memory, while it has not ended or its end is not committed."""
        return self._world.engine.runtime.open.get(self.cid)

    @property
    def record(self) -> RunRecord:
        """The run as it is on record; a stop that is under way shows as well."""
        found = get_run(self._world.backend.execute, self.cid)
        assert found is not None, f"run {self.cid} is not on record"
        return self._world.engine.history.as_it_is(found)

    @property
    def state(self) -> str:
        """Its state, as ``record`` has it."""
        return self.record.state

    @property
    def due(self) -> float:
        """The slot that it was started for, else when it was accepted, in Unix seconds."""
        return self.record.due

    @property
    def result(self) -> Any:
        """What ``returns`` made, as plain data."""
        return self.record.result

    @property
    def error(self) -> Mapping[str, Any] | None:
        """Why it failed: ``{type, message, step, item, file, line}``."""
        return self.record.error

    @property
    def steps(self) -> dict[str, StepRecord]:
        """The steps that have begun or ended, by name, as they are on record."""
        return {step.name: step for step in get_steps(self._world.backend.execute, self.record.seq)}

    def explain(self) -> str:
        """The run and its steps as a tree of text, with errors and reasons: for the message of an assertion."""
        record = self.record
        head = f"run {record.plan_name}/{record.task_name} {self.cid}: {self.state}"
        return "\n".join([head + _because(record.reason, record.error), *branches(map(_lines, self.steps.values()))])


def _lines(step: StepRecord) -> list[str]:
    """A step and, below it, what is known of why it was skipped."""
    reason = head(step.explained) if step.explained else step.skipped_because
    below = branches([line] for line in details(step.explained)) if step.explained else []
    return [f"{step.name}: {step.state}" + _because(reason, step.error), *below]


def _because(reason: str | None, error: Mapping[str, Any] | None) -> str:
    if error is None:
        return f" ({reason})" if reason else ""
    at = f" at {error['file']}:{error['line']}" if error.get("file") else ""
    return f" ({error['type']}: {error['message']}{at})"


class GivenSecrets:
    """The secrets of a world: what was given, None for one that is nowhere, and of all others a random text."""

    def __init__(self, values: Mapping[str, str | None]) -> None:
        self._given = dict(values)

    def give(self, values: Mapping[str, str | None]) -> None:
        """Set some."""
        self._given.update(values)

    def where(self, name: str) -> str:
        return f"world.secrets({name}=…)"

    def has(self, name: str) -> bool:
        return self.read(name) is not None

    def read(self, name: str) -> str | None:
        return self._given.setdefault(name, random_text(16))

    def warnings(self, _name: str) -> Iterator[str]:
        yield from ()


class World:
    """A running engine and its time. Made by ``open_world``."""

    def __init__(self, server: Server, backend: StoreBackend, plan_name: str) -> None:
        self.server = server
        self._secrets = next((one for one in server.providers if isinstance(one, GivenSecrets)), GivenSecrets({}))
        self.backend = backend
        self.engine: Engine = server.engine
        self.plan_name = plan_name
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop), "a world needs the virtual loop: see aura.testing.virtual_time"
        self.loop = loop

    @property
    def now(self) -> float:
        """The world's wall time, in Unix seconds."""
        return self.engine.clock.wall()

    async def emit(self, name: str, payload: Any = None) -> str:
        """Emit an event, as a client does, and give its id once it is on record."""
        return (await self.engine.emit(name, payload)).event_id

    async def fire(self, rule: str, payload: Any = None) -> str:
        """Fire an interrupt rule by hand, and give the ``cid`` of its handler once that is on record.

        Raises:
            RequestError: there is no such rule, or its handler is refused.
        """
        return (await self.engine.fire(self.plan_name, rule, payload)).interrupts[0].cid

    def secrets(self, **values: str | None) -> None:
        """Set secrets of plans by name, from their next use on; None for one that is nowhere.

        One that is not set is a random text.
        """
        self._secrets.give(values)

    async def start(self, task: str, *, inputs: Mapping[str, Any] | None = None, **wishes: Any) -> Run:
        """Ask for a run and return once it is accepted. ``wishes`` are a request's other fields, such as ``delay_s``.

        Raises:
            RequestError: it is refused.
        """
        request = Request(self.plan_name, task, dict(inputs or {}), **wishes)
        return Run(self, (await self.engine.submit(request, Cause("api"))).cid)

    async def run(self, task: str, *, inputs: Mapping[str, Any] | None = None, **wishes: Any) -> Run:
        """Ask for a run and return once its end is on record. Raises as ``start`` does."""
        run = await self.start(task, inputs=inputs, **wishes)
        await self.engine.history.wait_run(run.cid)
        return run

    async def until(
        self,
        what: Run | Callable[[], object],
        *,
        step: str | None = None,
        state: str | None = None,
        within: float = LIMIT,
    ) -> None:
        """Let time go on until a run, or a step of it, is in a state, or until a condition holds.

        ``within``: virtual seconds.

        Raises:
            NotReached: it did not come to that. Deadlock: it never will.
        """
        condition = _in_state(what, step, state) if isinstance(what, Run) else what
        await self.loop.wait_until(condition, within)

    async def advance(self, seconds: float = 0.0, **parts: float) -> None:
        """Let time pass, and everything that is due by then happen. ``parts`` as for ``timedelta``: ``days=3``."""
        await anyio.sleep(seconds + timedelta(**parts).total_seconds())
        await self.loop.wait_quiet()

    async def settle(self) -> None:
        """Let time go on until every run accepted so far, and what those start, has ended."""
        await self.loop.wait_until(lambda: not self.engine.runtime.open, float("inf"))

    def runs(self, task: str | None = None) -> list[Run]:
        """All runs, or those of one task, in the order of their acceptance."""
        found = self.backend.execute("SELECT cid, task_name FROM run ORDER BY seq").fetchall()
        return [Run(self, cid) for cid, name in found if task in (None, name)]


def _in_state(run: Run, step: str | None, state: str | None) -> Callable[[], bool]:
    def reached() -> bool:
        if step is None:
            return run.state == state
        found = run.steps.get(step)
        return found is not None and found.state == state

    return reached


def world_settings(folder: Path, plans: Path) -> Settings:
    """Settings of a world: nothing of the environment, and data below ``folder``."""
    return load_settings({"data": folder / "data", "plans": plans}, {}, None, folder)


@asynccontextmanager
async def open_world(
    plan: Path,
    *,
    settings: Settings | None = None,
    backend: StoreBackend | None = None,
    generations: Generations | None = None,
    leave: Callable[[int], None] | None = None,
    kind: type[World] = World,
    secrets: Mapping[str, str | None] = {},
    disk: Disk | None = None,
    clock: VirtualClock | None = None,
) -> AsyncIterator[Any]:
    """Open a world over the plan in the folder ``plan`` (and those beside it), and stop it at the end.

    ``settings``, ``backend``, ``generations``, ``leave``: what the server gets instead of its own; ``kind``: the class
    of what is given; ``secrets``: as for ``World.secrets``, from the beginning; ``disk``: what says how much
    room there is; ``clock``: its wall clock.

    Raises:
        Deadlock: what the body waits for can never come. AssertionError: the plan cannot be served.
    """
    with tempfile.TemporaryDirectory(prefix="aura-world-") as scratch:
        settings = settings or world_settings(Path(scratch), plan.parent)
        backend = backend or MemoryBackend()
        server = Server(
            settings,
            clock=clock or VirtualClock(),
            leave=leave or _refuse_to_leave,
            http=False,
            backend=backend,
            generations=generations,
            providers=[GivenSecrets(secrets)],
            disk=disk,
        )
        failed: Exception | None = None
        # the server and the test's body; the body's end stops the server
        async with anyio.create_task_group() as group:
            await group.start(server.serve)
            try:
                if generations is None:
                    _check_served(server, plan.name)
                async with _told_of_deadlocks():
                    yield kind(server, backend, plan.name)
            except Exception as error:  # raised below, so that it does not come out in a group
                failed = error
            finally:
                server.request_stop()
        if failed is not None:
            raise failed


def _check_served(server: Server, plan_name: str) -> None:
    for status in server.engine.generations.statuses():
        if status.name == plan_name:
            assert status.status == "ready", "\n".join(str(error) for error in status.errors)
            return
    raise AssertionError(f"there is no plan {plan_name!r} in {server.settings.plans}")


def _refuse_to_leave(code: int) -> None:
    raise AssertionError(f"the server wanted to leave with exit code {code}: work of it hangs")


@asynccontextmanager
async def _told_of_deadlocks() -> AsyncIterator[None]:
    """Raise a deadlock in the body, which is inside, by cancelling it there."""
    found: list[Deadlock] = []
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)

    # the test's body; cancelled only by a deadlock, which is then what it raises
    with anyio.CancelScope() as body:

        def tell(deadlock: Deadlock) -> None:
            found.append(deadlock)
            body.cancel("deadlock")

        with loop.on_deadlock(tell):
            yield
    if found:
        raise found[0]
