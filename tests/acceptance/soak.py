"""A long run against a real server, small: runs, reloads, lists and streams without a pause, with little kept.

``make soak`` runs it for ten minutes, or ``SECONDS=…``; ``test_soak.py`` for a few seconds. What grows is seen in the
samples: memory, open files, threads, the database, and generations of the plan that are still in memory, which a task
of the plan itself counts. Every few seconds the plan has a new generation, with new code.
"""

import itertools
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
from tests.fakes.served import Served, open_served, write_plans

MIB = 1024 * 1024
#: Runs that are asked for in a second, and seconds between two reloads, each of a new generation.
RATE, RELOAD_EVERY = 50, 4.0
#: What is kept.
KEPT_RUNS = 200
ENV = {"AURA_STORE__RETENTION__RUNS": str(KEPT_RUNS), "AURA_STORE__RETENTION__DAYS": "1", "AURA_LOGS__RING": "500"}
#: Seconds that whatever is asked may take.
PATIENCE = 30.0
#: What a reader asks for, again and again.
LISTS = ("/api/runs", "/api/runs?state=succeeded&limit=200", "/api/runs?plan_name=lab&task_name=work", "/api/plans")

ACTIONS = """
import gc, sys
from aura import action

VERSION = {version}

@action
async def work(ctx):
    ctx.log.info("working", version=VERSION)
    (ctx.workdir / "file").write_text("x" * 1000)
    await ctx.emit("lab.worked", {{"version": VERSION}})
    return "y" * 1000

@action
def alive() -> int:
    gc.collect()
    return sum(type(one).__name__ == "Generation" for one in gc.get_objects())
"""
TASKS = {
    "lab/tasks/work.yaml": "steps:\n  a: {action: lab.work}\n  b: {action: log, params: {message: done}}\n",
    "lab/tasks/alive.yaml": 'steps:\n  a: {action: lab.alive}\nreturns: "{{ steps.a.output }}"\n',
}


class Sample(NamedTuple):
    """The server at one moment. ``generations``: of its plans, still in memory."""

    at: float
    rss: int
    files: int
    threads: int
    database: int
    reusable: int
    generations: int
    workdirs: int
    runs: int
    removed: int


