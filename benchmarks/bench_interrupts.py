"""How fast an interrupt has stopped what runs, and how long its handler's first step takes to begin.

So many runs hang in a step, over the store on a disk (WAL, synchronous=FULL) and a real loop, and an event fires a rule
that stops them all; they go on when its handler has ended, and so on, round by round. All is measured from the call
that emits the event, as a client inside the process makes it:

- *accepted*: the call has returned (what a client of HTTP gets its 202 for): event, firing and handler are on record;
- *gone*: nothing of those that were stopped runs any more, and the last has given its place back, in memory; of many
  the seals, and so their rows, only follow then, but before the handler's first step (*handled*);
- *since accepted*: the same from the moment on at which the firing was accepted in memory, and held what it covers;
- *of its own*: the processor time that the loop's thread took for that, which other work on the machine hardly changes;
- *handled*: the handler's first step has begun;
- *back*: from the handler's end until the last of them runs again;
- *lag*: how late, at worst in a round, somebody else on the loop was served who wants to be every millisecond.

    python benchmarks/bench_interrupts.py [ROUNDS]
"""

import asyncio
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import anyio
from bench_runs import PLAN, engine

from aura.engine.engine import Engine
from aura.run import Cause, Request
from aura.runs.firing import Firing
from aura.runs.liverun import LiveRun
from aura.serving import GC_THRESHOLDS, SWITCH_INTERVAL

#: (how many run, how many are queued behind them).
SIZES = ((1, 0), (10, 0), (100, 0), (1000, 0), (1, 10_000), (100, 10_000))
#: Runs that are stopped in all rounds of a size at least, so that there are more rounds of few.
STOPPED = 5_000
PLAN |= {
    "actions.py": """
import time
import anyio
from aura import action

@action
async def nothing() -> None:
    pass

@action
async def hang() -> None:
    await anyio.sleep_forever()

@action
async def mark() -> float:
    return time.perf_counter()
""",
    "tasks/hang.yaml": "steps:\n  a: {action: hang}\n",
    "tasks/handle.yaml": "returns: '{{ steps.a.output }}'\nsteps:\n  a: {action: mark}\n",
    "interrupts.yaml": "rules:\n  urgent: {triggers: [{event: urgent}], task: handle}\n",
}


class Figures:
    """What was measured of one size, in ms, and the rounds' worst lags."""

    def __init__(self) -> None:
        self.of: dict[str, list[float]] = {}

    def add(self, name: str, seconds: float) -> None:
        self.of.setdefault(name, []).append(1e3 * seconds)

    def __str__(self) -> str:
        return ", ".join(f"{name} {_shown(found)}" for name, found in self.of.items())


def _shown(found: Sequence[float]) -> str:
    """The median and the 99th percentile: the worst of fewer than a hundred."""
    ordered = sorted(found)
    return f"{statistics.median(ordered):.1f}/{ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]:.1f}"


class Lag:
    """Notes how late it is served at worst."""

    def __init__(self) -> None:
        self.worst = 0.0

    async def serve(self) -> None:
        while True:
            due = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            self.worst = max(self.worst, time.perf_counter() - due)

    def take(self) -> float:
        worst, self.worst = self.worst, 0.0
        return worst


class Bench:
    """The rounds of one size."""

    def __init__(self, serving: Engine, running: int, lag: Lag) -> None:
        self._engine = serving
        self._running = running
        self._lag = lag
        self._gone = self._worked = self._held = 0.0
        lane = serving.dispatcher.lanes["main"]
        release = lane.release

        def note_release(run: LiveRun) -> None:
            release(run)
            self._gone, self._worked = time.perf_counter(), time.thread_time()

        holds = serving.dispatcher.holds
        hold = holds.add

        def note_hold(firing: Firing[LiveRun]) -> None:
            hold(firing)
            self._held = time.perf_counter()

        lane.release = note_release  # type: ignore[method-assign]
        holds.add = note_hold  # type: ignore[method-assign]

    async def begin(self, queued: int) -> None:
        """Submit what runs, and what waits behind it."""
        left = self._running + queued
        while left:
            await self._engine.submit_batch([Request("bench", "hang")] * min(500, left), Cause("api"), False)
            left -= min(500, left)
        await self._all_run()

    async def _all_run(self) -> None:
        lane = self._engine.dispatcher.lanes["main"]
        while len(lane.placed) < self._running or not all(run.live for run in lane.placed):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.0002)

    async def round(self, figures: Figures) -> None:
        """Fire once, and wait until all are back."""
        store = self._engine.runtime.store
        await asyncio.sleep(0.01)
        await store.written()
        commits, seconds = store.commits, store.commit_times.sum
        self._lag.take()
        begin, worked = time.perf_counter(), time.thread_time()
        receipt = await self._engine.emit("urgent")
        figures.add("accepted", time.perf_counter() - begin)
        [fired] = receipt.interrupts
        handler = self._engine.runtime.open.get(fired.cid)
        if handler is not None:
            await handler.wait_end()
        ended = time.perf_counter()
        figures.add("gone", self._gone - begin)
        figures.add("since accepted", self._gone - self._held)
        figures.add("of its own", self._worked - worked)
        await asyncio.sleep(0.005)  # so that who looks at the loop has its turn
        record = await self._engine.history.record(fired.cid)
        assert isinstance(record.result, float), record
        figures.add("handled", record.result - begin)
        figures.add("lag", self._lag.take())
        figures.add("a commit", (store.commit_times.sum - seconds) / (store.commits - commits))
        await self._all_run()
        figures.add("back", time.perf_counter() - ended)
        await asyncio.sleep(0.005)
        figures.add("lag back", self._lag.take())


async def measure(running: int, queued: int, rounds: int, folder: Path) -> Figures:
    """So many rounds of one size."""
    figures, lag = Figures(), Lag()
    # what looks at the loop; ended below
    async with engine(folder, running) as serving, anyio.create_task_group() as group:
        bench = Bench(serving, running, lag)
        await bench.begin_run(queued)
        group.start_soon(lag.serve)
        await bench.round(Figures())
        for _ in range(rounds):
            await bench.round(figures)
        group.cancel_scope.cancel()
        await serving.stop("cancel", 1)
    return figures


if __name__ == "__main__":
    sys.setswitchinterval(SWITCH_INTERVAL)  # as the server sets them
    gc.set_threshold(*GC_THRESHOLDS)
    asked = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    print("ms from the call that emits; median/99th percentile")
    for running, queued in SIZES:
        rounds = asked or max(20, min(300, STOPPED // running))
        with tempfile.TemporaryDirectory() as scratch:
            found = anyio.run(measure, running, queued, rounds, Path(scratch))
        print(f"{running} running, {queued} queued, {rounds} rounds: {found}", flush=True)
