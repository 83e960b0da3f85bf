"""What an interrupt meets in real time: work that does not stop as it should, and a handler that is not late for it.

Each case runs in a real server of its own process, with real processes and threads. How long after the firing the
handler's first step began is taken from its record and printed (``-rP`` shows it); ``BUSY`` allows for the others on a
machine. To the tenth of a second it is held in virtual time (``tests/engine/test_stuck_victims.py``).
"""

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.fakes.children import running_of
from tests.fakes.served import Served, open_served, write_plans

#: The grace of the rule, how much later its handler may begin, and how much more that may be where others work as well.
GRACE, LATE, BUSY = 0.5, 0.1, 1.0
#: Seconds within which whatever does not hang is over.
SOON = 20.0
#: How long the one that spins keeps the loop.
SPINS = 2.0

ACTIONS = f"""
import asyncio, threading, time
from pathlib import Path
import anyio
from aura import action, Context

@action
async def rests() -> None:
    await anyio.sleep(600)

@action
async def swallows_once() -> None:
    try:
        await anyio.sleep(600)
    except asyncio.CancelledError:
        await anyio.sleep(600)

@action
async def swallows(free: str) -> str:
    while not Path(free).exists():
        try:
            await anyio.sleep(0.02)
        except asyncio.CancelledError:
            pass
    return "late"

@action
async def returns_late(free: str) -> str:
    try:
        await anyio.sleep(600)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            while not Path(free).exists():
                await anyio.sleep(0.02)
    return "late"

@action
def blocks(free: str) -> str:
    while not Path(free).exists():
        time.sleep(0.02)
    return "late"

@action
async def spins(free: str) -> None:
    await anyio.sleep(0.3)
    Path(free + ".spins").touch()
    end = time.monotonic() + {SPINS}
    while time.monotonic() < end: sum(range(1000))
    await anyio.sleep(600)

@action
async def cleans_up_for_ever() -> None:
    try:
        await anyio.sleep(600)
    finally:
        await anyio.sleep(600)

@action
async def fails_in_clean_up() -> None:
    try:
        await anyio.sleep(600)
    finally:
        raise OSError("the disk is gone")
"""
DEAF = "trap '' TERM; echo up; while :; do sleep 1; done"
LEFT = "setsid sh -c 'setsid sleep 600 & wait' & echo up; wait"
REST = "steps: {long: {action: rests}}\n"
#: Tasks by name: what their one step does, and how they are to stand when the handler's first step runs.
CASES = {
    "swallows_once": "preempted",
    "swallows": "stuck",
    "returns_late": "stuck",
    "blocks": "stuck",
    "cleans_up_for_ever": "preempted",
    "fails_in_clean_up": "preempted",
    "deaf": "preempted",
    "left": "preempted",
    "slow_to_put_away": "preempted",
    "deaf_to_put_away": "preempted",
}
WITH_FREE = ("swallows", "returns_late", "blocks", "spins")


def plans(free: Path) -> dict[str, str]:
    """The files of the plan; what hangs ends when ``free`` is there."""
    found = {
        "lab/actions.py": ACTIONS,
        "lab/interrupts.yaml": f"rules:\n  stop: {{triggers: [{{event: never}}], task: handle, grace: {GRACE}s}}\n",
        "lab/tasks/handle.yaml": "steps: {look: {action: sleep, params: {duration: 300ms}}}\n",
        "lab/tasks/deaf.yaml": f'steps: {{long: {{action: shell.run, params: {{shell: "{DEAF}"}}}}}}\n',
        "lab/tasks/left.yaml": f'steps: {{long: {{action: shell.run, params: {{shell: "{LEFT}"}}}}}}\n',
        "lab/tasks/slow_to_put_away.yaml": REST + "on_preempt: {away: {action: rests}}\n",
        "lab/tasks/deaf_to_put_away.yaml": REST
        + f'on_preempt: {{away: {{action: shell.run, params: {{shell: "{DEAF}"}}}}}}\n',
    }
    for name in (*(case for case in CASES if f"lab/tasks/{case}.yaml" not in found), "spins"):
        params = f", params: {{free: {free}}}" if name in WITH_FREE else ""
        found[f"lab/tasks/{name}.yaml"] = f"steps: {{long: {{action: {name}{params}}}}}\n"
    return found


