"""Stops of a tree: whatever stops a parent stops what runs in its place, which is gone first, or rests with it."""

import asyncio
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, quiet, step, task, turns, until
from tests.engine.test_children import child_of, runs
from tests.engine.test_stop_at_every_turn import TOO_MANY, accepted, stop_in
from tests.fakes.invariants import check_history, check_idle
from tests.fakes.kernel import cleaning, copy_of, first_time_forever, forever, no_hang, noting, swallowing, works

from aura.context import Context
from aura.errors import EndRun, RequestError
from aura.lifecycle import FINAL, Recovery, RunState, Stop
from aura.runs.liverun import LiveRun
from aura.stores.memory import MemoryBackend


def tidying(log: list[str], name: str) -> dict[str, Any]:
    """A task's ``finally``, which says when it ran."""
    return {"finally_": [step(f"tidy_{name}", noting(log, name))]}


@pytest.mark.parametrize(
    ("kind", "state", "reason"),
    [
        (Stop.CANCEL, "cancelled", "its parent was cancelled"),
        (Stop.TIMEOUT, "timed_out", "its parent timed out"),
        (Stop.SHUTDOWN, "cancelled", "shutdown"),
    ],
    ids=["cancel", "timeout", "shutdown"],
)
async def test_stop_of_the_parent_ends_the_tree_from_below(tmp_path: Path, kind: Stop, state: str, reason: str) -> None:
    log: list[str] = []
    made = [
        task("t", step("a", runs("c")), **tidying(log, "t")),
        task("c", step("b", runs("d")), **tidying(log, "c")),
        task("d", step("x", forever), **tidying(log, "d")),
    ]
    async with opened(tmp_path, *made) as kit:
        run = await kit.begin_run("t")
        await until(lambda: len(kit.engine.dispatcher.in_place) == 2 and kit.runs("d"))
        await quiet()
        kit.stop(run, kind, 5.0)
        assert {below.state for below in kit.engine.dispatcher.in_place} == {RunState.STOPPING}
        assert (await kit.ended(run)).state == state
        assert log == ["d", "c", "t"]
        assert [(r.state, r.record.reason) for r in (*kit.runs("c"), *kit.runs("d"))] == [
            ("cancelled", reason),
            ("cancelled", reason if kind is Stop.SHUTDOWN else "its parent was cancelled"),
        ]
        check_idle(kit)


async def test_time_out_of_the_step_ends_its_sub_task(tmp_path: Path) -> None:
    log: list[str] = []
    parent = task("t", step("a", runs("c"), timeout=2.0))
    async with opened(tmp_path, parent, task("c", step("x", forever), **tidying(log, "c"))) as kit:
        record = await kit.record("t")
        assert record.error is not None
        assert (record.state, record.error["type"], log) == ("failed", "TimeoutError", ["c"])
        child = kit.runs("c")[0].record
        assert (child.state, child.reason) == ("cancelled", "its parent's step took too long")


async def test_sub_task_ends_with_a_run_that_was_ended_early(tmp_path: Path) -> None:
    async def ends() -> None:
        await anyio.sleep(1)
        raise EndRun(7)

    parent = task("t", step("a", runs("c")), step("e", ends))
    async with opened(tmp_path, parent, task("c", step("x", forever))) as kit:
        record = await kit.record("t")
        assert (record.state, record.result) == ("succeeded", 7)
        assert (kit.runs("c")[0].state, kit.runs("c")[0].record.reason) == ("cancelled", "its parent has ended")


async def test_handlers_of_a_sub_task_have_less_time_than_its_parent_leaves(tmp_path: Path) -> None:
    """What a sub-task's clean-up may take ends before its parent's attempt has to: nobody is stuck."""
    child = task("c", step("x", forever), finally_=[step("f", forever)], cleanup_timeout=60.0)
    log: list[str] = []
    parent = task("t", step("a", runs("c")), cleanup_timeout=5.0, **tidying(log, "t"))
    async with opened(tmp_path, parent, child) as kit:
        run = await kit.begin_run("t")
        below = await child_of(kit, run)
        began = anyio.current_time()
        kit.stop(run, Stop.CANCEL)
        record = await kit.ended(run)
        assert (record.state, record.stuck, log) == ("cancelled", False, ["t"])
        assert 3.0 < anyio.current_time() - began < 5.0
        ended = kit.runs("c")[0].record
        assert ended.cleanup_error is not None
        assert (ended.cleanup_error["step"], below.stuck) == ("f", False)


