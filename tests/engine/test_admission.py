"""Accepting and refusing: limits, order, delays, batches, the undoing of what could not be stored."""

import sqlite3
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import PythonGeneration, PythonGenerations, opened, quiet, step, task, until

from aura.errors import RequestError
from aura.kernel import admission
from aura.lifecycle import Recovery, Stop
from aura.records.runs import accept_run
from aura.run import Cause, Request
from aura.store import Execute

CAUSE = Cause("api")


def noting(log: list[str]) -> Any:
    async def act(what: str = "") -> None:
        log.append(what)

    return act


async def forever() -> None:
    await anyio.sleep(3600)


@pytest.mark.parametrize(
    ("request_", "code", "status"),
    [
        (Request("nope", "t"), "unknown_plan", 404),
        (Request("p", "nope"), "unknown_task", 404),
        (Request("p", "t", inputs={"extra": 1}), "inputs_invalid", 422),
        (Request("p", "t", priority=1001), "invalid", 422),
        (Request("p", "t", lane="interrupt"), "invalid", 422),
        (Request("p", "t", lane="nowhere"), "invalid", 422),
        (Request("p", "t", delay_s=-1), "invalid", 422),
        (Request("p", "t", delay_s=float("inf")), "invalid", 422),
        (Request("p", "t", labels={"a": "x" * 2000}), "invalid", 422),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
async def test_bad_request_is_refused_and_nothing_is_stored(
    tmp_path: Path, request_: Request, code: str, status: int
) -> None:
    async with opened(tmp_path, task("t", step("a", noting([])))) as kit:
        with pytest.raises(RequestError) as refused:
            await kit.engine.submit(request_, CAUSE)
        assert (refused.value.code, refused.value.status) == (code, status)
        assert await kit.engine.runtime.store.read(lambda x: x("SELECT count(*) FROM run").fetchone()) == (0,)
        assert kit.engine.queue_list() == []


async def test_all_that_is_wrong_with_a_request_is_said_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", noting([])))) as kit:
        with pytest.raises(RequestError) as refused:
            await kit.engine.submit(Request("p", "t", inputs={"extra": 1}, priority=1001, delay_s=-1), CAUSE)
    assert refused.value.code == "inputs_invalid"
    assert [error.path for error in refused.value.errors] == ["/inputs/extra", "/priority", "/delay_s"]


async def test_priority_then_order_of_acceptance(tmp_path: Path) -> None:
    log: list[str] = []
    made = task("t", step("a", noting(log), params={"what": "{{ run.labels.n }}"}))
    async with opened(tmp_path, made, lanes={"main": 1}) as kit:
        await kit.engine.stop("cancel", 0.1)
        for n, priority in (("1", 0), ("2", 5), ("3", 0), ("4", 5), ("5", -1)):
            last = await kit.begin_run("t", labels={"n": n}, priority=priority)
        shown = [(await kit.engine.history.get_run(q["cid"])).record.labels["n"] for q in kit.engine.queue_list()]
        await kit.engine.start()
        await kit.ended(last)
        assert log == shown == ["2", "4", "1", "3", "5"]


async def test_full_queue_refuses_with_a_time_to_come_back(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", forever)), lanes={"main": 1}, queue=2) as kit:
        await kit.engine.stop("cancel", 0.1)
        for _ in range(2):
            await kit.begin_run("t")
        with pytest.raises(RequestError) as refused:
            await kit.begin_run("t")
        assert (refused.value.code, refused.value.status, refused.value.retry_after) == ("queue_full", 429, 5.0)
        assert kit.engine.status()["lanes"]["main"]["queued"] == 2


async def test_storm_of_refusals_is_cheap_and_stores_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", forever)), lanes={"main": 1}, queue=1) as kit:
        await kit.engine.stop("cancel", 0.1)
        await kit.begin_run("t")
        await quiet()
        commits, begun = kit.engine.runtime.store.commits, time.process_time()
        for _ in range(1000):
            with pytest.raises(RequestError, match="runs wait in lane main"):
                await kit.engine.submit(Request("p", "t"), CAUSE)
        assert time.process_time() - begun < 1.0  # a millisecond each
        await quiet()
        assert kit.engine.runtime.store.commits == commits
        assert len(kit.engine.runtime.open) == len(kit.engine.queue_list()) == 1


async def test_delayed_run_waits_for_its_time(tmp_path: Path) -> None:
    log: list[str] = []
    async with opened(tmp_path, task("t", step("a", noting(log)))) as kit:
        late = await kit.begin_run("t", delay_s=0.05)
        soon = await kit.begin_run("t")
        await kit.ended(soon)
        assert [q["cid"] for q in kit.engine.queue_list()] == [late.cid]
        record = await kit.ended(late)
        assert record.started_at is not None
        assert record.started_at >= record.accepted_at + 0.05


async def test_delayed_run_can_be_cancelled(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", noting([])))) as kit:
        late = await kit.begin_run("t", delay_s=3600)
        await quiet()
        assert await kit.engine.cancel(late.cid) == "cancelled"
        assert kit.engine.queue_list() == []


async def test_atomic_batch_with_one_bad_request_stores_none(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", noting([])))) as kit:
        with pytest.raises(RequestError) as refused:
            await kit.engine.submit_batch([Request("p", "t"), Request("p", "nope")], CAUSE, True)
        assert [e.path for e in refused.value.errors] == ["/tasks/1"]
        assert await kit.engine.runtime.store.read(lambda x: x("SELECT count(*) FROM run").fetchone()) == (0,)


async def test_plain_batch_says_of_each_what_became_of_it(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", noting([])))) as kit:
        commits = kit.engine.runtime.store.commits
        wanted = [Request("p", "t"), Request("p", "nope"), Request("p", "t")]
        got = await kit.engine.submit_batch(wanted, CAUSE, False)
        assert [getattr(g, "code", "accepted") for g in got.items] == ["accepted", "unknown_task", "accepted"]
        assert kit.engine.runtime.store.commits - commits <= 2


async def test_acceptance_that_cannot_be_stored_is_undone_and_never_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    real = accept_run

    def twice(accepted: Any, history: Any) -> Any:
        unit = real(accepted, history)

        def bad(execute: Execute) -> None:
            unit(execute)
            raise sqlite3.IntegrityError("no such luck")

        return bad

    async with opened(tmp_path, task("t", step("a", noting(log)))) as kit:
        monkeypatch.setattr(admission, "accept_run", twice)
        with pytest.raises(RequestError, match="could not be stored"):
            await kit.begin_run("t")
        monkeypatch.undo()
        await quiet()
        assert not kit.engine.runtime.open
        assert kit.engine.status()["lanes"]["main"] == {"limit": 4, "running": 0, "queued": 0, "stuck": 0}
        assert (await kit.run("t")).state == "succeeded"
        assert log == [""]


async def test_requests_are_accepted_while_the_engine_is_stopped(tmp_path: Path) -> None:
    log: list[str] = []
    async with opened(tmp_path, task("t", step("a", noting(log)))) as kit:
        for _ in range(3):
            assert await kit.engine.stop("cancel", 0.1) == "stopped"
            run = await kit.begin_run("t")
            await quiet()
            assert (run.state, len(kit.engine.queue_list())) == ("queued", 1)
            assert await kit.engine.start() == "running"
            assert (await kit.ended(run)).state == "succeeded"
        assert len(log) == 3


async def test_place_is_free_again_after_every_ending(tmp_path: Path) -> None:
    async def fails() -> None:
        raise ValueError

    made = [task("ok", step("a", noting([]))), task("bad", step("b", fails)), task("long", step("c", forever))]
    async with opened(tmp_path, *made, lanes={"main": 1}) as kit:
        for _ in range(3):
            await kit.run("ok")
            await kit.run("bad")
            run = await kit.begin_run("long")
            await until(lambda run=run: run.live)  # type: ignore[misc]
            kit.stop(run, Stop.CANCEL)
            await kit.ended(run)
        assert kit.engine.status()["lanes"]["main"]["running"] == 0


@pytest.mark.parametrize(
    ("now", "reason"), [(None, "plan_removed"), ("other inputs", "inputs_invalid"), ("same", None)], ids=str
)
async def test_queued_run_is_checked_again_when_its_plan_has_changed(
    tmp_path: Path, now: str | None, reason: str | None
) -> None:
    plans = PythonGenerations(task("t", step("a", noting([]))))
    async with opened(tmp_path, generations=plans) as kit:
        await kit.engine.stop("cancel", 0.1)
        run = await kit.begin_run("t")
        plans.now = _changed(now)
        await kit.engine.start()
        record = await kit.ended(run)
        assert (record.state, record.reason) == ("failed" if reason else "succeeded", reason)
        assert reason is not None or record.generation == "g2"


def _changed(how: str | None) -> PythonGeneration | None:
    if how is None:
        return None
    from aura.task import Input

    inputs = {"day": Input("day", {"type": "string"})} if how == "other inputs" else {}
    return PythonGeneration({"t": task("t", step("a", noting([])), inputs=inputs)}, "g2")


async def test_run_that_waits_again_ends_by_its_queue_timeout(tmp_path: Path) -> None:
    made = task("t", step("a", forever), queue_timeout=5.0, recovery=Recovery.RESTART)
    async with opened(tmp_path, made) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.live)
        await kit.engine.stop("cancel", 1.0)
        assert run.state == "queued"
        assert (await kit.ended(run)).state == "timed_out"
