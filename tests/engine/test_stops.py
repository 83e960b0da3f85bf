"""Stopping: one edge at every kind of await, evidence, ranks, stuck work, stops at every moment of a run."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio import from_thread
from tests.engine.kit import Opened, opened, step, task, turns, until

from aura.actions import Context
from aura.lifecycle import Recovery, Stop
from aura.liverun import LiveRun


async def forever() -> None:
    await anyio.sleep(3600)


def noted(log: list[str], name: str) -> Any:
    async def act() -> None:
        log.append(name)

    return act


async def running(kit: Opened, **keys: Any) -> LiveRun:
    """A run of task t whose first step has begun and sits at an await."""
    run = await kit.begin("t", **keys)
    await until(lambda: run.live and all(a.edge._task for a in run.live.values()))
    await turns()
    return run


# -- one edge, at every kind of await


async def at_sleep() -> None:
    await anyio.sleep(3600)


async def at_fail_after() -> None:
    with anyio.fail_after(3600):
        await anyio.sleep(3600)


async def at_asyncio_timeout() -> None:
    async with asyncio.timeout(3600):
        await asyncio.sleep(3600)


async def at_stream() -> None:
    send, receive = anyio.create_memory_object_stream[int](1)
    async with send, receive:
        await receive.receive()


async def at_lock() -> None:
    await anyio.Semaphore(0).acquire()


async def at_gather() -> None:
    await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(3600))


async def at_task_group() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 3600)


async def at_async_generator() -> None:
    async def numbers() -> AsyncIterator[int]:
        while True:
            await anyio.sleep(3600)
            yield 1

    async for _ in numbers():
        pass


@pytest.mark.parametrize(
    "wait",
    [at_sleep, at_fail_after, at_asyncio_timeout, at_stream, at_lock, at_gather, at_task_group, at_async_generator],
    ids=lambda f: f.__name__,
)
async def test_unshielded_cleanup_runs_whatever_is_awaited(tmp_path: Path, wait: Any) -> None:
    log: list[str] = []

    async def act() -> None:
        try:
            await wait()
        finally:
            await anyio.sleep(0.001)
            await anyio.sleep(0.001)
            log.append("clean")

    async with opened(tmp_path, task("t", step("a", act), step("b", noted(log, "b"), ("a",)))) as kit:
        run = await running(kit)
        assert kit.stop(run, Stop.CANCEL) == "stopping"
        record = await kit.ended(run)
        assert (record.state, record.stop, log) == ("cancelled", "cancel", ["clean"])
        assert {n: s.state for n, s in (await kit.steps(run)).items()} == {"a": "cancelled", "b": "cancelled"}


async def test_edge_is_not_lost_when_the_waiter_was_done(tmp_path: Path) -> None:
    log: list[str] = []
    gate = anyio.Event()

    async def act() -> None:
        await gate.wait()
        try:
            await anyio.sleep(3600)
        finally:
            await anyio.sleep(0.001)
            log.append("clean")

    async with opened(tmp_path, task("t", step("a", act))) as kit:
        run = await running(kit)
        gate.set()
        kit.stop(run, Stop.CANCEL)
        assert (await kit.ended(run)).state == "cancelled"
        assert (log, run.stuck) == (["clean"], False)


async def test_edge_is_not_lost_in_a_shield_of_its_own(tmp_path: Path) -> None:
    log: list[str] = []
    gate = anyio.Event()

    async def act() -> None:
        with anyio.CancelScope(shield=True):
            await gate.wait()
            log.append("shielded part ended")
        try:
            await anyio.sleep(3600)
        finally:
            await anyio.sleep(0.001)
            log.append("clean")

    async with opened(tmp_path, task("t", step("a", act))) as kit:
        run = await running(kit)
        kit.stop(run, Stop.CANCEL)
        gate.set()
        assert (await kit.ended(run)).state == "cancelled"
        assert (log, run.stuck) == (["shielded part ended", "clean"], False)


async def test_action_may_stop_its_own_run(tmp_path: Path) -> None:
    log: list[str] = []
    found: list[LiveRun] = []

    async def act() -> None:
        kit.stop(found[0], Stop.CANCEL)
        log.append("went on")
        try:
            await anyio.sleep(3600)
        finally:
            await anyio.sleep(0.001)
            log.append("clean")

    async with opened(tmp_path, task("t", step("a", act))) as kit:
        await kit.engine.stop("cancel", 0.1)
        found.append(await kit.begin("t"))
        await kit.engine.start()
        assert (await kit.ended(found[0])).state == "cancelled"
        assert log == ["went on", "clean"]


# -- evidence


@pytest.mark.parametrize("last", [True, False], ids=["last step", "one more step"])
async def test_stop_in_the_turn_in_which_a_step_ends(tmp_path: Path, last: bool) -> None:
    log: list[str] = []
    gate = anyio.Event()

    async def act() -> None:
        await gate.wait()

    steps = [step("a", act)] + ([] if last else [step("b", noted(log, "b"), ("a",))])
    async with opened(tmp_path, task("t", *steps)) as kit:
        run = await running(kit)
        gate.set()
        kit.stop(run, Stop.CANCEL)
        record = await kit.ended(run)
        assert (record.state, log) == ("succeeded" if last else "cancelled", [])


async def test_value_returned_after_the_edge_is_a_finished_step(tmp_path: Path) -> None:
    async def act() -> str:
        try:
            await anyio.sleep(3600)
        except asyncio.CancelledError:
            await anyio.sleep(0.001)
        return "finished all the same"

    async with opened(tmp_path, task("t", step("a", act), returns="{{ steps.a.output }}")) as kit:
        run = await running(kit)
        kit.stop(run, Stop.CANCEL)
        record = await kit.ended(run)
        assert (record.state, record.result) == ("succeeded", "finished all the same")


async def test_error_after_the_edge_is_a_stop_with_a_cleanup_error(tmp_path: Path) -> None:
    async def act() -> None:
        try:
            await anyio.sleep(3600)
        finally:
            raise OSError("port does not close")

    async with opened(tmp_path, task("t", step("a", act))) as kit:
        run = await running(kit)
        kit.stop(run, Stop.CANCEL)
        record = await kit.ended(run)
        assert record.cleanup_error is not None
        assert (record.state, record.cleanup_error["message"]) == ("cancelled", "port does not close")


async def cancels_itself() -> None:
    raise asyncio.CancelledError


async def awaits_what_a_stranger_cancels() -> None:
    other = asyncio.ensure_future(asyncio.sleep(3600))
    asyncio.get_running_loop().call_soon(other.cancel)
    await other


@pytest.mark.parametrize("parallel", [False, True], ids=["in the run's child", "in a child of its own"])
@pytest.mark.parametrize("stray", [cancels_itself, awaits_what_a_stranger_cancels], ids=lambda f: f.__name__)
async def test_stray_cancellation_is_a_failure_of_the_step(tmp_path: Path, stray: Any, parallel: bool) -> None:
    log: list[str] = []
    beside = [step("beside", noted(log, "beside"))] if parallel else []
    async with opened(tmp_path, task("t", step("a", stray), *beside, step("b", noted(log, "b"), ("a",)))) as kit:
        record = await kit.run("t")
        assert record.error is not None
        assert (record.state, record.error["type"]) == ("failed", "stray_cancellation")
        assert "b" not in log


async def test_cancel_that_a_stranger_left_behind_does_not_meet_the_next_step(tmp_path: Path) -> None:
    log: list[str] = []

    async def act() -> None:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()

    async with opened(tmp_path, task("t", step("a", act), step("b", noted(log, "b"), ("a",)))) as kit:
        assert ((await kit.run("t")).state, log) == ("succeeded", ["b"])


async def test_strangers_cancel_in_the_turn_of_ours(tmp_path: Path) -> None:
    log: list[str] = []

    async def act() -> None:
        try:
            await anyio.sleep(3600)
        finally:
            await anyio.sleep(0.001)
            log.append("clean")

    async with opened(tmp_path, task("t", step("a", act), step("b", noted(log, "b"), ("a",)))) as kit:
        run = await running(kit)
        child = run.live["a"].edge._task
        assert child is not None
        child.cancel()
        kit.stop(run, Stop.CANCEL)
        assert ((await kit.ended(run)).state, log) == ("cancelled", ["clean"])


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def raiser(error: BaseException) -> Any:
    async def act() -> None:
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (SystemExit(3), "SystemExit"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (Unspeakable(), "Unspeakable"),
        (StopIteration(1), "RuntimeError"),
        (ExceptionGroup("outer", [ExceptionGroup("inner", [KeyError("k")]), OSError("o")]), "KeyError"),
        (BaseExceptionGroup("outer", [SystemExit(1)]), "SystemExit"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, BaseException) else "",
)
@pytest.mark.parametrize("parallel", [False, True], ids=["inline", "child"])
async def test_whatever_an_action_raises_becomes_a_value(
    tmp_path: Path, error: BaseException, kind: str, parallel: bool
) -> None:
    beside = [step("beside", noted([], ""))] if parallel else []
    async with opened(tmp_path, task("t", step("a", raiser(error)), *beside)) as kit:
        record = await kit.run("t")
        assert record.error is not None
        assert (record.state, record.error["type"]) == ("failed", kind)
        assert (await kit.run("t")).state == "failed"  # the server lives


# -- a stop before the first step, and after the outcome


@pytest.mark.parametrize("kind", list(Stop), ids=lambda k: k.label)
async def test_stop_between_dispatch_and_the_first_step(tmp_path: Path, kind: Stop) -> None:
    log: list[str] = []
    async with opened(tmp_path, task("t", step("a", noted(log, "a")))) as kit:
        execute = kit.engine.dispatcher.execute

        async def stopped_at_once(run: LiveRun) -> None:
            kit.engine.dispatcher.execute = execute
            kit.stop(run, kind)
            await execute(run)

        kit.engine.dispatcher.execute = stopped_at_once
        record = await kit.run("t")
        ends = {Stop.TIMEOUT: "timed_out", Stop.CANCEL: "cancelled"}
        assert record.state == ends.get(kind, "succeeded")  # an interrupt or shutdown puts it back at its old position
        assert log == (["a"] if record.state == "succeeded" else [])
        assert record.attempt == 1


@pytest.mark.parametrize("kind", list(Stop), ids=lambda k: k.label)
async def test_stop_while_the_start_is_committed(tmp_path: Path, kind: Stop) -> None:
    log: list[str] = []
    async with opened(tmp_path, task("t", step("a", noted(log, "a")), recovery=Recovery.RESTART)) as kit:
        run = await kit.begin("t")
        await until(lambda: run.row == "running")
        assert not log
        kit.stop(run, kind)
        record = await kit.ended(run)
        ends = {Stop.TIMEOUT: "timed_out", Stop.CANCEL: "cancelled"}
        assert record.state == ends.get(kind, "succeeded")
        assert log == (["a"] if record.state == "succeeded" else [])


async def test_stop_after_the_outcome_is_answered_ended(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", noted([], "a")))) as kit:
        run = await kit.begin("t")
        await until(lambda: run.sealed)
        assert kit.stop(run, Stop.CANCEL) == "ended"
        assert (await kit.ended(run)).state == "succeeded"


async def test_cancel_racing_the_finish_has_one_outcome_each(tmp_path: Path) -> None:
    async def act() -> None:
        await anyio.lowlevel.checkpoint()

    async with opened(tmp_path, task("t", step("a", act)), lanes={"main": 100}) as kit:
        told: dict[str, str] = {}
        for index in range(500):
            run = await kit.begin("t")
            await turns(index % 12)
            told[run.cid] = kit.stop(run, Stop.CANCEL)
        states = [(await kit.ended(cid)).state for cid in told]
        assert set(states) <= {"succeeded", "cancelled"}
        for (cid, answer), state in zip(told.items(), states, strict=True):
            assert answer != "ended" or state == "succeeded", cid
            assert answer != "stopped" or state == "cancelled", cid
        assert {"succeeded", "cancelled"} <= set(states)


# -- second stops


@pytest.mark.parametrize(
    ("first", "second", "state"),
    [
        (Stop.TIMEOUT, Stop.CANCEL, "cancelled"),
        (Stop.CANCEL, Stop.TIMEOUT, "cancelled"),
        (Stop.SHUTDOWN, Stop.TIMEOUT, "timed_out"),
        (Stop.TIMEOUT, Stop.SHUTDOWN, "timed_out"),
        (Stop.INTERRUPT, Stop.CANCEL, "cancelled"),
    ],
    ids=lambda v: v.label if isinstance(v, Stop) else "",
)
async def test_second_stop_raises_the_rank_and_delivers_no_second_edge(
    tmp_path: Path, first: Stop, second: Stop, state: str
) -> None:
    edges: list[str] = []
    gate = anyio.Event()

    async def act() -> None:
        try:
            await anyio.sleep(3600)
        finally:
            edges.append("first")
            try:
                await gate.wait()
            except asyncio.CancelledError:
                edges.append("second")
                raise

    async with opened(tmp_path, task("t", step("a", act))) as kit:
        run = await running(kit)
        kit.stop(run, first)
        await turns()
        kit.stop(run, second)
        await turns()
        gate.set()
        assert ((await kit.ended(run)).state, edges) == (state, ["first"])


async def test_interrupt_keeps_finished_steps_and_goes_on_where_it_was(tmp_path: Path) -> None:
    log: list[str] = []
    gate = anyio.Event()

    async def mid() -> None:
        log.append("mid")
        await gate.wait()

    made = task(
        "t", step("one", noted(log, "one")), step("mid", mid, ("one",)), step("end", noted(log, "end"), ("mid",))
    )
    async with opened(tmp_path, made) as kit:
        run = await kit.begin("t")
        await until(lambda: "mid" in log)
        kit.stop(run, Stop.INTERRUPT)
        await until(lambda: run.state == "preempted")
        assert not run.placed
        gate.set()
        kit.engine.dispatcher.enter(run)
        record = await kit.ended(run)
        assert (record.state, log, record.attempt) == ("succeeded", ["one", "mid", "mid", "end"], 1)
        assert "run.resumed" in await kit.history(run.cid)


# -- what does not stop


class Stubborn:
    """An action that swallows every cancellation until it is let go."""

    def __init__(self) -> None:
        self.hits = 0
        self.free = False

    async def act(self) -> None:
        while not self.free:
            try:
                await anyio.sleep(0.01)
            except asyncio.CancelledError:
                self.hits += 1


async def test_swallower_gets_an_edge_and_a_pulse_then_is_stuck_and_burns_nothing(tmp_path: Path) -> None:
    stubborn = Stubborn()

    async def swallow() -> None:
        await stubborn.act()

    async def quick() -> None:
        return

    made = [task("t", step("x", swallow)), task("u", step("a", quick))]
    async with opened(tmp_path, *made, lanes={"main": 1}) as kit:
        run = await running(kit)
        waiting = await kit.begin("u")
        burned = time.process_time()
        kit.stop(run, Stop.CANCEL, grace=0.05)
        await until(lambda: run.stuck)
        assert (await kit.ended(waiting)).state == "succeeded"  # the place came back
        assert stubborn.hits == 2
        detail = await kit.engine.history.get_run(run.cid)
        assert (detail.record.state, detail.record.stuck) == ("stopping", True)
        assert kit.engine.status()["lanes"]["main"]["stuck"] == 1
        logs = [e.record() for e in await kit.engine.history.log_entries(level=40)]
        assert any(r["fields"].get("hangs_at", "").startswith(__file__) for r in logs)
        await anyio.sleep(0.1)
        assert time.process_time() - burned < 5
        assert stubborn.hits == 2
        stubborn.free = True
        record = await kit.ended(run)
        assert (record.state, record.reason) == ("cancelled", "stuck")
        assert kit.engine.status()["lanes"]["main"]["stuck"] == 0


async def test_thread_is_told_and_its_result_within_the_grace_counts(tmp_path: Path) -> None:
    told = threading.Event()

    def polite() -> str:
        while True:
            try:
                from_thread.check_cancelled()
            except asyncio.CancelledError:
                told.set()
                return "in time"
            time.sleep(0.001)

    async with opened(tmp_path, task("t", step("a", polite))) as kit:
        run = await running(kit)
        kit.stop(run, Stop.CANCEL)
        assert (await kit.ended(run)).state == "succeeded"
        assert told.is_set()


async def test_blocked_thread_is_stuck_named_and_recorded_when_it_ends(tmp_path: Path) -> None:
    gate = threading.Event()
    late: list[str] = []

    def blocked(ctx: Context) -> str:
        gate.wait(10)
        try:
            ctx.log.info("too late")
        except Exception as error:
            late.append(type(error).__name__)
        return "too late"

    async with opened(tmp_path, task("t", step("a", blocked))) as kit:
        run = await running(kit)
        kit.stop(run, Stop.CANCEL, grace=0.02)
        await until(lambda: run.stuck)
        gate.set()
        record = await kit.ended(run)
        assert (record.state, record.reason, late) == ("cancelled", "stuck", ["ContextClosed"])


async def test_step_that_outlives_its_own_timeout_makes_its_run_stuck(tmp_path: Path) -> None:
    stubborn = Stubborn()

    async def swallow() -> None:
        await stubborn.act()

    made = task("t", step("x", swallow, timeout=0.01), step("b", noted([], "b")), cleanup_timeout=0.02)
    async with opened(tmp_path, made) as kit:
        run = await running(kit)
        await until(lambda: run.stuck)
        stubborn.free = True
        record = await kit.ended(run)
        assert (record.state, record.reason) == ("cancelled", "stuck")


async def test_run_timeout_counts_active_time_and_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", forever), timeout=0.02)) as kit:
        record = await kit.run("t")
        assert (record.state, record.stop) == ("timed_out", "timeout")
        assert record.reason == "it ran longer than 0.02 s"
        assert record.error is not None
        assert record.error["type"] == "TimeoutError"
        assert 0.02 <= record.active_s < 5


async def test_queue_timeout_ends_a_run_that_found_no_place(tmp_path: Path) -> None:
    made = [task("t", step("a", forever)), task("q", step("b", noted([], "b")), queue_timeout=0.01)]
    async with opened(tmp_path, *made, lanes={"main": 1}) as kit:
        await running(kit)
        record = await kit.run("q")
        assert (record.state, record.started_at) == ("timed_out", None)


async def test_cancel_of_a_queued_run_is_final_at_once(tmp_path: Path) -> None:
    log: list[str] = []
    made = [task("t", step("a", forever)), task("q", step("b", noted(log, "b")), finally_=[step("f", noted(log, "f"))])]
    async with opened(tmp_path, *made, lanes={"main": 1}) as kit:
        await running(kit)
        queued = await kit.begin("q")
        assert await kit.engine.cancel(queued.cid, "not needed") == "cancelled"
        record = await kit.ended(queued)
        assert (record.state, record.reason, log) == ("cancelled", "not needed", [])
        assert kit.engine.queue_list() == []
