"""A crash, or a stop, at every turn of the loop from the event that fires a rule to the last victim's return.

What a crash leaves changes with a commit alone: what is on record is copied after each one, and a server opens each
copy. Then nothing is lost and nothing done twice: the firing ends, its handler ran to its end or went by its recovery,
and what was stopped goes back by the rule, if it was on record that it was stopped, and else by its own recovery.
"""

import itertools
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import pytest
from tests.engine.interrupts_kit import Lab, open_lab
from tests.engine.kit import Opened
from tests.engine.test_stop_at_every_turn import TOO_MANY
from tests.fakes.invariants import check_history, check_idle
from tests.fakes.kernel import copy_of

from aura.lifecycle import PLACED
from aura.records.reading import get_step_rows
from aura.store import Execute, Store, Ticket, Unit
from aura.stores.memory import MemoryBackend
from aura.testing.run import Run

pytestmark = pytest.mark.anyio

REST = "{action: sleep, params: {duration: %s}, idempotent: true}"
#: The step b is what is stopped; its clean-up takes some turns and some time.
WORK = """
recovery: %s
steps:
  - {name: a, action: log, idempotent: true, params: {message: a}}
  - {name: b, action: tidy, idempotent: true}
  - {name: c, action: log, idempotent: true, params: {message: c}}
on_preempt:
  - {name: p, action: log, params: {message: p}}
"""
SAVE = """
recovery: %s
steps:
  - {name: h, action: sleep, idempotent: true, params: {duration: 300ms}}
  - {name: i, action: log, idempotent: true, params: {message: i}}
"""
ACTIONS = """
import anyio
from aura import action

@action
async def tidy() -> None:
    try:
        await anyio.sleep(0.5)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.1)
        raise
"""
RULES = "rules:\n  low_battery: {triggers: [{event: battery.low}], task: save, then: %s, grace: 1s}\n"


#: The units of the shortest story, at the least.
LEAST_UNITS = 8


class Case(NamedTuple):
    """What the rule does with its victim, and how the victim and the handler go over a crash."""

    then: str
    victim: str
    handler: str

    def files(self) -> dict[str, str]:
        return {
            "work": WORK % self.victim,
            "save": SAVE % self.handler,
            "rules": RULES % self.then,
            "actions": ACTIONS,
        }

    @property
    def id(self) -> str:
        return f"{self.then}, victim {self.victim}, handler {self.handler}"


THENS = ("resume", "restart", "cancel")
CASES = [
    *(
        Case(then, victim, "resume")
        for then in ("resume", "restart", "cancel")
        for victim in ("fail", "resume", "restart")
    ),
    *(Case(then, "resume", handler) for then in ("resume", "restart") for handler in ("fail", "restart")),
]


class Left(NamedTuple):
    """What a crash left: the record, and what that says of the runs by their task."""

    backend: MemoryBackend
    states: dict[str, str]
    stops: dict[str, str | None]
    steps: dict[str, dict[str, str]]


def left_of(backend: MemoryBackend) -> Left:
    copy = copy_of(backend)
    rows = copy.execute("SELECT task_name, seq, state, stop FROM run ORDER BY seq").fetchall()
    steps = {name: {row[1]: row[2] for row in get_step_rows(copy.execute, seq)} for name, seq, _, _ in rows}
    return Left(copy, {row[0]: row[2] for row in rows}, {row[0]: row[3] for row in rows}, steps)


async def crashes(world: Lab, done: Callable[[], object]) -> list[Left]:
    """What a crash leaves at each turn from now on until something is so: there is another one after each commit."""
    assert isinstance(world.backend, MemoryBackend)
    backend, store, seen = world.backend, world.engine.runtime.store, -1
    left = []

    def look() -> bool:
        nonlocal seen
        if store.commits != seen:
            seen = store.commits
            left.append(left_of(backend))
        return bool(done())

    await world.loop.wait_until(look)
    return left


async def settle_watched(world: Lab) -> None:
    """Let all end, and see that nothing that a firing covers runs while it is open and its handler has begun."""
    engine = world.engine

    def look() -> bool:
        for firing in engine.dispatcher.holds.open:
            if firing.handler.state in PLACED and not firing.awaited:
                running = [run for run in firing.victims if run.state in PLACED and not run.stuck]
                assert not running, f"{running} run under {firing.name}"
        return not engine.runtime.open

    await world.loop.wait_until(look, float("inf"))


def check_world(world: Lab) -> None:
    """Nothing is open, and nothing happened twice."""
    for run in world.runs():
        check_history(world.backend.execute, run.record.seq, run.state)
    assert world.open_firings() == []
    fired, ended = world.payloads("interrupt.fired"), world.payloads("interrupt.ended")
    assert [event["cid"] for event in fired] == [cid for _, cid, _, _ in world.firings()]
    assert sorted(event["cid"] for event in ended) == sorted(event["cid"] for event in fired)
    for (_, cid, _, outcome), event in zip(
        world.firings(), sorted(ended, key=lambda event: str(event["cid"])), strict=True
    ):
        assert (event["cid"], event["state"]) == (cid, outcome)
    check_idle(cast(Opened, world))


