"""A world: Aura's own engine over a store in memory, in virtual time, for tests of plans and of Aura itself.

Theory of operation. A world is the real server without its HTTP door, on a store in memory and a clock that goes with
the virtual loop (``virtual_time``). Nothing in it is a stand-in but the time, the disk, and what the test has put in
place of actions and services (``interception``): the runs go through admission, lanes, attempts and seals as they do in
``aura serve``.

The plan is loaded when the world is made, so that fakes can be checked against it. The server starts with the first
thing that is awaited of the world: until then the test says when that is (``begin``), what the plan remembers
(``state``) and what its variables are.

The test's body is the one thing outside. What it waits for passes time: ``run`` and ``settle`` until runs have ended,
``until`` until something is so, ``advance`` for as long as it says. When the body waits and nobody can go on, it gets a
``Deadlock`` that names what everyone waits for; the world is then stopped like any other server.

What a crash does: the present life is frozen (``lives``), and a new server starts on a copy of what was committed. A
frozen life is thawed at the end of the world, and stopped.
"""

import asyncio
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import msgspec

from aura.builtin import shipped
from aura.config import Settings, load_settings
from aura.engine.engine import Engine
from aura.errors import RequestError
from aura.loading.generations import Generations, PlanStatus
from aura.plan import Plan
from aura.records.why import WhyFilter
from aura.run import Cause, Request
from aura.sandbox import near
from aura.secrets import secret_warnings
from aura.server import Server
from aura.store import StoreBackend
from aura.stores.disk import Disk
from aura.testing.deadlocks import told_of_deadlocks
from aura.testing.doors import Doors
from aura.testing.fakes import Fake, make_fake
from aura.testing.guarding.guard import Guard, word_of
from aura.testing.interception import Interception
from aura.testing.plans import PlansOf, find_action, find_service
from aura.testing.record import MOST, Record
from aura.testing.run import Run
from aura.testing.secrets import GivenSecrets
from aura.testing.servers import Servers
from aura.testing.state import WorldState
from aura.testing.virtual_time import START, VirtualClock, VirtualLoop
from aura.testing.waits import ENDED_WITHIN, Waits, seconds_of
from aura.testing.whereabouts import describe_children, describe_threads
from aura.testing.writebehind import WriteBehind

T = TypeVar("T")


