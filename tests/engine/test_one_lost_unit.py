"""Any one unit of a run is lost, whatever is asked of it: it rests or goes on as its record says, and comes to an end.

Each story is told once for every unit of the run that there is, which fails by itself. What may be left on record is a
run whose very end was lost: those who ask are told that a restart settles it.
"""

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, quiet, step, task, turns, until
from tests.fakes.invariants import check_idle
from tests.fakes.kernel import forever, noting, works

from aura.errors import RequestError
from aura.lifecycle import FINAL, STARTABLE, Recovery, RunState
from aura.runs import runtime
from aura.runs.liverun import LiveRun
from aura.store import Execute

#: More units than a run has in any of the stories.
MANY = 20


class Units:
    """``change_run``, of which one call makes a unit that fails."""

    def __init__(self, real: Any, bad: int) -> None:
        self.real = real
        self.bad = bad
        self.to: list[str | None] = []

    def __call__(self, seq: int, steps: Any, history: Any, former: Any = None, to: Any = None) -> Any:
        self.to.append(to.state if to else None)
        return no_such_luck if len(self.to) - 1 == self.bad else self.real(seq, steps, history, former, to)

    @property
    def lost_the_end(self) -> bool:
        return len(self.to) > self.bad and self.to[self.bad] in FINAL


def no_such_luck(execute: Execute) -> None:
    raise sqlite3.IntegrityError("no such luck")


async def asked(work: Awaitable[Any]) -> str:
    """What was answered, or the code of the refusal."""
    try:
        return str(await work)
    except RequestError as refused:
        return refused.code


async def in_one_turn(*works: Awaitable[Any]) -> None:
    async with anyio.create_task_group() as group:
        for work in works:
            group.start_soon(asked, work)
            await turns(1)


# -- the stories


async def pause(kit: Opened, run: LiveRun) -> str:
    answer = await asked(kit.engine.pause(run.cid))
    await kit.advance(1)
    return answer


async def pause_and_resume(kit: Opened, run: LiveRun) -> None:
    await pause(kit, run)
    await asked(kit.engine.resume(run.cid))
    await kit.advance(1)


async def pause_resume_pause(kit: Opened, run: LiveRun) -> str:
    await pause_and_resume(kit, run)
    return await pause(kit, run)


async def resume_while_it_cleans_up(kit: Opened, run: LiveRun) -> None:
    await in_one_turn(kit.engine.pause(run.cid), kit.engine.resume(run.cid))


async def pause_while_it_is_resumed(kit: Opened, run: LiveRun) -> None:
    await pause(kit, run)
    await in_one_turn(kit.engine.resume(run.cid), kit.engine.pause(run.cid))


async def pause_in_its_lane(kit: Opened, run: LiveRun) -> str:
    await pause(kit, run)
    await kit.engine.stop("cancel", 1)
    await asked(kit.engine.resume(run.cid))
    answer = await pause(kit, run)
    await kit.engine.start()
    await kit.advance(1)
    return answer


async def cancel_at_rest(kit: Opened, run: LiveRun) -> None:
    await pause(kit, run)
    await asked(kit.engine.cancel(run.cid))


async def pause_of_what_starts_over(kit: Opened, run: LiveRun) -> str:
    await kit.engine.stop("cancel", 1)
    answer = await pause(kit, run)
    await kit.engine.start()
    await kit.advance(1)
    return answer


async def shutdown_of_what_was_resumed(kit: Opened, run: LiveRun) -> None:
    await pause(kit, run)
    await in_one_turn(kit.engine.resume(run.cid), kit.engine.stop("cancel", 1))


async def shutdown(kit: Opened, run: LiveRun) -> None:
    await kit.engine.stop("cancel", 1)


async def shutdown_twice(kit: Opened, run: LiveRun) -> None:
    await shutdown(kit, run)
    await kit.engine.start()
    await kit.advance(1)
    await shutdown(kit, run)


STORIES: list[Callable[[Opened, LiveRun], Awaitable[str | None]]] = [
    pause,
    pause_and_resume,
    pause_resume_pause,
    resume_while_it_cleans_up,
    pause_while_it_is_resumed,
    pause_in_its_lane,
    cancel_at_rest,
    pause_of_what_starts_over,
    shutdown_of_what_was_resumed,
    shutdown,
    shutdown_twice,
]


