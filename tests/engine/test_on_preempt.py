"""``on_preempt``: when it runs, what it sees, how long it may take, and that it does not change what a run comes to."""

from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, quiet, step, task, turns, until
from tests.fakes.invariants import check_forgotten, check_history, check_steps, record_of
from tests.fakes.kernel import begun, copy_of, fails, first_time_forever, forever, noting, swallowing, works

from aura.lifecycle import Recovery, RunState, Stop
from aura.run import Cause, Request
from aura.runs.liverun import LiveRun
from aura.stores.memory import MemoryBackend


def says(log: list[str], name: str) -> Any:
    """A step that notes its name and how the run stands."""

    async def act(what: str) -> None:
        log.append(f"{name} {what}")

    return step(name, act, params={"what": "{{ run.state }} {{ run.reason }} {{ steps.a.state }}"})


def handled(log: list[str], body: Any, **keys: Any) -> Any:
    """A task of one step with every handler that a stop may bring about; ``on_preempt`` is ``p``."""
    keys.setdefault("on_preempt", [says(log, "p")])
    return task("t", step("a", body), on_cancel=[says(log, "c")], finally_=[says(log, "z")], **keys)


async def preempted(kit: Opened, run: LiveRun, reason: str = "lunch") -> None:
    """Pause it and wait until it rests."""
    await kit.engine.pause(run.cid, reason)
    await until(lambda: run.state is RunState.PREEMPTED)
    await quiet()


# -- when it runs, and what it sees


async def test_each_pause_runs_it_anew_before_the_run_is_preempted(tmp_path: Path) -> None:
    log: list[str] = []
    async with opened(tmp_path, handled(log, forever)) as kit:
        run = await begun(kit)
        await preempted(kit, run, "lunch")
        await kit.engine.resume(run.cid)
        await until(lambda: "a" in run.live)
        await preempted(kit, run, "tea")
        assert log == ["p preempted lunch pending", "p preempted tea pending"]
        assert (await kit.steps(run))["p"].attempt == 1
        assert kit.backend.execute("SELECT starts FROM step WHERE name='p'").fetchone() == (2,)
        first = (await kit.history(run.cid))[:6]
        assert first == [
            *("run.accepted", "run.started", "step.started a"),
            *("step.started p", "step.succeeded p", "run.preempted"),
        ]
        await kit.engine.cancel(run.cid)
        await kit.ended(run)
        check_steps(kit.backend.execute, run.seq, Counter(a=2, p=2, c=1, z=1))
        check_forgotten(kit, run)


@pytest.mark.parametrize(
    ("recovery", "stop", "log"),
    [
        (Recovery.FAIL, Stop.INTERRUPT, ["p preempted interrupt pending"]),
        (Recovery.RESTART, Stop.SHUTDOWN, ["p queued shutdown pending"]),
        (Recovery.RESUME, Stop.SHUTDOWN, ["p preempted shutdown pending"]),
        (Recovery.FAIL, Stop.SHUTDOWN, ["c cancelled shutdown cancelled", "z cancelled shutdown cancelled"]),
        (Recovery.RESTART, Stop.CANCEL, ["c cancelled cancel cancelled", "z cancelled cancel cancelled"]),
        (Recovery.RESTART, Stop.TIMEOUT, ["z timed_out timeout cancelled"]),
    ],
    ids=["interrupt", "shutdown restart", "shutdown resume", "shutdown fail", "cancel", "time-out"],
)
async def test_it_runs_for_each_stop_after_which_the_run_comes_back(
    tmp_path: Path, recovery: Recovery, stop: Stop, log: list[str]
) -> None:
    got: list[str] = []
    async with opened(tmp_path, handled(got, forever, recovery=recovery)) as kit:
        run = await begun(kit)
        kit.stop(run, stop, grace=5)
        await until(lambda: not run.placed)
        assert got == log


@pytest.mark.parametrize("body", [works, fails], ids=["success", "failure"])
async def test_run_that_ends_by_itself_runs_none(tmp_path: Path, body: Any) -> None:
    log: list[str] = []
    async with opened(tmp_path, handled(log, body)) as kit:
        await kit.record("t")
        assert [line[0] for line in log] == ["z"]


@pytest.mark.parametrize("count", range(4), ids=lambda n: f"{n} turns after it was accepted")
async def test_run_of_which_nothing_began_runs_none(tmp_path: Path, count: int) -> None:
    log: list[str] = []
    async with opened(tmp_path, handled(log, works)) as kit:
        run = kit.engine.admission.request(Request("p", "t"), Cause("api")).run
        await turns(count)
        await preempted(kit, run)
        assert (run.begun, log) == (False, [])


@pytest.mark.parametrize("count", range(5), ids=lambda n: f"{n} turns after it was resumed")
async def test_run_that_is_stopped_again_before_it_went_on_runs_none(tmp_path: Path, count: int) -> None:
    log: list[str] = []
    tries: list[int] = []
    async with opened(tmp_path, handled(log, first_time_forever(tries))) as kit:
        run = await begun(kit)
        await preempted(kit, run)
        kit.engine.pausing.request_resume(run)
        await turns(count)
        await preempted(kit, run)
        assert (tries, len(log)) == ([1], 1)