def one(world: Lab, task: str) -> Run | None:
    found = world.runs(task)
    assert len(found) <= 1
    return found[0] if found else None


def starts(world: Lab, run: Run, step: str) -> int:
    """How often a step of a run has begun."""
    rows = get_step_rows(world.backend.execute, run.record.seq)
    return sum(row[4] for row in rows if row[1] == step)


def expected_victim(case: Case, left: Left) -> str:
    state, stop = left.states["work"], left.stops["work"]
    if state in ("queued", "preempted", "succeeded", "cancelled"):
        return state if state in ("succeeded", "cancelled") else "succeeded"
    if stop == "cancel":
        return "cancelled"
    return "crashed" if case.victim == "fail" else "succeeded"


def expected_handler(case: Case, left: Left) -> str:
    return "crashed" if case.handler == "fail" and left.states["save"] == "running" else "succeeded"


def check_victim(world: Lab, case: Case, left: Left) -> None:
    victim = one(world, "work")
    assert victim is not None
    assert victim.state == expected_victim(case, left), (left.states, left.stops, victim.explain())
    if left.states["work"] == "preempted":
        assert victim.record.preemptions == 1
        assert victim.record.preempted_by is not None
        assert victim.record.attempt == (2 if case.then == "restart" else 1), (left.states, victim.explain())
        assert starts(world, victim, "a") == victim.record.attempt


def check_handler(world: Lab, case: Case, left: Left) -> None:
    handler = one(world, "save")
    if handler is None:
        assert "save" not in left.states
        assert world.firings() == []
        return
    assert handler.state == expected_handler(case, left), (left.states, handler.explain())
    caught = left.steps["save"].get("h") == "running" and case.handler != "fail"
    again = caught or (left.states["save"] == "running" and case.handler == "restart")
    assert starts(world, handler, "h") <= (2 if again else 1)


async def scenario(world: Lab) -> None:
    await world.begin_run("work", step="b")
    await world.tell()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
async def test_crash_at_every_turn(tmp_path: Path, case: Case) -> None:
    async with open_lab(tmp_path, backend=MemoryBackend(), **case.files()) as world:
        await world.begin_run("work", step="b")
        world.loop.call_soon(lambda: world.engine.triggers.fire(world.rule(), {}))
        left = await crashes(world, lambda: not world.engine.runtime.open)
        check_world(world)
    for each in left:
        async with open_lab(tmp_path, backend=each.backend, write=False) as world:
            await settle_watched(world)
            check_world(world)
            check_victim(world, case, each)
            check_handler(world, case, each)
    assert {each.states.get("save") for each in left} >= {None, "running", "succeeded"}
    assert {each.states["work"] for each in left} >= {"running", "cancelled" if case.then == "cancel" else "preempted"}


# -- more than one run, and more than one firing

TREE = {
    "work": "recovery: resume\nsteps:\n  - {name: b, action: task.run, params: {task: leaf}}\n"
    "  - {name: c, action: log, idempotent: true, params: {message: c}}\n",
    "leaf": WORK % "resume",
    "save": SAVE % "resume",
    "actions": ACTIONS,
}
ONE_RULE = "rules:\n  low_battery: {triggers: [{event: battery.low}], task: save, grace: 1s, then: %s, preempts: %s}\n"
SECOND = "  fire: {triggers: [{event: smoke}], task: save, grace: 1s, priority: 5, then: %s}\n"


def files_of(then: str, preempts: str = "{}", second: str = "") -> dict[str, str]:
    return TREE | {"rules": ONE_RULE % (then, preempts) + second}


STORIES = {
    "tree": files_of("resume"),
    "tree that starts over": files_of("restart"),
    "tree that starts over, one leaf at a time": files_of("restart") | {"leaf": "mode: single\n" + WORK % "resume"},
    "leaf alone": files_of("resume", "{tasks: [leaf]}"),
    "leaf alone starts over": files_of("restart", "{tasks: [leaf]}"),
    "nested": files_of("resume", second=SECOND % "resume"),
    "nested, both start over": files_of("restart", second=SECOND % "restart"),
}


async def crashes_of_story(world: Lab, story: str) -> list[Left]:
    leaf_runs = lambda: any(run.steps.get("b") and run.steps["b"].state == "running" for run in world.runs("leaf"))  # noqa: E731
    await world.start("work")
    await world.until(leaf_runs)
    world.loop.call_soon(world.engine.triggers.fire, world.rule(), {})
    second = iter(("nested" in story,))

    def done() -> bool:
        handler = next((run for run in world.engine.runtime.open.values() if run.firing is not None), None)
        if handler is not None and handler.live and "nested" in story and next(second, False):
            world.loop.call_soon(world.engine.triggers.fire, world.rule("fire"), {})
        return not world.engine.runtime.open

    return await crashes(world, done)


@pytest.mark.parametrize("story", STORIES)
async def test_crash_at_every_turn_of_trees_and_stacks(tmp_path: Path, story: str) -> None:
    """Everything goes on over a crash here, and so it ends as it would without one; no sub-task is asked for twice."""
    async with open_lab(tmp_path, backend=MemoryBackend(), **STORIES[story]) as world:
        left = await crashes_of_story(world, story)
        check_story(world, story)
    for each in left:
        async with open_lab(tmp_path, backend=each.backend, write=False) as world:
            await settle_watched(world)
            check_story(world, story)


