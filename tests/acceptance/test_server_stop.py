"""How a real server ends: what its grace is for, what a second signal does, what SIGKILL leaves to the next start.

What it may be busy with meanwhile, and each way to stop it: ``test_stop_matrix``.
"""

import os
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.fakes.door import Door, wait_until
from tests.fakes.served import AURA, Served, environment, open_served, write_plans

from aura.processes.leftovers import look_at_all

GRACE = 2.0
#: Beside the grace a stop may take two seconds.
LIMIT = GRACE + 2.0

PLANS = {
    "lab/tasks/deaf.yaml": """
cleanup_timeout: 30s
steps:
  deaf: {action: shell.run, params: {shell: "trap '' TERM; echo listening; while true; do sleep 1; done"}}
""",
    "lab/tasks/quick.yaml": "steps:\n  a: {action: log, params: {message: hello}}\n",
    "lab/tasks/tidy.yaml": """
steps:
  wait: {action: shell.run, params: {argv: [sleep, "3600"]}}
finally:
  tidy: {action: file.write, params: {path: "{{ inputs.mark }}", content: "{{ run.state }} {{ run.reason }}"}}
inputs: {mark: string}
""",
    "lab/tasks/slow.yaml": "cleanup_timeout: 30s\nsteps:\n  slow: {action: slow_to_clean}\n",
    "lab/actions.py": """
import anyio
from aura import Context, action

@action
async def slow_to_clean(ctx: Context) -> None:
    try:
        ctx.log.info("sleeping")
        await anyio.sleep(3600)
    finally:
        await anyio.sleep(20)
""",
}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    write_plans(tmp_path, PLANS)
    (tmp_path / "aura.toml").write_text(f'[server]\ngrace = "{GRACE:g}s"\n')
    with open_served(tmp_path) as made:
        yield made


def begin(served: Served, task: str, **inputs: str) -> str:
    """Start a run and wait until it sits in its first step; its id."""
    door = Door(served)
    cid = door.run(task, inputs=inputs)
    wait_until(lambda: [step["state"] for step in door.get(f"/api/runs/{cid}")["steps"]][:1] == ["running"])
    return cid


def begin_and_hear(served: Served, task: str, text: str) -> str:
    """Start a run and wait until it has said something; its id."""
    door = Door(served)
    with closing(door.read("/api/logs/stream")) as reader:
        cid = door.run(task)
        reader.wait_for(text)
    return cid


def ours(served: Served) -> list[str]:
    """The names of living processes that this server's runs have started."""
    with closing(sqlite3.connect(served.folder / "data" / "aura.db")) as db:
        store_id = db.execute("SELECT value FROM meta WHERE key='store_id'").fetchone()[0]
    return [seen.name for seen in look_at_all() if seen.marks.get("AURA_BOOT", "").startswith(store_id)]


def timed_stop(served: Served, *signals: signal.Signals) -> tuple[int, float]:
    begun = time.monotonic()
    for number in signals:
        served.process.send_signal(number)
    return served.process.wait(30), time.monotonic() - begun


def states(served: Served) -> dict[str, tuple[str, str | None]]:
    with closing(sqlite3.connect(served.folder / "data" / "aura.db")) as db:
        rows = db.execute("SELECT task_name, state, reason FROM run ORDER BY seq")
        return {name: (state, reason) for name, state, reason in rows}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=str)
def test_cleanup_runs_when_the_server_is_told_to_stop(served: Served, tmp_path: Path, number: signal.Signals) -> None:
    mark = tmp_path / "mark"
    begin(served, "tidy", mark=str(mark))
    code, took = timed_stop(served, number)
    assert (code, mark.read_text()) == (0, "cancelled shutdown")
    assert took < LIMIT


@pytest.mark.parametrize(
    ("signals", "quickest", "slowest"),
    [([signal.SIGTERM], GRACE, LIMIT), ([signal.SIGTERM, signal.SIGINT], 0.0, GRACE - 0.5)],
    ids=["one signal: all of the grace", "two: cut short"],
)
def test_cleanup_gets_the_grace_and_a_second_signal_cuts_it_short(
    served: Served, signals: list[signal.Signals], quickest: float, slowest: float
) -> None:
    begin_and_hear(served, "slow", "sleeping")
    code, took = timed_stop(served, *signals)
    assert (code, states(served)) == (0, {"slow": ("cancelled", "shutdown")})
    assert quickest <= took < slowest


def test_idle_server_ends_at_once_and_leaves_only_its_files(served: Served) -> None:
    served.aura("run", "lab/quick")
    code, took = timed_stop(served, signal.SIGTERM)
    assert code == 0
    assert took < 1.5
    left = {p.name for p in (served.folder / "data").iterdir()}
    assert left <= {"aura.db", "aura.lock", "ballast", "token", "work"}


def test_killed_server_is_told_by_the_next_start_and_its_children_are_gone(served: Served) -> None:
    cid = begin_and_hear(served, "deaf", "listening")
    assert "sh" in " ".join(ours(served))
    os.kill(served.process.pid, signal.SIGKILL)
    served.process.wait(10)
    with open_served(served.folder) as again:
        assert ours(again) == []
        run = again.aura("show", cid, "--json").json
        assert (run["state"], run["error"]["step"]) == ("crashed", "deaf")
        assert "unknown" in run["error"]["message"]
        status = again.aura("status", "--json").json
        assert (status["lanes"]["main"]["running"], status["state"]) == (0, "running")


def test_server_whose_words_nobody_takes_is_ready_and_ends_in_order(tmp_path: Path) -> None:
    """Its streams go to a full disk; a terminal that was closed is the same to it."""
    write_plans(tmp_path, {"lab/plan.yaml": "title: Lab\n"})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, open("/dev/full", "w") as full:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        env = environment({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        command = [AURA, "serve", "--data", "data", "--port", "0"]
        with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=full, stderr=full) as process:
            try:
                assert manager.recv(100) == b"READY=1"
                process.terminate()
                assert process.wait(30) == 0
            finally:
                process.kill()