#: Which unit from the story's beginning on says that it rests.
LOST_REST: dict[Any, int] = {shutdown: 1, pause_and_resume: 2}


def check(run: LiveRun, answer: str | None) -> None:
    """It stands where it says, and rests if somebody was told so."""
    if run.sealed:
        return
    assert run.waits is (run.state in STARTABLE and run.held is None)
    assert run.held is None or run.state is RunState.PREEMPTED
    assert answer != "preempted" or run.held is not None


async def come_to_its_end(kit: Opened, run: LiveRun) -> str:
    if run.held is not None:
        await asked(kit.engine.resume(run.cid))
    await kit.advance(60)
    state: str = kit.backend.execute("SELECT state FROM run").fetchone()[0]
    return state


@pytest.mark.parametrize("recovery", list(Recovery))
@pytest.mark.parametrize("queued", [False, True], ids=["it runs", "it waits"])
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__.replace("_", " "))
async def test_one_lost_unit_of_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, story: Any, queued: bool, recovery: Recovery
) -> None:
    real = runtime.change_run  # type: ignore[attr-defined]
    for bad in range(MANY):
        units = Units(real, bad)
        monkeypatch.setattr(runtime, "change_run", units)
        await tell(tmp_path / str(bad), story, queued, recovery, units)
        if len(units.to) <= bad:
            return
    pytest.fail("a run had more units than there were tried")


async def tell(folder: Path, story: Any, queued: bool, recovery: Recovery, units: Units) -> None:
    async def slow() -> None:
        try:
            await anyio.sleep(20)
        finally:
            await turns(3)

    folder.mkdir()
    made = task("t", step("a", works), step("b", slow, ("a",)), finally_=[step("z", works)], recovery=recovery)
    async with opened(folder, made, lanes={"main": 1}) as kit:
        if queued:
            await kit.engine.stop("cancel", 1)
        run = await kit.begin_run("t")
        if not queued:
            await until(lambda: "b" in run.live or run.sealed)
        answer = await story(kit, run)
        await kit.engine.start()
        await kit.advance(1)
        check(run, answer)
        assert await come_to_its_end(kit, run) in FINAL or units.lost_the_end
        check_idle(kit)
        kit.engine.runtime.faults.clear()


@pytest.mark.parametrize("story", [shutdown, pause_and_resume], ids=["shutdown", "pause"])
async def test_on_resume_runs_though_the_rest_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, story: Any
) -> None:
    log: list[str] = []

    async def slow() -> None:
        log.append("a")
        await anyio.sleep(20)

    handlers: dict[str, Any] = {"on_preempt": [step("p", noting(log, "p"))], "on_resume": [step("r", noting(log, "r"))]}
    async with opened(tmp_path, task("t", step("a", slow), recovery=Recovery.RESUME, **handlers)) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.live)
        units = Units(runtime.change_run, LOST_REST[story])  # type: ignore[attr-defined]
        monkeypatch.setattr(runtime, "change_run", units)
        await story(kit, run)
        await kit.engine.start()
        assert (await kit.ended(run)).state == "succeeded"
        assert (units.to[units.bad], log) == ("preempted", ["a", "p", "r", "a"])
        kit.engine.runtime.faults.clear()


@pytest.mark.parametrize("queued", [False, True], ids=["it runs", "it waits"])
async def test_pause_that_was_lost_is_on_record_when_it_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, queued: bool
) -> None:
    async with opened(tmp_path, task("t", step("a", forever))) as kit:
        if queued:
            await kit.engine.stop("cancel", 1)
        run = await kit.begin_run("t")
        await (quiet() if queued else until(lambda: run.live))
        real = runtime.change_run  # type: ignore[attr-defined]
        monkeypatch.setattr(runtime, "change_run", Units(real, 0 if queued else 1))
        answers = [await pause(kit, run) for _ in range(3)]
        row = kit.backend.execute("SELECT state, held FROM run").fetchone()
        assert (answers, row) == (["internal", "preempted", "preempted"], ("preempted", 1))
        kit.engine.runtime.faults.clear()
