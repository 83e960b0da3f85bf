"""Stops of actions in a process of their own: whenever one comes, clean-up runs, and nothing of them is left."""

import signal
import time
from pathlib import Path

import pytest
from tests.engine.kit import turns, until
from tests.fakes.children import has_ended, running_of
from tests.fakes.children import until as really_until
from tests.fakes.isolated import READY, begun, ended, stop, world_of

from aura.events import LogEntry
from aura.isolation import calls
from aura.lifecycle import Stop
from aura.processes import leftovers

CLEANING = f"""
def do(ctx: Context) -> None:
    try:
    {READY}        spin()
    finally:
        Path("clean").write_text(f"{{ctx.stopping_because}} {{0 < ctx.grace_left() <= 5}}")
"""
ASYNC_CLEANING = f"""
async def do(ctx: Context) -> None:
    try:
    {READY}        await anyio.sleep(3600)
    finally:
        await anyio.sleep(0.01)
        Path("clean").write_text(f"{{ctx.stopping_because}} {{0 < ctx.grace_left() <= 5}}")
"""


@pytest.mark.parametrize("kind", [Stop.CANCEL, Stop.SHUTDOWN, Stop.TIMEOUT], ids=lambda kind: kind.label)
@pytest.mark.parametrize("code", [pytest.param(CLEANING, id="def"), pytest.param(ASYNC_CLEANING, id="async def")])
async def test_stop_lets_the_action_clean_up(tmp_path: Path, code: str, kind: Stop) -> None:
    async with world_of(tmp_path, code) as world:
        run = await begun(world)
        stop(world, run, kind)
        await ended(world, run)
        workdir = world.engine.runtime.workdirs / run.cid
        assert (workdir / "clean").read_text() == f"{kind.label} True"
        assert (run.state, run.record.cleanup_error) == ("timed_out" if kind is Stop.TIMEOUT else "cancelled", None)


STUBBORN = f"""
def do() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
    else:
        subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 100; sleep 100"])
{READY}    spin()
"""


async def test_what_ignores_the_stop_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    async with world_of(tmp_path, STUBBORN) as world:
        run = await begun(world)
        assert len(running_of(run.cid)) >= 3
        stop(world, run, grace=1.0)
        await ended(world, run)
        assert (run.state, run.record.stuck) == ("cancelled", False)


async def test_timeout_of_the_step_kills_it(tmp_path: Path) -> None:
    code = "def do() -> None:\n    spin()"
    task = "steps: {a: {action: do, timeout: 300ms}}\ncleanup_timeout: 1s"
    async with world_of(tmp_path, code, task) as world:
        run = await world.run("t")
        assert run.error is not None
        assert (run.state, run.error["type"]) == ("failed", "TimeoutError")
        assert not running_of(run.cid)


@pytest.mark.parametrize("count", range(0, 60, 4))
async def test_stop_at_every_turn_of_the_start(tmp_path: Path, count: int) -> None:
    async with world_of(tmp_path, "def do() -> None:\n    time.sleep(100)") as world:
        run = await world.start("t")
        await turns(count)
        if run.live is not None:
            stop(world, run, grace=1.0)
        await ended(world, run)
        assert (run.state, run.record.stuck, run.record.cleanup_error) == ("cancelled", False, None)


@pytest.mark.parametrize("seconds", [0.02, 0.05, 0.1, 0.2, 0.4])
async def test_stop_while_the_interpreter_starts(tmp_path: Path, seconds: float) -> None:
    async with world_of(tmp_path, "def do() -> None:\n    time.sleep(100)") as world:
        run = await world.start("t")
        await until(lambda: running_of(run.cid))
        await really_until(lambda: True, seconds)
        stop(world, run, grace=1.0)
        await ended(world, run)
        assert (run.state, run.record.stuck) == ("cancelled", False)


