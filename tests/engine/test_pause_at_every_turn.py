"""A pause at every turn of the loop, from a run's acceptance to its committed end: resumed, it comes to the same.

The sweep is that of ``test_stop_at_every_turn``: the same run again and again, paused one turn later each time. What
happens to the paused run is told by a story: it rests and is resumed, is resumed while it cleans up, is cancelled, or
the server crashes over it and the next one resumes it.
"""

import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.engine.kit import Opened, opened, quiet, task, turns, until
from tests.engine.test_stop_at_every_turn import (
    SHAPES,
    TOO_MANY,
    Bodies,
    accepted,
    check_ended,
    main_steps,
    stop_in,
    works,
)
from tests.fakes.invariants import check_history, check_idle, record_of
from tests.fakes.kernel import copy_of

from aura.errors import RequestError
from aura.lifecycle import FINAL, RunState, Stop
from aura.runs.liverun import LiveRun
from aura.stores.memory import MemoryBackend


def pause(kit: Opened, run: LiveRun) -> str:
    """Pause the run in this turn; what the answer would be."""
    if run.sealed:
        return "ended"
    try:
        kit.engine.pausing.request_pause(run, "for a while")
    except RequestError as refused:
        return refused.code
    return run.state.value


async def rested(kit: Opened, run: LiveRun) -> bool:
    """Wait until the run rests or has ended; whether it rests."""
    await until(lambda: run.state in {RunState.PREEMPTED, *FINAL})
    await quiet()
    return run.state is RunState.PREEMPTED


def check_rests(kit: Opened, run: LiveRun) -> None:
    """It is on record as paused, holds nothing and waits for nothing but its resume."""
    execute = kit.backend.execute
    record = record_of(kit, run)
    assert (record.state, record.reason) == ("preempted", "for a while")
    assert execute("SELECT held FROM run WHERE seq=?", (run.seq,)).fetchone() == (1,)
    assert (run.placed, run.waits, run.entry, run.timer, run.live, run.backoffs) == (False, False, None, None, {}, {})
    steps = execute("SELECT name, state FROM step WHERE seq=?", (run.seq,)).fetchall()
    states = {state for name, state in steps if name not in run.open_waits}
    assert not states & {"running", "retrying", "waiting", "stopping"}
    check_history(execute, run.seq, "preempted")


# -- what becomes of a run that was paused


async def rests_and_is_resumed(kit: Opened, run: LiveRun, bodies: Bodies) -> set[str]:
    if await rested(kit, run):
        check_rests(kit, run)
        began = bodies.began.copy()
        await kit.advance(3600)
        assert (run.state, bodies.began) == ("preempted", began)
        assert await kit.engine.resume(run.cid) == "preempted"
    return set()


def resumed_after(count: int) -> Callable[[Opened, LiveRun, Bodies], Awaitable[set[str]]]:
    async def is_resumed(kit: Opened, run: LiveRun, bodies: Bodies) -> set[str]:
        await turns(count)
        if run.held is not None and run.ending not in FINAL:
            kit.engine.pausing.request_resume(run)
        return set()

    return is_resumed


async def rests_and_is_cancelled(kit: Opened, run: LiveRun, bodies: Bodies) -> set[str]:
    if not await rested(kit, run):
        return set()
    began = bodies.began.copy()
    answer = await kit.engine.cancel(run.cid)
    clean_up = run.begun and run.task is not None and bool(run.task.finally_ or run.task.on_cancel)
    assert answer == ("stopping" if clean_up else "cancelled")
    await kit.ended(run)
    assert bool(bodies.began - began) is clean_up
    assert all(name >= "f" for name in bodies.began - began)
    return {"cancelled"}


STORIES: dict[str, Callable[[Opened, LiveRun, Bodies], Awaitable[set[str]]]] = {
    "rests and is resumed": rests_and_is_resumed,
    "resumed at once": resumed_after(0),
    "resumed in the next turn": resumed_after(1),
    "resumed in the third turn": resumed_after(3),
    "rests and is cancelled": rests_and_is_cancelled,
}


