"""The floor under a durable run on this machine: what remains if everything that makes it a run is left away.

Per run: one row accepted (FULL, awaited in batches of 500), a child with two scopes, one row changed and awaited before
the body, a step row, one row changed at the end; group commit by one flusher. Nothing of Aura is used.

    python benchmarks/limit.py [RUNS] [CONCURRENCY]
"""

import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import anyio
from anyio import CapacityLimiter, to_thread

BATCH = 500
_SCHEMA = """
CREATE TABLE run (id INTEGER PRIMARY KEY, plan TEXT, task TEXT, state TEXT, inputs BLOB, result BLOB,
                  a REAL, s REAL, f REAL);
CREATE TABLE step (run INTEGER, name TEXT, state TEXT, output BLOB, s REAL, f REAL,
                   PRIMARY KEY (run, name)) WITHOUT ROWID;
"""
_ACCEPT = "INSERT INTO run VALUES (?,'p','t','queued','{}',NULL,?,NULL,NULL)"
_START = "UPDATE run SET state='running', s=? WHERE id=? AND state='queued'"
_STEP = "INSERT INTO step VALUES (?,'a','succeeded','null',?,?)"
_END = "UPDATE run SET state='succeeded', f=?, result='null' WHERE id=? AND state='running'"


class Floor:
    """A database, what waits to be written to it, and a flusher."""

    def __init__(self, path: str) -> None:
        self.db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=FULL")
        self.db.executescript(_SCHEMA)
        self.pending: list[tuple[str, tuple[Any, ...], anyio.Event | None]] = []
        self.wake = anyio.Event()

    def put(self, sql: str, values: tuple[Any, ...], wait: bool = True) -> anyio.Event:
        written = anyio.Event()
        self.pending.append((sql, values, written if wait else None))
        self.wake.set()
        return written

    def commit(self, batch: list[tuple[str, tuple[Any, ...], anyio.Event | None]]) -> None:
        self.db.execute("BEGIN IMMEDIATE")
        for sql, values, _ in batch:
            self.db.execute(sql, values)
        self.db.execute("COMMIT")

    async def serve(self) -> None:
        limiter = CapacityLimiter(1)
        while True:
            if not self.pending:
                self.wake = anyio.Event()
                await self.wake.wait()
            batch, self.pending = self.pending, []
            await to_thread.run_sync(self.commit, batch, limiter=limiter)
            for _, _, written in batch:
                if written:
                    written.set()


async def body() -> None:
    """The step: nothing."""


async def run(floor: Floor, number: int, done: Callable[[int], None]) -> None:
    with anyio.CancelScope(), anyio.CancelScope():
        await floor.put(_START, (time.time(), number)).wait()
        await body()
        floor.put(_STEP, (number, time.time(), time.time()), wait=False)
    await floor.put(_END, (time.time(), number)).wait()
    done(number)


async def measure(runs: int, concurrency: int, folder: str) -> float:
    """Give runs per second."""
    floor = Floor(os.path.join(folder, "floor.db"))
    places = CapacityLimiter(concurrency)
    send, receive = anyio.create_memory_object_stream[int](runs)
    left, finished = runs, anyio.Event()

    def done(number: int) -> None:
        nonlocal left
        places.release_on_behalf_of(number)
        left -= 1
        if not left:
            finished.set()

    async def dispatch() -> None:
        async with anyio.create_task_group() as lane:
            async for number in receive:
                await places.acquire_on_behalf_of(number)
                lane.start_soon(run, floor, number, done)

    # the flusher and the dispatcher; both are cancelled when the last run has ended
    async with anyio.create_task_group() as group:
        group.start_soon(floor.serve)
        group.start_soon(dispatch)
        begin = time.perf_counter()
        for first in range(0, runs, BATCH):
            numbers = range(first, min(runs, first + BATCH))
            written = [floor.put(_ACCEPT, (n, time.time())) for n in numbers]
            await written[-1].wait()
            for number in numbers:
                send.send_nowait(number)
        await finished.wait()
        took = time.perf_counter() - begin
        group.cancel_scope.cancel()
    send.close()
    receive.close()
    floor.db.close()
    return runs / took


if __name__ == "__main__":
    counts = [int(a) for a in sys.argv[1:3]]
    with tempfile.TemporaryDirectory() as scratch:
        print(f"{anyio.run(measure, *(counts + [5000, 100][len(counts) :]), scratch):.0f} runs/s")
