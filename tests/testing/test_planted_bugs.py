"""Bugs of plans that were planted: each is found, and named with its step and its line; without it nothing is found.

The plan is ``planted/bench``: for each bug a task ``NAME_bad`` with one wrong line, marked ``# BUG NAME``, and a task
``NAME_good``.
"""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aura.testing.sweeping.sweep import Sweep, sweeper
from aura.testing.world import World, plan_world

BENCH = Path(__file__).parent / "planted" / "bench"
#: What Python itself says of a process that nobody has waited for.
WARNS = pytest.mark.filterwarnings(
    "ignore:.*subprocess.Popen.__del__|.*Popen.__del__:pytest.PytestUnraisableExceptionWarning"
)
#: Each bug, how its runs are stopped, and whether it shows in what they come to.
BUGS = [
    pytest.param("clean_up", "cancel", id="await-lost-in-a-finally-of-a-task-group"),
    pytest.param("process", "cancel", id="process-left", marks=WARNS),
    pytest.param("lock", "cancel", id="lock-left-held"),
    pytest.param("thread", "cancel", id="thread-left"),
    pytest.param("temporary_file", "cancel", id="temporary-file-left"),
    pytest.param("swallowed", "cancel", id="cancellation-swallowed"),
    pytest.param("twice", "pause", id="state-written-twice-on-resume"),
    pytest.param("lost_result", "interrupt:power", id="result-lost-by-an-interrupt"),
]


def line_of(bug: str) -> str:
    lines = (BENCH / "actions.py").read_text(encoding="utf-8").splitlines()
    [number] = [number for number, line in enumerate(lines, 1) if line.endswith(f"# BUG {bug}")]
    return f"bench/actions.py:{number}"


def check(task: str, by: str) -> None:
    swept: Sweep = sweeper(BENCH)(task, by=by, allow=("processes",))
    if by == "cancel":
        swept.assert_clean()
    else:
        swept.assert_same_result()


@pytest.mark.parametrize(("bug", "by"), BUGS)
def test_bug_is_named_with_its_step_and_line(bug: str, by: str) -> None:
    with pytest.raises(AssertionError) as failed:
        check(f"{bug}_bad", by)
    message = str(failed.value)
    assert line_of(bug) in message
    assert "step work" in message
    if bug == "process":  # Python is to say what it says of it in this test, and not in the next
        del failed
        gc.collect()


@pytest.mark.parametrize(("bug", "by"), BUGS)
def test_task_without_the_bug_passes(bug: str, by: str) -> None:
    check(f"{bug}_good", by)


@asynccontextmanager
async def door_opened(task: str) -> AsyncIterator[World]:
    """Two triggers of the item of a task have come within a millisecond."""
    async with plan_world(BENCH) as world:
        await world.emit("door.opened", {"task": task})
        await world.advance(0.0005)
        await world.emit("motion.seen", {"task": task})
        await world.settle()
        world.assert_started(task, times=2)
        yield world


@pytest.mark.anyio
async def test_two_triggers_that_cancel_each_other_are_named_with_their_lines() -> None:
    async with door_opened("scan_bad") as world:
        first, second = world.runs()
        with pytest.raises(AssertionError) as failed:
            world.assert_all_succeeded()
    message = str(failed.value)
    assert f"{first.cid}: cancelled (replaced by {second.cid})" in message
    for event, line in (("door.opened", 5), ("motion.seen", 6)):
        asked = f"event {event}, item scan_bad (bench/schedule.yaml:2), trigger at bench/schedule.yaml:{line}"
        assert asked in message


@pytest.mark.anyio
async def test_two_triggers_that_queue_pass() -> None:
    async with door_opened("scan_good") as world:
        world.assert_all_succeeded()
