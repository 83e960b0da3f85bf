"""What a client is told is on record when it is told, and whoever waits for a run is let go in every case."""

import sqlite3
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, quiet, step, task, turns, until
from tests.fakes.kernel import LET_GO, FaultyBackend, begun, cleaning, forever, works

from aura.errors import RequestError, StoreReadOnly
from aura.run import Cause, Request
from aura.runs import runtime
from aura.runs.liverun import LiveRun
from aura.store import Execute

Told = list[tuple[str, tuple[str, str | None]]]


async def cancelled_by(kit: Opened, run: LiveRun, told: Told) -> None:
    """Cancel, and note the answer beside what is on record at that moment."""
    answer = await kit.engine.cancel(run.cid)
    row = kit.server._backend.execute("SELECT state, stop FROM run").fetchone()  # type: ignore[union-attr]
    told.append((answer, row))


# -- a cancel


async def test_cancel_of_a_queued_run_is_told_after_its_commit(tmp_path: Path) -> None:
    told: Told = []
    async with opened(tmp_path, task("t", step("a", works)), lanes={"main": 0}) as kit:
        await cancelled_by(kit, await kit.begin_run("t"), told)
    assert told == [("cancelled", ("cancelled", "cancel"))]


async def test_cancel_between_dispatch_and_the_first_hop_is_told_after_its_commit(tmp_path: Path) -> None:
    told: Told = []
    dispatched, go_on = anyio.Event(), anyio.Event()
    async with opened(tmp_path, task("t", step("a", works))) as kit, anyio.create_task_group() as clients:
        execute = kit.engine.dispatcher.execute

        async def held(run: LiveRun) -> None:
            dispatched.set()
            with anyio.move_on_after(LET_GO):
                await go_on.wait()
            await execute(run)

        kit.engine.dispatcher.execute = held
        run = await kit.begin_run("t")
        await dispatched.wait()
        clients.start_soon(cancelled_by, kit, run, told)  # ends once the run is let go on
        await turns(50)
        assert (told, run.row) == ([], "queued")
        go_on.set()
    assert told == [("cancelled", ("cancelled", "cancel"))]


async def test_second_cancel_waits_for_the_row_of_the_first(tmp_path: Path) -> None:
    told: Told = []
    gate = anyio.Event()
    backend = FaultyBackend()
    async with opened(tmp_path, task("t", step("a", cleaning([], gate))), backend=backend) as kit:
        run = await begun(kit)
        backend.gate = anyio.Event()
        async with anyio.create_task_group() as clients:  # two; each ends when it has its answer
            for _ in range(2):
                clients.start_soon(cancelled_by, kit, run, told)
                await turns(50)
            assert told == []
            backend.gate.set()
        assert told == [("stopping", ("stopping", "cancel"))] * 2
        gate.set()


async def test_cancel_of_many_takes_few_commits(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", forever)), lanes={"main": 50}) as kit:
        runs = [await kit.begin_run("t") for _ in range(40)]
        await until(lambda: all(run.live for run in runs))
        await quiet()
        before = kit.engine.runtime.store.commits
        assert len(await kit.engine.cancel_where(task_name="t")) == 40
        assert kit.engine.runtime.store.commits - before < 8


# -- whoever waits


async def test_waiting_for_a_queued_run_ends_with_the_server(tmp_path: Path) -> None:
    got: list[object] = []

    async def wait(kit: Opened, cid: str) -> None:
        try:
            got.append((await kit.engine.history.wait_run(cid)).state)
        except Exception as error:
            got.append(error)

    async with anyio.create_task_group() as clients:  # the one that waits: ends with the server
        async with opened(tmp_path, task("t", step("a", works))) as kit:
            await kit.engine.stop("cancel", 0.1)
            clients.start_soon(wait, kit, (await kit.begin_run("t")).cid)
            await quiet()
            assert got == []
        await until(lambda: got)


async def test_acceptance_that_is_undone_lets_go_of_whoever_waits(tmp_path: Path) -> None:
    backend = FaultyBackend()
    backend.error = StoreReadOnly("full")
    async with opened(tmp_path, task("t", step("a", works)), backend=backend) as kit:
        await kit.engine.runtime.store.written()
        backend.failing = 1
        admitted = kit.engine.admission.request(Request("p", "t"), Cause("api"))
        with anyio.fail_after(10):
            await admitted.run.wait_end()
        assert isinstance(admitted.ticket.error, StoreReadOnly)
        await until(lambda: not kit.engine.status()["lanes"]["main"]["running"])
        await until(lambda: kit.engine.runtime.store.unavailable is None)
        reader = kit.engine.journal.subscribe({"event"})
        await kit.run("t")
        shown = reader.take().entries  # what the lost units had staged blocks nothing and is never shown
        assert (shown[-1].record()["name"], {entry.cid for entry in shown}) == ("run.succeeded", {shown[-1].cid})
        reader.close()


def lost_when_it_starts(real: Any) -> Any:
    """``change_run`` whose unit fails for each move away from ``queued``."""

    def bad(execute: Execute) -> None:
        raise sqlite3.IntegrityError("no such luck")

    def change(seq: int, steps: Any, history: Any, former: Any = None, to: Any = None) -> Any:
        return bad if former == "queued" else real(seq, steps, history, former, to)

    return change


async def test_run_whose_changes_are_lost_lets_go_of_whoever_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "change_run", lost_when_it_starts(runtime.change_run))  # type: ignore[attr-defined]
    # three faults: the start is lost, so the run is broken off, and its end is lost as well
    async with opened(tmp_path, task("t", step("a", works)), faults=3) as kit:
        run = await kit.begin_run("t")
        with anyio.fail_after(10):
            await run.wait_end()
        assert not kit.engine.runtime.open
        assert (await kit.engine.history.record(run.cid)).state == "queued"  # as it is stored; the next boot takes it


async def test_cancel_whose_end_is_lost_is_not_told_that_it_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, task("t", step("a", works)), lanes={"main": 0}, faults=1) as kit:
        run = await kit.begin_run("t")
        monkeypatch.setattr(runtime, "change_run", lost_when_it_starts(runtime.change_run))  # type: ignore[attr-defined]
        with pytest.raises(RequestError, match="could not be stored"):
            await kit.engine.cancel(run.cid)
        assert (await kit.engine.history.record(run.cid)).state == "queued"