LATE = f"""
def do() -> str:
    try:
    {READY}        time.sleep(100)
    except SystemExit:
        return "made it"
"""
BROKEN = f"""
def do() -> None:
    try:
    {READY}        time.sleep(100)
    finally:
        raise OSError("the clean-up failed")
"""


async def test_result_within_the_grace_counts(tmp_path: Path) -> None:
    async with world_of(tmp_path, LATE) as world:
        run = await begun(world)
        stop(world, run)
        await ended(world, run)
        assert run.steps["a"].output == "made it"


async def test_error_in_the_clean_up_is_the_cleanup_error(tmp_path: Path) -> None:
    async with world_of(tmp_path, BROKEN) as world:
        run = await begun(world)
        stop(world, run)
        await ended(world, run)
        assert run.state == "cancelled"
        assert run.record.cleanup_error is not None
        assert run.record.cleanup_error["message"] == "the clean-up failed"


CALLS_IN_CLEANUP = f"""
async def do(ctx: Context) -> None:
    try:
    {READY}        await ctx.run("sub")
    finally:
        print("cleaned:", await ctx.start("other"))
"""


async def test_stop_reaches_the_sub_task_and_clean_up_may_still_ask(tmp_path: Path) -> None:
    sub = "steps: {s: {action: sleep, params: {duration: 900ms}}}\nmode: parallel"
    async with world_of(
        tmp_path, CALLS_IN_CLEANUP, tasks__sub=sub, tasks__other="steps: {l: {action: log, params: {message: x}}}"
    ) as world:
        run = await begun(world)
        await until(lambda: world.runs("sub"))
        stop(world, run)
        await ended(world, run)
        await world.settle()
        assert [child.state for child in world.runs("sub")] == ["cancelled"]
        assert [child.state for child in world.runs("other")] == ["succeeded"]


async def test_process_that_is_killed_from_outside_fails_its_step(tmp_path: Path) -> None:
    async with world_of(tmp_path, f"def do() -> None:\n{READY}    time.sleep(100)") as world:
        run = await begun(world)
        for seen in running_of(run.cid):
            leftovers.send(seen, signal.SIGKILL)
        await ended(world, run)
        assert run.error is not None
        assert run.error["type"] == "ProcessDied"
        assert "killed by SIGKILL" in run.error["message"]


LEAVES = """
def do() -> int:
    return subprocess.Popen(["sleep", "100"], start_new_session=True).pid
"""


async def test_what_is_left_in_the_background_is_named_and_ended_with_a_stopped_run(tmp_path: Path) -> None:
    task = "steps: {a: {action: do}, b: {action: sleep, params: {duration: 900ms}, depends_on: a}}"
    async with world_of(tmp_path, LEAVES, task) as world:
        run = await world.start("t")
        await world.until(run, step="a", state="succeeded")
        pid = run.steps["a"].output
        assert not has_ended(pid)
        found = [e.message for e in await world.engine.history.run_entries(run.cid, 0, 100) if isinstance(e, LogEntry)]
        assert f"left running in the background: sleep (process {pid})" in found
        stop(world, run)
        await ended(world, run)
        assert has_ended(pid)


async def test_thread_that_does_not_end_holds_the_step_only_so_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "EXIT_TIME", 0.1)
    code = "def do() -> int:\n    threading.Thread(target=time.sleep, args=(1000,)).start()\n    return 1"
    async with world_of(tmp_path, code, "steps: {a: {action: do, timeout: 60s}}") as world:
        began = time.monotonic()
        run = await world.run("t")
        assert time.monotonic() - began < 50
        assert run.steps["a"].output == 1, run.explain()
        assert not running_of(run.cid)


async def test_stop_of_the_server_ends_them_all(tmp_path: Path) -> None:
    task = "steps: {a: {action: do, loop: {times: 5, parallelism: 5}}}"
    async with world_of(tmp_path, f"def do() -> None:\n{READY}    time.sleep(100)", task) as world:
        run = await begun(world)
    assert not running_of(run.cid)
