"""What a firing may cost, counted and not timed: commits, looks at what waits, work in one turn, garbage."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from tests.engine.interrupts_kit import Lab, lab_settings, open_lab, rule
from tests.engine.kit import quiet, turns

from aura.interrupts import interrupts as interrupting
from aura.kernel import dispatcher as dispatching
from aura.kernel.dispatcher import Dispatcher
from aura.kernel.holds import Holds
from aura.run import Cause, Request
from aura.runs.liverun import LiveRun

pytestmark = pytest.mark.anyio

WORK = "steps:\n  - {name: long, action: hold, params: {seconds: 1000}}\n"
BRIEF = "steps:\n  - {name: brief, action: hold, params: {seconds: 0}}\n"
PARTIAL = rule("preempts: {tasks: [work]}")


@contextmanager
def looks() -> Iterator[list[LiveRun]]:
    """Collect what is asked whether it may start."""
    asked: list[LiveRun] = []
    admits = Holds.admits

    def note(self: Holds, run: LiveRun) -> bool:
        asked.append(run)
        return admits(self, run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Holds, "admits", note)
        yield asked


async def submit(lab: Lab, count: int, task: str = "work") -> None:
    """Ask for so many runs, and let all that can start."""
    await lab.engine.submit_batch([Request("lab", task)] * count, Cause("api"), True)
    await quiet()


async def fire(lab: Lab) -> str:
    """Fire, and return when the handler's first step runs; gives its ``cid``."""
    [fired] = (await lab.tell()).interrupts
    await lab.until(lab.runs("save")[-1], step="save", state="running")
    return fired.cid


def placed(lab: Lab) -> int:
    """How many runs of the main lane hold a place."""
    return len(lab.engine.dispatcher.lanes["main"].placed)


@pytest.mark.parametrize("queued", [0, 2000])
@pytest.mark.parametrize(
    ("running", "commits", "since_gone"), [(1, 2, 2), (100, 2, 2), (200, 3, 3), (500, 3, 2), (1000, 4, 3)]
)
async def test_commits_from_the_event_to_the_handlers_first_step(
    tmp_path: Path, running: int, commits: int, since_gone: int, queued: int
) -> None:
    """Two, whatever waits; beyond a hundred victims what the first of them left is written while others are sealed.

    Since the last was gone it is two, and what was being written then; of a thousand one more is.
    """
    settings = lab_settings(tmp_path, lanes={"main": running})
    async with open_lab(tmp_path, work=WORK, settings=settings) as lab:
        await submit(lab, running + queued)
        assert placed(lab) == running
        store = lab.engine.runtime.store
        before = store.commits
        lab.engine.triggers.fire(lab.rule(), None)
        while placed(lab):
            await turns(1)
        gone = store.commits
        await lab.until(lambda: bool(lab.runs("save")))  # it is on record
        await lab.until(lab.runs("save")[0], step="save", state="running")
        assert store.commits - before <= commits
        assert store.commits - gone <= since_gone
        await lab.engine.cancel_where(task_name="work")


async def test_hold_of_a_whole_lane_looks_at_nothing_that_waits_there(tmp_path: Path) -> None:
    settings = lab_settings(tmp_path, lanes={"main": 5})
    async with open_lab(tmp_path, work=WORK, settings=settings) as lab:
        await submit(lab, 1005)
        with looks() as asked:
            await fire(lab)
            for _ in range(20):
                lab.engine.dispatcher.kick()
                await quiet()
        assert len(asked) < 50
        await lab.engine.cancel_where(task_name="work")


async def test_hold_of_some_looks_once_at_each_that_waits(tmp_path: Path) -> None:
    settings = lab_settings(tmp_path, lanes={"main": 5})
    async with open_lab(tmp_path, work=WORK, brief=BRIEF, settings=settings, rules=PARTIAL) as lab:
        await submit(lab, 1005)
        await fire(lab)
        await quiet()
        with looks() as asked:
            await submit(lab, 100, "brief")
            await lab.until(lambda: placed(lab) == 0)
        assert {run.state for run in lab.runs("brief")} == {"succeeded"}
        assert len(asked) < 100 * 5  # not a thousand for each that starts
        await lab.engine.cancel_where(task_name="work")


async def test_hold_of_some_leaves_the_loop_its_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatching, "LOOKED_THROUGH", 10)
    settings = lab_settings(tmp_path, lanes={"main": 1})
    async with open_lab(tmp_path, work=WORK, settings=settings, rules=PARTIAL) as lab:
        await submit(lab, 101)
        aside = lab.engine.dispatcher.lanes["main"].aside
        sizes = [0]
        lab.engine.triggers.fire(lab.rule(), None)
        while sizes[-1] < 101:
            await turns(1)
            sizes.append(len(aside))
        assert max(after - before for before, after in pairwise(sizes)) == 10
        await lab.engine.cancel_where(task_name="work")


def told(runs: list[LiveRun]) -> int:
    """How many of these were told to stop, or have stopped."""
    return sum(run.stop is not None or run.preemptions > 0 for run in runs)


async def test_many_victims_are_told_in_several_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupting, "TOLD_AT_ONCE", 3)
    async with open_lab(tmp_path, work=WORK, settings=lab_settings(tmp_path, lanes={"main": 10})) as lab:
        await submit(lab, 8)
        runs = list(lab.engine.dispatcher.lanes["main"].placed)
        lab.engine.triggers.fire(lab.rule(), None)
        counts = [told(runs)]
        while counts[-1] < 8:
            await turns(1)
            counts.append(told(runs))
        assert counts == [0, 3, 6, 8]
        await lab.settle()
        assert {run.preemptions for run in runs} == {1}


async def test_many_victims_go_on_in_several_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatching, "RETURNED", 3)
    started: list[int] = []
    fill = Dispatcher._fill

    def note(self: Dispatcher) -> None:
        before = len(self.lanes["main"].placed)
        fill(self)
        started.append(len(self.lanes["main"].placed) - before)

    async with open_lab(tmp_path, work=WORK, settings=lab_settings(tmp_path, lanes={"main": 10})) as lab:
        await submit(lab, 8)
        monkeypatch.setattr(Dispatcher, "_fill", note)
        await fire(lab)
        await lab.until(lambda: placed(lab) == 8)
        assert [count for count in started if count] == [3, 3, 2]
        await lab.engine.cancel_where(task_name="work")


async def test_victims_leave_no_cycles_to_the_collector(tmp_path: Path) -> None:
    async with open_lab(tmp_path, work=WORK, settings=lab_settings(tmp_path, lanes={"main": 200})) as lab:
        await submit(lab, 200)
        await fire(lab)
        await lab.until(lambda: placed(lab) == 200)
        gc.collect()
        gc.disable()
        try:
            await fire(lab)
            await lab.until(lambda: placed(lab) == 200)
            await lab.engine.cancel_where(task_name="work")
            await lab.settle()
            assert gc.collect() / 200 < 2
        finally:
            gc.enable()


async def test_commit_of_many_units_is_told_of_in_several_turns(tmp_path: Path) -> None:
    async with open_lab(tmp_path) as lab:
        await quiet()
        tickets = [lab.engine.runtime.store.put(lambda execute: None) for _ in range(250)]
        counts = [0]
        while counts[-1] < 250:
            await turns(1)
            counts.append(sum(ticket.done for ticket in tickets))
        assert sorted(set(counts)) == [0, 100, 200, 250]
