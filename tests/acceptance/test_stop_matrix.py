"""The stop matrix: whatever a real server is busy with × each way to stop it, and what is left of it afterwards.

A row is what the server is busy with, what it should exit with, and what should be on record of its runs; a column is
how it is stopped. SIGTERM and a drain meet every row; what is heard alike (SIGINT), or differs only for what runs (a
second signal, ``cancel``), meets those where it may matter.

After a signal: the exit code, in time and not by the watchdog; no process, no lock, no temporary file; each run's
record says how it ended. After ``system/stop``: nothing runs but what is counted as stuck, streams and requests are
served, a start goes on, and a signal ends it as it should.
"""

import fcntl
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.fakes.children import running_in
from tests.fakes.door import Door, wait_until
from tests.fakes.served import Served, open_served, write_plans

from aura.errors import ExitCode
from aura.processes.leftovers import look_at_all
from aura.server import STOP_SLACK

GRACE = 1.0
#: The grace and what a stop may take beside it, and what a loaded machine may.
LIMIT = GRACE + STOP_SLACK + 5.0
#: What is published to a reader that has stopped: more than all the buffers of a connection hold.
CHATTER = 300
LINE = 60_000
CROWD = 100

PLANS = {
    "lab/tasks/quick.yaml": "steps:\n  a: {action: log, params: {message: hello}}\n",
    "lab/tasks/long.yaml": "steps:\n  a: {action: long}\n",
    "lab/tasks/again.yaml": "recovery: restart\nsteps:\n  a: {action: long}\n",
    "lab/tasks/hang.yaml": "steps:\n  a: {action: hang}\n",
    "lab/tasks/litter.yaml": "steps:\n  a: {action: litter}\n",
    "lab/tasks/chatter.yaml": f"steps:\n  a: {{action: chatter, params: {{lines: {CHATTER}, length: {LINE}}}}}\n",
    "lab/tasks/shared.yaml": "steps:\n  a: {action: share}\n",
    "lab/tasks/deaf.yaml": """
steps:
  - {name: a, action: shell.run, params: {shell: "trap '' TERM; touch $BEGUN/$$; while :; do sleep 1; done",
     env: {BEGUN: "@BEGUN@"}}}
""",
    "lab/tasks/behind.yaml": """
steps:
  - name: a
    action: shell.run
    params:
      shell: "(trap '' TERM; touch $BEGUN/$$; while :; do sleep 1; done) >/dev/null 2>&1 &"
      env: {BEGUN: "@BEGUN@"}
  - {name: b, action: long}
""",
    "lab/actions.py": """
import asyncio
import threading
import time
from pathlib import Path
from uuid import uuid4
import anyio
from aura import Context, action, service

def begun() -> None:
    Path("begun", uuid4().hex).touch()

@action
async def long() -> None:
    begun()
    try:
        await anyio.sleep(3600)
    finally:
        Path("told").touch()

@action
def hang() -> None:
    begun()
    time.sleep(3600)

async def deaf_child() -> None:
    while True:
        try:
            await anyio.sleep(0.05)
        except asyncio.CancelledError:
            pass

@action
async def litter() -> None:
    children.append(asyncio.ensure_future(deaf_child()))
    children.append(asyncio.ensure_future(asyncio.to_thread(time.sleep, 3600)))
    threading.Thread(target=time.sleep, args=(3600,)).start()
    begun()

children = []

@service
async def port():
    yield "port"
    await deaf_child()

@action
async def share(port) -> str:
    return port

@action
async def chatter(ctx: Context, lines: int, length: int) -> None:
    for _ in range(lines):
        ctx.log.info("x" * length)
        await anyio.sleep(0)
""",
}