async def test_second_stop_shortens_what_the_tree_may_take(tmp_path: Path) -> None:
    log: list[str] = []
    child = task("c", step("x", cleaning(log, anyio.Event())), cleanup_timeout=60.0)
    async with opened(tmp_path, task("t", step("a", runs("c")), cleanup_timeout=50.0), child, faults=0) as kit:
        run = await kit.begin_run("t")
        below = await child_of(kit, run)
        kit.stop(run, Stop.TIMEOUT)
        [attempt] = below.live.values()
        assert 45 < attempt.deadline - anyio.current_time() < 50
        kit.stop(run, Stop.CANCEL, 2.0)
        assert attempt.deadline - anyio.current_time() < 2.0
        assert (below.stop, below.reason) == (Stop.CANCEL, "its parent timed out")
        with no_hang(3.0):
            await kit.ended(run)


async def test_sub_task_of_a_handler_is_not_cut_by_a_stop(tmp_path: Path) -> None:
    log: list[str] = []

    async def slow() -> None:
        await anyio.sleep(3)
        log.append("slept")

    parent = task("t", step("a", works), finally_=[step("f", runs("c"))])
    async with opened(tmp_path, parent, task("c", step("x", slow))) as kit:
        run = await kit.begin_run("t")
        await child_of(kit, run)
        kit.stop(run, Stop.CANCEL)
        assert ((await kit.ended(run)).state, log) == ("succeeded", ["slept"])
        assert kit.runs("c")[0].state == "succeeded"


async def test_sub_task_of_a_handler_ends_within_the_grace_of_a_shutdown(tmp_path: Path) -> None:
    parent = task("t", step("a", works), finally_=[step("f", runs("c"))], cleanup_timeout=60.0)
    async with opened(tmp_path, parent, task("c", step("x", forever))) as kit:
        run = await kit.begin_run("t")
        await child_of(kit, run)
        with no_hang(6.0):
            kit.stop(run, Stop.SHUTDOWN, 5.0)
            record = await kit.ended(run)
        assert (record.state, record.stuck, kit.runs("c")[0].state) == ("succeeded", False, "cancelled")


async def test_plain_function_that_waits_for_a_sub_task_is_stopped(tmp_path: Path) -> None:
    caught: list[Exception] = []

    def act(ctx: Context) -> Any:
        try:
            return ctx.from_thread(ctx.run, "c")
        except Exception as error:  # a stop is none that such code may take for a failure
            caught.append(error)

    async with opened(tmp_path, task("t", step("a", act)), task("c", step("x", forever))) as kit:
        run = await kit.begin_run("t")
        await child_of(kit, run)
        kit.stop(run, Stop.CANCEL)
        record = await kit.ended(run)
        assert (record.state, record.cleanup_error, kit.runs("c")[0].state) == ("cancelled", None, "cancelled")
        assert caught == []


async def test_attempt_that_is_told_to_stop_begins_no_sub_task(tmp_path: Path) -> None:
    async def act(ctx: Context) -> None:
        try:
            await anyio.sleep(3600)
        finally:
            await ctx.run("c")

    async with opened(tmp_path, task("t", step("a", act)), task("c", step("x", works))) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.live)
        await quiet()
        kit.stop(run, Stop.CANCEL)
        record = await kit.ended(run)
        assert (record.state, record.cleanup_error, kit.runs("c")) == ("cancelled", None, [])