class Door:
    """A client of a server, which has its token."""

    def __init__(self, served: Served, free: Path) -> None:
        self.served = served
        self.free = free
        token = (served.folder / "data/token").read_text().strip()
        self.http = httpx2.Client(base_url=served.address, headers={"Authorization": f"Bearer {token}"}, timeout=SOON)

    def get(self, path: str) -> Any:
        return self.http.get(path).json()

    def begin(self, task: str) -> str:
        """Start a run and return when its step runs, and its processes, if it has any, are up."""
        answer = self.http.post("/api/tasks/run", json={"plan_name": "lab", "task_name": task})
        cid = str(answer.json()["cid"])
        self.wait(lambda: self.step(cid, "long")["state"] == "running")
        # its commit comes behind that of the start, so that whoever waited for that has gone on
        self.http.post("/api/events", json={"name": "lab.begun"}).raise_for_status()
        if task in ("deaf", "left"):
            self.wait(lambda: len(running_of(cid)) >= 2)
        return cid

    def step(self, cid: str, name: str) -> Any:
        return next((s for s in self.get(f"/api/runs/{cid}")["steps"] if s["name"] == name), {"state": None})

    def fire(self) -> tuple[str, float]:
        """Fire the rule; give the handler once its first step runs, and seconds from the firing to that."""
        cid = self.http.post("/api/interrupts/lab/stop/fire", json={}).json()["interrupts"][0]["cid"]
        self.wait(lambda: self.step(cid, "look")["started_at"] if self.step(cid, "look")["state"] else None)
        run = self.get(f"/api/runs/{cid}")
        return cid, seconds(self.step(cid, "look")["started_at"]) - seconds(run["accepted_at"])

    def wait(self, condition: Any) -> None:
        end = time.monotonic() + SOON
        while not condition():
            assert time.monotonic() < end, "it did not come to pass in time"
            time.sleep(0.01)

    def let_go(self, cid: str) -> Any:
        """Let what hangs end, cancel the run, and give it as it ended."""
        self.free.touch()
        self.http.post(f"/api/tasks/{cid}/cancel")
        self.wait(lambda: self.get(f"/api/runs/{cid}")["finished_at"])
        self.free.unlink()
        return self.get(f"/api/runs/{cid}")


def seconds(text: str) -> float:
    """Unix seconds of a time as the API gives it."""
    return datetime.fromisoformat(text).timestamp()


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("interrupted")
    write_plans(folder, plans(folder / "free"))
    with open_served(folder, "--port", "0", "--plans", "plans") as served:
        door = Door(served, folder / "free")
        with door.http:
            yield door


@pytest.mark.parametrize("task", CASES)
def test_handler_is_not_late_and_the_record_says_what_became_of_it(door: Door, task: str) -> None:
    cid = door.begin(task)
    handler, late = door.fire()
    print(f"{task}: first step {late:.3f} s after the firing")
    run = door.get(f"/api/runs/{cid}")
    assert ("stuck" if run["stuck"] else run["state"]) == CASES[task]
    assert run["preempted_by"]["cid"] == handler
    assert running_of(cid) == []
    assert late <= GRACE + LATE + BUSY, f"{late:.3f} s after the firing"
    ended = door.let_go(cid)
    assert (ended["state"], ended["reason"]) == ("cancelled", "stuck" if run["stuck"] else ended["reason"])


def test_handler_runs_as_soon_as_a_loop_is_free_that_its_victim_has_kept(door: Door) -> None:
    answer = door.http.post("/api/tasks/run", json={"plan_name": "lab", "task_name": "spins"})
    cid = answer.json()["cid"]
    door.wait(Path(f"{door.free}.spins").exists)
    _, late = door.fire()
    assert late < SPINS + GRACE + LATE + BUSY
    (block,) = (block for block in door.get("/api/system/status")["loop"]["blocked"] if block["cid"] == cid)
    assert block["function"] == "spins"
    assert "sum(range" in ACTIONS.splitlines()[block["line"] - 1]
    assert door.get(f"/api/runs/{cid}")["state"] == "preempted"
    door.let_go(cid)


def test_what_hangs_is_named_in_the_status_and_by_the_command(door: Door) -> None:
    cid = door.begin("blocks")
    door.fire()
    (shown,) = door.get("/api/system/status")["stuck"]["runs"]
    assert (shown["cid"], shown["step"], shown["interrupt"]) == (cid, "long", "lab/stop")
    line = int(shown["hangs_at"].rpartition(":")[2])
    assert "time.sleep" in ACTIONS.splitlines()[line - 1]
    assert f"hangs at {shown['hangs_at']}" in door.served.aura("ps").err
    assert 'aura_lane_stuck{lane="main"} 1.0' in door.http.get("/metrics").text
    door.let_go(cid)
    assert door.get("/api/system/status")["stuck"] == {"runs": [], "total": 0}
