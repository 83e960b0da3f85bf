"""What may befall the data folder under a real server: others hold it, take it away, damage it, or kill the start."""

import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from subprocess import PIPE

import pytest
from tests.fakes.served import Served, aura, environment, open_served, write_plans

PLANS = {
    "lab/tasks/note.yaml": "steps:\n  a: {action: log, params: {message: hello}}\n",
    "lab/tasks/slow.yaml": """
inputs: {gate: string}
steps:
  - {name: wait, action: shell.run, params: {shell: 'until [ -e "$GATE" ]; do sleep 0.01; done',
     env: {GATE: "{{ inputs.gate }}"}}}
  - {name: after, action: shell.run, params: {argv: [touch, "{{ inputs.gate }}.done"]}}
""",
}
PLANS["lab/tasks/again.yaml"] = "recovery: restart\n" + PLANS["lab/tasks/slow.yaml"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_plans(tmp_path, PLANS)
    return tmp_path


def detach(served: Served, task: str, *argv: str) -> str:
    done = served.aura("run", f"lab/{task}", "--detach", "-i", f"gate={served.folder}/gate", *argv)
    assert done.code == 0, done.err
    return done.out.strip()


def wait_state(served: Served, cid: str, state: str) -> None:
    deadline = time.monotonic() + 10
    while (now := served.aura("show", cid, "--json").json["state"]) != state:
        assert time.monotonic() < deadline, now


def database(folder: Path) -> "closing[sqlite3.Connection]":
    return closing(sqlite3.connect(folder / "data/aura.db"))


# -- held by another --------------------------------------------------------------------------------------------------

HOLD = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_by_another(path: Path) -> Iterator[None]:
    """Another process has the database locked while inside."""
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=PIPE, stdout=PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        try:
            yield
        finally:
            other.communicate()


def test_locked_database_refuses_requests_and_loses_nothing(folder: Path) -> None:
    with open_served(folder) as served:
        cid = detach(served, "slow")
        wait_state(served, cid, "running")
        with held_by_another(folder / "data/aura.db"):
            refused = served.aura("run", "lab/note", "--detach")
            assert (refused.code, "another process holds a lock on the database" in refused.err) == (75, True)
            (folder / "gate").touch()  # what runs goes on, and its end waits to be written
            status = served.aura("status", "--json").json
            assert (status["state"], status["store"]["writable"]) == ("degraded", False)
        wait_state(served, cid, "succeeded")
        assert (folder / "gate.done").exists()
        assert served.aura("run", "lab/note").code == 0
        status = served.aura("status", "--json").json
        assert (status["state"], status["lanes"]["main"]["running"]) == ("running", 0)
    with database(folder) as db:
        assert db.execute("SELECT task_name, state FROM run ORDER BY seq").fetchall() == [
            ("slow", "succeeded"), ("note", "succeeded")
        ]  # fmt: skip


# -- taken away -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["data/aura.db", "data/aura.db-wal", "data"], ids=["the database", "its log", "the folder"]
)
def test_server_whose_files_are_taken_away_ends_and_says_so(folder: Path, name: str) -> None:
    with open_served(folder) as served:
        assert served.aura("run", "lab/note").code == 0
        token = served.aura("token").out.strip()
        (folder / name).rename(folder / "away")
        done = aura("run", "lab/note", "--detach", cwd=folder, env=served.env | {"AURA_TOKEN": token})
        assert (done.code, done.out) == (69, "")
        assert served.process.wait(10) == 74
    said = (folder / "server.log").read_text().splitlines()[-1]
    assert said.startswith(f"aura: {folder}/data/aura.db")
    assert "moved, replaced or removed while it was in use" in said
    (folder / name).unlink(missing_ok=True)
    (folder / "away").rename(folder / name)
    with open_served(folder) as served:
        assert served.aura("runs", "--json").json["items"][-1]["state"] == "succeeded"