async def test_cancel_of_a_parent_that_rests_and_has_no_handlers_ends_what_is_below(tmp_path: Path) -> None:
    log: list[str] = []
    made = [task("t", step("a", runs("c"))), task("c", step("x", forever), **tidying(log, "c"))]
    async with opened(tmp_path, *made) as kit:
        run = await kit.begin_run("t")
        await child_of(kit, run)
        await rests(kit, run)
        assert await kit.engine.cancel(run.cid) == "stopping"
        assert (await kit.ended(run)).state == "cancelled"
        assert (kit.runs("c")[0].state, log) == ("cancelled", ["c"])
        check_idle(kit)


# -- pause and resume


async def rests(kit: Opened, run: LiveRun) -> None:
    """Pause a run and wait until its whole tree rests."""
    await kit.engine.pause(run.cid)
    await until(lambda: run.state is RunState.PREEMPTED)
    await quiet()


async def test_pause_rests_the_tree_and_a_resume_goes_on_with_the_same(tmp_path: Path) -> None:
    tries: list[int] = []
    made = [
        task("t", step("a", runs("c")), returns="{{ steps.a.output }}"),
        task("c", step("one", works), step("b", runs("d"), ("one",)), returns="{{ steps.b.output }}"),
        task("d", step("x", first_time_forever(tries)), returns="{{ 9 }}"),
    ]
    async with opened(tmp_path, *made) as kit:
        run = await kit.begin_run("t")
        await until(lambda: tries)
        await rests(kit, run)
        for below in (*kit.runs("c"), *kit.runs("d")):
            assert (below.state, below.record.reason) == ("preempted", "its parent rests")
            assert below.live is not None
            assert (below.live.waits, below.live.placed) == (False, False)
        assert not kit.engine.dispatcher.in_place
        await kit.engine.resume(run.cid)
        record = await kit.ended(run)
        assert (record.state, record.result, len(tries)) == ("succeeded", 9, 2)
        assert (len(kit.runs("c")), len(kit.runs("d"))) == (1, 1)
        assert (await kit.history(kit.runs("c")[0].cid)).count("step.started one") == 1
        check_idle(kit)


async def test_sub_task_that_ended_while_its_parent_stopped_does_not_run_again(tmp_path: Path) -> None:
    began: list[int] = []

    async def finishes() -> str:
        began.append(1)
        try:
            await anyio.sleep(3600)
        except asyncio.CancelledError:
            return "done all the same"
        raise AssertionError

    parent = task("t", step("a", runs("c")), returns="{{ steps.a.output }}")
    async with opened(tmp_path, parent, task("c", step("x", finishes), returns="{{ steps.x.output }}")) as kit:
        run = await kit.begin_run("t")
        await child_of(kit, run)
        await rests(kit, run)
        assert kit.runs("c")[0].state == "succeeded"
        await kit.engine.resume(run.cid)
        assert (await kit.ended(run)).result == "done all the same"
        assert (len(began), len(kit.runs("c"))) == (1, 1)


async def test_calls_before_the_one_that_was_stopped_keep_their_results(tmp_path: Path) -> None:
    tries: list[int] = []
    began: list[int] = []

    async def twice(ctx: Context) -> list[Any]:
        return [await ctx.run("c"), await ctx.run("d")]

    async def counts() -> int:
        began.append(1)
        return len(began)

    made = [
        task("t", step("a", twice), returns="{{ steps.a.output }}"),
        task("c", step("x", counts), returns="{{ steps.x.output }}"),
        task("d", step("y", first_time_forever(tries)), returns="{{ 2 }}"),
    ]
    async with opened(tmp_path, *made) as kit:
        run = await kit.begin_run("t")
        await until(lambda: tries)
        await rests(kit, run)
        await kit.engine.resume(run.cid)
        assert (await kit.ended(run)).result == [1, 2]
        assert (len(began), len(tries), len(kit.runs("c")), len(kit.runs("d"))) == (1, 2, 1, 1)


