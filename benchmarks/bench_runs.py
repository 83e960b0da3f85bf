"""Durable runs a second beside the floor of this machine (``limit.py``), and what a step of a chain costs.

Both are measured in turn in one process, round by round, and the medians of the rounds are printed with their ratio:
on a shared machine only the ratio means anything. No-op runs of one step, submitted in batches of 500 by one client
inside the process, over the store on a disk (WAL, synchronous=FULL); the queue is as long as the runs are many.

    python benchmarks/bench_runs.py [RUNS] [ROUNDS]
"""

import gc
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import limit
import msgspec

from aura.config import load_settings
from aura.engine.engine import Engine
from aura.run import Cause, Request
from aura.server import Server
from aura.serving import GC_THRESHOLDS, SWITCH_INTERVAL
from aura.stores.sqlite import SqliteBackend

LANE_LIMITS = (4, 32, 100, 500)
CHAIN = 40
PLAN = {
    "actions.py": "from aura import action\n\n@action\nasync def nothing() -> None:\n    pass\n",
    "tasks/one.yaml": "steps:\n  a: {action: nothing}\n",
    "tasks/chain.yaml": "steps:\n" + "".join(f"  - {{name: s{n}, action: nothing}}\n" for n in range(CHAIN)),
}


@asynccontextmanager
async def engine(folder: Path, lane_limit: int) -> AsyncIterator[Engine]:
    """An engine over the plan above, on a disk, without HTTP."""
    for name, text in PLAN.items():
        file = folder / "plans" / "bench" / name
        file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        file.write_text(text)
    settings = load_settings({"plans": folder / "plans", "data": folder / "data"}, {}, None, folder)
    lanes = {n: msgspec.structs.replace(lane, limit=lane_limit, queue=100_000) for n, lane in settings.lanes.items()}
    (folder / "data").mkdir()
    backend = SqliteBackend(folder / "data" / "aura.db")
    server = Server(msgspec.structs.replace(settings, lanes=lanes), http=False, backend=backend)
    # the server; ended by the request below
    async with anyio.create_task_group() as group:
        await group.start(server.serve)
        yield server.engine
        server.request_stop()


async def submit(serving: Engine, task_name: str, runs: int) -> float:
    """Submit runs in batches, wait for the last end to be committed, and give the seconds."""
    begin = time.perf_counter()
    for first in range(0, runs, limit.BATCH):
        batch = [Request("bench", task_name)] * min(limit.BATCH, runs - first)
        await serving.submit_batch(batch, Cause("api"), False)
    while serving.runtime.open:
        await next(reversed(serving.runtime.open.values())).wait_end()
    return time.perf_counter() - begin


async def runs_per_second(runs: int, lane_limit: int, folder: str) -> float:
    async with engine(Path(folder), lane_limit) as serving:
        return runs / await submit(serving, "one", runs)


async def chain_ms_per_step(runs: int, folder: str) -> float:
    async with engine(Path(folder), 1) as serving:
        return 1e3 * await submit(serving, "chain", runs) / runs / CHAIN


def compare(runs: int, rounds: int, lane_limit: int) -> None:
    floor, aura = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            floor.append(anyio.run(limit.measure, runs, lane_limit, folder))
        with tempfile.TemporaryDirectory() as folder:
            aura.append(anyio.run(runs_per_second, runs, lane_limit, folder))
    low, high = statistics.median(floor), statistics.median(aura)
    print(
        f"lane limit {lane_limit:4d}: floor {low:6.0f} runs/s, aura {high:6.0f} runs/s, ratio {high / low:.2f}",
        flush=True,
    )


if __name__ == "__main__":
    sys.setswitchinterval(SWITCH_INTERVAL)  # as the server sets them
    gc.set_threshold(*GC_THRESHOLDS)
    runs, rounds = [int(a) for a in sys.argv[1:3]] + [3000, 3][len(sys.argv) - 1 :]
    for lane_limit in LANE_LIMITS:
        compare(runs, rounds, lane_limit)
    with tempfile.TemporaryDirectory() as scratch:
        print(
            f"a chain of {CHAIN} no-op steps, one run at a time:",
            f"{anyio.run(chain_ms_per_step, 30, scratch):.2f} ms a step",
        )
