"""A stop at every turn of the loop, from the acceptance of a run to its committed end: what it was told is what it is.

The same run is begun again and again, and stopped one turn later each time, until a stop comes too late. In its turn
the stop comes before everything else, or after all of it. A turn in which nobody can do anything lets time pass, so
back-offs and time-outs are swept as well.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, quiet, step, task, turns, until, virtual_loop
from tests.fakes.invariants import check_forgotten, check_history, check_idle, check_steps, record_of
from tests.fakes.kernel import FaultyBackend, begun, noting

from aura.errors import EndRun, WaitFor
from aura.lifecycle import FINAL, Recovery, RunState, Stop
from aura.run import Cause, Request, RunRecord
from aura.runs.liverun import LiveRun
from aura.task import Step
from aura.wait import Wait, WaitKind

ENDS = frozenset(f"run.{state}" for state in FINAL)
#: More turns than any of these runs takes.
TOO_MANY = 300


class Bodies:
    """Makes steps, and counts how often the body of each began and how many are open."""

    def __init__(self) -> None:
        self.began: Counter[str] = Counter()
        #: The same at the moment of the stop.
        self.before: Counter[str] = Counter()
        self.open = 0

    def since_the_stop(self) -> set[str]:
        """The main steps whose bodies have begun since then."""
        return {name for name in self.began - self.before if name < "f"}

    def step(self, name: str, body: Callable[[int], Any], *needs: str, **keys: Any) -> tuple[Step, Any]:
        """A step whose body is told how often it has begun in this run."""

        async def act() -> None:
            self.began[name] += 1
            self.open += 1
            try:
                await body(self.began[name])
            finally:
                self.open -= 1

        return step(name, act, needs, **keys)

    def plain(self, name: str, *needs: str) -> tuple[Step, Any]:
        """A step whose action is a ``def``, in a thread."""

        def act() -> None:
            self.began[name] += 1

        return step(name, act, needs)


async def works(_: int) -> None:
    await turns(2)


async def fails(_: int) -> None:
    await turns(1)
    raise OSError("no")


async def fails_once(start: int) -> None:
    await turns(1)
    if start == 1:
        raise OSError("not yet")


async def ends(_: int) -> None:
    await turns(1)
    raise EndRun(None)


async def waits(_: int) -> None:
    await turns(1)
    raise WaitFor(Wait(WaitKind.SLEEP, 1.5))


async def sleeps(_: int) -> None:
    try:
        await anyio.sleep(1)
    finally:
        await turns(2)  # a clean-up that takes its time


Shape = Callable[[Bodies], tuple[list[Any], dict[str, Any]]]
#: What is swept: the steps and the keys of a task, by name.
SHAPES: dict[str, Shape] = {
    "no step": lambda b: ([], {}),
    "one step": lambda b: ([b.step("a", works)], {}),
    "chain": lambda b: ([b.step("a", works), b.step("b", works, "a"), b.step("c", works, "b")], {}),
    "parallel": lambda b: ([b.step("a", works), b.step("b", sleeps), b.step("c", works, "a", "b")], {}),
    "retry": lambda b: ([b.step("a", fails_once, retry={"attempts": 2, "delay": 0.9})], {}),
    "retry beside another": lambda b: ([b.step("a", fails_once, retry={"attempts": 2}), b.step("b", works)], {}),
    "wait": lambda b: ([b.step("a", waits), b.step("b", works, "a")], {"finally_": [b.step("z", works)]}),
    "wait beside another": lambda b: ([b.step("a", waits), b.step("b", sleeps)], {}),
    "retry after a wait": lambda b: ([b.step("a", fails_once, retry={"attempts": 2, "delay": 1.5})], {}),
    "failure": lambda b: ([b.step("a", fails), b.step("b", works, "a")], {"on_failure": [b.step("f", works)]}),
    "finally": lambda b: ([b.step("a", works)], {"finally_": [b.step("y", works), b.step("z", works, "y")]}),
    "on_cancel": lambda b: (
        [b.step("a", works)],
        {"on_cancel": [b.step("x", works)], "finally_": [b.step("z", works)]},
    ),
    "handlers of a pause": lambda b: (
        [b.step("a", works), b.step("b", sleeps, "a")],
        {"on_preempt": [b.step("p", works), b.step("q", sleeps, "p")], "on_resume": [b.step("r", works)]},
    ),
    "clean-up": lambda b: ([b.step("a", sleeps)], {}),
    "step time-out": lambda b: ([b.step("a", sleeps, timeout=0.5)], {"finally_": [b.step("z", works)]}),
    "run time-out": lambda b: ([b.step("a", sleeps)], {"timeout": 0.5, "finally_": [b.step("z", works)]}),
    "ended early": lambda b: ([b.step("a", ends), b.step("b", sleeps), b.step("c", works, "a")], {}),
    "plain function": lambda b: ([b.plain("a"), b.plain("b", "a")], {}),
    "plain functions": lambda b: ([b.plain("a"), b.plain("b")], {}),
}
#: (kind, recovery) → what the run is in the end if the stop came in time; None is what it comes to by itself, later.
STOPS = {
    (Stop.INTERRUPT, Recovery.FAIL): None,
    (Stop.SHUTDOWN, Recovery.FAIL): RunState.CANCELLED,
    (Stop.SHUTDOWN, Recovery.RESUME): None,
    (Stop.SHUTDOWN, Recovery.RESTART): None,
    (Stop.TIMEOUT, Recovery.FAIL): RunState.TIMED_OUT,
    (Stop.CANCEL, Recovery.FAIL): RunState.CANCELLED,
}


def accepted(kit: Opened) -> LiveRun:
    """A run whose acceptance is not committed yet."""
    return kit.engine.admission.request(Request("p", "t"), Cause("api")).run


async def stop_in(kit: Opened, run: LiveRun, turn: int, stop: Callable[[], str], first: bool) -> str | None:
    """Stop the run in so many turns from now, before or after all else in that turn; None if it was gone by then."""
    looks = itertools.count()
    answers: list[str | None] = []

    def due() -> bool:
        gone = run.cid not in kit.engine.runtime.open
        if not gone and next(looks) < turn:
            return False
        if gone or first:
            answers.append(None if gone else stop())
        return True

    await virtual_loop().wait_until(due)
    return answers[0] if answers else stop()


def noted_stop(kit: Opened, run: LiveRun, kind: Stop, bodies: Bodies) -> str:
    bodies.before = bodies.began.copy()
    return kit.stop(run, kind)


async def end_of(kit: Opened, run: LiveRun) -> RunRecord:
    """The record of the ended run; one that was stopped to come back is brought back, as an interrupt's end would."""
    await until(lambda: run.state is RunState.PREEMPTED or run.cid not in kit.engine.runtime.open)
    if run.state is RunState.PREEMPTED and not run.resumed:  # else it stands in its lane already
        kit.engine.dispatcher.enter(run)
    return await kit.ended(run)