async def test_try_after_a_pause_has_sub_tasks_of_its_own(tmp_path: Path) -> None:
    """A pause takes up no try, and a new try makes a new run: one that failed is not taken for its answer."""
    tries: list[int] = []

    async def act() -> None:
        tries.append(1)
        if len(tries) == 1:
            await anyio.sleep(3600)
        if len(tries) == 2:
            raise OSError("no")

    parent = task("t", step("a", runs("c"), retry={"attempts": 2}))
    async with opened(tmp_path, parent, task("c", step("x", act))) as kit:
        run = await kit.begin_run("t")
        await until(lambda: tries)
        await rests(kit, run)
        await kit.engine.resume(run.cid)
        assert (await kit.ended(run)).state == "succeeded"
        assert [below.state for below in kit.runs("c")] == ["failed", "succeeded"]


async def test_cancel_of_a_tree_that_rests_cleans_up_from_below(tmp_path: Path) -> None:
    log: list[str] = []
    made = [
        task("t", step("a", runs("c")), **tidying(log, "t")),
        task("c", step("b", runs("d")), **tidying(log, "c")),
        task("d", step("x", forever), **tidying(log, "d")),
    ]
    async with opened(tmp_path, *made) as kit:
        run = await kit.begin_run("t")
        await until(lambda: len(kit.engine.dispatcher.in_place) == 2)
        await quiet()
        await rests(kit, run)
        assert await kit.engine.cancel(run.cid) == "stopping"
        assert (await kit.ended(run)).state == "cancelled"
        assert log == ["d", "c", "t"]
        assert {below.state for below in kit.runs()} == {"cancelled"}
        check_idle(kit)


async def test_sub_task_that_is_cancelled_while_it_rests_fails_the_step_at_the_resume(tmp_path: Path) -> None:
    log: list[str] = []
    async with opened(
        tmp_path, task("t", step("a", runs("c"))), task("c", step("x", forever), **tidying(log, "c"))
    ) as kit:
        run = await kit.begin_run("t")
        below = await child_of(kit, run)
        await rests(kit, run)
        assert await kit.engine.cancel(below.cid, "not needed") == "stopping"
        await kit.ended(below)
        assert (log, run.state) == (["c"], "preempted")
        await kit.engine.resume(run.cid)
        error = (await kit.ended(run)).error
        assert error is not None
        assert error["cause"] == {"cid": below.cid, "type": "cancelled", "message": "not needed"}
        check_idle(kit)


async def test_sub_task_that_nobody_asks_for_again_is_cancelled(tmp_path: Path) -> None:
    log: list[str] = []
    starts: list[int] = []

    async def first_time(ctx: Context) -> str:
        starts.append(1)
        return await ctx.run("c") if len(starts) == 1 else "without it"

    async with opened(
        tmp_path, task("t", step("a", first_time)), task("c", step("x", forever), **tidying(log, "c"))
    ) as kit:
        run = await kit.begin_run("t")
        await child_of(kit, run)
        await rests(kit, run)
        await kit.engine.resume(run.cid)
        assert (await kit.ended(run)).state == "succeeded"
        assert (kit.runs("c")[0].state, kit.runs("c")[0].record.reason) == ("cancelled", "its parent has ended")
        assert log == ["c"]
        check_idle(kit)


async def test_cancel_while_the_tree_is_about_to_rest_ends_it(tmp_path: Path) -> None:
    gate = anyio.Event()
    log: list[str] = []
    async with opened(
        tmp_path, task("t", step("a", runs("c"))), task("c", step("x", cleaning(log, gate)), **tidying(log, "c"))
    ) as kit:
        run = await kit.begin_run("t")
        below = await child_of(kit, run)
        kit.engine.pausing.request_pause(run)
        assert (below.stop, below.held) == (Stop.INTERRUPT, "its parent rests")
        kit.stop(run, Stop.CANCEL)
        assert (below.stop, below.held) == (Stop.CANCEL, None)
        gate.set()
        assert (await kit.ended(run)).state == "cancelled"
        assert (kit.runs("c")[0].state, log) == ("cancelled", ["clean", "c"])