def check_story(world: Lab, story: str) -> None:
    check_world(world)
    runs = world.runs()
    assert {run.state for run in runs if run.record.task_name != "leaf"} <= {"succeeded"}, [r.explain() for r in runs]
    leaves = [run.state for run in world.runs("leaf")]
    assert leaves.count("succeeded") == 1, leaves
    assert len(leaves) == 1 or "over" in story, leaves
    assert len(world.runs("save")) == len(world.firings())


# -- stops


async def in_turns(world: Lab, count: int) -> bool:
    """Let so many turns of the loop pass, and time if nothing else can; False once nothing is open any more."""
    looks = itertools.count()
    await world.loop.wait_until(lambda: next(looks) >= count or not world.engine.runtime.open)
    return bool(world.engine.runtime.open)


async def check_round(world: Lab, case: Case, since: int) -> None:
    """All that began after a sequence has ended as its rule and its recovery say."""
    await settle_watched(world)
    victim, handler = [run for run in world.runs() if run.record.seq > since]
    allowed = {"succeeded"} | ({"cancelled"} if case.victim == "fail" or case.then == "cancel" else set())
    assert victim.state in allowed, victim.explain()
    assert handler.state in {"succeeded"} | ({"cancelled"} if case.handler == "fail" else set()), handler.explain()
    if case.then == "resume" and case.victim == "resume":
        assert (victim.record.attempt, starts(world, victim, "a")) == (1, 1), victim.explain()
    if case.handler == "resume":
        assert starts(world, handler, "h") <= 2


STOPS = [
    Case("resume", "resume", "resume"),
    Case("restart", "resume", "resume"),
    Case("resume", "fail", "fail"),
    Case("cancel", "resume", "resume"),
]


@pytest.mark.parametrize("mode", ["cancel", "drain"])
@pytest.mark.parametrize("case", STOPS, ids=lambda case: case.id)
async def test_engine_stopped_and_started_at_every_turn(
    tmp_path: Path, case: Case, mode: Literal["cancel", "drain"]
) -> None:
    async with open_lab(tmp_path, backend=MemoryBackend(), **case.files()) as world:
        for turn in range(TOO_MANY):
            since = world.engine.runtime.seq
            await world.begin_run("work", step="b")
            world.engine.triggers.fire(world.rule(), {})
            went_on = await in_turns(world, turn)
            await world.engine.stop(mode, 0.3)
            await world.engine.start()
            await check_round(world, case, since)
            if not went_on:
                break
        assert went_on is False
        check_world(world)


@pytest.mark.parametrize("case", STOPS[:2], ids=lambda case: case.id)
async def test_server_stopped_at_turns_and_started_again(tmp_path: Path, case: Case) -> None:
    backend = MemoryBackend()
    went_on, turn, since = True, 0, 0
    while went_on:
        async with open_lab(tmp_path, backend=backend, **case.files()) as world:
            await world.begin_run("work", step="b")
            world.engine.triggers.fire(world.rule(), {})
            went_on = await in_turns(world, turn)
        async with open_lab(tmp_path, backend=backend, write=False) as world:
            await check_round(world, case, since)
            since, turn = world.engine.runtime.seq, turn + 7
            check_world(world)


# -- lost units


class Losing:
    """``Store.put``, of which one call hands over a unit that fails by itself."""

    def __init__(self, store: Store, bad: int) -> None:
        self._put = store.put
        self._left = bad
        self.lost = False

    def __call__(self, unit: Unit, *args: Any, **keys: Any) -> Ticket:
        self._left -= 1
        if self._left == -1:
            self.lost, unit = True, no_such_luck
        return self._put(unit, *args, **keys)


def no_such_luck(execute: Execute) -> None:
    raise sqlite3.IntegrityError("no such luck")


@pytest.mark.parametrize("then", THENS)
async def test_any_one_unit_is_lost(tmp_path: Path, then: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is lost, nobody waits for ever; and once the server has been started again all has ended."""
    case, lost, bad = Case(then, "resume", "resume"), True, 0
    while lost:
        backend = MemoryBackend()
        async with open_lab(tmp_path, backend=backend, **case.files()) as world:
            await world.begin_run("work", step="b")
            losing = Losing(world.engine.runtime.store, bad)
            monkeypatch.setattr(world.engine.runtime.store, "put", losing)
            world.engine.triggers.fire(world.rule(), {})
            await settle_watched(world)
            assert not world.engine.dispatcher.holds.open
            left = left_of(backend)
            lost, bad = losing.lost, bad + 1
            monkeypatch.undo()
        async with open_lab(tmp_path, backend=left.backend, write=False) as world:
            await settle_watched(world)
            assert world.open_firings() == []
            check_idle(cast(Opened, world))
            assert {run.state for run in world.runs()} <= {"succeeded", "crashed", "cancelled"}
    assert bad > LEAST_UNITS