def main_steps(kit: Opened, run: LiveRun) -> dict[str, str]:
    """What the steps came to, without those of handlers."""
    rows = kit.backend.execute("SELECT name, state FROM step WHERE seq=? AND name < 'f'", (run.seq,))
    return dict(rows.fetchall())


@pytest.mark.parametrize("first", [True, False], ids=["first in its turn", "last in its turn"])
@pytest.mark.parametrize(("kind", "recovery"), STOPS, ids=lambda v: v.label if isinstance(v, Stop) else str(v))
@pytest.mark.parametrize("shape", SHAPES)
async def test_stop_at_every_turn(tmp_path: Path, shape: str, kind: Stop, recovery: Recovery, first: bool) -> None:
    bodies = Bodies()
    steps, keys = SHAPES[shape](bodies)
    async with opened(tmp_path, task("t", *steps, recovery=recovery, **keys)) as kit:
        unstopped = accepted(kit)
        by_itself = (await kit.ended(unstopped)).state
        whole = main_steps(kit, unstopped)
        for turn in range(TOO_MANY):
            bodies.began.clear()
            run = accepted(kit)
            answer = await stop_in(kit, run, turn, partial(noted_stop, kit, run, kind, bodies), first)
            if answer is None:
                break
            state = (await end_of(kit, run)).state
            assert state in told(answer, STOPS[kind, recovery], by_itself), (turn, answer, state)
            check_ended(kit, run, bodies)
            if kind >= Stop.TIMEOUT and not shape.startswith("plain"):  # a thread may just be about to begin
                assert not bodies.since_the_stop(), turn
            if state == by_itself != STOPS[kind, recovery]:
                assert main_steps(kit, run) == whole, turn
        assert turn > 3
        check_idle(kit)


