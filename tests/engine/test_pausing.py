"""A user's pause and resume: where it meets a run, what is kept, what is told, and what takes it back."""

import threading
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, quiet, step, task, turns, until
from tests.fakes.invariants import check_forgotten, check_idle, record_of
from tests.fakes.kernel import (
    FaultyBackend,
    begun,
    cleaning,
    fails,
    first_time_forever,
    forever,
    no_hang,
    noting,
    swallowing,
    works,
)

from aura.context import Context
from aura.errors import EndRun, RequestError, StoreReadOnly
from aura.lifecycle import Recovery, RunState, Stop
from aura.records.reading import RunFilter
from aura.run import Cause, Request
from aura.runs.liverun import LiveRun
from aura.testing.virtual_time import ThreadGate


async def paused(kit: Opened, run: LiveRun, reason: str | None = None) -> LiveRun:
    """The same run, paused and at rest."""
    await kit.engine.pause(run.cid, reason)
    await until(lambda: run.state is RunState.PREEMPTED)
    await quiet()
    return run


async def refused(asked: Any) -> tuple[str, Any]:
    """The code of what is refused, and the state that it names."""
    with pytest.raises(RequestError) as found:
        await asked
    return found.value.code, found.value.extra.get("state")


# -- one that runs


async def test_paused_run_keeps_what_it_has_done_and_does_the_rest_when_resumed(tmp_path: Path) -> None:
    tries: list[int] = []
    log: list[str] = []
    one = step("one", noting(log, "one"))
    made = task("t", one, step("two", first_time_forever(tries), ("one",)), returns="{{ steps.two.attempt }}")
    async with opened(tmp_path, made) as kit:
        run = await kit.begin_run("t")
        await until(lambda: tries)
        assert await kit.engine.pause(run.cid, "lunch") == "preempted"  # it stopped in the time of the commit
        await kit.advance(days=3)
        (listed,) = await kit.engine.history.list_runs(RunFilter(), 10)
        assert (listed.state, listed.reason, log, tries) == ("preempted", "lunch", ["one"], [1])
        assert await kit.engine.resume(run.cid) == "preempted"
        record = await kit.ended(run)
        assert (record.state, record.reason, record.attempt, record.result) == ("succeeded", None, 1, 1)
        assert (log, tries) == (["one"], [1, 2])
        assert [name for name in await kit.history(run.cid) if name.startswith("run.")] == [
            "run.accepted",
            "run.started",
            "run.preempted",
            "run.resumed",
            "run.succeeded",
        ]
        check_forgotten(kit, run)


async def test_steps_side_by_side_are_stopped_each_and_what_had_ended_is_kept(tmp_path: Path) -> None:
    log: list[str] = []
    second: list[int] = []
    made = task("t", step("a", noting(log, "a")), step("b", first_time_forever(second)), step("c", cleaning(log)))
    async with opened(tmp_path, made) as kit:
        run = await begun(kit, 2)
        await paused(kit, run)
        assert {n: (s.state, s.attempt) for n, s in (await kit.steps(run)).items()} == {
            "a": ("succeeded", 1),
            "b": ("pending", 0),
            "c": ("pending", 0),
        }
        await kit.engine.resume(run.cid)
        await until(lambda: set(run.live) == {"c"})
        assert (log, second) == (["a", "clean"], [1, 2])
        await kit.engine.cancel(run.cid)
        await kit.ended(run)


async def test_thread_is_waited_for_and_what_it_gives_is_kept(tmp_path: Path) -> None:
    gate, threads = ThreadGate(), []

    def act() -> str:
        threads.append(threading.get_ident())
        gate.wait()
        return "done"

    made = task("t", step("a", act), step("b", works, ("a",)), returns="{{ steps.a.output }}", cleanup_timeout=60)
    async with opened(tmp_path, made) as kit:
        run = await kit.begin_run("t")
        await until(lambda: threads)
        assert await kit.engine.pause(run.cid) == "stopping"
        gate.open()
        await until(lambda: run.state is RunState.PREEMPTED)
        await kit.engine.resume(run.cid)
        assert ((await kit.ended(run)).result, len(threads)) == ("done", 1)


