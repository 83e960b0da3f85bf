"""Attacks that the work layer withstands: races of stops, ends, retries and boots that are easy to get wrong."""

import asyncio
import os
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest
from tests.engine.kit import Opened, PythonGenerations, opened, step, task, turns, until

from aura.actions import Context
from aura.attempt import Attempt
from aura.config import load_settings
from aura.errors import EndRun, StoreError, StoreInUse, StoreReadOnly
from aura.generations import Generations
from aura.lifecycle import Recovery, Stop
from aura.liverun import LiveRun
from aura.server import Server
from aura.store import Execute, Store, Ticket, commit_batch
from aura.stores.folder import DataFolder
from aura.stores.memory import MemoryBackend


async def works() -> None:
    return


async def forever() -> None:
    await anyio.sleep(3600)


def noting(log: list[str], name: str) -> Any:
    async def act() -> None:
        log.append(name)

    return act


class Stubborn:
    """An action that swallows every cancellation until it is let go."""

    def __init__(self) -> None:
        self.free = False

    async def __call__(self) -> None:
        while not self.free:
            try:
                await anyio.sleep(0.005)
            except asyncio.CancelledError:
                continue


def swallowing() -> tuple[Stubborn, Any]:
    stubborn = Stubborn()

    async def act() -> None:
        await stubborn()

    return stubborn, act


async def begun(kit: Opened, steps: int = 1) -> LiveRun:
    """A run of task t of which that many attempts have begun and sit at an await."""
    run = await kit.begin("t")
    await until(lambda: len(run.live) == steps and all(a.edge._task for a in run.live.values()))
    await turns()
    return run


# -- second stops


async def test_second_stop_with_a_longer_grace_does_not_put_off_the_end(tmp_path: Path) -> None:
    stubborn, act = swallowing()
    async with opened(tmp_path, task("t", step("a", act))) as kit:
        run = await begun(kit)
        kit.stop(run, Stop.CANCEL, grace=0.05)
        kit.stop(run, Stop.CANCEL, grace=3600)
        await until(lambda: run.stuck)
        stubborn.free = True
        await kit.ended(run)


async def test_second_stop_with_a_shorter_grace_brings_the_end_nearer(tmp_path: Path) -> None:
    stubborn, act = swallowing()
    async with opened(tmp_path, task("t", step("a", act))) as kit:
        run = await begun(kit)
        kit.stop(run, Stop.CANCEL, grace=3600)
        kit.stop(run, Stop.SHUTDOWN, grace=0.02)
        await until(lambda: run.stuck)
        stubborn.free = True
        assert (await kit.ended(run)).stop == "cancel"


async def test_timers_of_an_attempt_that_has_ended_are_gone(tmp_path: Path) -> None:
    seen: list[Attempt] = []

    async def act() -> None:
        seen.append(found[0].live["a"])

    found: list[LiveRun] = []
    async with opened(tmp_path, task("t", step("a", act, timeout=60))) as kit:
        await kit.engine.stop("cancel", 0.1)
        await turns()
        found.append(await kit.begin("t"))
        await kit.engine.start()
        await kit.ended(found[0])
        timer = seen[0]._timeout_timer
        assert timer is not None
        assert timer.cancelled()


async def test_stop_of_two_parallel_attempts_keeps_the_first_cleanup_error(tmp_path: Path) -> None:
    def raising(text: str, pause: float) -> Any:
        async def act() -> None:
            try:
                await anyio.sleep(3600)
            finally:
                await anyio.sleep(pause)
                raise OSError(text)

        return act

    async with opened(tmp_path, task("t", step("a", raising("second", 0.05)), step("b", raising("first", 0)))) as kit:
        run = await begun(kit, 2)
        kit.stop(run, Stop.CANCEL)
        record = await kit.ended(run)
        assert record.cleanup_error is not None
        assert (record.state, record.cleanup_error["message"]) == ("cancelled", "first")


