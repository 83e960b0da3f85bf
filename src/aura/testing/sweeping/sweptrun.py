"""One world of a sweep, with the run in it that is swept: undisturbed, or stopped at one point.

Theory of operation. Each has a world of its own, made alike, so that the run comes to the same points in the same
order. A run that is to be stopped is *held* at its point (``following``) while the stop is asked for, as its users do
it; it is let go a few turns after the stop has come to it, or when whoever was asked has answered. So nothing comes
between, over however many turns of the loop the stop is told, and no virtual time passes. Then all runs of the world
are let end, and what there is to see is taken down.

Beside the run there may be ``setup``, which answers an approval or emits an event. It is held as well, until the stop
is over, and cancelled when the run has ended. What it meets because the run was stopped, such as an approval that
nobody waits for any more, is no error.

What cannot end is found as such: it is stuck, or the world says that nothing can happen any more. Then what hangs is
ended by who follows it, so that the world can end.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from aura.errors import RequestError
from aura.interrupt import Then
from aura.run import RunRecord
from aura.task import Task
from aura.testing.deadlocks import told_of_deadlocks
from aura.testing.leaks import Leak, watch_leaks
from aura.testing.run import Run
from aura.testing.sweeping.aftermath import Trouble
from aura.testing.sweeping.course import Course
from aura.testing.sweeping.following import HeldWhile, follow
from aura.testing.sweeping.points import Point
from aura.testing.sweeping.ways import Way, bring_back, stop
from aura.testing.virtual_time import Deadlock, NotReached, VirtualLoop
from aura.testing.world import World, plan_world

#: Turns of the loop for which a run is held after its stop has come to it: to the children of its action it takes some.
TURNS = 5
#: Virtual seconds that a run that was stopped may take longer than three times as long as one that nobody stops.
SLACK = 86_400.0
#: Virtual seconds after which what hangs at the end of a world is ended.
LEFT = 5.0
#: Real seconds for which what may end by itself is waited for.
PATIENCE = 0.5
Setup = Callable[[World, Run], Coroutine[Any, Any, object]]


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What all worlds of a sweep have alike."""

    plan: Path
    others: Sequence[Path] = ()
    task: str
    inputs: Mapping[str, Any] = {}
    fakes: Mapping[str, Mapping[str, Any]] = {}
    services: Mapping[str, Any] = {}
    vars: Mapping[str, Any] = {}
    secrets: Mapping[str, str | None] = {}
    state: Mapping[str, Any] = {}
    allow: Sequence[str] = ()
    begin: str | datetime | None = None
    setup: Setup | None = None
    finishes: Sequence[str] = ()


class Seen(msgspec.Struct, frozen=True):
    """What there was to see when all runs of a world had ended.

    ``kept`` is what the plan remembers, ``steps`` the states of the run's steps; ``begun``: whether anything of one has
    run, since without that there is nothing to clean up. ``refused``: why it was not stopped.
    ``changed_state``: the lines at which it has changed what the plan remembers.
    ``unfinished``: why it has not ended, in words. ``cid`` and ``data`` may show in what it gave.
    """

    record: RunRecord
    data: str
    steps: Mapping[str, str]
    begun: bool
    kept: Mapping[str, Any]
    tree: str
    changed_state: Sequence[str] = ()
    leaks: Sequence[Leak] = ()
    troubles: Sequence[Trouble] = ()
    refused: str | None = None
    unfinished: str | None = None


class Undisturbed(msgspec.Struct, frozen=True):
    """How the run goes that nobody stops: it ``lasted`` virtual seconds. ``then`` is that of the rule that is fired."""

    points: Sequence[Point]
    seen: Seen
    task: Task
    then: Then | None
    lasted: float


# -- a world