class World(Record, Waits, Doors):
    """A running engine and its time. Made by ``open_world``, and for a test of a plan by the fixture ``world``."""

    def __init__(
        self,
        plan_name: str,
        settings: Settings,
        *,
        plans: Sequence[str] = (),
        backend: StoreBackend | None = None,
        generations: Generations | None = None,
        leave: Callable[[int], None] | None = None,
        secrets: Mapping[str, str | None] | None = None,
        disk: Disk | None = None,
        clock: VirtualClock | None = None,
        guard: Guard | None = None,
    ) -> None:
        """``plans``: those that are served, with those that they use; all of the folder if none are named."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop), "a world needs the virtual loop: see aura.testing.virtual_time"
        self.loop = loop
        self.plan_name = plan_name
        self.settings = settings
        self.backend = backend or WriteBehind()
        self.clock = clock or VirtualClock()
        #: What the plan remembers. It may be changed until the world begins.
        self.state = WorldState(self)
        self.interception = Interception(guard or Guard(everything=True))
        self._plans = plans
        self.looks_at_files = bool(plans)
        self._leave = leave or _refuse_to_leave
        self._disk = disk
        self._secrets = GivenSecrets(secrets or {})
        self._is_given = generations is not None
        #: With which the plans were loaded; when the world begins its variables may be others.
        self._loaded_with = settings
        self._generations = generations or self._make_generations()
        self.lines = deque(maxlen=MOST)
        self._servers = Servers(loop, self._make_server)
        self._is_open = False
        #: Held while it begins: by one child of the test, which the start of a server keeps for as long as that takes.
        self._opening = anyio.Lock()

    def _world(self) -> "World":
        return self

    # -- before it begins

    def begin(self, at: str | datetime) -> None:
        """Set the time at which the world begins: RFC 3339 text, or an aware time. Without it that is 2026-01-01.

        Raises:
            RuntimeError: it has begun. ValueError: this is no time, or says no offset from UTC.
        """
        self.check_not_begun("begin")
        moment = _moment_of(at)
        passed = self.loop.time() - START
        self.clock = VirtualClock(moment.timestamp() - passed, self.clock.recheck)

    def vars(self, **values: Any) -> None:
        """Set variables of the plan, as ``[vars.PLAN]`` of aura.toml does on a machine. Raises as ``begin`` does."""
        self.check_not_begun("vars")
        known = self.plan_of(self.plan_name).vars
        for name in values:
            if name not in known:
                raise ValueError(f"plan {self.plan_name} has no variable {name!r}{near(name, known)}")
        of_plan = {**self.settings.vars.get(self.plan_name, {}), **values}
        changed = {**self.settings.vars, self.plan_name: of_plan}
        self.settings = msgspec.structs.replace(self.settings, vars=changed)

    def secrets(self, **values: str | None) -> None:
        """Set secrets of plans by name, from their next use on; None for one that is nowhere.

        One that is not set is a random text.

        Raises:
            ValueError: no plan of this world has a secret of that name.
        """
        known = {name for status in self._generations.statuses() for name in self._secrets_of(status.name)}
        for name in values:
            if name not in known:
                raise ValueError(f"no plan of this world has a secret {name!r}{near(name, sorted(known))}")
        self._secrets.give(values)

    def _secrets_of(self, plan_name: str) -> Sequence[str]:
        try:
            return self.plan_of(plan_name).secrets
        except RequestError:
            return ()

    def check_not_begun(self, what: str) -> None:
        """Raise ``RuntimeError`` if the world has begun."""
        if self._servers.begun:
            raise RuntimeError(f"world.{what} comes before anything is awaited: the world has begun")

    # -- what stands in place of what

    def fake(self, name: str, **keys: Any) -> Fake:
        """Put a fake in place of an action, from its next call on: ``returns=``, ``raises=``, ``does=``,
        ``sequence=[…]``, and ``takes=`` for how long a call lasts. See ``fakes.make_fake``.

        ``name`` is the action's as a step says it: ``ping``, ``shell.run``, ``notify.mail``.

        Raises:
            FakeError: there is no such action, or it could not do so.
        """
        fake = make_fake(find_action(self._generations, self.plan_name, name), **keys)
        self.interception.put(fake)
        return fake

    def fake_service(self, name: str, value: Any) -> None:
        """Put an object in place of a service of the plan, or of one that it uses (``plan.name``).

        Raises:
            FakeError: there is no such service.
        """
        self.interception.services[find_service(self._generations, self.plan_name, name).full_name] = value

    def allow(self, *words: str | Path) -> None:
        """Let what would be refused leave the process: ``network``, ``processes``, ``files``, an absolute path and what
        is below it, or by its name all that one action does. See ``guard``.

        Raises:
            ValueError: it is none of these.
        """
        self.interception.guard.allow(*map(self._word, words))

    def deny(self, *words: str | Path) -> None:
        """Take that back; an action that is denied is refused whatever it does. Raises as ``allow`` does."""
        self.interception.guard.deny(*map(self._word, words))

    def _word(self, said: str | Path) -> str:
        return word_of(said, partial(find_action, self._generations, self.plan_name))

    @property
    def refused(self) -> list[str]:
        """What plans wanted to do and were not allowed to, the newest last, also where a plan has swallowed that."""
        return list(self.interception.guard.refused)

    def plan_of(self, name: str) -> Plan:
        """A plan as it is served now. Raises ``RequestError`` if it is not."""
        return self._generations.current(name).plan

    # -- its server

    @property
    def server(self) -> Server:
        """The server of the present life."""
        return self._servers.present

    @property
    def begun(self) -> bool:
        """Whether there is a server: there is from the first thing on that is awaited of the world."""
        return self._servers.begun

    @property
    def engine(self) -> Engine:
        """The engine of the present life."""
        return self.server.engine

    @property
    def now(self) -> float:
        """The world's wall time, in Unix seconds."""
        return self.clock.wall()

    def timezone(self, plan_name: str) -> str:
        """The time zone of a plan."""
        try:
            return self.plan_of(plan_name).timezone
        except RequestError:
            return "UTC"

    def file_of(self, plan_name: str, name: str) -> bytes | None:
        """A file of a plan as it is served now, by its path below the plan's folder; None if there is none."""
        return self._generations.current(plan_name).files.get(name)

    async def load(self) -> None:
        """Load the plan. Raises ``AssertionError`` with its problems if it cannot be served."""
        if not self._is_given:
            await self._generations.reload()
            self._check_served()

    async def open(self) -> None:
        """Begin, if it has not begun; who comes while it begins waits until it has."""
        if not self._is_open:
            async with self._opening:
                if not self._servers.begun:
                    await self._servers.begin(self.backend)
                    self._note_begun()
                    await self.loop.wait_until(lambda: self.files_are_settled)  # what lies there by now is not told
                self._is_open = True
        self.look_at_files()

    def _make_generations(self) -> Generations:
        settings = self.settings
        kind: Any = partial(PlansOf, self._plans) if self._plans else Generations
        made: Generations = kind(
            settings.plans,
            shipped(),
            settings.vars,
            timezone=settings.server.timezone,
            resources=settings.resources,
            look=lambda plan: secret_warnings([self._secrets], plan),
        )
        return made

    def _make_server(self, backend: StoreBackend) -> Server:
        if not self._is_given and (self._servers.begun or self.settings is not self._loaded_with):
            self._generations = self._make_generations()
        return Server(
            self.settings,
            clock=self.clock,
            leave=self._leave,
            http=False,
            backend=backend,
            generations=self._generations,
            providers=[self._secrets],
            disk=self._disk,
            interceptor=self.interception,
        )

    def _note_begun(self) -> None:
        self.backend = self._servers.backend
        self.engine.journal.add_sink(self.lines.append)
        self.note_folders()
        self.loop.outlook = self._last_due
        if not self._is_given:
            self._check_served()

    def _last_due(self) -> float:
        """The loop's time by which each item of a schedule has had its next slot."""
        dues = [live.next_due for live in self.engine.items.live.values() if live.enabled and live.next_due]
        return self.loop.time() + max(dues, default=self.now) - self.now

    def _check_served(self) -> None:
        for status in self._generations.statuses():
            if status.name == self.plan_name:
                assert status.status == "ready", "\n".join(str(error) for error in status.errors)
                return
        raise AssertionError(f"there is no plan {self.plan_name!r} in {self.settings.plans}")

    def living(self) -> AbstractAsyncContextManager[None]:
        """The time of a world: its servers are stopped, and their errors raised, at the end."""
        return self._servers.living()

    async def call(self, function: Callable[..., Awaitable[T]], *args: Any, **keys: Any) -> T:
        """Call the engine of the present life, as one of its children does."""
        await self.open()
        return await self._servers.call(partial(function, **keys), *args)

    async def crash_and_restart(self, down: float | str = 0.0) -> None:
        """End the server as ``kill -9`` would, and start it again on what was committed, ``down`` seconds later.

        Nothing of what ran goes on: no clean-up, no answer.
        """
        await self.open()
        await self._servers.crash_and_begin(seconds_of(down))
        self._note_begun()

    async def restart(self, down: float | str = 0.0) -> None:
        """Stop the server in order, as a signal does, and start it again, ``down`` seconds later."""
        await self.open()
        await self._servers.end_and_begin(seconds_of(down))
        self._note_begun()

    async def reload(self) -> list[PlanStatus]:
        """Load the plan's files anew, as ``aura reload`` does, and give how each plan stands now."""
        await self.open()
        statuses = await self.call(self.engine.reload)
        self.note_folders()
        return statuses

    # -- what happens in it

    async def emit(self, name: str, payload: Any = None) -> str:
        """Emit an event, as a client does, and give its id once it is on record."""
        await self.open()
        return (await self.call(self.engine.emit, name, payload)).event_id

    async def fire(self, rule: str, payload: Any = None) -> str:
        """Fire an interrupt rule by hand, and give the ``cid`` of its handler once that is on record.

        Raises:
            RequestError: there is no such rule, or its handler is refused.
        """
        await self.open()
        return (await self.call(self.engine.fire, self.plan_name, rule, payload)).interrupts[0].cid

    async def start(
        self, task: str, *, inputs: Mapping[str, Any] | None = None, plan: str | None = None, **wishes: Any
    ) -> Run:
        """Ask for a run and return once it is accepted. ``plan``: of another plan of this world.

        ``wishes`` are a request's other fields, such as ``delay_s``.

        Raises:
            RequestError: it is refused.
        """
        await self.open()
        request = Request(plan or self.plan_name, task, dict(inputs or {}), **wishes)
        return Run(self, (await self.call(self.engine.submit, request, Cause("api"))).cid)

    async def start_item(self, item: str, *, inputs: Mapping[str, Any] | None = None) -> Run:
        """Start an item of the schedule by hand, with its inputs and over them these. Raises as ``start`` does."""
        await self.open()
        asked = self.call(self.engine.schedules.run, self.plan_name, item, inputs or {}, Cause("api"))
        return Run(self, (await asked).cid)

    async def switch(self, name: str, enabled: bool) -> None:
        """Switch an item of the schedule, or an interrupt rule, on or off, as a user does.

        Raises:
            RequestError: there is neither.
        """
        await self.open()
        rules = self._generations.current(self.plan_name).plan.rules
        switch = self.engine.switch_rule if name in rules else self.engine.schedules.switch
        await self.call(switch, self.plan_name, name, enabled, "test")

    async def run(self, task: str, *, within: float | str = ENDED_WITHIN, **wishes: Any) -> Run:
        """Ask for a run as ``start`` does and return once its end is on record.

        ``within``: virtual time, in seconds or as text; 31 days.

        Raises:
            RequestError: it is refused. NotReached: it has not ended within that. Deadlock: it never will.
        """
        __tracebackhide__ = True
        run = await self.start(task, **wishes)
        await self.wait_for_end(run, within)
        return run

    async def why(self, item: str | None = None) -> list[dict[str, Any]]:
        """What did not start and why, in its order: lines of the why-ledger, ``{reason, item, detail, …}``."""
        await self.open()
        await self.loop.wait_quiet()
        wanted = WhyFilter(item=item)
        page = await self.call(self.engine.why, wanted, MOST)
        return [msgspec.to_builtins(line) for line in reversed(page.lines)]

    # -- at the end

    def check(self) -> None:
        """Raise what turned out wrong about the test itself: a fake that could not be real."""
        if errors := self.interception.errors:
            raise errors[0]