async def test_cancel_while_a_step_cleans_up_after_its_own_timeout_ends_its_retries(tmp_path: Path) -> None:
    async def act() -> None:
        try:
            await anyio.sleep(3600)
        finally:
            await anyio.sleep(0.05)

    made = task("t", step("a", act, timeout=0.02, retry={"attempts": 3}))
    async with opened(tmp_path, made) as kit:
        run = await kit.begin("t")
        await until(lambda: run.live and run.live["a"].cause)
        kit.stop(run, Stop.CANCEL)
        assert (await kit.ended(run)).state == "cancelled"
        assert (await kit.steps(run))["a"].attempt == 1


# -- back-off


async def fails() -> None:
    raise OSError("no")


async def test_run_timeout_comes_in_a_back_off(tmp_path: Path) -> None:
    made = task("t", step("a", fails, retry={"attempts": 5, "delay": 3600}), timeout=0.05)
    async with opened(tmp_path, made) as kit:
        assert (await kit.run("t")).state == "timed_out"


@pytest.mark.parametrize("kind", [Stop.INTERRUPT, Stop.SHUTDOWN], ids=lambda k: k.label)
async def test_run_that_was_stopped_in_a_back_off_comes_back(tmp_path: Path, kind: Stop) -> None:
    tries: list[int] = []

    async def flaky(ctx: Context) -> None:
        tries.append(ctx.attempt)
        if len(tries) == 1:
            raise OSError("later")

    made = task("t", step("a", flaky, retry={"attempts": 2, "delay": 3600}), recovery=Recovery.RESTART)
    async with opened(tmp_path, made) as kit:
        run = await kit.begin("t")
        await until(lambda: run.backoffs)
        kit.stop(run, kind)
        await until(lambda: not run.placed)
        if kind is Stop.INTERRUPT:
            kit.engine.dispatcher.enter(run)
        record = await kit.ended(run)
        assert (record.state, len(tries)) == ("succeeded", 2)


async def test_stop_action_ends_a_back_off_beside_it(tmp_path: Path) -> None:
    tries: list[int] = []
    gate = anyio.Event()

    async def flaky() -> None:
        tries.append(1)
        gate.set()
        raise OSError("later")

    async def ends() -> None:
        await gate.wait()
        await anyio.sleep(0.01)
        raise EndRun(None)

    made = task("t", step("a", ends), step("b", flaky, retry={"attempts": 9, "delay": 0.1}))
    async with opened(tmp_path, made) as kit:
        record = await kit.run("t")
        assert (record.state, tries) == ("succeeded", [1])
        assert (await kit.steps(record.cid))["b"].state == "cancelled"


# -- before anything has begun


async def test_handlers_of_a_run_that_never_began_do_not_run(tmp_path: Path) -> None:
    log: list[str] = []
    made = task("t", step("a", works), finally_=[step("z", noting(log, "z"))], on_cancel=[step("c", noting(log, "c"))])
    async with opened(tmp_path, made) as kit:
        execute = kit.engine.dispatcher.execute

        async def stopped_at_once(run: LiveRun) -> None:
            kit.stop(run, Stop.CANCEL)
            await execute(run)

        kit.engine.dispatcher.execute = stopped_at_once
        assert ((await kit.run("t")).state, log) == ("cancelled", [])


class Between:
    """Stands before the group of runs and acts when an attempt's child has been made and has not begun."""

    def __init__(self, kit: Opened, ending: str, act: Any) -> None:
        self._runtime, self._real = kit.engine.runtime, kit.engine.runtime.runs
        self._ending, self._act = ending, act
        self._runtime.runs = self  # type: ignore[assignment]

    def start_soon(self, function: Any, *args: Any, name: str) -> None:
        self._real.start_soon(function, *args, name=name)
        if name.endswith(self._ending):
            self._runtime.runs = self._real
            self._act()


