"""What it costs a run to be counted: processor time with and without, in turn in one process, and the same twice over.

The second line compares the counting with itself: how far it is from 1 says what the first line's ratio is worth.
No-op runs of one step over a store in memory, so that all of it is one thread.

    python benchmarks/bench_measures.py [ROUNDS] [RUNS]
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio
import bench_runs

from aura.histogram import Histogram
from aura.kernel.executor import Executor
from aura.runs.measures import Measures
from aura.stores.memory import MemoryBackend

PLACES: tuple[tuple[Any, str], ...] = (
    (Executor, "_noting_wait"),
    (Measures, "note_end"),
    (Measures, "note_step"),
    (Histogram, "add"),
)
REAL = [getattr(owner, name) for owner, name in PLACES]
NONE = [lambda *_: None] * len(PLACES)


async def microseconds(functions: list[Any], serving: Any, runs: int) -> float:
    for (owner, name), function in zip(PLACES, functions, strict=True):
        setattr(owner, name, function)
    begin = time.process_time()
    await bench_runs.submit(serving, "one", runs)
    return (time.process_time() - begin) / runs * 1e6


async def compare(title: str, other: list[Any], rounds: int, runs: int, folder: str) -> None:
    found: tuple[list[float], list[float]] = ([], [])
    async with bench_runs.engine(Path(folder), 100) as serving:
        await bench_runs.submit(serving, "one", 1000)
        for number in range(rounds):
            for which in (number % 2, 1 - number % 2):
                found[which].append(await microseconds((REAL, other)[which], serving, runs))
    with_it, without = map(statistics.median, found)
    print(f"{title}: {with_it:.1f} and {without:.1f} µs a run, ratio {with_it / without:.3f}")


def main(rounds: int, runs: int) -> None:
    bench_runs.SqliteBackend = lambda _: MemoryBackend()  # type: ignore[assignment,misc]
    for title, other in (("with and without", NONE), ("with and with", REAL)):
        with tempfile.TemporaryDirectory() as folder:
            anyio.run(compare, title, other, rounds, runs, folder)


if __name__ == "__main__":
    main(*(int(text) for text in (*sys.argv[1:], *("100", "300")[len(sys.argv) - 1 :])))
