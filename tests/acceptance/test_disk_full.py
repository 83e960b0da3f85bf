"""A real server whose disk is full, has no files left, is read-only, not its own, or that may open too few files."""

import os
import resource
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.fakes.served import AURA, Served, environment, open_served, write_plans
from tests.fakes.small_disk import SmallDisk, needs_namespaces, open_small_disk

from aura.client import Client, Target
from aura.errors import Refused

PLANS = {
    "lab/tasks/note.yaml": "steps:\n  a: {action: log, params: {message: hello}}\n",
    "lab/tasks/slow.yaml": """
inputs: {gate: string}
steps:
  - {name: wait, action: shell.run, params: {shell: 'until [ -e "$GATE" ]; do sleep 0.01; done',
     env: {GATE: "{{ inputs.gate }}"}}}
  - {name: after, action: log, params: {message: through}}
""",
    "lab/tasks/chatty.yaml": """
inputs: {gate: string}
steps:
  - {name: talk, action: shell.run, params: {shell: 'until [ -e "$GATE" ]; do echo line; sleep 0.01; done',
     env: {GATE: "{{ inputs.gate }}"}}}
""",
}
MIB = 2**20
SETTINGS = {"AURA_STORE__MIN_FREE": "2MiB"}
SOON = 20.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_plans(tmp_path, PLANS)
    return tmp_path


class Lab(NamedTuple):
    """A server on a small disk, and a client of it."""

    folder: Path
    disk: SmallDisk
    served: Served
    client: Client

    def begin(self, task: str) -> str:
        cid = self.client.run_task("lab", task, inputs={"gate": str(self.folder / "gate")}).cid
        until(lambda: self.client.get_run(cid).state == "running")
        return cid

    def is_refused(self) -> bool:
        return try_run(self.client) is None

    def said(self) -> str:
        return (self.folder / "server.log").read_text(encoding="utf-8")


def until(condition: Callable[[], object], seconds: float = SOON) -> None:
    """Ask again and again, with a bound."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def try_run(client: Client) -> str | None:
    """Ask for a run; None if it is refused as the storage's shortage should be."""
    try:
        return client.run_task("lab", "note").cid
    except Refused as refused:
        found = (refused.status, refused.code, refused.retry_after)
    assert found == (503, "storage_unavailable", 5)
    return None


def client_of(served: Served, data: Path) -> Client:
    return Client(Target(served.address, (data / "token").read_text().strip()))


@contextmanager
def open_lab(folder: Path, options: str) -> Iterator[Lab]:
    with (
        open_small_disk(folder, options) as disk,
        open_served(folder, env=SETTINGS, within=disk.within) as served,
        client_of(served, disk.path) as client,
    ):
        yield Lab(folder, disk, served, client)
        assert served.stop() == 0
        check_records(copied(disk.path, folder))


def copied(data: Path, folder: Path) -> Path:
    """The database, where SQLite finds it: it would take the way through /proc for one through this namespace."""
    for file in data.glob("aura.db*"):
        shutil.copy(file, folder)
    return folder / "aura.db"


def check_records(path: Path) -> None:
    """Each run has ended once, and the database is whole."""
    with closing(sqlite3.connect(path)) as db:
        ends = "('run.succeeded', 'run.failed', 'run.cancelled', 'run.timed_out', 'run.crashed')"
        counts = f"SELECT count(*) FROM history h WHERE h.seq = r.seq AND name IN {ends}"
        found = db.execute(f"SELECT cid, state, ({counts}) FROM run r").fetchall()
        assert found
        assert [row for row in found if row[1:] != ("succeeded", 1)] == []
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def start(folder: Path, *within: str) -> tuple[int, str]:
    """Try to serve: the exit code and what it said on stderr."""
    command = [*within, AURA, "serve", "--data", "data", "--port", "0"]
    done = subprocess.run(
        command, cwd=folder, env=environment(SETTINGS), capture_output=True, text=True, timeout=60, check=False
    )
    assert ("Traceback" in done.stderr, done.stdout) == (False, "")
    return done.returncode, done.stderr


# -- full while it runs -----------------------------------------------------------------------------------------------


def test_disk_that_fills_up_refuses_new_work_and_keeps_what_runs(folder: Path) -> None:
    with open_lab(folder, "size=16m") as lab:
        cid = lab.begin("slow")
        lab.disk.fill(leave=MIB)
        until(lambda: not lab.client.ready().ready)
        assert lab.is_refused()
        assert "new work is refused" in lab.client.status().reasons[0]
        lab.disk.fill()
        (folder / "gate").touch()
        assert lab.client.wait_run(cid, SOON).state == "succeeded"  # from the room of the ballast
        assert not (lab.disk.path / "ballast").exists()
        assert lab.is_refused()
        assert [run.cid for run in lab.client.runs()] == [cid]
        lab.disk.clear()
        until(lambda: not lab.is_refused())
        until(lambda: (lab.client.status().state, lab.client.ready().ready) == ("running", True))
        assert (lab.disk.path / "ballast").stat().st_blocks * 512 >= MIB // 2


def test_disk_that_is_full_from_one_moment_to_the_next_loses_nothing(folder: Path) -> None:
    with open_lab(folder, "size=24m") as lab:
        cids = [lab.client.run_task("lab", "note").cid for _ in range(20)]
        lab.disk.fill()
        told = [cid for cid in (try_run(lab.client) for _ in range(20)) if cid]
        lab.disk.clear()
        until(lambda: not lab.is_refused())
        for cid in [*cids, *told]:
            assert lab.client.wait_run(cid, SOON).state == "succeeded"