async def test_handler_of_each_pause_makes_a_call_of_its_own(tmp_path: Path) -> None:
    tries: list[int] = []
    made = [
        task("t", step("a", first_times_forever(tries, 2)), on_preempt=[step("p", runs("c"))]),
        task("c", step("x", works)),
    ]
    async with opened(tmp_path, *made) as kit:
        run = await kit.begin_run("t")
        for pause_number in (1, 2):
            await until(lambda number=pause_number: len(tries) == number)  # type: ignore[misc]
            await quiet()
            await rests(kit, run)
            assert [below.state for below in kit.runs("c")] == ["succeeded"] * pause_number
            await kit.engine.resume(run.cid)
        assert (await kit.ended(run)).state == "succeeded"


def first_times_forever(tries: list[int], count: int) -> Any:
    async def act() -> None:
        tries.append(1)
        if len(tries) <= count:
            await anyio.sleep(3600)

    return act


async def test_sub_task_that_was_not_waited_for_any_more_answers_nothing_later(tmp_path: Path) -> None:
    tries: list[int] = []

    async def act(ctx: Context) -> str:
        tries.append(1)
        with anyio.move_on_after(5):
            return str(await ctx.run("c"))
        await anyio.sleep(3600)
        return "late"

    parent = task("t", step("a", act), returns="{{ steps.a.output }}")
    child = task("c", step("x", first_times_forever([], 1)), returns="in time")
    async with opened(tmp_path, parent, child) as kit:
        run = await kit.begin_run("t")
        await kit.advance(20)
        await rests(kit, run)
        await kit.engine.resume(run.cid)
        assert (await kit.ended(run)).result == "in time"
        assert ([below.state for below in kit.runs("c")], len(tries)) == (["cancelled", "succeeded"], 2)


async def test_server_ends_a_clean_up_beside_a_parent_that_rests(tmp_path: Path) -> None:
    child = task("c", step("x", forever), finally_=[step("f", forever)], cleanup_timeout=60.0)
    async with opened(tmp_path, task("t", step("a", runs("c"))), child, grace=3.0) as kit:
        run = await kit.begin_run("t")
        below = await child_of(kit, run)
        await rests(kit, run)
        assert await kit.engine.cancel(below.cid) == "stopping"
        await until(lambda: "f" in below.live)
    assert kit.left == []
    assert (kit.runs("c")[0].state, kit.runs("t")[0].state) == ("cancelled", "preempted")


async def test_tree_whose_code_is_gone_is_not_resumed(tmp_path: Path) -> None:
    backend = MemoryBackend()
    made = [task("t", step("a", runs("c"))), task("c", step("x", forever))]
    async with opened(tmp_path, *made, backend=backend) as kit:
        run = await kit.begin_run("t")
        await child_of(kit, run)
        await rests(kit, run)
    backend.execute("UPDATE run SET generation='g0' WHERE task_name='c'")
    async with opened(tmp_path, *made, backend=backend) as kit:
        with pytest.raises(RequestError, match="began with version g0") as refused:
            await kit.engine.resume(run.cid)
        assert (refused.value.code, kit.runs("t")[0].state) == ("conflict", "preempted")


async def test_shutdown_keeps_what_is_to_be_kept(tmp_path: Path) -> None:
    backend = MemoryBackend()
    tries: list[int] = []
    made = [
        task("t", step("a", runs("c")), recovery=Recovery.RESUME, returns="{{ steps.a.output }}"),
        task("c", step("x", first_time_forever(tries)), returns="{{ 3 }}"),
    ]
    async with opened(tmp_path, *made, backend=backend, grace=5.0) as kit:
        run = await kit.begin_run("t")
        await until(lambda: tries)
    async with opened(tmp_path, *made, backend=backend) as kit:
        record = await kit.ended(run.cid)
        assert (record.state, record.result) == ("succeeded", 3)
        assert (len(kit.runs("c")), len(tries)) == (1, 2)


