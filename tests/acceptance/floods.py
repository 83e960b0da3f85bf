"""Floods of output against a real server, many at once: what they cost in memory, answers and log, and what is left.

``make flood`` does it at full size, ``test_floods.py`` with smaller amounts.
"""

import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

import httpx2
from tests.fakes.served import Served, open_served, write_plans

from aura.processes import leftovers

PLANS = {
    "lab/tasks/flood.yaml": """
inputs: {shell: {type: string}}
steps:
  flood: {action: shell.run, params: {argv: [sh, -c, "{{ inputs.shell }}"]}, timeout: 20m}
""",
}
MIB = 1024 * 1024
#: What the memory of the server may grow by.
GROWTH = 50 * MIB
#: One that does not end by itself: it is cancelled when all others have ended.
ENDLESS = "yes"


class Flood(NamedTuple):
    """A command that says very much, by its name."""

    name: str
    shell: str

    @property
    def is_endless(self) -> bool:
        return self.shell == ENDLESS


def floods(scale: float) -> list[Flood]:
    """One of each kind; at full size ``scale`` is 1."""
    return [
        Flood("yes", ENDLESS),
        Flood("a line of 2 GB", f"head -c {int(scale * 2e9)} /dev/zero | tr '\\0' x"),
        Flood("a million tiny lines", f"seq {int(scale * 1e6)}"),
        Flood("random bytes", f"head -c {int(scale * 1e9)} /dev/urandom"),
        Flood("lines of 64 KB", f"yes $(head -c 65000 /dev/zero | tr '\\0' x) | head -c {int(scale * 1e9)} >&2"),
    ]


def many(count: int, scale: float) -> list[Flood]:
    """So many at once, of all kinds in turn."""
    kinds = floods(scale)
    return [kinds[number % len(kinds)] for number in range(count)]


class Seen(NamedTuple):
    """What came of floods: bytes of memory, seconds of answers, states of runs, bytes of their logs, processes left."""

    base: int
    peak: int
    answers: Sequence[float]
    states: Mapping[str, str]
    took: float
    logged: Mapping[str, int]
    disk: int
    left: Sequence[int]

    @property
    def growth(self) -> int:
        return self.peak - self.base

    def __str__(self) -> str:
        cuts = quantiles(self.answers, n=100, method="inclusive")
        times = f"{median(self.answers) * 1e3:.1f} / {cuts[98] * 1e3:.0f} / {max(self.answers) * 1e3:.0f} ms"
        log = f"log {max(self.logged.values(), default=0) / MIB:.1f} MiB at most of one, data {self.disk / MIB:.0f} MiB"
        memory = f"memory {self.base / MIB:.0f} + {self.growth / MIB:.1f} MiB"
        return f"{self.took:5.1f} s, {memory}, answers {times} (median, p99, worst), {log}, left {list(self.left)}"


def pour(folder: Path, commands: Sequence[Flood], endless: float) -> Seen:
    """Run all of them at once against a server of its own; those that never end for ``endless`` seconds at least."""
    write_plans(folder, PLANS)
    limit = {"AURA_LANES__MAIN__LIMIT": str(len(commands) + 1)}
    with open_served(folder, env=limit) as served, _client(served) as http:
        door = _Door(http)
        door.wait(door.submit("true"))  # what is loaded at first use is no growth
        base = _reset_peak(served.process.pid)
        began = time.monotonic()
        with door.asking() as answers:
            cids = {door.submit(command.shell): command for command in commands}
            states = {cid: door.wait(cid) for cid, command in cids.items() if not command.is_endless}
            time.sleep(max(0.0, began + endless - time.monotonic()))
            states |= {cid: door.cancel(cid) for cid, command in cids.items() if command.is_endless}
        took = time.monotonic() - began
        peak = _status(served.process.pid, "VmHWM")
        left = [seen.pid for seen in leftovers.look_at_all() if seen.parent == served.process.pid]
        left += [seen.pid for seen in leftovers.look_at_all() if seen.marks.get(leftovers.CID) in cids]
        assert served.stop() == 0
    named = {f"{command.name} {cid}": states[cid] for cid, command in cids.items()}
    disk = sum(file.stat().st_size for file in (folder / "data").glob("aura.db*"))
    return Seen(base, peak, answers, named, took, _logged(folder), disk, left)


def _client(served: Served) -> httpx2.Client:
    headers = {"Authorization": "Bearer " + (served.folder / "data/token").read_text().strip()}
    return httpx2.Client(base_url=served.address, headers=headers, timeout=60, trust_env=False)


class _Door:
    """What asks the server."""

    def __init__(self, http: httpx2.Client) -> None:
        self._http = http

    def submit(self, shell: str) -> str:
        body = {"plan_name": "lab", "task_name": "flood", "inputs": {"shell": shell}}
        answer = self._http.post("/api/tasks/run", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["cid"])

    def wait(self, cid: str) -> str:
        while (run := self._http.get(f"/api/runs/{cid}").json())["finished_at"] is None:
            time.sleep(0.1)
        return str(run["state"])

    def cancel(self, cid: str) -> str:
        assert self._http.post(f"/api/tasks/{cid}/cancel", json={}).status_code == 202
        return self.wait(cid)

    def asking(self) -> "_Asking":
        return _Asking(self._http)


class _Asking(threading.Thread):
    """Asks for a short answer again and again while inside, and notes how long each took."""

    def __init__(self, http: httpx2.Client) -> None:
        super().__init__(name="asking")
        self._http = http
        self._over = threading.Event()
        self._answers: list[float] = []

    def __enter__(self) -> list[float]:
        self.start()
        return self._answers

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        while not self._over.wait(0.02):
            began = time.monotonic()
            self._http.get("/api/system/status").raise_for_status()
            self._answers.append(time.monotonic() - began)


def _reset_peak(pid: int) -> int:
    """Have the kernel note the largest memory from now on (``proc(5)``, ``clear_refs``); gives what it is now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _status(pid, "VmRSS")


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def _logged(folder: Path) -> dict[str, int]:
    """The bytes of text in the log, by run."""
    size = "SUM(LENGTH(CAST(message AS BLOB)))"
    with closing(sqlite3.connect(folder / "data/aura.db")) as store:
        return dict(store.execute(f"SELECT cid, {size} FROM log WHERE step = 'flood' GROUP BY cid").fetchall())


def main(count: int) -> int:
    """Each kind alone, then so many at once; give the exit code: 1 if a bound was broken."""
    wrong = 0
    parts = [(flood.name, [flood]) for flood in floods(1)]
    for title, commands in [*parts, (f"{count} at once", many(count, 0.1))]:
        with tempfile.TemporaryDirectory(prefix="aura-flood-") as folder:
            seen = pour(Path(folder), commands, endless=20)
        print(f"{title:26} {seen}", flush=True)
        wrong += bool(seen.left) or seen.growth > GROWTH
    return min(1, wrong)


if __name__ == "__main__":
    sys.exit(main(int([*sys.argv[1:], "50"][0] or 50)))