@asynccontextmanager
async def _world_of(setting: Setting) -> AsyncIterator[World]:
    async with plan_world(setting.plan, setting.others) as world:
        if setting.begin is not None:
            world.begin(setting.begin)
        world.vars(**setting.vars)
        world.secrets(**setting.secrets)
        world.state.update(setting.state)
        world.allow(*setting.allow)
        for name, value in setting.services.items():
            world.fake_service(name, value)
        for name, keys in setting.fakes.items():
            world.fake(name, **keys)
        yield world


def _course_of(setting: Setting, target: Point | None = None, way: Way | None = None) -> Course:
    is_crashed = way is not None and way.word == "crash"
    return Course(setting.plan.name, setting.task, setting.finishes, target, is_crashed=is_crashed)


@asynccontextmanager
async def _beside(setting: Setting, world: World, run: Run, course: Course) -> AsyncIterator[Callable[[], object]]:
    """Have ``setup`` go on beside, unless its turn has come while the run is held; gives what raises its error."""
    if setting.setup is None:
        yield bool
        return
    # setup alone; cancelled at the end, and waited for: what swallows that is the test's own
    child = asyncio.ensure_future(HeldWhile(lambda: course.gate, setting.setup(world, run)))

    def check() -> None:
        if child.done() and not child.cancelled() and (error := child.exception()) is not None:
            raise error

    try:
        yield check
    finally:
        child.cancel()
        with suppress(BaseException):  # what it has failed with was raised by then, if it counts
            await child


async def _come_to(course: Course, world: World, run: Run, check: Callable[[], object]) -> None:
    """Let time go on until the run has come to the target, or has ended."""

    def come() -> bool:
        check()
        course.points.look()
        return course.reached or run.cid not in world.engine.runtime.open

    await world.loop.wait_until(come, float("inf"))


# -- undisturbed


async def run_undisturbed(setting: Setting, way: Way, expect: str) -> Undisturbed:
    """Do the run as it is, and note its points.

    Raises:
        AssertionError: it does not end as expected, with its tree. Deadlock: it waits for what nobody gives.
        RequestError: there is no such task, input or rule.
    """
    async with _world_of(setting) as world:
        await world.open()
        then = world.engine.triggers.find(world.plan_name, way.rule).rule.then if way.rule else None
        with watch_leaks(world, PATIENCE) as leaks:
            course = _course_of(setting)
            follow(world, course)
            began = world.now
            run = await _end_undisturbed(setting, world, course)
            seen = await _look(world, run, [] if run.live else await leaks.found(run), course)
        if run.state != expect:
            said = f"the undisturbed run is {run.state}, not {expect}: nothing can be said of stops before it is"
            raise AssertionError(f"{said}\n{run.explain()}")
        world.check()
        task = world.engine.runtime.generations.task(world.plan_name, setting.task)[1]
        return Undisturbed(course.come_to, seen, task, then, world.now - began)


async def _end_undisturbed(setting: Setting, world: World, course: Course) -> Run:
    try:
        async with told_of_deadlocks():
            run = await world.start(setting.task, inputs=setting.inputs)
            async with _beside(setting, world, run, course) as check:
                await _come_to(course, world, run, check)
                await world.settle()
            return run
    except Deadlock as deadlock:
        hint = (
            "a sweep cannot go on: the run waits for what nobody gives. Say setup=…, an async function of (world, run) "
            "that goes on beside it and, say, answers its approval or emits its event"
        )
        raise Deadlock(f"{hint}\n{deadlock}") from None


# -- stopped