async def test_parent_that_starts_over_makes_new_calls(tmp_path: Path) -> None:
    backend = MemoryBackend()
    tries: list[int] = []
    made = [
        task("t", step("a", runs("c")), recovery=Recovery.RESTART),
        task("c", step("x", first_time_forever(tries)), recovery=Recovery.RESTART),
    ]
    async with opened(tmp_path, *made, backend=backend, grace=5.0) as kit:
        run = await kit.begin_run("t")
        await until(lambda: tries)
    async with opened(tmp_path, *made, backend=backend) as kit:
        assert (await kit.ended(run.cid)).state == "succeeded"
        assert [(r.state, r.record.reason) for r in kit.runs("c")] == [("cancelled", "shutdown"), ("succeeded", None)]


# -- what hangs


async def test_sub_task_that_hangs_makes_its_parent_hang(tmp_path: Path) -> None:
    stubborn, act = swallowing()
    made = [task("t", step("a", runs("c")), cleanup_timeout=2.0), task("c", step("x", act))]
    async with opened(tmp_path, *made, lanes={"main": 1}) as kit:
        run = await kit.begin_run("t")
        below = await child_of(kit, run)
        kit.stop(run, Stop.CANCEL)
        await until(lambda: run.stuck)
        await kit.engine.runtime.store.written()
        assert below.stuck
        assert kit.engine.dispatcher.lanes["main"].stuck == {run}
        assert (await kit.engine.history.record(below.cid)).stuck
        await kit.engine.dispatcher.wait_idle()
        stubborn.free = True
        assert (await kit.ended(run)).state == "cancelled"
        assert kit.runs("c")[0].state == "cancelled"
        check_idle(kit)


async def test_sub_task_that_hangs_by_itself_makes_its_parent_hang(tmp_path: Path) -> None:
    stubborn, act = swallowing()
    made = [task("t", step("a", runs("c"))), task("c", step("x", act, timeout=1.0), cleanup_timeout=1.0)]
    async with opened(tmp_path, *made) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.stuck)
        assert (run.state, run.stop) == ("stopping", Stop.CANCEL)
        stubborn.free = True
        record = await kit.ended(run)
        assert (record.state, record.reason) == ("cancelled", "stuck")
        check_idle(kit)


async def test_hanging_tree_gets_its_record_when_the_server_ends(tmp_path: Path) -> None:
    backend = MemoryBackend()
    stubborn, act = swallowing()
    made = [task("t", step("a", runs("c"))), task("c", step("x", act))]
    async with opened(tmp_path, *made, backend=backend) as kit:
        run = await kit.begin_run("t")
        below = await child_of(kit, run)
        kit.engine.runtime.runs.start_soon(_lets_go, kit, stubborn)
    assert set(kit.left) == {70}
    for cid in (run.cid, below.cid):
        row = backend.execute("SELECT state, reason, stuck FROM run WHERE cid=?", (cid,)).fetchone()
        assert row[0] == "cancelled"
        assert row[2] == 1


async def _lets_go(kit: Opened, stubborn: Any) -> None:
    """Let the body end once the server would have left."""
    await until(lambda: kit.left)
    stubborn.free = True


# -- at every turn


def tree(tries: list[str]) -> list[Any]:
    """A run with a sub-task of two steps that has one itself."""

    async def work(ctx: Context) -> None:
        tries.append(ctx.step)
        await turns(2)

    async def finish() -> None:
        await turns(1)

    return [
        task("t", step("a", runs("c")), step("z", finish, ("a",)), returns="{{ steps.a.output }}"),
        task("c", step("b", work), step("e", runs("d"), ("b",)), returns="{{ steps.e.output }}"),
        task("d", step("x", work), finally_=[step("f", finish)], returns="{{ 8 }}"),
    ]


def check_tree(kit: Opened, run: LiveRun, state: str) -> None:
    """All of it has ended, once, and nothing is left."""
    rows = kit.backend.execute("SELECT seq, state, task_name FROM run WHERE root_cid=?", (run.cid,)).fetchall()
    assert all(row[1] in FINAL for row in rows), rows
    assert len({name for _, _, name in rows}) == len(rows), "a call was answered twice"
    for seq, ended, _ in rows:
        check_history(kit.backend.execute, seq, ended)
    if state == "succeeded":
        assert {row[1] for row in rows} == {"succeeded"}
    check_idle(kit)
    assert (run.children, kit.engine.dispatcher.in_place) == ({}, set())