class Cell:
    """One server in one situation."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.folder = served.folder
        self.database = self.folder / "data/aura.db"
        self.door = Door(served)

    def wait_begun(self, count: int) -> None:
        """Wait until so many actions and processes have begun."""
        wait_until(lambda: len(list((self.folder / "begun").iterdir())) == count)

    def main_lane(self) -> dict[str, int]:
        lane: dict[str, int] = self.door.get("/api/system/status")["lanes"]["main"]
        return lane

    def states(self) -> Counter[tuple[str, str, str | None]]:
        """How many runs of each task are on record in each state, with its reason."""
        with closing(sqlite3.connect(self.database)) as db:
            return Counter(db.execute("SELECT task_name, state, reason FROM run").fetchall())

    def processes(self) -> list[str]:
        """The names of the living processes of this server's runs."""
        with closing(sqlite3.connect(self.database)) as db:
            store_id = db.execute("SELECT value FROM meta WHERE key='store_id'").fetchone()[0]
        return [seen.name for seen in look_at_all() if seen.marks.get("AURA_BOOT", "").startswith(store_id)]

    def signal(self, *numbers: signal.Signals) -> int:
        """Send signals, wait for the end, and give the exit code."""
        begun = time.monotonic()
        for number in numbers:
            self.served.process.send_signal(number)
        code = self.served.process.wait(30)
        check_time(begun)
        assert "did not stop within" not in (self.folder / "server.log").read_text()  # the watchdog's words
        return code

    def stop_engine(self, mode: str) -> None:
        """Stop the engine and wait until it says that it has stopped."""
        begun = time.monotonic()
        assert self.door.ask("POST", "/api/system/stop", {"mode": mode, "grace_s": GRACE / 2}).status == 202
        wait_until(lambda: self.door.get("/api/system/status")["state"] == "stopped", LIMIT)
        check_time(begun)

    def publish_line(self) -> None:
        """Have the server log that plan ``torn`` is broken."""
        write_plans(self.folder, {"torn/tasks/x.yaml": "steps: 1\n"})
        assert self.door.ask("POST", "/api/system/reload").status == 200

    def check_nothing_left(self) -> None:
        assert (self.processes(), running_in(self.folder)) == ([], [])
        assert list((self.folder / "tmp").iterdir()) == []
        with open(self.folder / "data/aura.lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if somebody holds it


def check_time(begun: float) -> None:
    took = time.monotonic() - begun
    print(f"stopped after {took:.2f} s")  # for docs/figures.md
    assert took < LIMIT


@contextmanager
def open_cell(folder: Path) -> Iterator[Cell]:
    for name in ("tmp", "begun"):
        (folder / name).mkdir()
    write_plans(folder, {name: text.replace("@BEGUN@", f"{folder}/begun") for name, text in PLANS.items()})
    (folder / "aura.toml").write_text(f'[server]\ngrace = "{GRACE:g}s"\n[lanes.main]\nlimit = {CROWD + 4}\n')
    with open_served(folder, env={"TMPDIR": str(folder / "tmp")}) as served:
        yield Cell(served)


# -- rows -------------------------------------------------------------------------------------------------------------

#: What a row hands out: how to let go of what keeps the server from its work.
LetGo = Callable[[], object]


def nothing() -> None:
    """Nothing is held."""


@contextmanager
def idle(cell: Cell) -> Iterator[LetGo]:
    yield nothing


@contextmanager
def reading(cell: Cell) -> Iterator[LetGo]:
    with closing(cell.door.read("/api/logs/stream")) as reader:
        cell.door.run("quick")
        reader.wait_for("hello")
        yield nothing


@contextmanager
def reading_events(cell: Cell) -> Iterator[LetGo]:
    with closing(cell.door.read("/api/events/stream")) as reader:
        cell.door.run("quick")
        reader.wait_for("run.succeeded")
        yield nothing


@contextmanager
def not_reading(cell: Cell) -> Iterator[LetGo]:
    """A reader that takes nothing more, behind a socket that is full."""
    with closing(cell.door.read("/api/logs/stream", receive_buffer=2048)) as reader:
        cid = cell.door.run("chatter")
        wait_until(lambda: cell.door.get(f"/api/runs/{cid}")["state"] == "succeeded")
        wait_until(reader.unsent)
        yield nothing


@contextmanager
def on_a_socket(cell: Cell) -> Iterator[LetGo]:
    with closing(cell.door.listen("/ws/logs")) as reader:
        cell.door.run("quick")
        reader.wait_for("hello")
        yield nothing


@contextmanager
def not_reading_a_socket(cell: Cell) -> Iterator[LetGo]:
    with closing(cell.door.listen("/ws/logs", receive_buffer=2048)) as reader:
        cid = cell.door.run("chatter")
        wait_until(lambda: cell.door.get(f"/api/runs/{cid}")["state"] == "succeeded")
        wait_until(reader.unsent)
        yield nothing


@contextmanager
def running(cell: Cell, task: str, marks: int = 1) -> Iterator[LetGo]:
    """One run, of which so many things have begun."""
    cell.door.run(task)
    cell.wait_begun(marks)
    yield nothing


@contextmanager
def littered(cell: Cell) -> Iterator[LetGo]:
    """A run that has ended and left behind a child that swallows its end, and threads that hang."""
    cid = cell.door.run("litter")
    wait_until(lambda: cell.door.get(f"/api/runs/{cid}")["state"] == "succeeded")
    yield nothing


@contextmanager
def shared(cell: Cell) -> Iterator[LetGo]:
    """A service that is open, and hangs when it is closed."""
    cid = cell.door.run("shared")
    wait_until(lambda: cell.door.get(f"/api/runs/{cid}")["state"] == "succeeded")
    yield nothing


@contextmanager
def crowded(cell: Cell) -> Iterator[LetGo]:
    tasks = [{"plan_name": "lab", "task_name": "long"}] * CROWD
    assert cell.door.ask("POST", "/api/tasks/batch", {"tasks": tasks}).status == 202
    cell.wait_begun(CROWD)
    yield nothing


@contextmanager
def locked(cell: Cell) -> Iterator[LetGo]:
    """Runs that run, one that waits for its time, and one whose acceptance waits for the lock that another holds."""
    for task in ("long", "again"):
        cell.door.run(task)
    cell.door.run("quick", delay_s=3600)
    cell.wait_begun(2)
    untold = {"plan_name": "lab", "task_name": "quick"}
    with closing(sqlite3.connect(cell.database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with closing(cell.door.send("POST", "/api/tasks/run", untold)):
            wait_until(lambda: cell.main_lane()["running"] == 3)
            yield partial(other.execute, "ROLLBACK")


#: (task, state, reason) → how many runs.
Record = Mapping[tuple[str, str, str | None], int]


class Row(NamedTuple):
    """``record`` is of the runs after a signal, ``later`` after a stop of the engine, a start and a signal."""

    busy: Callable[[Cell], AbstractContextManager[LetGo]]
    record: Record
    code: int = 0
    stuck: int = 0
    later: Record | None = None


LOCKED: Record = {("long", "crashed", "crash"): 1, ("again", "queued", None): 1, ("quick", "queued", None): 1}
UNLOCKED: Record = {
    ("long", "cancelled", "shutdown"): 1,
    ("again", "queued", None): 1,
    ("quick", "queued", None): 1,
    ("quick", "succeeded", None): 1,
}
ROWS = {
    "idle": Row(idle, {}),
    "a reader": Row(reading, {("quick", "succeeded", None): 1}),
    "a reader of events": Row(reading_events, {("quick", "succeeded", None): 1}),
    "a reader that does not read": Row(not_reading, {("chatter", "succeeded", None): 1}),
    "a WebSocket": Row(on_a_socket, {("quick", "succeeded", None): 1}),
    "a WebSocket that is not read": Row(not_reading_a_socket, {("chatter", "succeeded", None): 1}),
    "a thread that hangs": Row(partial(running, task="hang"), {("hang", "cancelled", "stuck"): 1}, code=70, stuck=1),
    "a child deaf to TERM": Row(partial(running, task="deaf"), {("deaf", "cancelled", "shutdown"): 1}),
    "one left behind": Row(partial(running, task="behind", marks=2), {("behind", "cancelled", "shutdown"): 1}),
    "a service that hangs in its close": Row(shared, {("shared", "succeeded", None): 1}, code=70),
    "100 runs": Row(crowded, {("long", "cancelled", "shutdown"): CROWD}),
    "litter of plan code": Row(littered, {("litter", "succeeded", None): 1}),
    "a locked database": Row(locked, LOCKED, code=74, later=UNLOCKED),
}
SIGNALS = {
    "SIGTERM": [signal.SIGTERM],
    "SIGINT": [signal.SIGINT],
    "two signals": [signal.SIGTERM, signal.SIGINT],
}
#: What a stop has to end, or to leave behind.
BUSY = [
    *("a thread that hangs", "a child deaf to TERM", "one left behind"),
    *("a service that hangs in its close", "100 runs", "a locked database"),
]
SIGNALLED = [
    *[(row, "SIGTERM") for row in ROWS],
    *[(row, "SIGINT") for row in ("idle", "a reader", "100 runs")],
    *[(row, "two signals") for row in [*BUSY, "a reader that does not read", "a WebSocket that is not read"]],
]
STOPPED = [*[(row, "drain") for row in ROWS], *[(row, "cancel") for row in BUSY]]


@pytest.mark.parametrize(("name", "numbers"), SIGNALLED)
def test_signal_ends_the_server_in_time_and_leaves_nothing(tmp_path: Path, name: str, numbers: str) -> None:
    row = ROWS[name]
    with open_cell(tmp_path) as cell:
        with row.busy(cell):
            assert cell.signal(*SIGNALS[numbers]) == row.code
            cell.check_nothing_left()
        if row.code == ExitCode.IO:
            start_again(cell)
        assert cell.states() == Counter(row.record)


def start_again(cell: Cell) -> None:
    """What could not be written is told, and settled by the next start; what may run again does."""
    assert "unwritten: another process holds a lock" in (cell.folder / "server.log").read_text()
    with open_served(cell.folder) as served:
        again = Cell(served)
        again.wait_begun(3)
        assert again.signal(signal.SIGTERM) == 0


@pytest.mark.parametrize(("name", "mode"), STOPPED)
def test_stop_of_the_engine_ends_the_runs_and_leaves_the_server_up(tmp_path: Path, name: str, mode: str) -> None:
    row = ROWS[name]
    with open_cell(tmp_path) as cell, closing(cell.door.read("/api/logs/stream")) as reader, row.busy(cell) as let_go:
        cell.stop_engine(mode)
        let_go()
        wait_until(lambda: cell.main_lane()["running"] == 0)
        assert (cell.main_lane()["stuck"], cell.processes()) == (row.stuck, [])
        cell.publish_line()
        reader.wait_for("plan torn is broken")
        check_that_it_goes_on(cell)
        assert cell.signal(signal.SIGTERM) == (70 if row.code == 70 else 0)
        cell.check_nothing_left()
        later = row.record if row.later is None else row.later
        assert cell.states() == Counter(later) + Counter({("quick", "succeeded", None): 1})


def check_that_it_goes_on(cell: Cell) -> None:
    """A request waits while the engine is stopped, and runs when it is started."""
    cid = cell.door.run("quick")
    assert cell.door.get(f"/api/runs/{cid}")["state"] == "queued"
    assert cell.door.ask("POST", "/api/system/start").body["state"] in ("running", "degraded")
    wait_until(lambda: cell.door.get(f"/api/runs/{cid}")["state"] == "succeeded")


# -- a lock that goes in time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", SIGNALS.values(), ids=SIGNALS)
def test_lock_that_goes_while_the_server_stops_leaves_nothing_unwritten(
    tmp_path: Path, numbers: list[signal.Signals]
) -> None:
    with open_cell(tmp_path) as cell:
        with locked(cell) as let_go:
            for number in numbers:
                cell.served.process.send_signal(number)
            wait_until((tmp_path / "told").exists)  # the stop has reached the runs
            let_go()
            assert cell.signal() == 0
        assert cell.states() == Counter(
            {("long", "cancelled", "shutdown"): 1, ("again", "queued", None): 1, ("quick", "queued", None): 2}
        )