def test_log_of_a_full_disk_is_short_and_streams_go_on(folder: Path) -> None:
    with open_lab(folder, "size=16m") as lab:
        cid = lab.begin("chatty")
        lab.disk.fill()
        until(lab.is_refused)
        before = len(lab.said())
        with lab.client.follow_run(cid) as stream:
            seen = iter(stream)
            for _ in range(100):
                next(seen)
        (folder / "gate").touch()
        assert lab.client.wait_run(cid, SOON).state == "succeeded"
        warnings = [line for line in lab.said()[before:].splitlines() if " line" not in line]
        assert len(warnings) < 5, warnings
        lab.disk.clear()
        until(lambda: not lab.is_refused())
        until(lambda: "log lines were not stored" in lab.said())
        assert "Traceback" not in lab.said()


def test_disk_without_files_refuses_new_work_and_shows_the_old(folder: Path) -> None:
    with open_lab(folder, "size=16m,nr_inodes=200") as lab:
        assert not lab.is_refused()
        many = lab.disk.path / "many"
        many.mkdir()
        for number in range(150):
            (many / str(number)).touch()
        until(lab.is_refused)
        assert "more files" in lab.client.status().reasons[0]
        assert list(lab.client.runs())
        shutil.rmtree(many)
        until(lambda: not lab.is_refused())
        until(lambda: all(run.state == "succeeded" for run in lab.client.runs()))


def test_checkpoint_on_a_full_disk_fails_and_loses_nothing(folder: Path) -> None:
    with open_lab(folder, "size=16m") as lab:
        for _ in range(20):
            lab.client.wait_run(lab.client.run_task("lab", "note").cid, SOON)
        lab.disk.fill()
        until(lab.is_refused)


# -- full at the start ------------------------------------------------------------------------------------------------


def test_start_on_a_full_disk_without_a_database_is_73(folder: Path) -> None:
    with open_small_disk(folder, "size=1m") as disk:
        disk.fill()
        code, said = start(folder, *disk.within)
    assert (code, "make room on its disk" in said) == (73, True), said


def test_start_on_a_full_disk_settles_what_was_left_in_the_room_of_the_ballast(folder: Path) -> None:
    with open_small_disk(folder, "size=16m") as disk:
        with open_served(folder, env=SETTINGS, within=disk.within) as served, client_of(served, disk.path) as client:
            cid = client.run_task("lab", "slow", inputs={"gate": str(folder / "gate")}).cid
            until(lambda: client.get_run(cid).state == "running")
            disk.fill()
            served.process.kill()
            served.process.wait(SOON)
        (folder / "gate").touch()
        with open_served(folder, env=SETTINGS, within=disk.within) as served, client_of(served, disk.path) as client:
            assert client.get_run(cid).state == "crashed"
            with pytest.raises(Refused, match="new work is refused"):
                client.run_task("lab", "note")
            disk.clear()
            until(lambda: client.status().state == "running")
            client.wait_run(client.run_task("lab", "note").cid, SOON)


# -- what cannot be used at all ---------------------------------------------------------------------------------------


def test_start_without_files_is_73(folder: Path) -> None:
    with open_small_disk(folder, "size=16m,nr_inodes=3") as disk:
        code, said = start(folder, *disk.within)
    assert (code, "make room on its disk" in said) == (73, True), said


def test_start_on_a_read_only_file_system_is_73(folder: Path) -> None:
    with open_small_disk(folder, "size=16m") as disk:
        disk.run("mount", "-o", "remount,ro", str(folder / "data"))
        code, said = start(folder, *disk.within)
    assert (code, "Read-only file system" in said) == (73, True), said


def test_start_in_a_folder_that_is_not_ours_is_77(folder: Path) -> None:
    needs_namespaces()
    (folder / "locked").mkdir(mode=0o555)
    (folder / "locked").chmod(0o555)
    command = ["unshare", "-U", "--map-user=1000", AURA, "serve", "--data", "locked/data", "--port", "0"]
    done = subprocess.run(
        command, cwd=folder, env=environment({}), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 77, done.stderr
    assert "Permission denied; run the server as its owner" in done.stderr


# -- too few open files -----------------------------------------------------------------------------------------------


def test_start_that_may_open_too_few_files_is_73(folder: Path) -> None:
    code, said = start(folder, "prlimit", "--nofile=40:40")
    assert (code, "a process may open 40 files here" in said) == (73, True)


def test_server_that_may_open_few_files_serves(folder: Path) -> None:
    with (
        open_served(folder, within=("prlimit", "--nofile=64:64")) as served,
        client_of(served, folder / "data") as asks,
    ):
        asks.wait_run(asks.run_task("lab", "note").cid, SOON)


def processor_time(pid: int) -> float:
    """Seconds of the processor that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_server_that_cannot_open_a_connection_waits_for_it_and_does_not_spin(folder: Path) -> None:
    with open_served(folder) as served, client_of(served, folder / "data") as known:
        known.wait_run(known.run_task("lab", "note").cid, SOON)
        pid = served.process.pid
        limit = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, limit[1]))
        began, used = time.monotonic(), processor_time(pid)
        address = served.address.removeprefix("http://").rpartition(":")
        with socket.create_connection((address[0], int(address[2])), SOON) as late:
            late.sendall(f"GET /livez HTTP/1.1\r\nHost: {address[0]}:{address[2]}\r\n\r\n".encode())
            until(lambda: known.status().services["http"].failures >= 2)
            assert processor_time(pid) - used < (time.monotonic() - began) / 2
            assert known.status().state == "degraded"
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
            assert b" 200 " in late.recv(1000)
        until(lambda: known.status().state == "running")