# -- its time


@pytest.mark.parametrize(
    ("grace", "cleanup", "after"),
    [(3.0, 20.0, 3.0), (20.0, 4.0, 4.0), (None, 2.0, 2.0)],
    ids=["grace", "cleanup_timeout", "no grace said"],
)
async def test_it_has_the_grace_of_the_stop_but_no_more_than_clean_up_has(
    tmp_path: Path, grace: float | None, cleanup: float, after: float
) -> None:
    slow = [step("p", forever), step("q", works, ("p",))]
    async with opened(tmp_path, task("t", step("a", forever), on_preempt=slow, cleanup_timeout=cleanup)) as kit:
        run = await begun(kit)
        began = kit.now
        kit.stop(run, Stop.INTERRUPT, grace)
        await until(lambda: run.state is RunState.PREEMPTED)
        assert round(kit.now - began, 3) == after
        await quiet()
        assert {n: s.state for n, s in (await kit.steps(run)).items()} == {
            "a": "pending",
            "p": "timed_out",
            "q": "skipped",
        }
        assert record_of(kit, run).cleanup_error is None


async def test_second_stop_brings_its_end_nearer(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", forever), on_preempt=[step("p", forever)])) as kit:
        run = await begun(kit)
        kit.stop(run, Stop.INTERRUPT, 9)
        await until(lambda: "p" in run.live)
        began = kit.now
        kit.stop(run, Stop.INTERRUPT, 1)
        await until(lambda: run.state is RunState.PREEMPTED)
        assert round(kit.now - began, 3) == 1


async def test_its_time_counts_not_against_the_timeout_and_that_does_not_cut_it(tmp_path: Path) -> None:
    tries: list[int] = []

    async def puts_away() -> None:
        await anyio.sleep(8)

    made = task("t", step("a", first_time_forever(tries)), on_preempt=[step("p", puts_away)], timeout=10.0)
    async with opened(tmp_path, made) as kit:
        run = await begun(kit)
        await kit.advance(7)
        await preempted(kit, run)
        await kit.engine.resume(run.cid)
        record = await kit.ended(run)
        assert (record.state, round(record.active_s, 1)) == ("succeeded", 7.0)


# -- what becomes of the run


async def test_its_failure_is_on_record_and_the_run_goes_on(tmp_path: Path) -> None:
    tries: list[int] = []
    made = task("t", step("a", first_time_forever(tries)), on_preempt=[step("p", fails)])
    async with opened(tmp_path, made) as kit:
        run = await begun(kit)
        await preempted(kit, run)
        await kit.engine.resume(run.cid)
        record = await kit.ended(run)
        assert (record.state, record.cleanup_error, record.error) == ("succeeded", None, None)
        assert ((await kit.steps(run))["p"].error or {})["message"] == "no"
        assert "step.failed p" in await kit.history(run.cid)


@pytest.mark.parametrize(("failing", "error"), [(False, None), (True, "p")], ids=["succeeds", "fails"])
async def test_cancel_lets_it_end_and_then_the_run_ends_as_ever(
    tmp_path: Path, failing: bool, error: str | None
) -> None:
    gate, log = anyio.Event(), list[str]()

    async def puts_away() -> None:
        await gate.wait()
        log.append("p")
        if failing:
            raise OSError("no")

    async def slow() -> None:
        await anyio.sleep(9)
        log.append("c")

    made = task("t", step("a", forever), on_preempt=[step("p", puts_away)], on_cancel=[step("c", slow)])
    async with opened(tmp_path, made) as kit:
        run = await begun(kit)
        kit.engine.pausing.request_pause(run)
        await until(lambda: "p" in run.live)
        await kit.advance(5)
        assert kit.stop(run, Stop.CANCEL) == "stopping"
        gate.set()
        record = await kit.ended(run)
        assert (record.state, log) == ("cancelled", ["p", "c"])
        assert (record.cleanup_error and record.cleanup_error["step"]) == error
        check_steps(kit.backend.execute, run.seq, Counter(a=1, p=1, c=1))


async def test_shutdown_brings_its_end_nearer_and_what_is_paused_stays_so(tmp_path: Path) -> None:
    made = task("t", step("a", forever), on_preempt=[step("p", forever)], cleanup_timeout=60)
    async with opened(tmp_path, made) as kit:
        run = await begun(kit)
        kit.engine.pausing.request_pause(run)
        await until(lambda: "p" in run.live)
        began = kit.now
        await kit.engine.stop("cancel", 2.0)
        assert round(kit.now - began, 1) == 1.5
        await quiet()
        assert (run.state, run.held, record_of(kit, run).state) == ("preempted", "paused", "preempted")


async def test_shutdown_in_it_leaves_later_handlers_no_more_than_its_own_time(tmp_path: Path) -> None:
    made = task("t", step("a", forever), on_preempt=[step("p", forever)], finally_=[step("z", forever)])
    async with opened(tmp_path, made) as kit:
        run = await begun(kit)
        kit.stop(run, Stop.INTERRUPT, 60)
        await until(lambda: "p" in run.live)
        began = kit.now
        kit.stop(run, Stop.SHUTDOWN, 2)
        record = await kit.ended(run)
        assert (record.state, round(kit.now - began, 1)) == ("cancelled", 1.5)


async def test_resume_in_the_middle_of_it_lets_it_end_first(tmp_path: Path) -> None:
    log: list[str] = []

    async def puts_away() -> None:
        await anyio.sleep(1)
        log.append("p")

    two = [step("p", puts_away), step("q", noting(log, "q"), ("p",))]
    made = task("t", step("a", first_time_forever([])), step("b", noting(log, "b"), ("a",)), on_preempt=two)
    async with opened(tmp_path, made) as kit:
        run = await begun(kit)
        kit.engine.pausing.request_pause(run)
        await until(lambda: "p" in run.live)
        assert await kit.engine.resume(run.cid) == "stopping"
        assert ((await kit.ended(run)).state, log) == ("succeeded", ["p", "q", "b"])


async def test_run_that_hangs_in_it_is_given_up_and_cleans_up_when_it_lets_go(tmp_path: Path) -> None:
    stubborn, act = swallowing()
    log: list[str] = []
    async with opened(tmp_path, handled(log, forever, on_preempt=[step("p", act)], cleanup_timeout=1.0)) as kit:
        run = await begun(kit)
        kit.engine.pausing.request_pause(run)
        await until(lambda: run.stuck)
        assert (run.held, run.placed) == (None, False)
        stubborn.free = True
        record = await kit.ended(run)
        assert (record.state, record.reason) == ("cancelled", "stuck")
        assert record.cleanup_error is not None
        assert (record.cleanup_error["step"], [line[0] for line in log]) == ("p", ["c", "z"])


# -- a crash in the middle of it


async def left_in_it(tmp_path: Path, made: Any, stop: Stop | None = None) -> tuple[LiveRun, MemoryBackend]:
    """What a crash leaves of a run in the middle of its ``on_preempt``; paused unless it was stopped otherwise."""
    async with opened(tmp_path, made) as kit:
        run = await begun(kit)
        if stop is None:
            kit.engine.pausing.request_pause(run)
        else:
            kit.stop(run, stop)
        await until(lambda: "p" in run.live)
        await quiet()
        assert isinstance(kit.backend, MemoryBackend)
        return run, copy_of(kit.backend)


async def test_crash_in_it_names_its_step_and_not_the_one_that_had_stopped(tmp_path: Path) -> None:
    made = task("t", step("a", forever), on_preempt=[step("p", forever)])
    run, left = await left_in_it(tmp_path, made, Stop.INTERRUPT)
    async with opened(tmp_path, made, backend=left) as kit:
        record = await kit.ended(run.cid)
        assert record.error is not None
        assert (record.state, record.error["step"]) == ("crashed", "p")
        assert {n: s.state for n, s in (await kit.steps(run.cid)).items()} == {"a": "cancelled", "p": "failed"}


@pytest.mark.parametrize("stop", [None, Stop.INTERRUPT], ids=["paused", "interrupted"])
async def test_crash_in_it_starts_over_what_says_so(tmp_path: Path, stop: Stop | None) -> None:
    made = task("t", step("a", forever), on_preempt=[step("p", forever)], recovery=Recovery.RESTART)
    run, left = await left_in_it(tmp_path, made, stop)
    log: list[str] = []
    again = task("t", step("a", noting(log, "a")), on_preempt=[step("p", forever)], recovery=Recovery.RESTART)
    async with opened(tmp_path, again, backend=left) as kit:
        if stop is None:
            assert kit.engine.runtime.open[run.cid].held == "paused"
            await kit.engine.resume(run.cid)
        record = await kit.ended(run.cid)
        assert (record.state, record.attempt, log) == ("succeeded", 2, ["a"])
        assert {n: s.state for n, s in (await kit.steps(run.cid)).items()} == {"a": "succeeded", "p": "cancelled"}
        check_history(left.execute, run.seq, "succeeded")


async def test_step_of_a_former_round_keeps_its_record_over_a_restart(tmp_path: Path) -> None:
    async def where() -> int:
        return 1

    made = task("t", step("a", forever), on_preempt=[step("p", where), step("q", works, when=False)])
    async with opened(tmp_path, made) as kit:
        run = await begun(kit)
        await preempted(kit, run)
        assert isinstance(kit.backend, MemoryBackend)
        left = copy_of(kit.backend)
        left.execute("UPDATE run SET attempt=2")  # as if it had started over once
    ends = task("t", step("a", works), on_preempt=[step("p", where), step("q", works, when=False)])
    async with opened(tmp_path, ends, backend=left) as kit:
        await kit.engine.resume(run.cid)
        assert (await kit.ended(run.cid)).state == "succeeded"
        steps = await kit.steps(run.cid)
        assert (steps["p"].state, steps["p"].output, steps["q"].state) == ("succeeded", 1, "skipped")
