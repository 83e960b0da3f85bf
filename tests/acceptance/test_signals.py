"""Signals to a real server beside the one or two that stop it: the third, those that end nothing, those in a crowd."""

import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.fakes.door import Door, wait_until
from tests.fakes.served import Served, open_served, write_plans

SLOW = """
import anyio
from aura import action

@action
async def slow_to_clean() -> None:
    try:
        await anyio.sleep(3600)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(60)
"""
PLANS = {
    "lab/tasks/quick.yaml": "steps:\n  a: {action: log, params: {message: hello}}\n",
    "lab/tasks/slow.yaml": "cleanup_timeout: 90s\nsteps:\n  a: {action: slow_to_clean}\n",
    "lab/actions.py": SLOW,
}
#: A module whose import says that it has begun, and hangs: it is given up after ten seconds.
HANGS = """
import time
from pathlib import Path
Path("begun").touch()
time.sleep(60)
"""
#: What a loaded machine may take for what is done at once.
SOON = 8.0


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    write_plans(tmp_path, PLANS)
    (tmp_path / "aura.toml").write_text('[server]\ngrace = "60s"\n')
    with open_served(tmp_path) as made:
        yield made


def running(served: Served, task: str) -> str:
    door = Door(served)
    cid = door.run(task)
    wait_until(lambda: [step["state"] for step in door.get(f"/api/runs/{cid}")["steps"]] == ["running"])
    return cid


def test_third_signal_ends_it_at_once_and_the_next_start_settles_the_run(served: Served) -> None:
    cid = running(served, "slow")
    begun = time.monotonic()
    while served.process.poll() is None and time.monotonic() - begun < SOON:
        served.process.send_signal(signal.SIGTERM)  # two that come at once may be one
        time.sleep(0.02)
    assert served.process.wait(1) == 70
    with open_served(served.folder) as again:
        run = Door(again).get(f"/api/runs/{cid}")
        assert (run["state"], run["error"]["step"]) == ("crashed", "a")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGPIPE], ids=lambda number: number.name)
def test_signal_that_is_no_stop_ends_nothing(served: Served, number: signal.Signals) -> None:
    running(served, "slow")
    for _ in range(5):
        served.process.send_signal(number)
    door = Door(served)
    assert door.get("/api/system/status")["lanes"]["main"]["running"] == 1
    cid = door.run("quick")
    wait_until(lambda: door.get(f"/api/runs/{cid}")["state"] == "succeeded")
    assert served.process.poll() is None
    served.process.kill()  # its clean-up would take long


def test_sighup_loads_the_plans_again_and_a_broken_one_is_said(served: Served) -> None:
    door = Door(served)
    with closing(door.read("/api/logs/stream")) as reader:
        write_plans(
            served.folder, {"lab/tasks/added.yaml": PLANS["lab/tasks/quick.yaml"], "torn/tasks/x.yaml": "steps: 1\n"}
        )
        served.process.send_signal(signal.SIGHUP)
        reader.wait_for("plan torn is broken")
    cid = door.run("added")
    wait_until(lambda: door.get(f"/api/runs/{cid}")["state"] == "succeeded")


def test_sighup_holds_no_stop_up(served: Served) -> None:
    """Not even while what it loads hangs in its import."""
    write_plans(served.folder, {"hang/actions.py": HANGS, "hang/tasks/x.yaml": PLANS["lab/tasks/quick.yaml"]})
    served.process.send_signal(signal.SIGHUP)
    wait_until((served.folder / "begun").exists)
    begun = time.monotonic()
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(30) == 0
    assert time.monotonic() - begun < SOON
