"""Where the time of a durable run goes: counters first, then a profile of the loop's thread and of the commit thread.

Two passes over the runs of ``bench_runs.py``. The first only counts: processor time of both threads, what they wait
for, the garbage collector, commits, statements and turns of the loop. The second has a thread that looks at both stacks
every millisecond. A look needs the interpreter's lock, so it comes when the lock changes hands, which is more often in
the commit thread; so the looks at each thread are given as shares of the processor time that it took in the first pass.
*Self* is time in a function itself (and in C below it), *total* includes what it called. Trust what is large.

    python benchmarks/profile_runs.py [LANE_LIMIT] [RUNS] [ROWS]
"""

import asyncio
import gc
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import bench_runs

from aura.engine.engine import Engine
from aura.serving import GC_THRESHOLDS, SWITCH_INTERVAL

INTERVAL = 0.001
#: Runs before the first that counts: threads are there, statements are prepared.
WARM_UP = 500
#: Where a thread has nothing to do.
IDLE = frozenset({"selectors.select", "queue.get", "threading.wait", "aura.stores.onethread._serve"})
#: What the commit thread is known by.
COMMIT = "aura.stores.sqlite._commit"


class Counts:
    """What one pass counts. Times are in seconds."""

    def __init__(self) -> None:
        self.wall = self.loop_cpu = self.select = 0.0
        self.commit_wall = self.commit_cpu = self.commit_sync = self.collector = 0.0
        self.turns = self.commits = self.units = self.statements = self.collections = 0

    def per_run(self, runs: int) -> dict[str, float]:
        """µs a run, by what they went to."""
        seconds = {
            "wall clock": self.wall,
            "loop: on the processor": self.loop_cpu,
            "loop: nothing to do": self.select,
            "loop: kept from running": self.wall - self.loop_cpu - self.select,
            "commit thread: on the processor": self.commit_cpu,
            "commit thread: waits (disk, lock)": self.commit_wall - self.commit_cpu,
            "  of it all: the COMMIT itself": self.commit_sync,
            "garbage collector (in either)": self.collector,
        }
        return {name: 1e6 * value / runs for name, value in seconds.items()}


# -- the first pass: counting


class CountedConnection:
    """A connection, or a cursor of one, whose statements are counted and whose COMMIT is timed; all else is its own."""

    def __init__(self, connection: Any, counts: Counts) -> None:
        self._connection = connection
        self._counts = counts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def cursor(self) -> "CountedConnection":
        return CountedConnection(self._connection.cursor(), self._counts)

    def execute(self, sql: str, *values: Any) -> Any:
        self._counts.statements += 1
        if sql != "COMMIT":
            return self._connection.execute(sql, *values)
        begin = time.perf_counter()
        done = self._connection.execute(sql)
        self._counts.commit_sync += time.perf_counter() - begin
        return done


def count_commits(backend: Any, counts: Counts) -> None:
    """Have each commit of a backend counted; it runs in the commit thread."""
    commit = backend._commit

    def counted(batch: list[Any]) -> None:
        wall, cpu = time.perf_counter(), time.thread_time()
        commit(batch)
        counts.commit_wall += time.perf_counter() - wall
        counts.commit_cpu += time.thread_time() - cpu
        counts.commits += 1
        counts.units += len(batch)

    backend._commit = counted
    backend._db = CountedConnection(backend._db, counts)


@contextmanager
def counted_turns(counts: Counts) -> Iterator[None]:
    """Count the loop's turns and the time in which it has nothing to do."""
    selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
    select = selector.select

    def counted(timeout: float | None = None) -> Any:
        begin = time.perf_counter()
        events = select(timeout)
        counts.select += time.perf_counter() - begin
        counts.turns += 1
        return events

    selector.select = counted
    try:
        yield
    finally:
        selector.select = select


@contextmanager
def counted_collections(counts: Counts) -> Iterator[None]:
    begun = 0.0

    def note(phase: str, _: dict[str, int]) -> None:
        nonlocal begun
        if phase == "start":
            begun = time.perf_counter()
        else:
            counts.collector += time.perf_counter() - begun
            counts.collections += 1

    gc.callbacks.append(note)
    try:
        yield
    finally:
        gc.callbacks.remove(note)


