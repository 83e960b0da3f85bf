"""What a loop costs: no-op items of one step, durable all the way, and the memory of the process that runs them.

One run of 10,000 items, 100 of them at once, over the store on a disk (WAL, synchronous=FULL); each start and each end
of an item is on record. The best and the median of the rounds are printed, and the most memory that the process had.

    python benchmarks/bench_loops.py [ITEMS] [ROUNDS]
"""

import gc
import resource
import statistics
import sys
import tempfile
from pathlib import Path

import anyio
from bench_runs import PLAN, engine, submit

from aura.serving import GC_THRESHOLDS, SWITCH_INTERVAL

PARALLELISM = 100


async def seconds_of(folder: str) -> float:
    async with engine(Path(folder), 1) as serving:
        return await submit(serving, "loop", 1)


if __name__ == "__main__":
    sys.setswitchinterval(SWITCH_INTERVAL)  # as the server sets them
    gc.set_threshold(*GC_THRESHOLDS)
    items, rounds = [int(a) for a in sys.argv[1:3]] + [10_000, 3][len(sys.argv) - 1 :]
    PLAN["tasks/loop.yaml"] = (
        f"steps:\n  a: {{action: nothing, loop: {{times: {items}, parallelism: {PARALLELISM}}}}}\n"
    )
    found = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as scratch:
            found.append(anyio.run(seconds_of, scratch))
    print(
        f"a loop of {items} no-op items, {PARALLELISM} at once: {min(found):.2f} s at best,",
        f"{statistics.median(found):.2f} s in the median;",
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB at most",
    )
