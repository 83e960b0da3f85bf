"""What `aura backup` costs those who work meanwhile, and how quick it is.

``bench_backup.py [runs]``: serves a database of so many ended runs (200,000; as ``bench_retention`` makes them), lets
one client submit runs one after another, and backs the database up again and again meanwhile.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
from bench_retention import AURA, fill, served

SECONDS = 10.0
BACKUPS = 3


def submit(client: httpx2.Client, until: Callable[[], bool]) -> list[float]:
    """Submit till then; how long each acceptance took, in ms, sorted."""
    times = []
    while not until():
        began = time.perf_counter()
        client.post("/api/tasks/run", json={"plan_name": "p", "task_name": "t"}).raise_for_status()
        times.append(1000 * (time.perf_counter() - began))
    return sorted(times)


def show(what: str, times: list[float], more: str = "") -> None:
    p50, p99 = statistics.median(times), times[len(times) * 99 // 100]
    print(f"{what}: accepted p50 {p50:.2f} ms, p99 {p99:.2f}, slowest {times[-1]:.1f}{more}", flush=True)


def measure_backup(client: httpx2.Client, folder: Path) -> None:
    """Back up while the client submits, and say how long that took, and how large the log has become."""
    log, largest = folder / "data" / "aura.db-wal", 0
    command = [AURA, "backup", str(folder / "copy"), "--data", str(folder / "data"), "--force"]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:

        def ended() -> bool:
            nonlocal largest
            largest = max(largest, log.stat().st_size)
            return process.poll() is not None

        times = submit(client, ended)
    assert process.returncode == 0
    size, took = (folder / "copy").stat().st_size / 2**20, time.monotonic() - began
    show(f"backup of {size:.0f} MiB in {took:.1f} s", times, f"; log at most {largest / 2**20:.1f} MiB")


def main(runs: int = 200_000) -> None:
    with tempfile.TemporaryDirectory(prefix="aura-backup-") as name:
        folder = Path(name)
        (folder / "plans" / "p" / "tasks").mkdir(parents=True)
        (folder / "plans/p/tasks/t.yaml").write_text("steps: {a: {action: log, params: {message: x}}}\n")
        os.chmod(folder, 0o700)
        (folder / "data").mkdir(mode=0o700)
        fill(folder / "data/aura.db", runs)
        with served(folder, 10 * runs) as client:
            end = time.monotonic() + SECONDS
            show("no backup", submit(client, lambda: time.monotonic() > end))
            for _ in range(BACKUPS):
                measure_backup(client, folder)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