async def test_back_off_rests_with_its_tries(tmp_path: Path) -> None:
    tries: list[int] = []

    async def act() -> None:
        tries.append(1)
        raise OSError("no")

    async with opened(tmp_path, task("t", step("a", act, retry={"attempts": 2, "delay": 0.9}))) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.backoffs)
        await paused(kit, run)
        await kit.advance(3600)
        assert len(tries) == 1
        await kit.engine.resume(run.cid)
        assert ((await kit.ended(run)).state, len(tries)) == ("failed", 2)


async def test_time_at_rest_counts_against_no_timeout(tmp_path: Path) -> None:
    tries: list[int] = []
    made = task("t", step("a", first_time_forever(tries)), timeout=10.0)
    async with opened(tmp_path, made) as kit:
        run = await begun(kit)
        await kit.advance(9)
        await paused(kit, run)
        await kit.advance(3600)
        await kit.engine.resume(run.cid)
        record = await kit.ended(run)
        assert (record.state, round(record.active_s)) == ("succeeded", 9)


async def test_run_that_ends_by_itself_first_keeps_its_outcome_and_is_held_no_more(tmp_path: Path) -> None:
    async def swallows() -> str:
        try:
            await anyio.sleep(3600)
        except BaseException:
            return "done all the same"
        return "never"

    log: list[str] = []
    made = task("t", step("a", swallows), returns="{{ steps.a.output }}", finally_=[step("z", noting(log, "z"))])
    async with opened(tmp_path, made) as kit:
        run = await begun(kit)
        assert await kit.engine.pause(run.cid) == "stopping"
        record = await kit.ended(run)
        assert (record.state, record.result, log) == ("succeeded", "done all the same", ["z"])
        assert kit.backend.execute("SELECT held FROM run").fetchone() == (0,)


async def test_run_that_a_step_had_ended_early_does_not_come_back(tmp_path: Path) -> None:
    go = anyio.Event()
    log: list[str] = []

    async def ends() -> None:
        await go.wait()
        raise EndRun({"n": 1})

    made = task("t", step("a", ends), step("b", cleaning(log)), step("c", works, ("a",)))
    async with opened(tmp_path, made) as kit:
        run = await begun(kit, 2)
        go.set()  # it goes on in the turn of the pause, so the edge does not reach it
        await kit.engine.pause(run.cid)
        record = await kit.ended(run)
        assert (record.state, record.result) == ("succeeded", {"n": 1})
        assert {n: s.state for n, s in (await kit.steps(run)).items()} == {
            "a": "succeeded",
            "b": "cancelled",
            "c": "skipped",
        }


async def test_stuck_run_is_given_up_although_it_was_paused(tmp_path: Path) -> None:
    stubborn, act = swallowing()
    async with opened(tmp_path, task("t", step("a", act), cleanup_timeout=0.1)) as kit:
        run = await begun(kit)
        await kit.engine.pause(run.cid)
        await until(lambda: run.stuck)
        assert await refused(kit.engine.resume(run.cid)) == ("conflict", "stopping")
        assert await refused(kit.engine.pause(run.cid)) == ("conflict", "stopping")
        await kit.engine.runtime.store.written()
        assert kit.backend.execute("SELECT stuck, held FROM run").fetchone() == (1, 0)
        stubborn.free = True
        record = await kit.ended(run)
        assert (record.state, record.reason) == ("cancelled", "stuck")


async def test_paused_run_shows_no_progress_of_what_was_cut_off(tmp_path: Path) -> None:
    async def half(ctx: Context) -> None:
        ctx.progress(1, 2, "half")
        await anyio.sleep(3600)

    async with opened(tmp_path, task("t", step("a", half))) as kit:
        run = await begun(kit)
        assert kit.engine.history.progress_of(run.cid)["a"]["message"] == "half"
        await paused(kit, run)
        assert kit.engine.history.progress_of(run.cid) == {}


# -- one that waits


async def test_paused_while_queued_it_leaves_its_lane_and_comes_back_to_its_old_position(tmp_path: Path) -> None:
    log: list[str] = []

    async def note(what: str) -> None:
        log.append(what)

    made = task("t", step("a", note, params={"what": "{{ run.labels.n }}"}))
    async with opened(tmp_path, made, task("block", step("x", forever)), lanes={"main": 1}) as kit:
        block = await begun(kit, task_name="block")
        runs = [await kit.begin_run("t", labels={"n": str(n)}) for n in range(3)]
        assert await kit.engine.pause(runs[0].cid) == "preempted"
        assert [run.cid for run in kit.engine.dispatcher.queued()] == [runs[1].cid, runs[2].cid]
        assert kit.engine.status()["lanes"]["main"]["queued"] == 2
        await kit.engine.resume(runs[0].cid)
        assert [run.cid for run in kit.engine.dispatcher.queued()] == [run.cid for run in runs]
        await kit.engine.cancel(block.cid)
        await kit.settle()
        assert log == ["0", "1", "2"]
        assert "run.started" in await kit.history(runs[0].cid)
        check_idle(kit)