@pytest.mark.parametrize("first", [True, False], ids=["first in its turn", "last in its turn"])
@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("shape", SHAPES)
async def test_pause_at_every_turn(tmp_path: Path, shape: str, story: str, first: bool) -> None:
    bodies = Bodies()
    steps, keys = SHAPES[shape](bodies)
    answers = set()
    async with opened(tmp_path, task("t", *steps, **keys)) as kit:
        unstopped = accepted(kit)
        by_itself = (await kit.ended(unstopped)).state
        whole, attempts = main_steps(kit, unstopped), attempts_of(kit, unstopped)
        for turn in range(TOO_MANY):
            bodies.began.clear()
            run = accepted(kit)
            answer = await stop_in(kit, run, turn, lambda run=run: pause(kit, run), first)  # type: ignore[misc]
            if answer is None:
                break
            answers.add(answer)
            may_be = {by_itself} | await STORIES[story](kit, run, bodies)
            state = (await kit.ended(run)).state
            assert state in may_be, (turn, answer, state)
            check_ended(kit, run, bodies)
            if state == by_itself:
                assert main_steps(kit, run) == whole, turn
                # one that fails at its first start alone, which the pause may have cut off, needs no second try then
                assert attempts_of(kit, run).items() >= attempts.items() or shape.startswith("retry"), turn
        assert turn > 3
        assert {"preempted", "stopping"} <= answers or shape == "no step"
        check_idle(kit)


def attempts_of(kit: Opened, run: LiveRun) -> dict[str, int]:
    """How many tries each step took."""
    return dict(kit.backend.execute("SELECT name, attempt FROM step WHERE seq=?", (run.seq,)).fetchall())


# -- a second stop in what a pause and a resume bring about


async def just_paused(kit: Opened, run: LiveRun) -> None:
    await until(lambda: "b" in run.live)
    await quiet()
    kit.engine.pausing.request_pause(run, "for a while")


async def just_resumed(kit: Opened, run: LiveRun) -> None:
    await just_paused(kit, run)
    await rested(kit, run)
    kit.engine.pausing.request_resume(run)


SECOND: dict[str, Callable[[Opened, LiveRun], str]] = {
    "pause": pause,
    "cancel": lambda kit, run: kit.stop(run, Stop.CANCEL),
    "shutdown": lambda kit, run: kit.stop(run, Stop.SHUTDOWN, grace=0.75),
}


async def look_until(kit: Opened, run: LiveRun, turn: int) -> bool:
    """Let so many turns pass, or as many as it takes until the run rests or is gone; whether it was so."""
    looks = itertools.count()

    def over() -> bool:
        return run.cid not in kit.engine.runtime.open or (run.state is RunState.PREEMPTED and not run.waits)

    await until(lambda: over() or next(looks) >= turn)
    return over()


@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("begin", [just_paused, just_resumed], ids=["in on_preempt", "in on_resume"])
async def test_second_stop_at_every_turn_of_the_handlers_of_a_pause(
    tmp_path: Path, begin: Callable[[Opened, LiveRun], Awaitable[None]], second: str
) -> None:
    bodies = Bodies()
    steps, keys = SHAPES["handlers of a pause"](bodies)
    ends: set[str] = set()
    async with opened(tmp_path, task("t", *steps, finally_=[bodies.step("z", works)], **keys)) as kit:
        for turn in range(TOO_MANY):
            bodies.began.clear()
            run = accepted(kit)
            await begin(kit, run)
            was_over = await look_until(kit, run, turn)
            SECOND[second](kit, run)
            while await rested(kit, run):
                await kit.engine.resume(run.cid)
                await until(lambda run=run: run.state is not RunState.PREEMPTED)  # type: ignore[misc]
            ends.add((await kit.ended(run)).state)
            check_ended(kit, run, bodies)
            if was_over:
                break
        assert turn > 3
        # a shutdown ends the run once it has gone on; until then it is kept
        assert ends >= {"pause": {"succeeded"}, "cancel": {"cancelled"}, "shutdown": {"succeeded"}}[second]
        check_idle(kit)


@pytest.mark.parametrize("shape", [name for name in SHAPES if name != "no step"])
async def test_pause_at_every_turn_outlives_a_crash(tmp_path: Path, shape: str) -> None:
    bodies = Bodies()
    steps, keys = SHAPES[shape](bodies)
    made = task("t", *steps, **keys)
    left: list[tuple[LiveRun, MemoryBackend]] = []
    async with opened(tmp_path, made) as kit:
        by_itself = (await kit.ended(accepted(kit))).state
        for turn in range(TOO_MANY):
            run = accepted(kit)
            if await stop_in(kit, run, turn, lambda run=run: pause(kit, run), True) is None:  # type: ignore[misc]
                break
            if await rested(kit, run):
                assert isinstance(kit.backend, MemoryBackend)
                left.append((run, copy_of(kit.backend)))
                await kit.engine.resume(run.cid)
            await kit.ended(run)
    assert left
    for old, backend in left:
        async with opened(tmp_path, made, backend=backend) as kit:
            run = kit.engine.runtime.open[old.cid]
            check_rests(kit, run)
            assert await kit.engine.resume(run.cid) == "preempted"
            assert (await kit.ended(run)).state == by_itself
            check_history(backend.execute, run.seq, by_itself)
