"""What happens when a task is asked for while it runs: refused, replaced, queued, beside the others."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from tests.engine.kit import Opened, PythonGeneration, PythonGenerations, opened, quiet, step, task, turns, until
from tests.fakes.invariants import check_idle
from tests.fakes.kernel import FaultyBackend, begun, copy_of, works

from aura.context import Context
from aura.errors import RequestError, StoreReadOnly
from aura.expressions import template
from aura.kernel.keys import key_of
from aura.lifecycle import Recovery, RunState, Stop
from aura.plan import Semaphore
from aura.run import Cause, Outcomes, Receipt, Request
from aura.runs.liverun import LiveRun
from aura.task import Input, Mode, ModeKind

SINGLE = Mode(ModeKind.SINGLE)
RESTART = Mode(ModeKind.RESTART)
QUEUED = Mode(ModeKind.QUEUED, 10)


def at_most(count: int) -> Mode:
    return Mode(ModeKind.PARALLEL, count)


class Works:
    """An action that takes an hour, and knows which runs of it began and how many there were at once."""

    def __init__(self, seconds: float = 3600.0, cleanup: float = 0.0) -> None:
        self.seconds, self.cleanup = seconds, cleanup
        self.began: list[str] = []
        self.now = self.most = 0

    async def __call__(self, ctx: Context) -> None:
        self.began.append(ctx.cid)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await anyio.sleep(self.seconds)
        finally:
            with anyio.CancelScope(shield=True):  # this sleep alone
                await anyio.sleep(self.cleanup)
            self.now -= 1


def made(work: Works, mode: Mode, **keys: Any) -> Any:
    async def act(ctx: Context) -> None:
        await work(ctx)

    return task("t", step("a", act), mode=mode, **keys)


@asynccontextmanager
async def world(folder: Path, work: Works, mode: Mode, **keys: Any) -> AsyncIterator[Opened]:
    kept = {key: keys.pop(key) for key in ("backend", "generations", "lanes", "resources") if key in keys}
    async with opened(folder, made(work, mode, **keys), **{"lanes": {"main": 50}, **kept}) as kit:
        yield kit


async def refused(asked: Any) -> RequestError:
    with pytest.raises(RequestError) as found:
        await asked
    return found.value


async def ask_many(kit: Opened, count: int) -> list[LiveRun]:
    """Ask so often in one batch, and give the runs."""
    outcomes = await kit.engine.submit_batch([Request("p", "t")] * count, Cause("api"), False)
    return [kit.engine.runtime.open[one.cid] for one in outcomes.items if isinstance(one, Receipt)]


def running(runs: Sequence[LiveRun]) -> list[LiveRun]:
    return [run for run in runs if run.state is RunState.RUNNING]


# -- single


async def test_single_is_refused_while_it_runs_and_names_what_is_in_the_way(tmp_path: Path) -> None:
    async with world(tmp_path, Works(), SINGLE) as kit:
        run = await begun(kit)
        error = await refused(kit.begin_run("t"))
        assert (error.code, error.status, error.extra) == ("refused_by_mode", 409, {"running": [run.cid]})
        await kit.ended(run)
        assert (await kit.record("t")).state == "succeeded"
        check_idle(kit)


@pytest.mark.parametrize("how", ["queued", "delayed", "paused", "paused in the queue", "stopping"])
async def test_single_counts_whatever_is_open(tmp_path: Path, how: str) -> None:
    async with world(tmp_path, Works(cleanup=5.0), SINGLE, lanes={"main": 1}) as kit:
        if how in ("queued", "paused in the queue"):
            await kit.engine.stop("cancel", 1)
        run = await kit.begin_run("t", delay_s=60.0 if how == "delayed" else 0.0)
        await quiet()
        if how.startswith("paused"):
            await kit.engine.pause(run.cid)
        if how == "stopping":
            kit.stop(run, Stop.CANCEL)
        assert (await refused(kit.begin_run("t"))).extra == {"running": [run.cid]}
        await kit.engine.cancel(run.cid)
        await kit.ended(run)
        await kit.engine.start()
        await kit.begin_run("t")


async def test_single_that_could_not_be_stored_is_in_nobodys_way(tmp_path: Path) -> None:
    backend = FaultyBackend()
    async with world(tmp_path, Works(1.0), SINGLE, backend=backend) as kit:
        backend.error, backend.failing = StoreReadOnly("full"), 1
        assert (await refused(kit.begin_run("t"))).code == "storage_unavailable"
        await kit.advance(10)
        assert (await kit.record("t")).state == "succeeded"
        check_idle(kit)


@pytest.mark.parametrize("atomic", [True, False])
async def test_batch_counts_itself(tmp_path: Path, atomic: bool) -> None:
    async with world(tmp_path, Works(1.0), SINGLE) as kit:
        ask = kit.engine.submit_batch([Request("p", "t")] * 2, Cause("api"), atomic)
        if atomic:
            assert (await refused(ask)).errors[0].path == "/tasks/1"
            assert not kit.engine.runtime.open
        else:
            first, second = (await ask).items
            assert isinstance(first, Receipt)
            assert isinstance(second, RequestError)
            assert second.extra == {"running": [first.cid]}


async def test_replay_is_no_new_request(tmp_path: Path) -> None:
    async with world(tmp_path, Works(), SINGLE) as kit:
        request, key = Request("p", "t"), key_of("run", "k", {})
        first = await kit.engine.submit(request, Cause("api"), key)
        again = await kit.engine.submit(request, Cause("api"), key)
        assert (again.cid, again.replayed) == (first.cid, True)


async def test_rerun_is_a_request_like_any_other(tmp_path: Path) -> None:
    async with world(tmp_path, Works(1.0), SINGLE) as kit:
        ended = await kit.record("t")
        again = await kit.engine.rerun(ended.cid)
        assert (await refused(kit.engine.rerun(ended.cid))).extra == {"running": [again.cid]}


# -- keys


def keyed(text: str, kind: ModeKind = ModeKind.SINGLE) -> Mode:
    return Mode(kind, key=template(text, "t.yaml:1"))


async def test_runs_with_another_key_do_not_count(tmp_path: Path) -> None:
    day = Input(name="day", schema={"type": "object"})
    async with world(tmp_path, Works(), keyed("{{ inputs.day }}"), inputs={"day": day}) as kit:
        first = await kit.begin_run("t", inputs={"day": {"a": 1, "b": 2}})
        await kit.begin_run("t", inputs={"day": {"a": 2, "b": 1}})
        assert (await refused(kit.begin_run("t", inputs={"day": {"b": 2, "a": 1}}))).extra == {"running": [first.cid]}
        assert (await kit.engine.history.record(first.cid)).mode_key == '{"a":1,"b":2}'


@pytest.mark.parametrize(
    "text",
    ["{{ run.labels.team }}", "{{ plan.name }}", "{{ now() | date }}", "{{ vars.x }}"],
)
async def test_key_may_name_what_is_known_at_acceptance(tmp_path: Path, text: str) -> None:
    generations = PythonGenerations(made(Works(), keyed(text), labels={"team": "ops"}))
    assert generations.now is not None
    generations.now.plan = msgspec.structs.replace(generations.now.plan, vars={"x": 7})
    async with opened(tmp_path, generations=generations) as kit:
        await kit.begin_run("t")
        assert (await refused(kit.begin_run("t"))).code == "refused_by_mode"


async def test_key_that_cannot_be_rendered_is_refused(tmp_path: Path) -> None:
    async with world(tmp_path, Works(), keyed("{{ run.labels.team }}")) as kit:
        error = await refused(kit.begin_run("t"))
        assert (error.code, error.errors[0].path) == ("inputs_invalid", "/inputs")
        assert "the key of its mode cannot be rendered" in error.detail
        check_idle(kit)


# -- queued and parallel


@pytest.mark.parametrize(("mode", "at_once"), [(QUEUED, 1), (at_most(3), 3)], ids=["queued", "parallel"])
async def test_so_many_run_at_once_and_the_rest_waits_in_order(tmp_path: Path, mode: Mode, at_once: int) -> None:
    work = Works(10.0)
    async with world(tmp_path, work, mode) as kit:
        runs = await ask_many(kit, 8)
        await quiet()
        lane = kit.engine.dispatcher.lanes["main"]
        assert (work.now, len(lane.placed), lane.waiting) == (at_once, at_once, 8 - at_once)
        assert [one["cid"] for one in kit.engine.queue_list()] == [run.cid for run in runs[at_once:]]
        await kit.settle()
        assert (work.most, work.began) == (at_once, [run.cid for run in runs])
        check_idle(kit)


async def test_queued_is_refused_when_as_many_wait_as_may(tmp_path: Path) -> None:
    async with world(tmp_path, Works(), Mode(ModeKind.QUEUED, 2)) as kit:
        runs = await ask_many(kit, 5)
        assert len(runs) == 3
        error = await refused(kit.begin_run("t"))
        assert (error.code, error.extra["running"]) == ("refused_by_mode", [run.cid for run in runs])
        kit.stop(runs[1], Stop.CANCEL)
        await kit.begin_run("t")


async def test_those_that_wait_for_their_mode_hold_up_nobody_else(tmp_path: Path) -> None:
    other = task("other", step("b", works))
    async with opened(tmp_path, made(Works(), QUEUED), other, lanes={"main": 2}) as kit:
        await ask_many(kit, 3)
        await quiet()
        assert (await kit.record("other")).state == "succeeded"


async def test_priority_moves_what_waits_for_its_mode(tmp_path: Path) -> None:
    work = Works(10.0)
    async with world(tmp_path, work, QUEUED) as kit:
        runs = await ask_many(kit, 4)
        await quiet()
        await kit.engine.set_priority(runs[3].cid, 5)
        assert [one["cid"] for one in kit.engine.queue_list()] == [runs[n].cid for n in (3, 1, 2)]
        await kit.settle()
        assert work.began == [runs[n].cid for n in (0, 3, 1, 2)]


async def test_what_is_cancelled_while_it_waits_for_its_mode_is_gone(tmp_path: Path) -> None:
    work = Works(10.0)
    async with world(tmp_path, work, QUEUED) as kit:
        runs = await ask_many(kit, 3)
        await quiet()
        assert await kit.engine.cancel(runs[1].cid) == "cancelled"
        await kit.settle()
        assert work.began == [runs[0].cid, runs[2].cid]
        check_idle(kit)


async def test_time_out_of_the_queue_counts_while_it_waits_for_its_mode(tmp_path: Path) -> None:
    async with world(tmp_path, Works(), QUEUED, queue_timeout=5.0) as kit:
        runs = await ask_many(kit, 2)
        assert (await kit.ended(runs[1])).state == "timed_out"
        assert runs[0].state is RunState.RUNNING


async def test_paused_run_keeps_its_slot(tmp_path: Path) -> None:
    work = Works(10.0)
    async with world(tmp_path, work, QUEUED) as kit:
        first, second = await ask_many(kit, 2)
        await until(lambda: work.now)
        await kit.engine.pause(first.cid)
        await kit.advance(100)
        assert (second.state, work.began) == (RunState.QUEUED, [first.cid])
        await kit.engine.resume(first.cid)
        await kit.settle()
        assert work.began == [first.cid, first.cid, second.cid]
        check_idle(kit)


async def test_paused_while_it_waits_for_its_mode_lets_the_next_go(tmp_path: Path) -> None:
    work = Works(10.0)
    async with world(tmp_path, work, QUEUED) as kit:
        runs = await ask_many(kit, 3)
        await quiet()
        await kit.engine.pause(runs[1].cid)
        await until(lambda: len(work.began) == 2)
        await kit.engine.resume(runs[1].cid)
        await kit.settle()
        assert work.began == [runs[0].cid, runs[2].cid, runs[1].cid]


async def test_stopped_engine_starts_nothing_that_waited_for_its_mode(tmp_path: Path) -> None:
    work = Works(10.0)
    async with world(tmp_path, work, QUEUED) as kit:
        runs = await ask_many(kit, 3)
        await quiet()
        await kit.engine.stop("cancel", 1)
        await kit.advance(60)
        assert [run.state for run in runs[1:]] == [RunState.QUEUED] * 2
        await kit.engine.start()
        await kit.settle()
        assert work.began == [run.cid for run in runs]
        check_idle(kit)


async def test_bound_that_comes_with_another_version_counts_what_is_open(tmp_path: Path) -> None:
    work = Works(10.0)
    generations = PythonGenerations(made(work, Mode()))
    async with opened(tmp_path, generations=generations) as kit:
        first = await begun(kit)
        new, functions = made(work, QUEUED)
        generations.now = PythonGeneration({"t": (new, functions)}, "g2")
        second = await kit.begin_run("t")
        await quiet()
        assert (second.state, work.now) == (RunState.QUEUED, 1)
        await kit.settle()
        assert work.began == [first.cid, second.cid]
        check_idle(kit)


async def test_one_that_is_refused_what_it_needs_leaves_no_slot_behind(tmp_path: Path) -> None:
    needs: Any = {"resources": {"screen": 2}}
    generations = PythonGenerations(task("t", step("a", works), mode=Mode(ModeKind.PARALLEL, 2), **needs))
    async with opened(tmp_path, generations=generations, resources={"screen": Semaphore(1)}) as kit:
        assert (await kit.record("t")).reason == "no_resources"
        assert [name for name, *_ in kit.engine.claims.pool] == ["screen"]
        new, functions = task("t", step("a", works), mode=Mode(ModeKind.PARALLEL, 3))
        generations.now = PythonGeneration({"t": (new, functions)}, "g2")
        assert (await kit.record("t")).state == "succeeded"


# -- restart


async def test_restart_replaces_what_runs_once_it_has_cleaned_up(tmp_path: Path) -> None:
    work = Works(3600.0, cleanup=5.0)
    async with world(tmp_path, work, RESTART) as kit:
        first = await begun(kit)
        second = await kit.begin_run("t")
        await quiet()
        assert (first.state, second.state) == (RunState.STOPPING, RunState.QUEUED)
        await until(lambda: len(work.began) == 2)
        old = await kit.ended(first)
        assert (old.state, old.reason, work.most) == ("cancelled", f"replaced by {second.cid}", 1)
        assert (await kit.ended(second)).state == "succeeded"
        check_idle(kit)


async def test_restart_replaces_what_waits_and_what_rests(tmp_path: Path) -> None:
    async with world(tmp_path, Works(), RESTART) as kit:
        rests = await begun(kit)
        await kit.engine.pause(rests.cid)
        delayed = await kit.begin_run("t", delay_s=60.0)
        last = await kit.begin_run("t")
        assert [(await kit.ended(run)).reason for run in (rests, delayed)] == [
            f"replaced by {delayed.cid}",
            f"replaced by {last.cid}",
        ]


async def test_nobody_is_replaced_before_the_new_one_is_on_record(tmp_path: Path) -> None:
    backend = FaultyBackend()
    async with world(tmp_path, Works(), RESTART, backend=backend) as kit:
        first = await begun(kit)
        backend.gate = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(kit.begin_run, "t")
            await turns(50)
            assert first.state is RunState.RUNNING
            backend.gate.set()
            await until(lambda: first.state is not RunState.RUNNING)
        backend.gate = None


async def test_one_that_could_not_be_stored_replaces_nobody(tmp_path: Path) -> None:
    backend = FaultyBackend()
    async with world(tmp_path, Works(), RESTART, backend=backend) as kit:
        first = await begun(kit)
        backend.error, backend.failing = StoreReadOnly("full"), 1
        await refused(kit.begin_run("t"))
        await kit.advance(60)
        assert first.state is RunState.RUNNING


@pytest.mark.parametrize("how", ["one after the other", "batch", "atomic", "keyed"])
async def test_of_three_at_once_the_last_one_stays(tmp_path: Path, how: str) -> None:
    work = Works(10.0)
    async with world(tmp_path, work, RESTART) as kit:
        requests = [Request("p", "t")] * 3
        if how == "one after the other":
            cids = [kit.engine.admission.request(one, Cause("api")).run.cid for one in requests]
        else:
            key = key_of("batch", "k", {}) if how == "keyed" else None
            found: Outcomes = await kit.engine.submit_batch(requests, Cause("api"), how == "atomic", key)
            cids = [one.cid for one in found.items if isinstance(one, Receipt)]
        await kit.settle()
        states = [(await kit.engine.history.record(cid)).state for cid in cids]
        assert states == ["cancelled", "cancelled", "succeeded"]
        check_idle(kit)


@pytest.mark.parametrize("lost", [0, 1, 2])
async def test_last_that_is_stored_stays_if_one_of_three_is_not(tmp_path: Path, lost: int) -> None:
    async with world(tmp_path, Works(10.0), RESTART) as kit:

        def fails(execute: Any) -> None:
            raise RuntimeError("this one is not stored")

        admitted = [
            kit.engine.admission.request(Request("p", "t"), Cause("api"), (lambda run: fails) if n == lost else None)
            for n in range(3)
        ]
        await kit.settle()
        stored = [one.run.cid for n, one in enumerate(admitted) if n != lost]
        states = [(await kit.engine.history.record(cid)).state for cid in stored]
        assert states == ["cancelled", "succeeded"]
        check_idle(kit)


@pytest.mark.parametrize("count", range(12))
async def test_replaced_at_every_turn_of_its_start(tmp_path: Path, count: int) -> None:
    work = Works(10.0)
    async with world(tmp_path, work, RESTART) as kit:
        first = kit.engine.admission.request(Request("p", "t"), Cause("api")).run
        await turns(count)
        second = await kit.begin_run("t")
        await kit.settle()
        states = [(await kit.engine.history.record(run.cid)).state for run in (first, second)]
        assert (states, work.most) == (["cancelled", "succeeded"], 1)
        check_idle(kit)


# -- restarts of the server


async def test_groups_and_slots_are_right_again_after_a_restart(tmp_path: Path) -> None:
    backend, work = FaultyBackend(), Works(10.0)
    async with world(tmp_path, work, at_most(2), backend=backend) as kit:
        runs = await ask_many(kit, 4)
        await until(lambda: work.now == 2)
        await kit.engine.pause(runs[0].cid)
        left = copy_of(backend)
    again = Works(10.0)
    async with world(tmp_path, again, at_most(2), backend=left, recovery=Recovery.RESTART) as kit:
        await quiet()
        now = [kit.engine.runtime.open[run.cid] for run in runs if run.cid in kit.engine.runtime.open]
        assert (again.now, len(running(now))) == (1, 1), "the paused one holds its slot"
        await kit.engine.resume(runs[0].cid)
        await kit.settle()
        assert again.most == 2
        check_idle(kit)


@pytest.mark.parametrize("how", ["queued", "paused"])
async def test_single_counts_what_an_older_boot_left(tmp_path: Path, how: str) -> None:
    backend = FaultyBackend()
    async with world(tmp_path, Works(), SINGLE, backend=backend) as kit:
        if how == "queued":
            await kit.engine.stop("cancel", 1)
            run = await kit.begin_run("t")
        else:
            run = await begun(kit)
            await kit.engine.pause(run.cid)
        await quiet()
        left = copy_of(backend)
    async with world(tmp_path, Works(), SINGLE, backend=left) as kit:
        assert (await refused(kit.begin_run("t"))).extra == {"running": [run.cid]}


async def test_replacement_that_a_crash_cut_off_is_carried_out_at_the_boot(tmp_path: Path) -> None:
    backend = FaultyBackend()
    async with world(tmp_path, Works(), RESTART, backend=backend) as kit:
        await kit.engine.stop("cancel", 1)
        kit.engine.modes.replace = lambda run: None  # type: ignore[method-assign]  # the crash comes before it
        runs = await ask_many(kit, 3)
        left = copy_of(backend)
    work = Works(10.0)
    async with world(tmp_path, work, RESTART, backend=left) as kit:
        await kit.settle()
        states = [(await kit.engine.history.record(run.cid)).state for run in runs]
        assert (states, work.began) == (["cancelled", "cancelled", "succeeded"], [runs[2].cid])


async def test_mode_that_comes_with_a_restart_of_the_server_replaces_nobody(tmp_path: Path) -> None:
    """They were accepted side by side; only who is asked for from now on takes their place."""
    backend = FaultyBackend()
    async with world(tmp_path, Works(), Mode(), backend=backend) as kit:
        await kit.engine.stop("cancel", 1)
        runs = await ask_many(kit, 3)
        left = copy_of(backend)
    work = Works(10.0)
    now = PythonGenerations(made(work, RESTART))
    assert now.now is not None
    now.now.hash = "g2"
    async with world(tmp_path, work, RESTART, backend=left, generations=now) as kit:
        await kit.settle()
        states = [(await kit.engine.history.record(run.cid)).state for run in runs]
        assert (states, work.most) == (["succeeded"] * 3, 1)


# -- sub-tasks


async def test_sub_task_that_is_refused_by_its_mode_fails_its_step(tmp_path: Path) -> None:
    async def ask(ctx: Context) -> Any:
        return await ctx.run("t")

    async with opened(tmp_path, made(Works(), SINGLE), task("top", step("b", ask))) as kit:
        await begun(kit)
        record = await kit.record("top")
        assert record.error is not None
        assert record.error["cause"]["type"] == "refused_by_mode"


async def test_sub_task_waits_in_place_for_its_mode(tmp_path: Path) -> None:
    async def ask(ctx: Context) -> Any:
        return await ctx.run("t")

    work = Works(10.0)
    async with opened(tmp_path, made(work, QUEUED), task("top", step("b", ask))) as kit:
        first = await begun(kit)
        record = await kit.record("top")
        assert (record.state, work.most, len(work.began)) == ("succeeded", 1, 2)
        assert work.began[0] == first.cid
        check_idle(kit)