@pytest.mark.parametrize("resumed_at", [50, 500], ids=["before its time", "after it"])
async def test_delayed_run_that_was_paused_starts_at_its_time_if_it_is_resumed_by_then(
    tmp_path: Path, resumed_at: int
) -> None:
    async with opened(tmp_path, task("t", step("a", works), queue_timeout=10.0)) as kit:
        began = kit.now
        run = await kit.begin_run("t", delay_s=100.0)
        for _ in range(3):  # each leaves an entry in the heap of delayed runs that counts no more
            await kit.engine.pause(run.cid)
            await kit.engine.resume(run.cid)
        assert [found.cid for found in kit.engine.dispatcher.queued()] == [run.cid]
        await kit.engine.pause(run.cid)
        await kit.advance(resumed_at)
        assert run.state is RunState.PREEMPTED
        await kit.engine.resume(run.cid)
        record = await kit.ended(run)
        assert record.started_at is not None
        assert (record.state, round(record.started_at - began)) == ("succeeded", max(100, resumed_at))


async def test_delayed_run_that_was_paused_is_listed_once_while_nobody_starts_anything(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        await kit.engine.stop("cancel", 0.1)
        run = await kit.begin_run("t", delay_s=100.0)
        for _ in range(3):
            await kit.engine.pause(run.cid)
            assert kit.engine.dispatcher.queued() == []
            await kit.engine.resume(run.cid)
            assert kit.engine.dispatcher.queued() == [run]
        await kit.engine.start()
        assert (await kit.ended(run)).state == "succeeded"


@pytest.mark.parametrize(("delay", "left"), [(0.0, 4.0), (100.0, 10.0)], ids=["while it ran", "before it ran"])
async def test_queue_timeout_rests_while_it_is_paused(tmp_path: Path, delay: float, left: float) -> None:
    tasks = task("t", step("a", works), queue_timeout=10.0), task("block", step("x", forever))
    async with opened(tmp_path, *tasks, lanes={"main": 1}) as kit:
        block = await begun(kit, task_name="block")
        run = await kit.begin_run("t", delay_s=delay)
        await kit.advance(6)
        await kit.engine.pause(run.cid)
        await kit.advance(600)
        await kit.engine.resume(run.cid)
        await kit.advance(left - 0.1)
        assert run.state is RunState.PREEMPTED
        began = kit.now
        record = await kit.ended(run)
        assert (record.state, round(kit.now - began, 2)) == ("timed_out", 0.1)
        assert record.reason == "it waited longer than 10 s for a place"
        await kit.engine.cancel(block.cid)


async def test_queue_timeout_is_none_of_a_run_that_has_begun(tmp_path: Path) -> None:
    tasks = task("t", step("a", first_time_forever([])), queue_timeout=10.0), task("block", step("x", forever))
    async with opened(tmp_path, *tasks, lanes={"main": 1}) as kit:
        run = await paused(kit, await begun(kit))
        block = await begun(kit, task_name="block")
        await kit.engine.resume(run.cid)
        await kit.advance(60)
        assert (run.state, run.waits) == ("preempted", True)
        await kit.engine.cancel(block.cid)
        assert (await kit.ended(run)).state == "succeeded"


@pytest.mark.parametrize("count", range(4), ids=lambda n: f"{n} turns after it was accepted")
async def test_pause_before_the_first_step_lets_nothing_of_it_begin(tmp_path: Path, count: int) -> None:
    log: list[str] = []
    async with opened(tmp_path, task("t", step("a", noting(log, "a")), finally_=[step("z", noting(log, "z"))])) as kit:
        run = kit.engine.admission.request(Request("p", "t"), Cause("api")).run
        await turns(count)
        await kit.engine.pause(run.cid)
        await kit.advance(60)
        assert (run.state, run.attempt, run.begun, log) == ("preempted", 0, False, [])
        assert await kit.engine.cancel(run.cid) == "cancelled"
        assert log == []


# -- who may be paused, and resumed


async def in_a_handler(kit: Opened) -> LiveRun:
    run = await kit.begin_run("handled")
    await until(lambda: "z" in run.live)
    return run


async def stopping_by(kit: Opened, kind: Stop) -> LiveRun:
    run = await begun(kit, task_name="slow")
    kit.stop(run, kind, grace=30)
    return run


@pytest.mark.parametrize("ask", ["pause", "resume"])
@pytest.mark.parametrize("kind", [Stop.SHUTDOWN, Stop.TIMEOUT, Stop.CANCEL], ids=lambda kind: kind.label)
async def test_run_that_stops_for_another_reason_is_not_paused(tmp_path: Path, kind: Stop, ask: str) -> None:
    gate = anyio.Event()
    async with opened(tmp_path, task("slow", step("a", cleaning([], gate)))) as kit:
        run = await stopping_by(kit, kind)
        assert await refused(getattr(kit.engine, ask)(run.cid)) == ("conflict", "stopping")
        gate.set()
        assert (await kit.ended(run)).state in ("cancelled", "timed_out")


@pytest.mark.parametrize("kind", [Stop.TIMEOUT, Stop.CANCEL], ids=lambda kind: kind.label)
async def test_stop_of_a_higher_rank_takes_a_pause_back(tmp_path: Path, kind: Stop) -> None:
    gate = anyio.Event()
    async with opened(tmp_path, task("slow", step("a", cleaning([], gate)))) as kit:
        run = await begun(kit, task_name="slow")
        await kit.engine.pause(run.cid)
        kit.stop(run, kind, grace=30)
        assert await refused(kit.engine.pause(run.cid)) == ("conflict", "stopping")
        assert await refused(kit.engine.resume(run.cid)) == ("conflict", "stopping")
        gate.set()
        assert (await kit.ended(run)).state == {Stop.TIMEOUT: "timed_out", Stop.CANCEL: "cancelled"}[kind]


@pytest.mark.parametrize("handler", ["on_failure", "finally_"])
async def test_handler_is_not_paused(tmp_path: Path, handler: str) -> None:
    keys: dict[str, Any] = {handler: [step("z", first_time_forever([]))], "cleanup_timeout": 5.0}
    async with opened(tmp_path, task("handled", step("a", fails), **keys)) as kit:
        run = await in_a_handler(kit)
        assert await refused(kit.engine.pause(run.cid)) == ("conflict", "running")
        await kit.engine.cancel(run.cid)
        assert (await kit.ended(run)).state == "failed"


async def test_what_is_not_paused_is_not_resumed(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", forever)), lanes={"main": 1}) as kit:
        run, waiting = await begun(kit), await kit.begin_run("t")
        assert await refused(kit.engine.resume(run.cid)) == ("conflict", "running")
        assert await refused(kit.engine.resume(waiting.cid)) == ("conflict", "queued")
        await kit.engine.pause(waiting.cid)
        await kit.engine.resume(waiting.cid)
        assert await refused(kit.engine.resume(waiting.cid)) == ("conflict", "preempted")
        for each in (run, waiting):
            await kit.engine.cancel(each.cid)
            await kit.ended(each)
        assert await refused(kit.engine.resume(run.cid)) == ("ended", "cancelled")
        assert await refused(kit.engine.pause(run.cid)) == ("ended", "cancelled")
        assert (await refused(kit.engine.pause("nobody")))[0] == "unknown_run"


async def test_pause_of_a_paused_run_changes_nothing(tmp_path: Path) -> None:
    gate = anyio.Event()
    async with opened(tmp_path, task("t", step("a", cleaning([], gate)), cleanup_timeout=600)) as kit:
        run = await begun(kit)
        assert await kit.engine.pause(run.cid, "first") == "stopping"
        assert await kit.engine.pause(run.cid, "second") == "stopping"
        gate.set()
        await until(lambda: run.state is RunState.PREEMPTED)
        assert await kit.engine.pause(run.cid, "third") == "preempted"
        assert record_of(kit, run).reason == "first"
        assert (await kit.history(run.cid)).count("run.preempted") == 1
        await kit.engine.cancel(run.cid)


async def test_resumed_while_it_cleans_up_it_goes_on_by_itself_and_may_be_paused_again(tmp_path: Path) -> None:
    gate = anyio.Event()
    async with opened(tmp_path, task("t", step("a", cleaning([], gate)), cleanup_timeout=600)) as kit:
        run = await begun(kit)
        await kit.engine.pause(run.cid)
        assert await kit.engine.resume(run.cid) == "stopping"
        assert await kit.engine.pause(run.cid, "again") == "stopping"
        assert await kit.engine.resume(run.cid) == "stopping"
        gate.set()
        await until(lambda: run.state is RunState.RUNNING and run.live)
        await paused(kit, run, "and again")
        assert record_of(kit, run).reason == "and again"
        await kit.engine.cancel(run.cid)


# -- what is told is on record


async def test_pause_and_resume_are_told_when_they_are_on_record(tmp_path: Path) -> None:
    backend = FaultyBackend()
    told: list[str] = []
    async with opened(tmp_path, task("t", step("a", forever)), backend=backend) as kit:
        run = await begun(kit)

        async def ask(how: Any) -> None:
            told.append(await how(run.cid))

        for how, state in ((kit.engine.pause, "running"), (kit.engine.resume, "preempted")):
            backend.gate = anyio.Event()
            async with anyio.create_task_group() as client:  # one client; ends with its answer
                client.start_soon(ask, how)
                await quiet()
                assert (told, record_of(kit, run).state) == ([], state) or state == "preempted"
                assert not told
                backend.gate.set()
            told.clear()
            await quiet()
        await kit.engine.cancel(run.cid)


async def test_pause_is_not_told_as_over_before_that_is_on_record(tmp_path: Path) -> None:
    backend = FaultyBackend()
    told: list[str] = []
    cleaned, first, second = anyio.Event(), anyio.Event(), anyio.Event()
    async with opened(tmp_path, task("t", step("a", cleaning([], cleaned))), backend=backend) as kit:
        run = await begun(kit)
        backend.gate = first

        async def ask() -> None:
            told.append(await kit.engine.pause(run.cid))

        async with anyio.create_task_group() as client:  # one client; ends with its answer
            client.start_soon(ask)
            await quiet()
            cleaned.set()
            await quiet()  # the wish stands at the gate, and behind it that the run has stopped
            backend.gate = second
            first.set()
            await quiet()
            assert (told, record_of(kit, run).state, run.state) == ([], "running", "preempted")
            second.set()
        assert told == ["preempted"]
        await kit.engine.cancel(run.cid)


async def test_nothing_is_paused_or_resumed_while_nothing_can_be_written(tmp_path: Path) -> None:
    backend = FaultyBackend()
    async with opened(tmp_path, task("t", step("a", forever)), backend=backend) as kit:
        run = await begun(kit)
        backend.error, backend.failing = StoreReadOnly("full"), 1
        assert (await refused(kit.engine.submit(Request("p", "t"), Cause("api"))))[0] == "storage_unavailable"
        for ask in (kit.engine.pause, kit.engine.resume):
            assert (await refused(ask(run.cid)))[0] == "storage_unavailable"
        assert run.state is RunState.RUNNING
        await until(lambda: not kit.engine.reasons)
        await paused(kit, run)
        await kit.engine.cancel(run.cid)


async def test_pause_of_a_run_whose_acceptance_could_not_be_stored_says_that_there_is_none(tmp_path: Path) -> None:
    backend = FaultyBackend()
    async with opened(tmp_path, task("t", step("a", works)), backend=backend) as kit:
        backend.error, backend.failing = StoreReadOnly("full"), 1
        run = kit.engine.admission.request(Request("p", "t"), Cause("api")).run
        assert (await refused(kit.engine.pause(run.cid)))[0] == "unknown_run"
        await until(lambda: not kit.engine.reasons)
        check_idle(kit)


# -- cancelling what is paused


async def test_paused_run_that_is_cancelled_cleans_up_at_once_whatever_runs_in_its_lane(tmp_path: Path) -> None:
    log: list[str] = []
    handlers: dict[str, Any] = {
        "on_cancel": [step("x", noting(log, "on_cancel"))],
        "finally_": [step("z", noting(log, "finally"))],
    }
    made = task("t", step("a", forever), **handlers), task("block", step("b", forever))
    async with opened(tmp_path, *made, lanes={"main": 1}) as kit:
        run = await paused(kit, await begun(kit))
        block = await begun(kit, task_name="block")
        assert await kit.engine.cancel(run.cid, "enough") == "stopping"
        assert kit.backend.execute("SELECT state, held FROM run WHERE seq=1").fetchone() == ("stopping", 0)
        record = await kit.ended(run)
        assert (record.state, record.reason, log) == ("cancelled", "enough", ["on_cancel", "finally"])
        assert block.state is RunState.RUNNING
        check_forgotten(kit, run)
        await kit.engine.cancel(block.cid)


async def test_resumed_run_that_waits_for_its_place_is_cancelled_with_its_clean_up(tmp_path: Path) -> None:
    log: list[str] = []
    made = task("t", step("a", forever), finally_=[step("z", noting(log, "z"))]), task("block", step("b", forever))
    async with opened(tmp_path, *made, lanes={"main": 1}) as kit:
        run = await paused(kit, await begun(kit))
        block = await begun(kit, task_name="block")
        await kit.engine.resume(run.cid)
        assert await kit.engine.cancel(run.cid) == "stopping"
        assert ((await kit.ended(run)).state, log) == ("cancelled", ["z"])
        await kit.engine.cancel(block.cid)
        await kit.settle()
        check_idle(kit)


async def test_stop_of_the_engine_finds_the_clean_up_of_a_run_that_rested(tmp_path: Path) -> None:
    async with opened(
        tmp_path, task("t", step("a", forever), finally_=[step("z", forever)], cleanup_timeout=60)
    ) as kit:
        run = await paused(kit, await begun(kit))
        await kit.engine.cancel(run.cid)
        await until(lambda: "z" in run.live)
        with no_hang(5):
            await kit.engine.stop("cancel", 1)
            record = await kit.ended(run)
        assert (record.state, record.cleanup_error is None) == ("cancelled", False)


async def test_run_that_is_to_start_over_and_was_paused_before_it_did_is_cancelled_at_once(tmp_path: Path) -> None:
    log: list[str] = []
    made = task("t", step("a", forever), finally_=[step("z", noting(log, "z"))], recovery=Recovery.RESTART)
    async with opened(tmp_path, made) as kit:
        run = await begun(kit)
        await kit.engine.stop("cancel", 0.2)
        assert await kit.engine.pause(run.cid) == "preempted"
        assert await kit.engine.cancel(run.cid) == "cancelled"
        assert ((await kit.ended(run)).cleanup_error, log) == (None, [])


# -- stops of the engine


@pytest.mark.parametrize("recovery", list(Recovery), ids=str)
async def test_shutdown_while_it_cleans_up_leaves_it_paused(tmp_path: Path, recovery: Recovery) -> None:
    log: list[str] = []
    made = task(
        "t", step("one", works), step("a", cleaning(log), ("one",)), recovery=recovery, on_cancel=[step("x", fails)]
    )
    async with opened(tmp_path, made) as kit:
        run = await kit.begin_run("t")
        await until(lambda: "a" in run.live)
        await quiet()
        await kit.engine.pause(run.cid, "mine")
        await kit.engine.stop("cancel", 5)
        assert (run.state, record_of(kit, run).reason, log) == ("preempted", "mine", ["clean"])
        assert (await kit.steps(run))["one"].state == "succeeded"
        await kit.engine.start()
        await kit.advance(60)
        assert run.state is RunState.PREEMPTED
        assert await kit.engine.cancel(run.cid) == "stopping"
        await kit.ended(run)


async def test_resume_while_the_engine_stops_is_refused_and_the_run_stays_paused(tmp_path: Path) -> None:
    gate = anyio.Event()
    async with opened(tmp_path, task("t", step("a", cleaning([], gate)), cleanup_timeout=60)) as kit:
        run = await begun(kit)
        await kit.engine.pause(run.cid)
        kit.engine.request_stop("cancel", 60)
        await quiet()
        assert await refused(kit.engine.resume(run.cid)) == ("conflict", "stopping")
        gate.set()
        await until(lambda: kit.engine.state == "stopped")
        assert run.state is RunState.PREEMPTED
        await kit.engine.cancel(run.cid)


async def test_resumed_while_the_engine_is_stopped_it_goes_on_when_that_starts(tmp_path: Path) -> None:
    tries: list[int] = []
    async with opened(tmp_path, task("t", step("a", first_time_forever(tries)))) as kit:
        run = await paused(kit, await begun(kit))
        await kit.engine.stop("cancel", 0.1)
        await kit.engine.resume(run.cid)
        await kit.advance(60)
        assert (run.state, tries) == ("preempted", [1])
        assert [found.cid for found in kit.engine.dispatcher.queued()] == [run.cid]
        await kit.engine.start()
        assert ((await kit.ended(run)).state, tries) == ("succeeded", [1, 2])


@pytest.mark.parametrize("recovery", list(Recovery), ids=str)
async def test_resumed_run_that_is_shut_down_before_its_first_step_stays_preempted(
    tmp_path: Path, recovery: Recovery
) -> None:
    tries: list[int] = []
    made = task("t", step("one", works), step("a", first_time_forever(tries), ("one",)), recovery=recovery)
    async with opened(tmp_path, made) as kit:
        run = await kit.begin_run("t")
        await until(lambda: tries)
        await paused(kit, run)
        stopped = stop_when_placed(kit, run)
        await kit.engine.resume(run.cid)
        record = await kit.ended(run)
        assert (stopped, record.state, record.attempt, tries) == (["preempted"], "succeeded", 1, [1, 2])
        told = [name for name in await kit.history(run.cid) if name.startswith("run.")]
        assert told == ["run.accepted", "run.started", "run.preempted", "run.resumed", "run.succeeded"]


@pytest.mark.parametrize("recovery", list(Recovery), ids=str)
async def test_resumed_run_that_is_shut_down_while_its_start_is_written_stays_preempted(
    tmp_path: Path, recovery: Recovery
) -> None:
    tries: list[int] = []
    backend = FaultyBackend()
    async with opened(
        tmp_path, task("t", step("a", first_time_forever(tries)), recovery=recovery), backend=backend
    ) as kit:
        run = await paused(kit, await begun(kit))
        await kit.engine.resume(run.cid)
        backend.gate = anyio.Event()
        await until(lambda: run.row is RunState.RUNNING)
        kit.stop(run, Stop.SHUTDOWN)
        backend.gate.set()
        record = await kit.ended(run)
        assert (record.state, tries) == ("succeeded", [1, 2])
        told = [name for name in await kit.history(run.cid) if name.startswith("run.")]
        assert told[1:] == ["run.started", "run.preempted", "run.resumed", "run.preempted", *told[3:4], told[-1]]


async def test_resumed_run_that_has_gone_on_is_shut_down_as_any_other(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", forever))) as kit:
        run = await paused(kit, await begun(kit))
        await kit.engine.resume(run.cid)
        await until(lambda: run.live)
        await quiet()
        kit.stop(run, Stop.SHUTDOWN)
        assert (await kit.ended(run)).state == "cancelled"


@pytest.mark.parametrize("recovery", list(Recovery), ids=str)
async def test_shutdown_while_a_resumed_run_still_cleans_up_leaves_it_preempted(
    tmp_path: Path, recovery: Recovery
) -> None:
    gate = anyio.Event()
    log: list[str] = []
    backend = FaultyBackend()
    made = task("t", step("a", cleaning(log, gate)), recovery=recovery)
    async with opened(tmp_path, made, backend=backend, grace=5) as kit:
        run = await begun(kit)
        await kit.engine.pause(run.cid)
        assert await kit.engine.resume(run.cid) == "stopping"
        kit.engine.request_stop("cancel")
        gate.set()
        await until(lambda: kit.engine.state == "stopped")
        await quiet()
        assert (record_of(kit, run).state, run.held, run.waits, log) == ("preempted", None, True, ["clean"])


def stop_when_placed(kit: Opened, run: LiveRun) -> list[str]:
    """Shut the run down when it is given its next place, before its child begins; gives where its row was then."""
    lane = kit.engine.dispatcher.lanes[run.lane]
    place = lane.place
    stopped: list[str] = []

    def place_and_stop(placed: LiveRun) -> None:
        place(placed)
        if not stopped:
            stopped.append(placed.row.value)
            kit.stop(placed, Stop.SHUTDOWN)

    setattr(lane, "place", place_and_stop)  # noqa: B010 - a function for a method
    return stopped


async def test_server_that_is_going_takes_no_pause_resume_or_cancel_of_what_rests(tmp_path: Path) -> None:
    made = task("t", step("a", forever), finally_=[step("z", forever)])
    async with opened(tmp_path, made) as kit:
        run = await paused(kit, await begun(kit))
        with no_hang():
            kit.engine.admission.closed = True
            for ask in (kit.engine.pause, kit.engine.resume, kit.engine.cancel):
                assert (await refused(ask(run.cid)))[0] == "shutting_down"
            assert await kit.engine.cancel_where() == []
        assert (run.state, record_of(kit, run).state) == ("preempted", "preempted")