class Report:
    """What was seen. ``wrong`` has each answer that was not as it should be, and each error of a client."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.asked = self.reloads = self.read = 0
        self.times: list[float] = []
        self.wrong: list[str] = []

    def slope(self, field: str) -> float:
        """By how much a field grew in an hour, by the samples of the second half."""
        half = self.samples[len(self.samples) // 2 :]
        values = [float(getattr(sample, field)) for sample in half]
        line = statistics.linear_regression([sample.at for sample in half], values)
        return line.slope * 3600

    def most(self, field: str) -> int:
        return max(int(getattr(sample, field)) for sample in self.samples)


class Soak:
    """The clients, each in a thread, which end when ``over`` is set."""

    def __init__(self, served: Served, report: Report) -> None:
        self.served = served
        self.report = report
        self.over = threading.Event()
        token = (served.folder / "data" / "token").read_text(encoding="ascii").strip()
        self._headers = {"Authorization": f"Bearer {token}"}

    def client(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.served.address, headers=self._headers, timeout=PATIENCE)

    def ask(self, client: httpx2.Client, method: str, path: str, body: Any = None) -> Any:
        """Ask, keep the time that it took, and note an answer that is no good."""
        began = time.monotonic()
        answer = client.request(method, path, json=body)
        self.report.times.append(time.monotonic() - began)
        if answer.status_code >= 300:
            self.report.wrong.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
        return answer.json()

    def submit(self) -> None:
        with self.client() as client:
            began = time.monotonic()
            while not self.over.wait(max(0.0, began + self.report.asked / RATE - time.monotonic())):
                self.ask(client, "POST", "/api/tasks/run", {"plan_name": "lab", "task_name": "work"})
                self.report.asked += 1

    def reload(self) -> None:
        with self.client() as client:
            for version in itertools.count(2):
                if self.over.wait(RELOAD_EVERY):
                    return
                write_plans(self.served.folder, {"lab/actions.py": ACTIONS.format(version=version)})
                self.ask(client, "POST", "/api/system/reload")
                self.report.reloads += 1

    def read_lists(self) -> None:
        with self.client() as client:
            for path in itertools.cycle(LISTS):
                if self.over.wait(0.1):
                    return
                found = self.ask(client, "GET", path)
                self.report.read += len(found["items"])

    def read_stream(self) -> None:
        """Follow all events; after each thousand bytes or so go on with a new connection from where the last was."""
        last: dict[str, str] = {}
        with self.client() as client:
            while not self.over.is_set():
                with client.stream("GET", "/api/events/stream", headers=last) as answer:
                    for line in itertools.islice(answer.iter_lines(), 500):
                        if line.startswith("id: "):
                            last = {"Last-Event-ID": line.removeprefix("id: ")}
                            self.report.read += 1
                        if self.over.is_set():
                            return

    def look(self, at: float) -> Sample:
        """Sample the server."""
        with self.client() as client:
            asked = {"plan_name": "lab", "task_name": "alive"}
            answer = client.post("/api/tasks/run", json=asked, headers={"Prefer": "wait=20"})
            kept = self.ask(client, "GET", "/api/system/status")["retention"]
        process = Path("/proc") / str(self.served.process.pid)
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        return Sample(
            at=at,
            rss=int(status["VmRSS"].split()[0]) * 1024,
            files=len(list((process / "fd").iterdir())),
            threads=int(status["Threads"]),
            database=(self.served.folder / "data" / "aura.db").stat().st_size,
            reusable=kept["reusable_bytes"] or 0,
            generations=int(answer.json()["result"]),
            workdirs=count_names(self.served.folder / "data" / "work"),
            runs=self.report.asked,
            removed=kept["removed_runs"],
        )


def count_names(folder: Path) -> int:
    """How many names are in a folder; the one of the workdirs is not there before the first run has needed it."""
    try:
        return len(os.listdir(folder))
    except FileNotFoundError:
        return 0


def run(folder: Path, seconds: float, every: float, tell: Callable[[Sample], object] = lambda _: None) -> Report:
    """Soak a server for so many seconds, and look at it every so often."""
    report = Report()
    write_plans(folder, TASKS | {"lab/actions.py": ACTIONS.format(version=1)})
    with open_served(folder, "--port", "0", "--no-reload", env=ENV) as served:
        soak = Soak(served, report)
        clients = [soak.submit, soak.reload, soak.read_lists, soak.read_stream]
        threads = [threading.Thread(target=_noting, args=(report, client)) for client in clients]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        try:
            while (now := time.monotonic() - began) < seconds:
                report.samples.append(soak.look(now))
                tell(report.samples[-1])
                soak.over.wait(every)
        finally:
            soak.over.set()
            for thread in threads:
                thread.join(PATIENCE)
        report.samples.append(soak.look(time.monotonic() - began))
        code = served.stop()
        report.wrong += [f"the server ended with {code}"] if code else []
    return report


def _noting(report: Report, client: Callable[[], None]) -> None:
    try:
        client()
    except Exception as error:
        report.wrong.append(f"{client.__name__}: {error!r}")


HEAD = "     s  memory MiB  files  threads  database MiB  reusable  generations  workdirs     runs  removed"


def line_of(one: Sample) -> str:
    """A sample as a line below ``HEAD``."""
    return (
        f"{one.at:6.0f}  {one.rss / MIB:10.1f}  {one.files:5}  {one.threads:7}  {one.database / MIB:12.2f}"
        f"  {one.reusable / MIB:8.2f}  {one.generations:11}  {one.workdirs:8}  {one.runs:7}  {one.removed:7}"
    )


def summary(report: Report) -> str:
    """What it comes to, and at most ten samples."""
    samples = report.samples[:: max(1, len(report.samples) // 10)]
    times = sorted(report.times)
    slopes = [f"memory {report.slope('rss') / MIB:.1f} MiB", f"database {report.slope('database') / MIB:.1f} MiB"]
    slopes += [f"{field} {report.slope(field):.1f}" for field in ("files", "threads", "generations")]
    return "\n".join(
        [
            HEAD,
            *map(line_of, samples),
            f"{report.asked} runs, {report.reloads} reloads, {report.read} records read; answers p50"
            f" {1000 * statistics.median(times):.1f} ms, p99 {1000 * times[len(times) * 99 // 100]:.1f} ms, slowest"
            f" {1000 * times[-1]:.0f} ms",
            f"slope of the second half, in an hour: {', '.join(slopes)}",
            *(report.wrong[:20] or ["nothing was wrong"]),
        ]
    )


def main(seconds: float = 600.0) -> int:
    print(HEAD)
    with tempfile.TemporaryDirectory(prefix="aura-soak-") as folder:
        report = run(Path(folder), seconds, max(1.0, seconds / 60), lambda one: print(line_of(one), flush=True))
    print(f"\n{summary(report)}")
    return bool(report.wrong)


if __name__ == "__main__":
    sys.exit(main(*(float(text) for text in sys.argv[1:])))
