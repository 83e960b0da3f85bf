"""Sub-tasks: results and failures come back, on record as runs of their own, in their parent's place."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, quiet, step, task, until
from tests.fakes.invariants import check_idle
from tests.fakes.kernel import FaultyBackend, forever, noting, works

from aura.context import Context
from aura.errors import RequestError, StoreReadOnly, TaskFailed
from aura.lifecycle import Stop
from aura.runs.liverun import LiveRun
from aura.task import Input


def runs(name: str, inputs: dict[str, Any] | None = None, plan: str | None = None) -> Any:
    """An action that runs a task and gives its result."""

    async def act(ctx: Context) -> Any:
        return await ctx.run(name, inputs, plan)

    return act


def gives(value: Any) -> Any:
    async def act() -> Any:
        return value

    return act


async def breaks() -> None:
    raise OSError("no disk")


async def child_of(kit: Opened, run: LiveRun) -> LiveRun:
    """The one sub-task of a run, once it has begun."""
    await until(lambda: run.children)
    [[child]] = run.children.values()
    await until(lambda: child.live)
    return child


async def test_result_comes_back(tmp_path: Path) -> None:
    child = task("c", step("x", gives({"n": 3})), returns="{{ steps.x.output.n }}")
    async with opened(tmp_path, task("t", step("a", runs("c")), returns="{{ steps.a.output }}"), child) as kit:
        run = await kit.run("t")
        assert (run.state, run.record.result) == ("succeeded", 3)
        check_idle(kit)


async def test_sub_task_is_a_run_on_record(tmp_path: Path) -> None:
    made = [task("t", step("a", runs("c"))), task("c", step("b", runs("d"))), task("d", step("x", works))]
    async with opened(tmp_path, *made) as kit:
        top = (await kit.run("t", priority=7)).record
        below, lowest = kit.runs("c")[0].record, kit.runs("d")[0].record
        assert (below.parent_cid, below.root_cid, below.depth) == (top.cid, top.cid, 1)
        assert (lowest.parent_cid, lowest.root_cid, lowest.depth) == (below.cid, top.cid, 2)
        assert (lowest.lane, lowest.priority, lowest.state) == ("main", 7, "succeeded")
        wanted = {"kind": "task", "cid": top.cid, "step": "a", "index": None}
        assert {key: below.cause[key] for key in wanted} == wanted
        history = await kit.history(below.cid)
        assert [name for name in history if name.startswith("run.")] == ["run.accepted", "run.started", "run.succeeded"]


async def test_sub_task_takes_no_place(tmp_path: Path) -> None:
    async with opened(
        tmp_path, task("t", step("a", runs("c"))), task("c", step("x", forever)), lanes={"main": 1}
    ) as kit:
        run = await kit.begin_run("t")
        child = await child_of(kit, run)
        assert (len(kit.engine.dispatcher.lanes["main"].placed), child.placed, child.waits) == (1, False, False)
        assert [r.cid for r in await kit.engine.history.active_runs()] == [child.cid, run.cid]
        kit.stop(run, Stop.CANCEL)
        await kit.ended(run)
        check_idle(kit)


async def test_sub_task_begins_however_full_the_lane_is(tmp_path: Path) -> None:
    go = anyio.Event()

    async def later(ctx: Context) -> Any:
        await go.wait()
        return await ctx.run("c")

    made = [task("t", step("a", later), returns="{{ steps.a.output }}"), task("c", step("x", works), returns="{{ 3 }}")]
    async with opened(tmp_path, *made, lanes={"main": 1}, queue=1) as kit:
        run = await kit.begin_run("t")
        waiting = await kit.begin_run("c")
        with pytest.raises(RequestError, match="1 runs wait"):
            await kit.begin_run("c")
        go.set()
        assert (await kit.ended(run)).result == 3
        await kit.ended(waiting)


@pytest.mark.parametrize(
    ("child", "said", "cause"),
    [
        pytest.param(
            task("c", step("x", breaks)), "task p/c failed: OSError: no disk", ("OSError", "no disk"), id="failed"
        ),
        pytest.param(
            task("c", step("x", forever), timeout=2.0),
            "task p/c timed out: it ran longer than 2 s",
            ("TimeoutError", "it ran longer than 2 s"),
            id="timed-out",
        ),
    ],
)
async def test_failure_of_a_sub_task_is_the_steps(tmp_path: Path, child: Any, said: str, cause: Any) -> None:
    async with opened(tmp_path, task("t", step("a", runs("c"))), child) as kit:
        run = await kit.run("t")
        error = run.record.error
        assert error is not None
        assert (run.state, error["type"], error["step"]) == ("failed", "TaskFailed", "a")
        assert error["message"] == said
        assert error["cause"] == {"cid": kit.runs("c")[0].cid, "type": cause[0], "message": cause[1]}


async def test_errors_of_other_kinds_have_no_cause(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", breaks))) as kit:
        error = (await kit.record("t")).error
        assert error is not None
        assert error["cause"] is None


async def test_sub_task_that_is_cancelled_fails_the_step(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", runs("c"))), task("c", step("x", forever))) as kit:
        run = await kit.begin_run("t")
        child = await child_of(kit, run)
        assert await kit.engine.cancel(child.cid, "enough") == "stopping"
        error = (await kit.ended(run)).error
        assert error is not None
        assert error["cause"] == {"cid": child.cid, "type": "cancelled", "message": "enough"}
        check_idle(kit)


@pytest.mark.parametrize(
    ("name", "inputs", "kind", "said"),
    [
        pytest.param("nobody", {}, "unknown_task", "there is no task 'nobody'", id="unknown"),
        pytest.param("c", {"n": "x"}, "inputs_invalid", "/inputs/n: integer is needed", id="inputs"),
        pytest.param("c", {"n": 1, "m": 2}, "inputs_invalid", "/inputs/m: there is no such input", id="unknown-input"),
    ],
)
async def test_refused_sub_task_fails_the_step(
    tmp_path: Path, name: str, inputs: dict[str, Any], kind: str, said: str
) -> None:
    child = task("c", step("x", works), inputs={"n": Input("n", {"type": "integer"})})
    async with opened(tmp_path, task("t", step("a", runs(name, inputs))), child) as kit:
        error = (await kit.record("t")).error
        assert error is not None
        assert (error["type"], error["cause"]["cid"], error["cause"]["type"]) == ("TaskFailed", None, kind)
        assert said in error["message"]
        assert not kit.runs("c")


async def test_inputs_are_given(tmp_path: Path) -> None:
    child = task("c", step("x", works), inputs={"n": Input("n", {"type": "integer"})}, returns="{{ inputs.n * 2 }}")
    parent = task("t", step("a", runs("c", {"n": 21})), returns="{{ steps.a.output }}")
    async with opened(tmp_path, parent, child) as kit:
        assert (await kit.record("t")).result == 42


async def test_inputs_that_are_not_json_fail_the_step(tmp_path: Path) -> None:
    child = task("c", step("x", works), inputs={"n": Input("n", {})})
    async with opened(tmp_path, task("t", step("a", runs("c", {"n": {1, 2}}))), child) as kit:
        error = (await kit.record("t")).error
        assert error is not None
        assert error["type"] == "params_invalid"


async def test_task_does_not_run_inside_itself(tmp_path: Path) -> None:
    made = [task("t", step("a", runs("c"))), task("c", step("b", runs("d"))), task("d", step("x", runs("c")))]
    async with opened(tmp_path, *made) as kit:
        run = await kit.run("t")
        assert run.state == "failed"
        error = kit.runs("d")[0].record.error
        assert error is not None
        assert error["type"] == "TaskRecursion"
        assert "p/t -> p/c -> p/d -> p/c" in error["message"]
        assert len(kit.runs()) == 3


async def test_plan_that_is_not_used_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", runs("x", plan="q")))) as kit:
        error = (await kit.record("t")).error
        assert error is not None
        assert "plan p does not use q: add `uses: [q]` to its plan.yaml" in error["message"]


async def test_several_run_at_once_in_one_step(tmp_path: Path) -> None:
    async def act(ctx: Context) -> list[Any]:
        found: dict[int, Any] = {}

        async def one(number: int) -> None:
            found[number] = await ctx.run("c", {"n": number})

        async with anyio.create_task_group() as group:  # ends with the three
            for number in range(3):
                group.start_soon(one, number)
        return [found[number] for number in range(3)]

    async def waits() -> None:
        await anyio.sleep(5)

    child = task("c", step("x", waits), inputs={"n": Input("n", {"type": "integer"})}, returns="{{ inputs.n }}")
    async with opened(tmp_path, task("t", step("a", act), returns="{{ steps.a.output }}"), child) as kit:
        began = kit.now
        assert (await kit.record("t")).result == [0, 1, 2]
        assert kit.now - began < 10
        check_idle(kit)


async def test_plain_function_runs_tasks_from_its_thread(tmp_path: Path) -> None:
    def act(ctx: Context) -> Any:
        return ctx.from_thread(ctx.run, "c")

    parent = task("t", step("a", act), returns="{{ steps.a.output }}")
    async with opened(tmp_path, parent, task("c", step("x", works), returns="{{ 5 }}")) as kit:
        assert (await kit.record("t")).result == 5


async def test_action_may_go_on_after_a_failure(tmp_path: Path) -> None:
    async def act(ctx: Context) -> Any:
        try:
            await ctx.run("c")
        except TaskFailed as error:
            return error.cause["type"]

    parent = task("t", step("a", act), returns="{{ steps.a.output }}")
    async with opened(tmp_path, parent, task("c", step("x", breaks))) as kit:
        assert (await kit.record("t")).result == "OSError"


async def test_retry_makes_another_sub_task(tmp_path: Path) -> None:
    tries: list[int] = []

    async def second_time() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("not yet")

    parent = task("t", step("a", runs("c"), retry={"attempts": 2, "delay": 1.0}))
    async with opened(tmp_path, parent, task("c", step("x", second_time))) as kit:
        assert (await kit.run("t")).state == "succeeded"
        assert [run.state for run in kit.runs("c")] == ["failed", "succeeded"]


async def test_each_item_has_its_own(tmp_path: Path) -> None:
    async def one(ctx: Context, n: int) -> Any:
        return await ctx.run("c", {"n": n})

    loop = {"for_each": "{{ [1, 2, 3] }}", "parallelism": 2}
    child = task("c", step("x", works), inputs={"n": Input("n", {"type": "integer"})}, returns="{{ inputs.n * 10 }}")
    parent = task("t", step("a", one, loop=loop, params={"n": "{{ loop.item }}"}), returns="{{ steps.a.output }}")
    async with opened(tmp_path, parent, child) as kit:
        assert (await kit.record("t")).result == [10, 20, 30]
        assert sorted(run.record.cause["index"] for run in kit.runs("c")) == [0, 1, 2]


# -- what an action does with them


async def test_sub_task_that_is_not_waited_for_any_more_is_cancelled(tmp_path: Path) -> None:
    log: list[str] = []

    async def act(ctx: Context) -> str:
        with anyio.move_on_after(5):
            await ctx.run("c")
        log.append("went on")
        return "without it"

    async def tidies() -> None:
        await anyio.sleep(2)
        log.append("tidied")

    parent = task("t", step("a", act), returns="{{ steps.a.output }}")
    async with opened(tmp_path, parent, task("c", step("x", forever), finally_=[step("f", tidies)])) as kit:
        run = await kit.run("t")
        assert (run.state, run.record.result, log) == ("succeeded", "without it", ["tidied", "went on"])
        child = kit.runs("c")[0].record
        assert (child.state, child.reason) == ("cancelled", "its parent's step does not wait for it any more")


async def test_sub_tasks_of_a_stray_child_end_with_the_attempt(tmp_path: Path) -> None:
    strays: set[asyncio.Task[Any]] = set()

    async def act(ctx: Context) -> None:
        strays.add(asyncio.create_task(ctx.run("c")))
        await anyio.sleep(1)

    log: list[str] = []
    child = task("c", step("x", forever), finally_=[step("f", noting(log, "tidied"))])
    parent = task("t", step("a", act), step("b", noting(log, "next"), ("a",)))
    async with opened(tmp_path, parent, child) as kit:
        assert (await kit.run("t")).state == "succeeded"
        assert (kit.runs("c")[0].state, log) == ("cancelled", ["tidied", "next"])
        await asyncio.gather(*strays, return_exceptions=True)
        check_idle(kit)


async def test_error_beside_a_sub_task_cancels_it(tmp_path: Path) -> None:
    async def act(ctx: Context) -> None:
        async with anyio.create_task_group() as group:  # ended by the error
            group.start_soon(ctx.run, "c")
            await anyio.sleep(1)
            raise OSError("mine")

    async with opened(tmp_path, task("t", step("a", act)), task("c", step("x", forever))) as kit:
        error = (await kit.record("t")).error
        assert error is not None
        assert (error["type"], kit.runs("c")[0].state) == ("OSError", "cancelled")


# -- task.start


def starts(name: str, *given: Any) -> Any:
    async def act(ctx: Context) -> Any:
        return await ctx.start(name, *given)

    return act


async def test_start_does_not_wait(tmp_path: Path) -> None:
    parent = task("t", step("a", starts("c")), returns="{{ steps.a.output }}")
    async with opened(tmp_path, parent, task("c", step("x", forever), priority=3), lanes={"main": 1}) as kit:
        run = await kit.run("t")
        child = kit.runs("c")[0].record
        assert (run.state, run.record.result) == ("succeeded", child.cid)
        assert (child.parent_cid, child.root_cid, child.depth, child.priority) == (None, run.cid, 1, 3)
        assert (child.cause["kind"], child.cause["cid"], child.cause["step"]) == ("task", run.cid, "a")


async def test_start_that_is_refused_fails_the_step(tmp_path: Path) -> None:
    full = task("t", step("a", starts("c")), step("b", starts("c"), ("a",)))
    async with opened(tmp_path, full, task("c", step("x", forever)), lanes={"main": 1}, queue=1) as kit:
        error = (await kit.record("t")).error
        assert error is not None
        assert (error["step"], error["cause"]["type"], error["cause"]["cid"]) == ("b", "queue_full", None)


# -- the storage


async def test_sub_task_that_cannot_be_stored_fails_the_step(tmp_path: Path) -> None:
    backend = FaultyBackend()

    async def act(ctx: Context) -> None:
        backend.error, backend.failing = StoreReadOnly("full"), 1
        await ctx.run("c")

    async with opened(tmp_path, task("t", step("a", act)), task("c", step("x", works)), backend=backend) as kit:
        run = await kit.begin_run("t")
        error = (await kit.ended(run)).error
        assert error is not None
        assert (error["type"], error["cause"]["type"]) == ("TaskFailed", "storage_unavailable")
        assert not kit.runs("c")


# -- what may be asked of them


@pytest.mark.parametrize("verb", ["pause", "resume", "prioritize"])
async def test_of_a_sub_task_only_the_end_may_be_asked(tmp_path: Path, verb: str) -> None:
    async with opened(tmp_path, task("t", step("a", runs("c"))), task("c", step("x", forever))) as kit:
        run = await kit.begin_run("t")
        child = await child_of(kit, run)
        asks: dict[str, Callable[[], Awaitable[object]]] = {
            "pause": lambda: kit.engine.pause(child.cid),
            "resume": lambda: kit.engine.resume(child.cid),
            "prioritize": lambda: kit.engine.set_priority(child.cid, 5),
        }
        with pytest.raises(RequestError, match=f"its parent {run.cid}") as refused:
            await asks[verb]()
        assert (refused.value.code, refused.value.extra["cid"]) == ("conflict", run.cid)
        assert (child.state, child.held) == ("running", None)
        await quiet()
