"""What a run may cost, counted and not timed: commits, statements, children, stream hops, objects."""

import asyncio
import gc
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, quiet, step, task
from tests.fakes.kernel import works

from aura.run import Cause, Request
from aura.scheduling.liveitem import FOLDED_AT_ONCE, KEPT_SLOTS, MAX_SPANS
from aura.store import Ticket, commit_batch
from aura.stores.memory import MemoryBackend
from aura.testing.world import open_world


def chain(length: int) -> tuple[Any, Any]:
    """A task of so many steps, one after the other."""
    return task("t", *[step(f"s{n}", works, (f"s{n - 1}",) if n else ()) for n in range(length)])


def fan(width: int) -> tuple[Any, Any]:
    """A task of so many steps side by side."""
    return task("t", *[step(f"s{n}", works) for n in range(width)])


async def batch(kit: Opened, runs: int, name: str = "t") -> None:
    """Submit so many runs at once and wait for their ends."""
    await kit.engine.submit_batch([Request("p", name)] * runs, Cause("api"), True)
    await kit.settle()


# -- commits


@pytest.mark.parametrize(
    ("made", "commits"),
    [(chain(1), 2), (chain(2), 3), (chain(10), 11), (chain(40), 41), (fan(10), 2)],
    ids=["one step", "chain of 2", "chain of 10", "chain of 40", "10 side by side"],
)
async def test_commits_of_a_run(tmp_path: Path, made: Any, commits: int) -> None:
    """One with acceptance and first starts, one for each hop, the outcome with the last finish."""
    async with opened(tmp_path, made) as kit:
        await kit.engine.runtime.store.written()  # that the engine has started
        before = kit.engine.runtime.store.commits
        await kit.run("t")
        assert kit.engine.runtime.store.commits - before == commits


async def test_many_runs_at_once_share_their_commits(tmp_path: Path) -> None:
    async with opened(tmp_path, chain(1), lanes={"main": 100}) as kit:
        before = kit.engine.runtime.store.commits
        await batch(kit, 1000)
        assert kit.engine.runtime.store.commits - before <= 1000 / 100 * 2 + 2


async def test_cancel_of_a_running_run_costs_two_commits(tmp_path: Path) -> None:
    async def act() -> None:
        await anyio.sleep_forever()

    async with opened(tmp_path, task("t", step("a", act))) as kit:
        run = await kit.start("t")
        await kit.until(run, step="a", state="running")
        before = kit.engine.runtime.store.commits
        await kit.engine.cancel(run.cid)
        await kit.settle()
        assert kit.engine.runtime.store.commits - before <= 2  # that it stops, for who is told; and its end


# -- statements


class Counting(MemoryBackend):
    """Counts what units execute, by the first words of each statement."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()

    async def commit(self, batch: Sequence[Ticket]) -> None:
        commit_batch(self._execute, batch)

    def _execute(self, sql: str, *values: Any) -> Any:
        self.counted[" ".join(sql.split()[:3])] += 1
        return self.execute(sql, *values)


@pytest.mark.parametrize("steps", [1, 2, 10])
async def test_statements_of_a_run(tmp_path: Path, steps: int) -> None:
    """Its row is written three times, each step's twice, and each of these moves is one event."""
    backend = Counting()
    async with opened(tmp_path, chain(steps), backend=backend) as kit:
        await kit.engine.runtime.store.written()  # that the engine has started
        backend.counted.clear()
        await kit.run("t")
        assert {sql: n for sql, n in backend.counted.items() if len(sql.split()) == 3} == {
            "INSERT INTO run": 1,
            "UPDATE run SET": 2,
            "INSERT INTO step": 2 * steps,
            "INSERT INTO history": 3 + 2 * steps,
        }


HOURLY = {
    "tasks/report.yaml": "steps: {a: {action: flaky, retry: {attempts: 2, delay: 500ms, jitter: false}}}",
    "schedule.yaml": 'items: {hourly: {task: report, triggers: [{cron: "0 * * * *"}]}}',
    "actions.py": """
from aura import action
tried = []
@action
async def flaky() -> None:
    tried.append(1)
    if len(tried) % 2:
        raise ConnectionError("not yet")
""",
}
STEADY = {**HOURLY, "actions.py": "from aura import action\n@action\nasync def flaky() -> None: ..."}