@pytest.mark.parametrize("first", [True, False], ids=["first in its turn", "last in its turn"])
@pytest.mark.parametrize("kind", [Stop.SHUTDOWN, Stop.TIMEOUT, Stop.CANCEL], ids=lambda kind: kind.label)
async def test_stop_of_a_tree_at_every_turn(tmp_path: Path, kind: Stop, first: bool) -> None:
    async with opened(tmp_path, *tree([])) as kit:
        for turn in range(TOO_MANY):
            run = accepted(kit)
            answer = await stop_in(kit, run, turn, lambda run=run: kit.stop(run, kind), first)  # type: ignore[misc]
            if answer is None:
                break
            state = (await kit.ended(run)).state
            check_tree(kit, run, state)
        assert turn > 20


def pause(kit: Opened, run: LiveRun) -> str:
    """Pause a run unless it is ending."""
    if run.sealed or run.ending is not None:
        return "ended"
    kit.engine.pausing.request_pause(run)
    return "told"


@pytest.mark.parametrize("first", [True, False], ids=["first in its turn", "last in its turn"])
async def test_pause_of_a_tree_at_every_turn(tmp_path: Path, first: bool) -> None:
    async with opened(tmp_path, *tree([])) as kit:
        for turn in range(TOO_MANY):
            run = accepted(kit)
            answer = await stop_in(kit, run, turn, lambda run=run: pause(kit, run), first)  # type: ignore[misc]
            if answer is None:
                break
            await until(lambda run=run: run.state in {RunState.PREEMPTED, *FINAL})  # type: ignore[misc]
            await quiet()
            if run.state is RunState.PREEMPTED:
                assert {r.state for r in kit.runs() if r.live} <= {"preempted"}, turn
                await kit.engine.resume(run.cid)
            record = await kit.ended(run)
            assert (record.state, record.result) == ("succeeded", 8), turn
            check_tree(kit, run, "succeeded")
        assert turn > 20


async def test_shutdown_bounds_the_clean_up_of_a_sub_task_that_nobody_asked_for_again(tmp_path: Path) -> None:
    async def lasts() -> None:
        await anyio.sleep(5)

    child = task("c", step("x", forever), finally_=[step("f", lasts)])
    parent = task("t", step("a", runs("c")), on_resume=[step("r", forever)])
    async with opened(tmp_path, parent, child) as kit:
        run = await kit.begin_run("t")
        below = await child_of(kit, run)
        await kit.engine.pause(run.cid)
        await until(lambda: run.state is RunState.PREEMPTED)
        await kit.engine.resume(run.cid)
        await until(lambda: run.live)
        await kit.engine.stop("cancel", 1.0)
        assert not kit.engine.left()
        assert [(await kit.ended(one)).reason for one in (run, below)] == ["shutdown", "its parent was cancelled"]


async def test_pause_of_a_tree_at_every_turn_outlives_a_crash(tmp_path: Path) -> None:
    left: list[tuple[LiveRun, MemoryBackend]] = []
    async with opened(tmp_path, *tree([])) as kit:
        for turn in range(TOO_MANY):
            run = accepted(kit)
            if await stop_in(kit, run, turn, lambda run=run: pause(kit, run), True) is None:  # type: ignore[misc]
                break
            await until(lambda run=run: run.state in {RunState.PREEMPTED, *FINAL})  # type: ignore[misc]
            await quiet()
            if run.state is RunState.PREEMPTED:
                assert isinstance(kit.backend, MemoryBackend)
                left.append((run, copy_of(kit.backend)))
                await kit.engine.resume(run.cid)
            await kit.ended(run)
    assert len(left) > 10
    for old, backend in left:
        async with opened(tmp_path, *tree([]), backend=backend) as kit:
            await kit.engine.resume(old.cid)
            record = await kit.ended(old.cid)
            assert (record.state, record.result) == ("succeeded", 8)
            check_tree(kit, old, "succeeded")
