"""What retention costs those who work meanwhile, how quick it is, and how quick lists are with a long history.

``bench_retention.py [runs]``: makes a database of so many ended runs (200,000; each with 5 events, 2 steps and 2 log
lines), then serves it twice: with all of it kept, and with nearly all of it to be removed. Each time one client submits
runs one after another, and the lists are read.
"""

import os
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx2

from aura.stores.sqlite import SqliteBackend

AURA = str(Path(sys.executable).with_name("aura"))
READY = "aura: ready on "
EVENTS, STEPS, LINES = 5, 2, 2
KEPT = 1000
#: Seconds for which one client submits.
SECONDS = 15.0
LISTS = (
    "/api/runs",
    "/api/runs?limit=200",
    "/api/runs?state=failed",
    "/api/runs?plan_name=p&task_name=t",
    "/api/runs?label=colour:red",
    "/api/runs?since=2001-09-09T01:50:00Z",
)
_RUN = """INSERT INTO run (seq, cid, state, plan_name, task_name, lane, priority, labels, recovery, due, accepted_at,
 started_at, finished_at, cause, root_cid, boot, inputs)
 VALUES (?1,?2,?3,'p','t','main',0,'{"colour":"red"}','fail',?4,?4,?4,?4,'{"kind":"api"}',?2,1,'{}')"""


def fill(path: Path, runs: int) -> None:
    """Make the database, as if one run had ended in each second since 2001."""
    SqliteBackend(path).close()
    with closing(sqlite3.connect(path)) as db, db:
        for begin in range(0, runs, 10_000):
            some = [
                (seq, str(uuid.UUID(int=seq)), seq + 1e9) for seq in range(begin + 1, min(runs, begin + 10_000) + 1)
            ]
            states = ("succeeded", "succeeded", "succeeded", "failed")
            db.executemany(_RUN, ((seq, cid, states[seq % 4], at) for seq, cid, at in some))
            db.executemany("INSERT INTO label VALUES ('colour', 'red', ?)", ((seq,) for seq, _, _ in some))
            db.executemany(
                "INSERT INTO history VALUES (?,?,'step.succeeded','a',?,?)",
                (
                    (seq * 10 + n, seq, at, b'{"output":"' + b"x" * 100 + b'"}')
                    for seq, _, at in some
                    for n in range(EVENTS)
                ),
            )
            db.executemany(
                "INSERT INTO step (seq, name, state, output) VALUES (?,?,'succeeded',?)",
                ((seq, f"s{n}", b"x" * 100) for seq, _, _ in some for n in range(STEPS)),
            )
            db.executemany(
                "INSERT INTO log (id, cid, level, at, message) VALUES (?,?,20,?,'a line of the log, as lines are')",
                ((seq * 10 + 8 + n, cid, at) for seq, cid, at in some for n in range(LINES)),
            )


@contextmanager
def served(folder: Path, kept: int) -> Iterator[httpx2.Client]:
    """A server on the database that keeps so many runs, whatever their age, and a client."""
    environ = os.environ | {"AURA_STORE__RETENTION__RUNS": str(kept), "AURA_STORE__RETENTION__DAYS": "100000"}
    command = [AURA, "serve", "--data", "data", "--port", "0"]
    with subprocess.Popen(
        command, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout
        try:
            address = process.stdout.readline().removeprefix(READY).strip()
            token = (folder / "data" / "token").read_text().strip()
            with httpx2.Client(
                base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=60, trust_env=False
            ) as client:
                yield client
        finally:
            process.terminate()


def removed(client: httpx2.Client) -> tuple[int, int]:
    """Runs and rows that were removed so far."""
    text = client.get("/metrics").text
    found = [re.search(rf"^aura_retention_{name}_total (\S+)", text, re.MULTILINE) for name in ("runs", "rows")]
    runs, rows = (int(float(one[1])) if one else 0 for one in found)
    return runs, rows


def submit(client: httpx2.Client) -> list[float]:
    """Submit for a while; how long each acceptance took, in ms, sorted."""
    times = []
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        began = time.perf_counter()
        client.post("/api/tasks/run", json={"plan_name": "p", "task_name": "t"}).raise_for_status()
        times.append(1000 * (time.perf_counter() - began))
    return sorted(times)


def read_lists(client: httpx2.Client, what: str) -> None:
    for path in LISTS:
        times = []
        for _ in range(20):
            began = time.perf_counter()
            client.get(path).raise_for_status()
            times.append(1000 * (time.perf_counter() - began))
        print(f"  {what}: {path}: {statistics.median(times):.1f} ms, slowest {max(times):.1f}", flush=True)


def measure(folder: Path, kept: int, what: str) -> None:
    with served(folder, kept) as client:
        before, began = removed(client), time.monotonic()
        times = submit(client)
        seconds = time.monotonic() - began
        gone = [(now - then) / seconds for now, then in zip(removed(client), before, strict=True)]
        print(
            f"{what}: {len(times) / SECONDS:.0f} runs/s accepted one by one, p50 {statistics.median(times):.2f} ms, p99"
            f" {times[len(times) * 99 // 100]:.2f}, slowest {times[-1]:.1f}; removed a second: {gone[0]:,.0f} runs,"
            f" {gone[1]:,.0f} rows",
            flush=True,
        )
        read_lists(client, what)


def main(runs: int = 200_000) -> None:
    with tempfile.TemporaryDirectory(prefix="aura-retention-") as name:
        folder = Path(name)
        (folder / "plans" / "p" / "tasks").mkdir(parents=True)
        (folder / "plans" / "p" / "tasks" / "t.yaml").write_text("steps:\n  a: {action: log, params: {message: x}}\n")
        (folder / "data").mkdir(mode=0o700)
        began = time.monotonic()
        fill(folder / "data" / "aura.db", runs)
        size = (folder / "data" / "aura.db").stat().st_size / 2**20
        print(
            f"{runs:,} runs, {runs * EVENTS:,} events, {size:.0f} MiB, made in {time.monotonic() - began:.0f} s",
            flush=True,
        )
        measure(folder, 10**9, "all is kept")
        measure(folder, KEPT, "nearly all is removed")


if __name__ == "__main__":
    main(*(int(text) for text in sys.argv[1:]))