async def test_interrupt_before_parallel_children_begin_runs_each_body_once(tmp_path: Path) -> None:
    log: list[str] = []
    made = task("t", step("a", noting(log, "a")), step("b", noting(log, "b")))
    async with opened(tmp_path, made) as kit:
        await kit.engine.stop("cancel", 0.1)
        await turns()
        run = await kit.begin("t")
        Between(kit, " b", lambda: kit.stop(run, Stop.INTERRUPT))
        await kit.engine.start()
        assert ((await kit.ended(run)).state, sorted(log)) == ("succeeded", ["a", "b"])
        assert {s.attempt for s in (await kit.steps(run)).values()} == {1}


# -- handlers and time


async def test_timeout_of_a_run_does_not_cut_its_finally(tmp_path: Path) -> None:
    log: list[str] = []

    async def slow() -> None:
        await anyio.sleep(0.15)
        log.append("tidy")

    async with opened(tmp_path, task("t", step("a", works), finally_=[step("z", slow)], timeout=0.1)) as kit:
        record = await kit.run("t")
        assert (record.state, record.stop, log) == ("succeeded", None, ["tidy"])


async def test_finally_after_a_shutdown_gets_what_is_left_of_its_grace(tmp_path: Path) -> None:
    made = task("t", step("a", forever), finally_=[step("z", forever)])
    async with opened(tmp_path, made) as kit:
        run = await begun(kit)
        kit.stop(run, Stop.SHUTDOWN, grace=0.7)
        with anyio.fail_after(3):
            record = await kit.ended(run)
        assert record.cleanup_error is not None
        assert (record.state, record.cleanup_error["type"]) == ("cancelled", "TimeoutError")


async def test_finally_waits_for_the_body_of_a_stuck_run(tmp_path: Path) -> None:
    stubborn, act = swallowing()
    log: list[str] = []
    async with opened(tmp_path, task("t", step("a", act), finally_=[step("z", noting(log, "z"))])) as kit:
        run = await begun(kit)
        kit.stop(run, Stop.CANCEL, grace=0.02)
        await until(lambda: run.stuck)
        await turns()
        assert log == []
        stubborn.free = True
        record = await kit.ended(run)
        assert (record.state, record.reason, log) == ("cancelled", "stuck", ["z"])


async def test_run_stuck_in_a_shutdown_does_not_come_back_with_the_engine(tmp_path: Path) -> None:
    stubborn, act = swallowing()
    async with opened(tmp_path, task("t", step("a", act), recovery=Recovery.RESTART)) as kit:
        run = await begun(kit)
        await kit.engine.stop("cancel", 0.02)
        await kit.engine.start()
        stubborn.free = True
        record = await kit.ended(run)
        assert (record.state, record.reason, record.attempt) == ("cancelled", "stuck", 1)


# -- places of work that hangs


@pytest.mark.parametrize(("max_stuck", "second"), [(1, "succeeded"), (0, "queued")], ids=["given back", "kept"])
async def test_place_of_a_stuck_run_comes_back_up_to_max_stuck(tmp_path: Path, max_stuck: int, second: str) -> None:
    stubborn, act = swallowing()
    made = [task("t", step("a", act)), task("u", step("b", works))]
    async with opened(tmp_path, *made, lanes={"main": 1}, max_stuck=max_stuck) as kit:
        run = await begun(kit)
        kit.stop(run, Stop.CANCEL, grace=0.02)
        await until(lambda: run.stuck)
        other = await kit.begin("u")
        await turns(50)
        assert other.state == second
        stubborn.free = True
        assert (await kit.ended(other)).state == "succeeded"


# -- what was told is on record


async def test_cancel_of_a_queued_run_is_told_after_its_commit(tmp_path: Path) -> None:
    backend = MemoryBackend()
    async with opened(tmp_path, task("t", step("a", works)), backend=backend, lanes={"main": 0}) as kit:
        run = await kit.begin("t")
        assert await kit.engine.cancel(run.cid) == "cancelled"
        assert backend.execute("SELECT state FROM run").fetchall() == [("cancelled",)]


