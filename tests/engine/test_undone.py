"""An acceptance whose commit fails is undone: the run never was, whatever it had come to by then.

The commit is held until the run stands where the test wants it: in a queue, delayed, with its start already behind it
in the same batch, cancelled. Then it fails, either this unit alone or everything, since nothing can be written for now.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, quiet, step, task, turns, until
from tests.fakes.invariants import check_idle, timers
from tests.fakes.kernel import FaultyBackend, works

from aura.errors import RequestError, StoreReadOnly
from aura.kernel import admission
from aura.lifecycle import Stop
from aura.records.runs import accept_run
from aura.run import Cause, Request
from aura.runs.liverun import LiveRun
from aura.store import Execute

CAUSE = Cause("api")
FAILURES = ["alone", "nothing can be written"]
CODES = {"alone": "internal", "nothing can be written": "storage_unavailable"}


def fails_when_it_runs(real: Any) -> Any:
    """``accept_run`` whose units have done their work when they fail."""

    def accept(*args: Any) -> Any:
        unit = real(*args)

        def bad(execute: Execute) -> None:
            unit(execute)
            raise sqlite3.IntegrityError("no such luck")

        return bad

    return accept


class Door:
    """Where requests come in whose acceptance will fail. Commits stand still until ``fail`` is called."""

    def __init__(self, kit: Opened, backend: FaultyBackend, how: str, patch: pytest.MonkeyPatch) -> None:
        self.kit, self.backend, self.how, self.patch = kit, backend, how, patch
        self.answers: list[object] = []

    async def hold(self) -> None:
        """Have a commit under way, so that what comes now is one batch behind it."""
        self.backend.gate = anyio.Event()
        self.kit.engine.runtime.store.put(lambda execute: None)
        await quiet()

    @contextmanager
    def bad(self) -> Iterator[None]:
        """What is accepted in here cannot be stored."""
        with self.patch.context() as patch:
            if self.how == "alone":
                patch.setattr(admission, "accept_run", fails_when_it_runs(accept_run))
            yield

    def request(self, **wishes: Any) -> LiveRun:
        """Have a request accepted that cannot be stored."""
        with self.bad():
            return self.kit.engine.admission.request(Request("p", "t", **wishes), CAUSE).run

    async def ask(self, request: Callable[[], Awaitable[object]]) -> None:
        """Be a client, and keep what it is told."""
        try:
            self.answers.append(await request())
        except RequestError as refused:
            self.answers.append(refused.code)

    async def fail(self) -> None:
        """Let the commit that is under way pass, and the next one fail."""
        gate, self.backend.gate = self.backend.gate, None
        assert gate is not None
        gate.set()
        await turns(2)
        if self.how != "alone":
            self.backend.failing, self.backend.error = 1, StoreReadOnly("full")
        await quiet()


async def never_was(kit: Opened, *runs: LiveRun) -> None:
    """Nothing of these runs is anywhere, nobody waits for them, and the next request works."""
    assert all(run.refused and not (run.placed or run.waits or run.entry or run.live) for run in runs)
    assert all(run.timer is None or run.timer.cancelled() for run in runs)
    for run in runs:
        await run.wait_end()
        assert kit.backend.execute("SELECT count(*) FROM run WHERE cid=?", (run.cid,)).fetchone() == (0,)
        assert kit.backend.execute("SELECT count(*) FROM history WHERE seq=?", (run.seq,)).fetchone() == (0,)
    check_idle(kit)
    assert (kit.engine.queue_list(), kit.engine.dispatcher.stuck()) == ([], [])
    assert not kit.engine.runtime.faults
    await until(lambda: kit.engine.runtime.store.unavailable is None)
    reader = kit.engine.journal.subscribe({"event"})
    record = (await kit.run("t")).record
    assert record.state == "succeeded"
    assert all((record.seq, record.cid) > (run.seq, run.cid) for run in runs)
    shown = reader.take().entries  # what the undone ones had staged blocks nothing and is never shown
    reader.close()
    assert {entry.cid for entry in shown} - {None} == {record.cid}  # the engine's own are of no run


@asynccontextmanager
async def failing_door(folder: Path, how: str, *tasks: Any, **keys: Any) -> AsyncIterator[Door]:
    backend = FaultyBackend()
    patch = pytest.MonkeyPatch()
    async with opened(folder, *(tasks or [task("t", step("a", works))]), backend=backend, **keys) as kit:
        yield Door(kit, backend, how, patch)


@pytest.mark.parametrize("how", FAILURES)
@pytest.mark.parametrize("stopped", [False, True], ids=["its start behind it", "queued"])
async def test_acceptance_in_one_batch_with_its_start_is_undone(tmp_path: Path, how: str, stopped: bool) -> None:
    async with failing_door(tmp_path, how) as door:
        if stopped:
            await door.kit.engine.stop("cancel", 0.1)
        await door.hold()
        run = door.request()
        await quiet()
        assert run.row == ("queued" if stopped else "running")
        await door.fail()
        await door.kit.engine.start()
        await never_was(door.kit, run)


@pytest.mark.parametrize("how", FAILURES)
async def test_acceptance_that_fails_before_its_start_is_written_is_undone(tmp_path: Path, how: str) -> None:
    async with failing_door(tmp_path, how) as door:
        await door.kit.engine.stop("cancel", 0.1)
        await door.kit.engine.runtime.store.written()
        door.backend.gate = anyio.Event()
        run = door.request()
        await quiet()  # the acceptance stands at the gate
        await door.kit.engine.start()
        await quiet()
        assert (run.row, door.kit.engine.runtime.store.pending) == ("running", 2)  # and that the engine has started
        if how != "alone":
            door.backend.failing, door.backend.error = 1, StoreReadOnly("full")
        door.backend.gate.set()
        await quiet()
        await never_was(door.kit, run)


MEANWHILE: dict[str, tuple[dict[str, Any], Stop | None]] = {
    "delayed": ({"delay_s": 60.0}, None),
    "cancelled": ({}, Stop.CANCEL),
    "delayed and cancelled": ({"delay_s": 60.0}, Stop.CANCEL),
    "timed out": ({}, Stop.TIMEOUT),
    "interrupted": ({}, Stop.INTERRUPT),
    "shut down": ({}, Stop.SHUTDOWN),
}


@pytest.mark.parametrize("how", FAILURES)
@pytest.mark.parametrize("started", [True, False], ids=["at once", "later"])
@pytest.mark.parametrize("meanwhile", MEANWHILE)
async def test_acceptance_is_undone_whatever_came_meanwhile(
    tmp_path: Path, how: str, started: bool, meanwhile: str
) -> None:
    wishes, kind = MEANWHILE[meanwhile]
    made = task("t", step("a", works), step("b", works), queue_timeout=30.0)
    async with failing_door(tmp_path, how, made) as door:
        await door.hold()
        run = door.request(**wishes)
        if not started:
            await quiet()
        if kind is not None:
            door.kit.stop(run, kind)
        await door.fail()
        await never_was(door.kit, run)
        await door.kit.advance(100)  # past the delay and the queue's time-out
        check_idle(door.kit)


@pytest.mark.parametrize("how", FAILURES)
async def test_queue_timeout_before_the_commit_fails_changes_nothing(tmp_path: Path, how: str) -> None:
    async with failing_door(tmp_path, how, task("t", step("a", works), queue_timeout=0.5)) as door:
        await door.kit.engine.stop("cancel", 0.1)
        await door.hold()
        run = door.request()
        await door.kit.advance(1)
        assert run.state == "timed_out"
        await door.fail()
        await door.kit.engine.start()
        await never_was(door.kit, run)


@pytest.mark.parametrize("how", FAILURES)
async def test_everybody_who_waits_is_told_the_truth(tmp_path: Path, how: str) -> None:
    async with failing_door(tmp_path, how) as door, anyio.create_task_group() as clients:
        engine = door.kit.engine
        await engine.stop("cancel", 0.1)
        await door.hold()
        # four clients; each ends with its answer
        with door.bad():
            clients.start_soon(door.ask, lambda: engine.submit(Request("p", "t"), CAUSE))
            await turns(1)
        (run,) = engine.runtime.open.values()
        clients.start_soon(door.ask, lambda: engine.cancel_where(task_name="t"))
        clients.start_soon(door.ask, lambda: engine.cancel(run.cid))
        clients.start_soon(door.ask, lambda: engine.history.wait_run(run.cid))
        await quiet()
        assert door.answers == []
        await door.fail()
        assert sorted(map(str, door.answers)) == sorted(["[]", CODES[how], "unknown_run", "unknown_run"])
        await engine.start()
        await never_was(door.kit, run)


# -- many at once


async def test_request_that_fails_alone_leaves_those_of_its_batch(tmp_path: Path) -> None:
    async with failing_door(tmp_path, "alone", lanes={"main": 2}) as door, anyio.create_task_group() as clients:
        engine = door.kit.engine
        await door.hold()
        before = engine.runtime.seq
        clients.start_soon(door.ask, lambda: engine.submit_batch([Request("p", "t")] * 2, CAUSE, False))
        await turns(1)
        bad = door.request()
        clients.start_soon(door.ask, lambda: engine.submit_batch([Request("p", "t")] * 2, CAUSE, True))
        await quiet()
        await door.fail()
        assert [len(answer.items) for answer in door.answers] == [2, 2]  # type: ignore[attr-defined]
        await door.kit.settle()
        assert [run.record.seq - before for run in door.kit.runs()] == [1, 2, 4, 5]
        assert {run.state for run in door.kit.runs()} == {"succeeded"}
        await never_was(door.kit, bad)


async def test_batch_of_requests_is_refused_as_a_whole_when_nothing_can_be_written(tmp_path: Path) -> None:
    async with failing_door(tmp_path, "all", lanes={"main": 2}) as door, anyio.create_task_group() as clients:
        engine = door.kit.engine
        await door.hold()
        clients.start_soon(door.ask, lambda: engine.submit_batch([Request("p", "t")] * 5, CAUSE, False))
        await quiet()
        runs = list(engine.runtime.open.values())
        await door.fail()
        (answers,) = door.answers
        assert [answer.code for answer in answers.items] == ["storage_unavailable"] * 5  # type: ignore[attr-defined]
        await never_was(door.kit, *runs)


# -- in every turn of its dispatch


@pytest.mark.parametrize("how", FAILURES)
async def test_acceptance_is_undone_in_whatever_turn_it_meets_its_start(tmp_path: Path, how: str) -> None:
    made = task("t", step("a", works), timeout=3600, queue_timeout=3600)
    async with failing_door(tmp_path, how, made) as door:
        for apart in range(-4, 8):
            await door.kit.engine.stop("cancel", 0.1)
            await door.hold()
            run = door.request()
            if apart < 0:
                await door.kit.engine.start()
                await turns(-apart)
            failing = asyncio.ensure_future(door.fail())
            await turns(apart)
            await door.kit.engine.start()
            await failing
            await never_was(door.kit, run)
            assert timers() == 0, apart