class _Stopped:
    """One world in which the run is stopped; ``seen`` is there as soon as there is something to see."""

    def __init__(self, setting: Setting, way: Way, point: Point, lasted: float) -> None:
        self._setting = setting
        self._way = way
        #: In virtual seconds: it may be done over and over, and so may what it is interrupted by.
        self._within = SLACK + 3 * lasted
        self._course = _course_of(setting, point, way)
        self.seen: Seen | None = None

    async def do(self) -> None:
        async with _world_of(self._setting) as world:
            with watch_leaks(world, PATIENCE) as leaks:
                follow(world, self._course)
                run, refused, unfinished = await self._run(world)
                if not self._course.reached:
                    return
                found = [] if unfinished else await leaks.found(run)
                self.seen = await _look(world, run, found, self._course, refused, unfinished)
                if unfinished:
                    self._course.abandon()
                else:  # what a crash has frozen goes on at the end of the world, and may hang there
                    world.loop.call_later(LEFT, self._course.abandon)

    async def _run(self, world: World) -> tuple[Run, str | None, str | None]:
        """Do the run and the stop. Gives why it was not stopped, and why it has not ended."""
        run = refused = unfinished = None
        try:
            async with told_of_deadlocks():
                run = await world.start(self._setting.task, inputs=self._setting.inputs)
                async with _beside(self._setting, world, run, self._course) as check:
                    await _come_to(self._course, world, run, check)
                    if self._course.reached:
                        refused = await self._stop(world, run)
                        if await self._ends(world, run):
                            await world.settle(self._within)
                        else:
                            unfinished = f"it hangs at {self._course.hangs_at()}"
        except (Deadlock, NotReached) as error:
            if run is None or not self._course.reached:
                raise
            unfinished = f"it hangs at {where}" if (where := self._course.hangs_at()) else str(error)
        finally:
            self._course.let_go()
            self._course.let_setup_go()
            self._course.aftermath.end()
        return run, refused, unfinished

    async def _ends(self, world: World, run: Run) -> bool:
        """Let time go on until the run has ended; False if it is given up as stuck."""

        def over() -> bool:
            live = run.live
            return live is None or live.stuck

        await world.loop.wait_until(over, self._within)
        return run.live is None

    async def _stop(self, world: World, run: Run) -> str | None:
        """Stop the run while it is held, and let it go on if it is to come back."""
        self._course.aftermath.begin()
        # the stop alone; ends by itself, or is cancelled below if that can never be
        stopping = asyncio.ensure_future(stop(self._way, world, run))
        try:
            await world.loop.wait_until(lambda: stopping.done() or self._course.is_told)
            for _ in range(TURNS):
                await asyncio.sleep(0)
            self._course.let_go()
            await world.loop.wait_until(stopping.done, self._within)
            await stopping
            await bring_back(self._way, world, run)
        except RequestError as refused:
            return refused.detail
        finally:
            stopping.cancel()
            self._course.let_setup_go()
        return None


def run_stopped(setting: Setting, way: Way, point: Point, lasted: float) -> Seen | None:
    """Do the run and stop it at a point; None if it never came to that point. ``lasted``: that which nobody stops."""
    stopped = _Stopped(setting, way, point, lasted)
    try:
        in_world(stopped.do)
    except Exception:  # of the end of a world in which something hung there is nothing to say
        if stopped.seen is None or not (stopped.seen.unfinished or way.word == "crash"):
            raise
    return stopped.seen


def in_world(function: Callable[..., Awaitable[Any]], *given: Any) -> Any:
    """Do something on a virtual loop of its own, as ``asyncio.run`` does on a real one.

    Raises:
        RuntimeError: a loop is running here.
    """

    async def doing() -> Any:
        return await function(*given)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(doing())


# -- what there is to see


async def _look(
    world: World,
    run: Run,
    leaks: Sequence[Leak],
    course: Course,
    refused: str | None = None,
    unfinished: str | None = None,
) -> Seen:
    return Seen(
        record=run.record,
        data=str(world.settings.data),
        steps={name: step.state for name, step in run.steps.items()},
        begun=any(step.attempt or step.items for step in run.steps.values()),
        kept=dict(world.state),
        tree=run.explain(),
        changed_state=list(course.changed_state),
        leaks=leaks,
        troubles=list(course.aftermath.found),
        refused=refused,
        unfinished=unfinished,
    )