async def count(serving: Engine, runs: int) -> Counts:
    counts = Counts()
    count_commits(serving.runtime.store._backend, counts)
    with counted_turns(counts), counted_collections(counts):
        cpu = time.thread_time()
        counts.wall = await bench_runs.submit(serving, "one", runs)
        counts.loop_cpu = time.thread_time() - cpu
    return counts


# -- the second pass: looking at the stacks


class Looks:
    """What the looks at one thread have found, by ``module.function`` and by line."""

    def __init__(self) -> None:
        self.own: Counter[str] = Counter()
        self.total: Counter[str] = Counter()
        self.lines: Counter[str] = Counter()

    def note(self, top: FrameType) -> None:
        names = _names(top)
        if names[0] not in IDLE:
            self.own[names[0]] += 1
            self.total.update(set(names))
            self.lines[f"{names[0]}, line {top.f_lineno}"] += 1

    def by_module(self) -> Counter[str]:
        modules: Counter[str] = Counter()
        for name, looks in self.own.items():
            modules[name.rpartition(".")[0]] += looks
        return modules


class Sampler:
    """A thread that looks at the stacks of the loop's thread, which made it, and of the commit thread."""

    def __init__(self) -> None:
        self._ident = threading.get_ident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="sampler")
        self.loop = Looks()
        self.commits = Looks()

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        me = threading.get_ident()
        while not self._stop.wait(INTERVAL):
            for ident, top in sys._current_frames().items():
                if ident == self._ident:
                    self.loop.note(top)
                elif ident != me and COMMIT in _names(top):
                    self.commits.note(top)


def _names(frame: FrameType | None) -> list[str]:
    names = []
    while frame is not None:
        names.append(f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_name}")
        frame = frame.f_back
    return names


async def profile(serving: Engine, runs: int) -> Sampler:
    with Sampler() as sampler:
        await bench_runs.submit(serving, "one", runs)
    return sampler


# -- both


async def one_pass(look: Callable[[Engine, int], Any], lane_limit: int, runs: int, folder: str) -> Any:
    async with bench_runs.engine(Path(folder), lane_limit) as serving:
        await bench_runs.submit(serving, "one", WARM_UP)
        return await look(serving, runs)


def show(lane_limit: int, runs: int, counts: Counts) -> None:
    print(f"lane limit {lane_limit}, {runs} runs: {runs / counts.wall:.0f} runs/s; µs a run:")
    for name, value in counts.per_run(runs).items():
        print(f"  {name:36s}{value:8.1f}")
    print(
        f"  {counts.commits} commits of {counts.units / counts.commits:.0f} units; per run {counts.units / runs:.1f} "
        f"units, {counts.statements / runs:.1f} statements; {counts.turns} turns of the loop, "
        f"{counts.collections} collections"
    )


def show_looks(thread: str, looks: Looks, cpu: float, rows: int) -> None:
    """Show the looks at one thread as shares of ``cpu``, in µs a run."""
    unit = cpu / max(1, looks.own.total())
    modules = looks.by_module()
    show_table(f"{thread}, by module", modules, modules, unit, rows // 2)
    show_table(f"{thread}, by function", looks.own, looks.total, unit, rows)


def show_table(title: str, own: Counter[str], total: Counter[str], unit: float, rows: int) -> None:
    print(f"\n  {title:64s}{'self':>6s}{'total':>8s}")
    for name, looks in own.most_common(rows):
        print(f"  {name[-64:]:64s}{looks * unit:6.1f}{total[name] * unit:8.1f}")


def main(lane_limit: int, runs: int, rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        counts: Counts = anyio.run(one_pass, count, lane_limit, runs, folder)
    show(lane_limit, runs, counts)
    with tempfile.TemporaryDirectory() as folder:
        sampler: Sampler = anyio.run(one_pass, profile, lane_limit, runs, folder)
    show_looks("loop", sampler.loop, 1e6 * counts.loop_cpu / runs, rows)
    cpu = 1e6 * counts.commit_cpu / runs
    show_looks("commit thread", sampler.commits, cpu, rows)
    lines = sampler.commits.lines
    show_table("commit thread, by line", lines, lines, cpu / max(1, lines.total()), rows // 2)


if __name__ == "__main__":
    sys.setswitchinterval(SWITCH_INTERVAL)  # as the server sets them
    gc.set_threshold(*GC_THRESHOLDS)
    main(*([int(a) for a in sys.argv[1:4]] + [100, 5000, 20][len(sys.argv) - 1 :]))
