"""A real server whose event loop a plan's action blocks: who did it is named everywhere, and the server goes on.

Each block is several times as long as what is still none, so that a machine that is busy with others shows it as well.
"""

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.fakes.served import Served, open_served, write_plans

ACTIONS = """\
import re
import time

import anyio

from aura import action


@action
async def sleeps(seconds: float) -> None:
    time.sleep(seconds)


@action
async def child_sleeps(seconds: float) -> None:
    async def child() -> None:
        time.sleep(seconds)

    async with anyio.create_task_group() as group:
        group.start_soon(child)


@action
async def computes(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end: sum(range(1000))


@action
async def once(file: str) -> None:
    with open(file, "a") as out:
        out.write("x")
    time.sleep(1.5)
"""
ONE_STEP = """\
inputs:
  seconds: {{type: number, default: 1.5}}
steps:
  it: {{action: lab.{action}, params: {{seconds: "{{{{ inputs.seconds }}}}"}}}}
"""
PLANS = {
    "lab/plan.yaml": "title: Lab\n",
    "lab/actions.py": ACTIONS,
    "lab/tasks/once.yaml": "inputs: {file: {type: string}}\n"
    'steps:\n  it: {action: lab.once, params: {file: "{{ inputs.file }}"}}\n',
    "lab/tasks/naps.yaml": "steps:\n  nap: {action: sleep, params: {duration: 600s}}\n",
    **{f"lab/tasks/{name}.yaml": ONE_STEP.format(action=name) for name in ("sleeps", "child_sleeps", "computes")},
}
#: Seconds within which whatever does not hang is over.
SOON = 20.0
#: What each task blocks the loop with: a line of ``ACTIONS``, and the function that it is in.
LINES = {"sleeps": ("time.sleep", "sleeps"), "child_sleeps": ("time.sleep", "child"), "computes": ("sum", "computes")}


class Door:
    """A client of a server, which has its token."""

    def __init__(self, served: Served) -> None:
        self.served = served
        token = (served.folder / "data/token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        self.http = httpx2.Client(base_url=served.address, headers=headers, timeout=30)

    def get(self, path: str) -> Any:
        return self.http.get(path).json()

    def run(self, task: str, wait: int = 20, **inputs: Any) -> Any:
        """Ask for a run, and give it as it is when it has ended or the wait is over."""
        body = {"plan_name": "lab", "task_name": task, "inputs": inputs}
        answer = self.http.post("/api/tasks/run", json=body, headers={"Prefer": f"wait={wait}"} if wait else {})
        return self.get(f"/api/runs/{answer.json()['cid']}")

    def blocks(self) -> list[dict[str, Any]]:
        blocked: list[dict[str, Any]] = self.get("/api/system/status")["loop"]["blocked"]
        return blocked


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("watchdog")
    write_plans(folder, PLANS)
    with open_served(folder, "--port", "0", "--plans", "plans", fresh=True) as served:
        door = Door(served)
        with door.http:
            yield door


@pytest.mark.parametrize("task", LINES)
def test_who_blocks_the_loop_is_named_in_the_log_in_its_run_and_in_the_status(door: Door, task: str) -> None:
    run = door.run(task)
    word, function = LINES[task]
    (block,) = (block for block in door.blocks() if block["cid"] == run["cid"])
    assert re.fullmatch(r"lab@[0-9a-f]{12}/actions\.py", block["file"])
    assert word in ACTIONS.splitlines()[block["line"] - 1]
    assert block["function"].rpartition(".")[2] == function
    assert (block["plan_name"], block["task_name"], block["step"]) == ("lab", task, "it")
    place = f"at {block['file']}:{block['line']} in"
    assert place in door.served.aura("logs", run["cid"], "--level", "warning").out
    assert place in (door.served.folder / "server.log").read_text()


def test_blocks_are_counted_by_plan(door: Door) -> None:
    door.run("sleeps")
    text = door.http.get("/metrics").text
    found = re.search(r'^aura_loop_blocked_seconds_sum\{plan="lab"\} (\S+)$', text, re.MULTILINE)
    assert found is not None, text
    assert float(found[1]) >= 1


def test_others_go_on_and_nothing_runs_twice(door: Door, tmp_path: Path) -> None:
    nap = door.run("naps", wait=0)["cid"]
    target = tmp_path / "ran"
    run = door.run("once", file=str(target))
    assert (run["state"], run["attempt"], target.read_text()) == ("succeeded", 1, "x")
    assert door.get(f"/api/runs/{nap}")["state"] in ("running", "waiting")
    assert door.get("/api/system/status")["loop"]["stalled"] is False
    assert door.http.get("/readyz").status_code == 200
    assert door.http.post(f"/api/tasks/{nap}/cancel").status_code < 300


def test_server_that_was_stopped_as_a_whole_blames_nobody(door: Door) -> None:
    before = len(door.blocks())
    pid = door.served.process.pid
    door.served.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    time.sleep(1.5)  # this is what is tested: so long it stands still
    door.served.process.send_signal(signal.SIGCONT)
    run = door.run("sleeps")  # a block is still seen after it
    assert [block["cid"] for block in door.blocks()[before:]] == [run["cid"]]


# -- the service manager


def test_service_manager_hears_of_ready_alive_and_stopping(tmp_path: Path) -> None:
    write_plans(tmp_path, {"lab/plan.yaml": "title: Lab\n"})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(SOON)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        with open_served(tmp_path, "--port", "0", "--plans", "plans", env=env) as served:
            heard = hear_until(manager, "READY=1")
            heard += hear_until(manager, "WATCHDOG=1")
            assert served.stop() == 0
            heard += hear_until(manager, "STOPPING=1")
    assert set(heard) == {"READY=1", "WATCHDOG=1", "STOPPING=1"}
    assert heard.count("READY=1") == 1


def hear_until(manager: socket.socket, wanted: str) -> list[str]:
    heard = [manager.recv(100).decode()]
    end = time.monotonic() + SOON
    while wanted not in heard and time.monotonic() < end:
        heard.append(manager.recv(100).decode())
    return heard


def test_service_manager_hears_nothing_while_the_loop_is_blocked(tmp_path: Path) -> None:
    write_plans(tmp_path, PLANS)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(SOON)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        with open_served(tmp_path, "--port", "0", "--plans", "plans", env=env) as served:
            hear_until(manager, "WATCHDOG=1")
            door = Door(served)
            with door.http:
                asking = threading.Thread(target=door.run, args=("sleeps",), kwargs={"seconds": 2.0}, daemon=True)
                asking.start()
                silence = longest_silence(manager, asking)
                asking.join(SOON)
    assert silence >= 1.0


def longest_silence(manager: socket.socket, asking: threading.Thread) -> float:
    """The longest time for which nothing was heard while somebody waits for a run, in seconds."""
    longest, heard_at = 0.0, time.monotonic()
    end = heard_at + SOON
    while asking.is_alive() and time.monotonic() < end:
        manager.recv(100)
        longest, heard_at = max(longest, time.monotonic() - heard_at), time.monotonic()
    return longest