async def test_run_cancelled_while_the_engine_is_stopped_is_not_counted_later(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        await kit.engine.stop("cancel", 0.1)
        await turns()
        run = await kit.begin("t")
        await kit.engine.cancel(run.cid)
        await kit.engine.start()
        await turns()
        assert kit.engine.status()["lanes"]["main"] == {"limit": 4, "running": 0, "queued": 0, "stuck": 0}


async def test_delayed_run_that_was_cancelled_is_not_counted_at_its_time(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        gone = await kit.begin("t", delay_s=0.05)
        later = await kit.begin("t", delay_s=0.1)
        await kit.engine.cancel(gone.cid)
        await kit.ended(later)
        assert kit.engine.status()["lanes"]["main"]["queued"] == 0


async def test_units_of_two_turns_are_one_commit() -> None:
    store = Store(MemoryBackend(), on_fault=print, on_fatal=print)
    async with anyio.create_task_group() as group:
        group.start_soon(store.serve)
        await turns()
        first = store.put(lambda execute: None)
        await anyio.lowlevel.checkpoint()
        second = store.put(lambda execute: None)
        await first.wait()
        assert (second.done, store.commits) == (True, 1)
        store.close()


# -- the store


def test_unit_that_fails_half_way_leaves_nothing_of_itself() -> None:
    backend = MemoryBackend()

    def half(execute: Execute) -> None:
        execute("INSERT INTO meta VALUES ('half', 'x')")
        raise ValueError

    bad = Ticket(half, None, None, True)

    def whole(execute: Execute) -> None:
        execute("INSERT INTO meta VALUES ('good', 'x')")

    good = Ticket(whole, None, None, True)
    commit_batch(backend.execute, [bad, good])
    assert backend.execute("SELECT key FROM meta").fetchall() == [("good",)]
    assert (type(bad.error), good.error) == (ValueError, None)


class Unwritable(MemoryBackend):
    async def commit(self, batch: object) -> None:
        await anyio.lowlevel.checkpoint()
        raise StoreReadOnly("locked")


async def test_store_that_is_closed_while_it_cannot_be_written_ends_and_says_so() -> None:
    fatal: list[StoreError] = []
    store = Store(Unwritable(), on_fault=print, on_fatal=fatal.append)
    async with anyio.create_task_group() as group:
        group.start_soon(store.serve)
        store.put(lambda execute: None)
        store.close()
        with anyio.fail_after(3):
            await store.ended.wait()
    assert [type(error) for error in fatal] == [StoreReadOnly]


async def test_acceptance_that_is_undone_lets_go_of_whoever_waits(tmp_path: Path) -> None:
    class Flaky(MemoryBackend):
        bad = False

        async def commit(self, batch: Any) -> None:
            if self.bad:
                self.bad = False
                raise StoreReadOnly("full")
            await super().commit(batch)

    backend = Flaky()
    async with opened(tmp_path, task("t", step("a", works)), backend=backend) as kit:
        await kit.engine.runtime.store.written()
        backend.bad = True
        admitted = kit.engine.admission.request(*_request())
        with anyio.fail_after(3):
            await admitted.run.wait_end()
        assert isinstance(admitted.ticket.error, StoreReadOnly)
        await until(lambda: not kit.engine.status()["lanes"]["main"]["running"])
        reader = kit.engine.journal.subscribe({"event"})
        await kit.run("t")
        shown = reader.take().entries  # what the lost units had staged blocks nothing and is never shown
        assert (shown[-1].record()["name"], {entry.cid for entry in shown}) == ("run.succeeded", {shown[-1].cid})
        reader.close()


def _request() -> Any:
    from aura.run import Cause, Request

    return Request("p", "t"), Cause("api")


# -- boots


async def crashed_in_the_second_step(tmp_path: Path) -> tuple[str, MemoryBackend]:
    """What a crash leaves of a run with ``recovery: restart`` whose first step has ended."""
    backend, copy = MemoryBackend(), MemoryBackend()
    made = task("t", step("one", works), step("two", forever, ("one",)), recovery=Recovery.RESTART)
    async with opened(tmp_path, made, backend=backend, grace=0.1) as kit:
        run = await kit.begin("t")
        await until(lambda: "two" in run.live)
        await kit.engine.runtime.store.written()
        backend.connection.backup(copy.connection)
    return run.cid, copy


async def test_boot_takes_the_steps_of_a_restarted_run_back(tmp_path: Path) -> None:
    cid, left = await crashed_in_the_second_step(tmp_path)
    made = task("t", step("one", works), step("two", works, ("one",)))
    async with opened(tmp_path, made, backend=left, lanes={"main": 0}) as kit:
        assert (await kit.engine.history.get_run(cid)).record.state == "queued"
        assert {(s.state, s.attempt, s.started_at) for s in (await kit.steps(cid)).values()} == {("pending", 0, None)}


async def test_boot_that_settled_something_leaves_the_live_streams_open(tmp_path: Path) -> None:
    cid, left = await crashed_in_the_second_step(tmp_path)
    made = task("t", step("one", works), step("two", works, ("one",)))
    async with opened(tmp_path, made, backend=left) as kit:
        await kit.ended(cid)
        reader = kit.engine.journal.subscribe({"event"})
        await kit.run("t")
        assert len(reader.take().entries) >= 6
        reader.close()


# -- the end of a server


def server_on(folder: Path, left: list[int], backend: MemoryBackend | None = None) -> Server:
    settings = load_settings({"data": folder / "data", "plans": folder}, {}, None, folder)
    plans = cast(Generations, PythonGenerations(task("t", step("a", forever))))
    return Server(settings, leave=left.append, http=False, backend=backend, generations=plans)


async def test_host_cancel_alone_ends_the_server(tmp_path: Path) -> None:
    backend = MemoryBackend()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as host:
            await host.start(server_on(tmp_path, [], backend).serve)
            host.cancel_scope.cancel()
    assert backend.execute("SELECT count(*) FROM boot WHERE ended_at IS NOT NULL").fetchone() == (1,)


async def test_lock_is_free_when_the_server_has_ended(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    for _ in range(2):
        async with anyio.create_task_group() as host:
            server = server_on(tmp_path, [])
            await host.start(server.serve)
            with pytest.raises(StoreInUse, match=f"process {os.getpid()} "):
                DataFolder.open(tmp_path / "data")
            server.request_stop()


async def test_last_log_lines_are_stored(tmp_path: Path) -> None:
    backend = MemoryBackend()
    async with opened(tmp_path, task("t", step("a", works)), backend=backend) as kit:
        kit.engine.runtime.log.info("the last words")
    assert ("the last words",) in backend.execute("SELECT message FROM log").fetchall()


async def test_watchdog_ends_a_process_whose_stop_takes_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow() -> None:
        try:
            await anyio.sleep(3600)
        finally:
            await anyio.sleep(0.3)

    monkeypatch.setattr("aura.server.STOP_SLACK", -0.95)
    async with opened(tmp_path, task("t", step("a", slow)), grace=1) as kit:
        await begun(kit)
    assert kit.left == [70]


async def test_run_that_came_back_has_all_of_its_time_for_clean_up_again(tmp_path: Path) -> None:
    async def tidy() -> None:
        await anyio.sleep(0.3)

    tries: list[int] = []

    async def act() -> None:
        tries.append(1)
        if len(tries) == 1:
            await anyio.sleep(3600)

    made = task("t", step("a", act), finally_=[step("z", tidy)], recovery=Recovery.RESTART)
    async with opened(tmp_path, made) as kit:
        run = await begun(kit)
        await kit.engine.stop("cancel", 0.1)
        await turns()
        await kit.engine.start()
        record = await kit.ended(run)
        assert (record.state, record.cleanup_error, record.attempt) == ("succeeded", None, 2)