@pytest.mark.parametrize(
    ("plan", "commits", "turns", "statements"),
    [
        (HOURLY, 5, 16, 29),  # with the start, the failure, its log line, the next try, the end
        (STEADY, 2, 7, 19),  # with the start and the end
    ],
    ids=["whose run is tried again", "whose run succeeds at once"],
)
async def test_costs_of_an_hourly_slot(
    tmp_path: Path, plan: dict[str, str], commits: int, turns: int, statements: int
) -> None:
    """Commits, statements and turns of the loop, of slots behind so many that the oldest are known by spans alone."""
    for name, text in plan.items():
        (tmp_path / "lab" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "lab" / name).write_text(text)
    backend = Counting()
    async with open_world(tmp_path / "lab", backend=backend) as world:
        await world.advance(hours=KEPT_SLOTS + FOLDED_AT_ONCE)
        store, begin = world.engine.runtime.store, (world.engine.runtime.store.commits, world.loop.turns)
        backend.counted.clear()
        await world.advance(hours=FOLDED_AT_ONCE)  # once in so many slots the oldest become spans
        counted = backend.counted
        assert store.commits - begin[0] == FOLDED_AT_ONCE * commits
        assert world.loop.turns - begin[1] <= FOLDED_AT_ONCE * turns + 5
        assert 0 < counted["DELETE FROM slot"] <= MAX_SPANS  # of the spans that have changed
        assert counted.total() <= FOLDED_AT_ONCE * statements, counted


# -- children and stream hops


@contextmanager
def children() -> Iterator[list[str]]:
    """Count the children that are spawned, by name."""
    spawned: list[str] = []
    loop = asyncio.get_running_loop()

    def make(loop: asyncio.AbstractEventLoop, coroutine: Any, **keys: Any) -> Any:
        spawned.append(coroutine.__qualname__)
        return asyncio.Task(coroutine, loop=loop, **keys)

    loop.set_task_factory(make)
    try:
        yield spawned
    finally:
        loop.set_task_factory(None)


@pytest.mark.parametrize(
    ("made", "count"),
    [(chain(1), 1), (chain(40), 1), (fan(10), 11)],
    ids=["one step", "chain of 40", "10 side by side"],
)
async def test_children_of_a_run(tmp_path: Path, made: Any, count: int) -> None:
    """Its own, and one for each attempt that is not the only one."""
    async with opened(tmp_path, made) as kit:
        with children() as spawned:
            await kit.ended(await kit.begin_run("t"))
        assert len(spawned) == count, spawned


async def test_looks_of_the_dispatcher_at_a_hundred_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path, chain(5), lanes={"main": 10}) as kit:
        looks, fill = list[int](), kit.engine.dispatcher._fill

        def count_and_fill() -> None:
            looks.append(1)
            fill()

        monkeypatch.setattr(kit.engine.dispatcher, "_fill", count_and_fill)
        await batch(kit, 100)
        assert 10 <= len(looks) <= 25  # a place that comes free is told of with the others of its turn


# -- objects


async def garbage_of(kit: Opened, runs: int) -> float:
    """How many objects per run only the collector of cycles can free."""
    await batch(kit, runs)
    gc.collect()
    gc.disable()
    try:
        await batch(kit, runs)
        return gc.collect() / runs
    finally:
        gc.enable()


@pytest.mark.parametrize("made", [chain(1), chain(5), fan(5)], ids=["one step", "chain of 5", "5 side by side"])
async def test_run_leaves_no_cycles_to_the_collector(tmp_path: Path, made: Any) -> None:
    async with opened(tmp_path, made, lanes={"main": 100}) as kit:
        assert await garbage_of(kit, 200) < 1


@pytest.mark.parametrize(("where", "most"), [("queued", 40), ("running", 140)])
async def test_blocks_of_memory_that_a_run_holds(tmp_path: Path, where: str, most: int) -> None:
    gate = anyio.Event()

    async def waits() -> None:
        await gate.wait()

    made = (task("t", step("a", waits)), task("warm", step("b", works)))
    async with opened(tmp_path, *made, lanes={"main": 501}) as kit:
        await batch(kit, 500, "warm")
        if where == "queued":
            await kit.engine.stop("drain", 1)
        await quiet()
        gc.collect()
        before = sys.getallocatedblocks()
        await kit.engine.submit_batch([Request("p", "t")] * 500, Cause("api"), True)
        await quiet()
        gc.collect()
        lane = kit.engine.dispatcher.lanes["main"]
        assert (lane.waiting, len(lane.placed)) == ((500, 0) if where == "queued" else (0, 500))
        held = (sys.getallocatedblocks() - before) / 500
        assert most / 2 < held < most
        gate.set()
        if where == "queued":
            await kit.engine.start()