def told(answer: str, by_the_stop: RunState | None, by_itself: str) -> set[str]:
    """What a run may be in the end whose stop was answered so."""
    match answer:
        case "ended" | "idle":
            return {by_itself}
        case "stopped":
            assert by_the_stop is not None
            return {by_the_stop}
        case _:
            return {by_itself, by_the_stop or by_itself}


def check_ended(kit: Opened, run: LiveRun, bodies: Bodies) -> None:
    """One row, one end, nothing open, nothing counted that did not begin, nothing left in memory."""
    record = record_of(kit, run)
    execute = kit.backend.execute
    check_history(execute, run.seq, record.state)
    check_steps(execute, run.seq, bodies.began)
    check_forgotten(kit, run)
    assert bodies.open == 0


# -- the turn in which the last step ends, and the commit of the outcome


def waiting(go: anyio.Event) -> Any:
    async def act() -> None:
        await go.wait()

    return act


def in_its_turn(moment: str, stop: Callable[[], object], go: anyio.Event) -> None:
    """Let the last step end in the next turn, and stop the run in that turn."""
    match moment:
        case "before the step is told to go on":
            stop()
            go.set()
        case "before it goes on":
            go.set()
            stop()
        case "after it has ended":
            go.set()
            asyncio.get_running_loop().call_soon(stop)


@pytest.mark.parametrize("kind", list(Stop), ids=lambda kind: kind.label)
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "one of two"])
@pytest.mark.parametrize(
    ("moment", "by_itself"),
    [("before the step is told to go on", False), ("before it goes on", True), ("after it has ended", True)],
)
async def test_stop_in_the_turn_in_which_the_last_step_ends(
    tmp_path: Path, moment: str, by_itself: bool, beside: bool, kind: Stop
) -> None:
    go = anyio.Event()
    answers: list[str] = []
    others = [step("b", noting([], "b"))] if beside else []
    async with opened(tmp_path, task("t", step("a", waiting(go)), *others)) as kit:
        run = await begun(kit)
        in_its_turn(moment, lambda: answers.append(kit.stop(run, kind)), go)
        record = await end_of(kit, run)
        assert (record.state == "succeeded") is (by_itself or kind is Stop.INTERRUPT)
        # alone, the run's own child ends the step and seals in one go; with others the seal comes a turn later
        assert answers == ["ended" if moment == "after it has ended" and not beside else "stopping"]
        assert [entry for entry in await kit.history(run.cid) if entry in ENDS] == [f"run.{record.state}"]


@pytest.mark.parametrize("kind", list(Stop), ids=lambda kind: kind.label)
async def test_stop_while_the_outcome_is_committed_and_after_it_is_answered_ended(tmp_path: Path, kind: Stop) -> None:
    backend = FaultyBackend()
    go = anyio.Event()
    async with opened(tmp_path, task("t", step("a", waiting(go))), backend=backend) as kit:
        run = await begun(kit)
        backend.gate = anyio.Event()
        go.set()
        await quiet()  # the commit stands at the gate
        assert (run.sealed, record_of(kit, run).state, run.placed) == (True, "running", False)
        assert kit.stop(run, kind) == "ended"
        backend.gate.set()
        assert (await kit.ended(run)).state == "succeeded"
        assert kit.stop(run, kind) == "ended"
        await quiet()
        check_history(kit.backend.execute, run.seq, "succeeded")
        check_forgotten(kit, run)
