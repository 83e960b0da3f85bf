"""Runs that wait: without a place, over pauses, restarts and crashes, for times and for answers.

What a crash leaves is a copy of the database at that moment.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, quiet, step, task, turns, until
from tests.engine.test_stop_at_every_turn import TOO_MANY, Bodies, accepted, works
from tests.fakes.invariants import check_history, check_idle, record_of
from tests.fakes.kernel import copy_of, forever, noting

from aura.errors import RequestError, WaitFor
from aura.lifecycle import FINAL, Recovery, RunState, Stop
from aura.plan import Semaphore
from aura.runs.liverun import LiveRun
from aura.stores.memory import MemoryBackend
from aura.testing.virtual_time import VirtualClock
from aura.wait import Wait, WaitKind


async def naps() -> None:
    raise WaitFor(Wait(WaitKind.SLEEP, 60.0))


async def asks() -> None:
    raise WaitFor(Wait(WaitKind.APPROVAL, message="May it go on?"))


async def asks_for_a_while() -> None:
    raise WaitFor(Wait(WaitKind.APPROVAL, 60.0, message="May it go on?"))


async def fails() -> None:
    raise OSError("no")


async def waiting(kit: Opened, **keys: Any) -> LiveRun:
    """A run of the task ``t`` that waits, on record."""
    run = await kit.begin_run("t", **keys)
    await until(lambda: run.state is RunState.WAITING)
    await quiet()
    return run


async def answer(kit: Opened, run: LiveRun, step: str = "a", approved: bool = True, index: int | None = None) -> None:
    _, ticket = kit.engine.waits.answer(run.cid, step, index, approved, {}, "somebody")
    await ticket.wait()


def waits_on_record(kit: Opened) -> list[tuple[str, int, str]]:
    return kit.backend.execute("SELECT step, idx, kind FROM wait ORDER BY step, idx").fetchall()


# -- its place


async def test_waiting_run_holds_no_place(tmp_path: Path) -> None:
    log: list[str] = []
    tasks = task("t", step("a", naps), step("b", noting(log, "b"), ("a",))), task("u", step("u", noting(log, "u")))
    async with opened(tmp_path, *tasks, lanes={"main": 1}) as kit:
        run = await waiting(kit)
        assert not run.placed
        assert (await kit.record("u")).state == "succeeded"
        assert log == ["u"]
        assert (await kit.ended(run)).state == "succeeded"
        assert log == ["u", "b"]
        assert waits_on_record(kit) == []


async def test_one_that_was_woken_goes_before_those_that_came_later(tmp_path: Path) -> None:
    log: list[str] = []
    tasks = task("t", step("a", naps), step("b", noting(log, "t"), ("a",))), task("u", step("u", noting(log, "u")))
    async with opened(tmp_path, *tasks, task("long", step("l", forever)), lanes={"main": 1}) as kit:
        run = await waiting(kit)
        long, later = await kit.begin_run("long"), await kit.begin_run("u")
        await kit.advance(61)
        assert (run.state, run.waits, long.state) == ("waiting", True, "running")
        kit.stop(long, Stop.CANCEL)
        await kit.ended(run)
        await kit.ended(later)
        assert log == ["t", "u"]


async def test_run_with_something_that_runs_keeps_its_place(tmp_path: Path) -> None:
    async def half_an_hour() -> None:
        await anyio.sleep(1800)

    async with opened(tmp_path, task("t", step("a", naps), step("b", half_an_hour))) as kit:
        run = await kit.begin_run("t")
        await kit.advance(30)
        assert (run.state, (await kit.steps(run))["a"].state) == ("running", "waiting")
        await kit.advance(31)
        assert (run.state, (await kit.steps(run))["a"].state) == ("running", "succeeded")
        assert (await kit.ended(run)).state == "succeeded"


async def test_run_becomes_waiting_when_the_last_that_runs_has_ended(tmp_path: Path) -> None:
    async def a_while() -> None:
        await anyio.sleep(20)

    async with opened(tmp_path, task("t", step("a", naps), step("b", a_while))) as kit:
        run = await kit.begin_run("t")
        await kit.advance(10)
        assert run.state == "running"
        await kit.advance(11)
        assert run.state == "waiting"
        assert (await kit.ended(run)).finished_at == pytest.approx(run.accepted.accepted_at + 60, abs=0.1)


async def test_resources_and_slots_are_kept(tmp_path: Path) -> None:
    log: list[str] = []
    other = task("u", step("u", noting(log, "u")), resources={"screen": 1})
    made = task("t", step("a", naps), step("b", noting(log, "t"), ("a",)), resources={"screen": 1})
    async with opened(tmp_path, made, other, resources={"screen": Semaphore(1)}) as kit:
        await waiting(kit)
        later = await kit.begin_run("u")
        await kit.advance(30)
        assert (later.state, log) == ("queued", [])
        await kit.ended(later)
        assert log == ["t", "u"]
        check_idle(kit)


async def test_paused_one_gives_its_resources_back(tmp_path: Path) -> None:
    other = task("u", step("u", works_now), resources={"screen": 1})
    made = task("t", step("a", naps), resources={"screen": 1})
    async with opened(tmp_path, made, other, resources={"screen": Semaphore(1)}) as kit:
        run = await waiting(kit)
        await kit.engine.pause(run.cid)
        assert (await kit.record("u")).state == "succeeded"
        await kit.engine.resume(run.cid)
        assert (await kit.ended(run)).state == "succeeded"
        check_idle(kit)


async def works_now() -> None:
    return


# -- what counts while it waits


async def test_its_own_time_out_rests(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", naps), step("b", forever, ("a",)), timeout=10.0)) as kit:
        run = await waiting(kit)
        record = await kit.ended(run)
        assert record.state == "timed_out"
        assert record.finished_at is not None
        assert record.finished_at - run.accepted.accepted_at == pytest.approx(70, abs=1)


@pytest.mark.parametrize(
    ("action", "timeout", "state", "kind"),
    [(asks_for_a_while, None, "failed", "TimeoutError"), (asks, 30.0, "timed_out", "TimeoutError"),
     (naps, 30.0, "timed_out", "TimeoutError"), (naps, 90.0, "succeeded", None)],
    ids=["the wait's own", "the step's", "the step's before a sleep is over", "a sleep within the step's"],
)  # fmt: skip
async def test_time_outs_of_a_wait(
    tmp_path: Path, action: Any, timeout: float | None, state: str, kind: str | None
) -> None:
    async with opened(tmp_path, task("t", step("a", action, timeout=timeout))) as kit:
        run = await waiting(kit)
        await kit.ended(run)
        found = (await kit.steps(run))["a"]
        assert (found.state, (found.error or {}).get("type")) == (state, kind)


async def test_wait_that_timed_out_is_tried_again(tmp_path: Path) -> None:
    made = step("a", asks_for_a_while, retry={"attempts": 3, "delay": 5.0})
    async with opened(tmp_path, task("t", made)) as kit:
        run = await waiting(kit)
        await kit.advance(100)
        await answer(kit, run)
        assert (await kit.ended(run)).state == "succeeded"
        assert (await kit.steps(run))["a"].attempt == 2
        names = await kit.history(run.cid)
        assert names.count("step.retrying a") == 1
        assert names.count("approval.requested a") == 2


# -- answers


async def test_answer_is_the_output(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", asks), returns="{{ steps.a.output }}")) as kit:
        run = await waiting(kit)
        await answer(kit, run, approved=False)
        result = (await kit.ended(run)).result
        assert (result["approved"], result["by"], result["values"]) == (False, "somebody", {})
        assert "approval.answered a" in await kit.history(run.cid)


@pytest.mark.parametrize("again", ["in its turn", "before its commit", "after it", "at the end"])
async def test_second_answer_is_refused(tmp_path: Path, again: str) -> None:
    async with opened(tmp_path, task("t", step("a", asks), step("b", works_now, ("a",)))) as kit:
        run = await waiting(kit)
        _, ticket = kit.engine.waits.answer(run.cid, "a", None, True, {}, "first")
        if again == "before its commit":
            await turns(1)
        elif again == "after it":
            await ticket.wait()
        elif again == "at the end":
            await kit.ended(run)
        with pytest.raises(RequestError) as refused:
            kit.engine.waits.answer(run.cid, "a", None, False, {}, "second")
        assert refused.value.code in ("answered", "not_waiting", "unknown_run")
        await kit.ended(run)
        assert (await kit.steps(run))["a"].output["by"] == "first"


async def test_answer_that_was_lost_may_be_given_again(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", asks))) as kit:
        run = await waiting(kit)
        kit.backend.execute("CREATE TRIGGER no BEFORE UPDATE ON wait BEGIN SELECT RAISE(ABORT, 'no'); END")
        with pytest.raises(Exception, match="no"):
            await answer(kit, run)
        assert run.state == "waiting"
        kit.backend.execute("DROP TRIGGER no")
        await answer(kit, run)
        assert (await kit.ended(run)).state == "succeeded"
        kit.engine.runtime.faults.clear()  # the lost change is one


@pytest.mark.parametrize(("step_name", "index"), [("b", None), ("a", 0), ("zz", None)])
async def test_answer_to_what_does_not_wait_is_refused(tmp_path: Path, step_name: str, index: int | None) -> None:
    async with opened(tmp_path, task("t", step("a", asks), step("b", naps))) as kit:
        run = await waiting(kit)
        with pytest.raises(RequestError, match="what waits for one: a") as refused:
            kit.engine.waits.answer(run.cid, step_name, index, True, {}, "somebody")
        assert refused.value.code == "not_waiting"


async def test_items_wait_each_for_themselves(tmp_path: Path) -> None:
    loop = {"for_each": ["x", "y", "z"], "parallelism": 2}
    async with opened(tmp_path, task("t", step("a", asks, loop=loop), returns="{{ steps.a.output }}")) as kit:
        run = await waiting(kit)
        assert waits_on_record(kit) == [("a", 0, "approval"), ("a", 1, "approval")]
        await answer(kit, run, index=1)
        await until(lambda: "a[2]" in run.open_waits and run.state is RunState.WAITING)
        await answer(kit, run, index=2, approved=False)
        await answer(kit, run, index=0)
        assert [one["approved"] for one in (await kit.ended(run)).result] == [True, True, False]


# -- stops


@pytest.mark.parametrize("recovery", list(Recovery), ids=str)
async def test_shutdown_leaves_it_as_it_is(tmp_path: Path, recovery: Recovery) -> None:
    log: list[str] = []
    steps = step("a", naps), step("b", noting(log, "b"), ("a",))
    async with opened(tmp_path, task("t", *steps, recovery=recovery, on_preempt=[step("p", noting(log, "p"))])) as kit:
        run = await waiting(kit)
        await kit.engine.stop("cancel", 1.0)
        assert run.state == "waiting"
        await kit.advance(90)
        await kit.engine.start()
        assert ((await kit.ended(run)).state, log) == ("succeeded", ["b"])


async def test_cancel_runs_the_handlers(tmp_path: Path) -> None:
    log: list[str] = []
    handlers = {name: [step(name, noting(log, name))] for name in ("on_cancel", "finally_")}
    async with opened(tmp_path, task("t", step("a", asks), **handlers)) as kit:
        run = await waiting(kit)
        assert await kit.engine.cancel(run.cid) == "stopping"
        assert (await kit.ended(run)).state == "cancelled"
        assert log == ["on_cancel", "finally_"]
        assert (await kit.steps(run))["a"].state == "cancelled"
        assert waits_on_record(kit) == []


async def test_cancel_without_handlers_is_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", asks))) as kit:
        run = await waiting(kit)
        assert await kit.engine.cancel(run.cid) == "cancelled"
        assert waits_on_record(kit) == []
        assert not kit.engine.waits.shown(run)


async def test_what_comes_while_it_is_paused_is_kept(tmp_path: Path) -> None:
    log: list[str] = []
    resumed = {"on_resume": [step("r", noting(log, "r"))]}
    async with opened(tmp_path, task("t", step("a", asks), step("b", noting(log, "b"), ("a",)), **resumed)) as kit:
        run = await waiting(kit)
        await kit.engine.pause(run.cid)
        await answer(kit, run)
        await kit.advance(60)
        assert (run.state, log) == ("preempted", [])
        await kit.engine.resume(run.cid)
        assert ((await kit.ended(run)).state, log) == ("succeeded", ["r", "b"])


async def test_resumed_one_waits_on(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", asks))) as kit:
        run = await waiting(kit)
        await kit.engine.pause(run.cid)
        await kit.engine.resume(run.cid)
        await until(lambda: run.state is RunState.WAITING)
        await answer(kit, run)
        assert (await kit.ended(run)).state == "succeeded"
        assert (await kit.steps(run))["a"].attempt == 1


async def test_on_resume_does_not_run_after_a_plain_wait(tmp_path: Path) -> None:
    log: list[str] = []
    handlers = {"on_resume": [step("r", noting(log, "r"))], "on_preempt": [step("p", noting(log, "p"))]}
    async with opened(tmp_path, task("t", step("a", naps), **handlers)) as kit:
        assert ((await kit.record("t")).state, log) == ("succeeded", [])


async def test_pause_of_what_runs_beside_a_wait_leaves_the_wait(tmp_path: Path) -> None:
    began: list[int] = []

    async def first_for_long() -> None:
        began.append(1)
        await anyio.sleep(3600 if len(began) == 1 else 0)

    async with opened(tmp_path, task("t", step("a", asks), step("b", first_for_long))) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.open_waits and "b" in run.live)
        await kit.engine.pause(run.cid)
        await until(lambda: run.state is RunState.PREEMPTED)
        assert (await kit.steps(run))["a"].state == "waiting"
        await kit.engine.resume(run.cid)
        await until(lambda: run.state is RunState.WAITING)
        await answer(kit, run)
        assert (await kit.ended(run)).state == "succeeded"
        assert (await kit.history(run.cid)).count("step.started a") == 1


# -- restarts


@pytest.mark.parametrize("crash", [True, False], ids=["crash", "shutdown"])
@pytest.mark.parametrize("recovery", list(Recovery), ids=str)
async def test_waiting_run_outlives_the_server(tmp_path: Path, recovery: Recovery, crash: bool) -> None:
    backend, log = MemoryBackend(), list[str]()
    made = task(
        "t",
        step("z", noting(log, "z")),
        step("a", asks, ("z",)),
        step("b", noting(log, "b"), ("a",)),
        recovery=recovery,
    )
    async with opened(tmp_path, made, backend=backend) as kit:
        run = await waiting(kit)
        left = copy_of(backend)
    left = left if crash else MemoryBackend(backend.connection)
    async with opened(tmp_path, made, backend=left) as kit:
        again = kit.engine.runtime.open[run.cid]
        assert (again.state, kit.engine.waits.shown(again)[0]["message"]) == ("waiting", "May it go on?")
        await answer(kit, again)
        assert (await kit.ended(run.cid)).state == "succeeded"
        assert log == ["z", "b"]
        check_history(kit.backend.execute, run.seq, "succeeded")


async def test_answer_that_was_given_before_a_crash_counts(tmp_path: Path) -> None:
    backend, log = MemoryBackend(), list[str]()
    made = task("t", step("a", asks), step("b", noting(log, "b"), ("a",)))
    async with opened(tmp_path, made, backend=backend, lanes={"main": 1}) as kit:
        run = await waiting(kit)
        kit.engine.dispatcher.request_stop()  # so that it does not go on before the crash
        await quiet()
        await answer(kit, run)
        left = copy_of(backend)
        kit.engine.dispatcher.allow()
    assert record_state(left, run) == "waiting"
    log.clear()
    async with opened(tmp_path, made, backend=left) as kit:
        assert ((await kit.ended(run.cid)).state, log) == ("succeeded", ["b"])


def record_state(backend: MemoryBackend, run: LiveRun) -> str:
    return str(backend.execute("SELECT state FROM run WHERE seq=?", (run.seq,)).fetchone()[0])


async def test_time_that_is_over_while_the_server_is_down_wakes_it(tmp_path: Path) -> None:
    backend = MemoryBackend()
    made = task("t", step("a", naps), step("q", asks_for_a_while, continue_on_failure=True))
    async with opened(tmp_path, made, backend=backend) as kit:
        run = await waiting(kit)
        left = copy_of(backend)
    left.execute("UPDATE wait SET until = until - 3600")
    async with opened(tmp_path, made, backend=left) as kit:
        began = anyio.current_time()
        assert (await kit.ended(run.cid)).state == "succeeded"
        assert anyio.current_time() - began < 1
        steps = await kit.steps(run)
        assert (steps["a"].state, steps["q"].state) == ("succeeded", "failed")


@pytest.mark.parametrize("loop", [None, {"for_each": [1, 2, 3], "parallelism": 2}], ids=["step", "items"])
async def test_long_back_off_outlives_the_server_with_its_tries(tmp_path: Path, loop: Any) -> None:
    backend = MemoryBackend()
    keys = {"loop": loop} if loop else {}
    made = task("t", step("a", fails, retry={"attempts": 2, "delay": 3600.0}, **keys))
    async with opened(tmp_path, made, backend=backend) as kit:
        run = await waiting(kit)
        await kit.advance(600)
        left = copy_of(backend)
    async with opened(tmp_path, made, backend=left) as kit:
        again = kit.engine.runtime.open[run.cid]
        waits = [one.until for one in again.open_waits.values()]
        assert waits == [pytest.approx(run.accepted.accepted_at + 3600, abs=1)] * (2 if loop else 1)
        record = await kit.ended(run.cid)
        assert (record.state, (record.error or {})["message"]) == ("failed", "no")
        if not loop:
            assert (await kit.steps(run))["a"].attempt == 2


async def test_rest_between_rounds_outlives_the_server(tmp_path: Path) -> None:
    backend, began = MemoryBackend(), list[float]()

    async def act() -> None:
        began.append(len(began))

    made = task("t", step("a", act, loop={"while_": "{{ loop.index < 3 }}", "delay": 3600.0}))
    async with opened(tmp_path, made, backend=backend) as kit:
        run = await waiting(kit)
        left = copy_of(backend)
    del began[1:]
    async with opened(tmp_path, made, backend=left) as kit:
        until_first = [one.until for one in kit.engine.runtime.open[run.cid].open_waits.values()]
        assert until_first == [pytest.approx(run.accepted.accepted_at + 3600, abs=1)]
        assert (await kit.ended(run.cid)).state == "succeeded"
        assert len(began) == 3


async def test_on_resume_runs_after_a_crash(tmp_path: Path) -> None:
    backend, log = MemoryBackend(), list[str]()
    made = task("t", step("a", asks), step("b", noting(log, "b"), ("a",)), on_resume=[step("r", noting(log, "r"))])
    async with opened(tmp_path, made, backend=backend) as kit:
        run = await waiting(kit)
        left = copy_of(backend)
    log.clear()
    async with opened(tmp_path, made, backend=left) as kit:
        await answer(kit, kit.engine.runtime.open[run.cid])
        await kit.ended(run.cid)
        assert log == ["r", "b"]


async def test_restarted_server_keeps_the_resources_of_what_waits(tmp_path: Path) -> None:
    backend, log = MemoryBackend(), list[str]()
    made = task("t", step("a", asks), resources={"screen": 1})
    other = task("u", step("u", noting(log, "u")), resources={"screen": 1})
    async with opened(tmp_path, made, other, backend=backend, resources={"screen": Semaphore(1)}) as kit:
        run = await waiting(kit)
        left = copy_of(backend)
    async with opened(tmp_path, made, other, backend=left, resources={"screen": Semaphore(1)}) as kit:
        later = await kit.begin_run("u")
        await kit.advance(60)
        assert (later.state, log) == ("queued", [])
        await answer(kit, kit.engine.runtime.open[run.cid])
        await kit.ended(later)
        check_idle(kit)


# -- a crash at every turn


async def turns_that_commit(folder: Path, made: Any) -> list[int]:
    """The turns of the loop, from the acceptance of a run on, behind which more is on record than before."""
    backend = MemoryBackend()
    async with opened(folder, made, backend=backend) as kit:
        accepted(kit)
        changes = []
        for _ in range(TOO_MANY):
            changes.append(backend.connection.total_changes)
            await turns(1)
    return [turn for turn, count in enumerate(changes) if count != changes[max(turn - 1, 0)]]


async def test_crash_at_every_turn_of_a_wait(tmp_path: Path) -> None:
    """Whatever turn it comes in: what was waiting on record waits again, and nothing behind the wait is done twice.

    A crash leaves what is on record, so of the turns that leave the same one is lived through.
    """
    seen = set()
    for turn in await turns_that_commit(tmp_path, task("t", step("a", naps), Bodies().step("b", works, "a"))):
        bodies, backend = Bodies(), MemoryBackend()
        made = task("t", step("a", naps), bodies.step("b", works, "a"))
        async with opened(tmp_path, made, backend=backend) as kit:
            run = accepted(kit)
            await turns(turn)
            left = copy_of(backend)
        (found,) = left.execute("SELECT state FROM run").fetchone()
        seen.add(found)
        bodies.began.clear()
        async with opened(tmp_path, made, backend=left) as kit:
            if run.cid in kit.engine.runtime.open:
                await kit.ended(run.cid)
            state = record_of(kit, run).state
            assert state in ("succeeded", "crashed"), turn
            assert found not in ("waiting", "queued") or state == "succeeded", turn
            assert found != "waiting" or bodies.began["b"] == 1, turn
            check_idle(kit)
    assert seen >= {"running", "waiting"}


@pytest.mark.parametrize("first", ["cancel", "pause"])
async def test_stop_at_every_turn_round_the_end_of_a_wait(tmp_path: Path, first: str) -> None:
    for turn in range(40):
        bodies = Bodies()
        made = task("t", step("a", asks), bodies.step("b", works, "a"), finally_=[bodies.step("z", works)])
        async with opened(tmp_path, made) as kit:
            run = await waiting(kit)
            kit.engine.waits.answer(run.cid, "a", None, True, {}, "somebody")
            await turns(turn)
            if run.sealed:
                break
            if first == "cancel":
                await kit.engine.cancel(run.cid)
            else:
                with suppress(RequestError):  # it may have ended by then
                    await kit.engine.pause(run.cid)
                    await until(lambda: run.state in {RunState.PREEMPTED, *FINAL})  # noqa: B023
                    await kit.engine.resume(run.cid)
            state = (await kit.ended(run)).state
            assert state == "succeeded" or first == "cancel", turn
            assert (bodies.began["z"], waits_on_record(kit)) == (1, []), turn
            assert bodies.began["b"] <= 1 + (first == "pause"), turn
            check_history(kit.backend.execute, run.seq, state)
            check_idle(kit)
    else:
        raise AssertionError("the run never ended")


@pytest.mark.parametrize("seconds", [365 * 86400.0, -365 * 86400.0], ids=["on", "back"])
async def test_clock_that_jumps_makes_no_sleep_shorter_or_longer(tmp_path: Path, seconds: float) -> None:
    async with opened(tmp_path, task("t", step("a", naps))) as kit:
        run, began = await waiting(kit), anyio.current_time()
        clock = kit.engine.clock
        assert isinstance(clock, VirtualClock)
        clock._offset += seconds
        assert (await kit.ended(run)).state == "succeeded"
        assert anyio.current_time() - began == pytest.approx(60, abs=0.1)