# -- a disk that fails -------------------------------------------------------------------------------------------------


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """What is started inside cannot write beyond that size, and gets an error of the disk for it."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


def test_start_on_a_disk_that_fails_is_74(folder: Path) -> None:
    with file_limit(2000):
        done = aura("serve", "--data", "data", "--port", "0", cwd=folder, env={})
    assert (done.code, done.out, "Traceback" in done.err) == (74, "", False)
    assert "the disk failed under the database" in done.err
    with open_served(folder) as served:
        assert served.aura("run", "lab/note").code == 0


def test_disk_that_fails_under_a_commit_ends_the_server_and_keeps_what_was_acknowledged(folder: Path) -> None:
    with open_served(folder) as served:
        cid = detach(served, "slow")
        wait_state(served, cid, "running")
        resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        done = served.aura("run", "lab/note", "--detach")
        assert (done.code, done.out) == (69, "")
        assert served.process.wait(10) == 74
    assert "the disk failed" in (folder / "server.log").read_text().splitlines()[-1]
    with open_served(folder) as served:
        assert served.aura("show", cid, "--json").json["state"] == "crashed"


# -- a start that cannot be -------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096 + 100 :: 97] = bytes(len(data[4096 + 100 :: 97]))
    path.write_bytes(data)


def make_newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=99")


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        pytest.param(lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]), 65, "is damaged", id="cut"),
        pytest.param(flip, 65, "is damaged", id="bytes flipped"),
        pytest.param(make_newer, 76, "install the newer Aura again", id="newer"),
    ],
)
def test_start_on_data_that_cannot_be_read_leaves_it_untouched(
    folder: Path, spoil: Callable[[Path], object], code: int, said: str
) -> None:
    with open_served(folder) as served:
        assert served.aura("run", "lab/note").code == 0
    path = folder / "data/aura.db"
    spoil(path)
    before = path.read_bytes()
    done = aura("serve", "--data", "data", "--port", "0", cwd=folder, env={})
    assert (done.code, done.out, "Traceback" in done.err) == (code, "", False)
    assert said in done.err
    assert path.read_bytes() == before


#: A server that is killed before its start has made so many statements on the writing connection.
DIES = """
import os, signal, sys
import aura.server
from aura.stores.sqlite import SqliteBackend

class Dies(SqliteBackend):
    left = int(sys.argv.pop(1))

    @property
    def execute(self):
        def counted(*args):
            Dies.left -= 1
            if Dies.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)
        real = super().execute
        return counted

aura.server.SqliteBackend = Dies
from aura.cli.main import main
main()
"""


def start_that_is_killed(folder: Path, after: int) -> int:
    command = [sys.executable, "-c", DIES, str(after), "serve", "--data", "data", "--port", "0"]
    done = subprocess.run(command, cwd=folder, env=environment({}), capture_output=True, timeout=60, check=False)
    assert b"ready" not in done.stdout
    return done.returncode


def test_start_that_is_killed_again_and_again_settles_each_run_once(folder: Path) -> None:
    with open_served(folder) as served:
        begun = {detach(served, "slow"): "crashed", detach(served, "again"): "succeeded"}
        for cid in begun:
            wait_state(served, cid, "running")
        late = detach(served, "slow", "--delay", "1h")
        served.process.kill()
    # while the start is counted, while what was found is settled, and just before that is committed
    assert {start_that_is_killed(folder, after) for after in (3, 15, 18)} == {-9}
    (folder / "gate").touch()
    with open_served(folder) as served:
        for cid, state in begun.items():
            wait_state(served, cid, state)
        assert served.aura("show", late, "--json").json["state"] == "queued"
    with database(folder) as db:
        ends = "SELECT count(*) FROM history WHERE name IN ('run.crashed', 'run.succeeded', 'run.failed') GROUP BY seq"
        assert db.execute(ends).fetchall() == [(1,), (1,)]
        assert db.execute("SELECT count(*) FROM history WHERE name = 'run.requeued'").fetchone() == (1,)