def _moment_of(at: str | datetime) -> datetime:
    said = 'say it with its offset, as "2027-03-27T00:00:00+01:00" or an aware datetime'
    try:
        moment = datetime.fromisoformat(at) if isinstance(at, str) else at
    except ValueError:
        raise ValueError(f"world.begin: {at!r} is no time: {said}") from None
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise ValueError(f"world.begin: {at!r} is no time that is the same everywhere: {said}")
    return moment


def world_settings(folder: Path, plans: Path) -> Settings:
    """Settings of a world: nothing of the environment, and data below ``folder``."""
    return load_settings({"data": folder / "data", "plans": plans}, {}, None, folder)


@asynccontextmanager
async def open_world(
    plan: Path,
    *,
    settings: Settings | None = None,
    kind: type[World] = World,
    **given: Any,
) -> AsyncIterator[Any]:
    """Open a world over the plan in the folder ``plan`` (and those beside it), and stop it at the end.

    ``settings``: what the server gets instead of ``world_settings``; ``kind``: the class of what is given; all others
    are its own. It has begun, and its plans may do what they like.

    Raises:
        Deadlock: what the body waits for can never come. AssertionError: the plan cannot be served.
    """
    with tempfile.TemporaryDirectory(prefix="aura-world-") as scratch:
        world = kind(plan.name, settings or world_settings(Path(scratch), plan.parent), **given)
        async with world.living():
            await world.open()
            async with told_of_deadlocks(world.explain_open):
                yield world


@asynccontextmanager
async def plan_world(
    folder: Path, others: Sequence[Path] = (), *, writable: Sequence[Path] = ()
) -> AsyncIterator[World]:
    """A world for a test of the plan in a folder, and of those ``others`` beside it. It has not begun.

    Nothing of it leaves the process unless the test allows it; ``writable`` are folders for temporary files besides the
    system's.

    Raises:
        AssertionError: the plan cannot be served; with its problems.
    """
    with tempfile.TemporaryDirectory(prefix="aura-world-") as scratch:
        plans = [folder.name, *(other.name for other in others)]
        guard = Guard(*writable)
        world = World(folder.name, world_settings(Path(scratch), folder.parent), plans=plans, guard=guard)
        with guard.watching():
            async with world.living():
                await world.load()
                yield world


def _refuse_to_leave(code: int) -> None:
    lines = [*describe_threads(), *describe_children(asyncio.get_running_loop())]
    raise AssertionError("\n  ".join([f"the server wanted to leave with exit code {code}: work of it hangs", *lines]))
