"""A backup of a busy server, and another server that starts on it."""

import json
import os
import shutil
import sqlite3
import stat
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest
from tests.fakes.children import running_of
from tests.fakes.served import Served, aura, open_served, write_plans

PLANS = {
    "lab/tasks/note.yaml": """
steps:
  a: {action: log, params: {message: hello}}
  b: {action: log, params: {message: again}, depends_on: a}
""",
    "lab/tasks/slow.yaml": """
inputs: {gate: string}
steps:
  wait:
    action: shell.run
    params: {shell: 'until [ -e "$GATE" ]; do sleep 0.01; done', env: {GATE: "{{ inputs.gate }}"}}
""",
}
ONE_AT_A_TIME = {"AURA_LANES__MAIN__LIMIT": "1"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_plans(tmp_path, PLANS)
    return tmp_path


class Submitter:
    """Asks for one run after another, and notes each that was acknowledged before it goes on."""

    def __init__(self, served: Served, stop: Event) -> None:
        self.told: list[str] = []
        token = (served.folder / "data/token").read_text().strip()
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._url = f"{served.address}/api/tasks/run"
        self._stop = stop

    def __call__(self) -> None:
        body = json.dumps({"plan_name": "lab", "task_name": "note"}).encode()
        while not self._stop.is_set():
            request = urllib.request.Request(self._url, body, self._headers)
            with urllib.request.urlopen(request, timeout=20) as answer:
                self.told.append(json.load(answer)["cid"])


@contextmanager
def submitting(served: Served, number: int) -> Iterator[list[Submitter]]:
    stop = Event()
    submitters = [Submitter(served, stop) for _ in range(number)]
    threads = [Thread(target=submitter) for submitter in submitters]
    for thread in threads:
        thread.start()
    try:
        yield submitters
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


def wait_more(submitters: list[Submitter], number: int) -> set[str]:
    """All that was acknowledged, once it is ``number`` more than it was."""
    deadline, before = time.monotonic() + 30, sum(len(one.told) for one in submitters)
    while sum(len(one.told) for one in submitters) < before + number:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return {cid for one in submitters for cid in one.told}


def rows(file: Path, sql: str) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(f"{file.as_uri()}?immutable=1", uri=True)) as db:
        return db.execute(sql).fetchall()


#: Runs that are not whole: of another number of steps, or ended and with steps that have not.
_HALF = """SELECT cid FROM run WHERE state='succeeded'
    AND (SELECT count(*) FROM step WHERE step.seq=run.seq AND step.state='succeeded') != 2"""


def test_backup_under_load_has_every_run_that_was_acknowledged_before(folder: Path) -> None:
    with open_served(folder) as served, submitting(served, 3) as submitters:
        for number in range(3):
            target = folder / f"backup{number}"
            before = wait_more(submitters, 30)
            done = served.aura("backup", str(target), "--json")
            assert done.code == 0, done.err
            found = {cid for (cid,) in rows(target, "SELECT cid FROM run")}
            assert before <= found
            assert done.json["runs"] == len(found)
            assert rows(target, _HALF) == []
        wait_more(submitters, 30)  # it goes on as before
        assert served.aura("status", "--json").json["store"]["writable"] is True


def submit(served: Served, *argv: str) -> str:
    done = served.aura("run", *argv, "--detach")
    assert done.code == 0, done.err
    return done.out.strip()


def wait_state(served: Served, cid: str, state: str) -> None:
    deadline = time.monotonic() + 20
    while (now := served.aura("show", cid, "--json").json["state"]) != state:
        assert time.monotonic() < deadline, now


def put_back(backup: Path, folder: Path) -> Path:
    """A folder for another server, with the backup as its database."""
    write_plans(folder, PLANS)
    (folder / "data").mkdir(mode=0o700)
    return Path(shutil.copy(backup, folder / "data/aura.db"))


def test_restored_server_has_the_history_and_goes_on_beside_the_original(folder: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with open_served(folder, env=ONE_AT_A_TIME) as original:
        past = submit(original, "lab/note")
        wait_state(original, past, "succeeded")
        slow = submit(original, "lab/slow", "-i", f"gate={gate}")
        wait_state(original, slow, "running")
        queued = submit(original, "lab/note")
        assert original.aura("backup", "copy").code == 0
        (folder / "other").mkdir()
        database = put_back(folder / "copy", folder / "other")
        with open_served(folder / "other") as restored:
            for cid, state in (past, "succeeded"), (slow, "crashed"), (queued, "succeeded"):
                wait_state(restored, cid, state)
            assert restored.aura("status", "--json").json["boot"] == 2
            assert running_of(slow)  # the original's own process is left alone
        assert stat.S_IMODE(database.stat().st_mode) == 0o600
        gate.touch()
        for cid in (slow, queued):
            wait_state(original, cid, "succeeded")


def test_backup_beside_the_log_of_a_killed_server_is_not_started_on(folder: Path) -> None:
    with open_served(folder) as served:
        kept = submit(served, "lab/note")
        wait_state(served, kept, "succeeded")
        assert served.aura("backup", "copy").code == 0
        wait_state(served, submit(served, "lab/note"), "succeeded")
        served.process.kill()
        served.process.wait(10)
    shutil.copy(folder / "copy", folder / "data/aura.db")
    refused = aura("serve", "--port", "0", "--data", "data", cwd=folder, env={})
    assert (refused.code, refused.out) == (65, "")
    assert "Move aura.db-wal and aura.db-shm away, and start again" in refused.err
    os.unlink(folder / "data/aura.db-wal")
    os.unlink(folder / "data/aura.db-shm")
    with open_served(folder) as served:
        assert [run["cid"] for run in served.aura("runs", "--json").json["items"]] == [kept]
