"""Checkpoints: what a step or an item has put by is there when it is run again, and gone when it has ended."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, PythonGenerations, opened, step, task, turns, until
from tests.fakes.kernel import FaultyBackend, begun, copy_of

from aura.context import Context
from aura.errors import CheckpointInvalid, ContextClosed
from aura.lifecycle import Recovery, RunState, Stop
from aura.runs.keepable import MAX_VALUE
from aura.runs.liverun import LiveRun
from aura.store import Execute, Ticket, Unit
from aura.stores.memory import MemoryBackend

#: What attempts have found put by, in their order.
Found = list[Any]


def counting(found: Found, until: int = 3, hangs: bool = True) -> Callable[..., Any]:
    """An action that puts by how far it is, counted from where it was, and hangs until that is ``until``."""

    async def act(ctx: Context) -> Any:
        found.append(ctx.checkpointed)
        done = (ctx.checkpointed or 0) + 1
        await ctx.checkpoint(done)
        assert ctx.checkpointed == done
        if hangs and done < until:
            await anyio.sleep(3600)
        return done

    return act


def rows(backend: Any) -> list[tuple[str, int, bytes]]:
    found: list[tuple[str, int, bytes]] = backend.execute("SELECT step, idx, value FROM checkpoint").fetchall()
    return found


async def pause(kit: Opened, run: LiveRun) -> None:
    await kit.engine.pause(run.cid)
    await until(lambda: run.state is RunState.PREEMPTED)


async def resume(kit: Opened, run: LiveRun) -> None:
    await kit.engine.resume(run.cid)
    await until(lambda: run.state in (RunState.RUNNING, RunState.SUCCEEDED))


async def put_by(kit: Opened) -> LiveRun:
    """A run whose step hangs, with something put by."""
    run = await begun(kit)
    await until(lambda: rows(kit.backend))
    return run


# -- kept


async def test_last_one_is_there_after_pauses(tmp_path: Path) -> None:
    found: Found = []
    async with opened(tmp_path, task("t", step("a", counting(found)), returns="{{ steps.a.output }}")) as kit:
        run = await put_by(kit)
        for _ in range(2):
            await pause(kit, run)
            await resume(kit, run)
            await turns(10)
        assert (await kit.ended(run)).result == 3
    assert found == [None, 1, 2]


async def test_last_one_is_there_after_a_restart_and_after_a_crash(tmp_path: Path) -> None:
    found: Found = []
    generations = PythonGenerations(task("t", step("a", counting(found, until=4))))
    backend = MemoryBackend()
    async with opened(tmp_path, generations=generations, backend=backend) as kit:
        run = await put_by(kit)
        await pause(kit, run)
    async with opened(tmp_path, generations=generations, backend=backend) as kit:
        run = kit.engine.runtime.open[run.cid]
        await resume(kit, run)
        await until(lambda: rows(backend) == [("a", -1, b"2")])
        await pause(kit, run)
        left = copy_of(backend)
    async with opened(tmp_path, generations=generations, backend=left) as kit:
        run = kit.engine.runtime.open[run.cid]
        await resume(kit, run)
        await until(lambda: rows(left) == [("a", -1, b"3")])
        await pause(kit, run)
        await resume(kit, run)
        assert (await kit.ended(run)).state == "succeeded"
        assert rows(left) == []
    assert found == [None, 1, 2, 3]


async def test_next_try_finds_it(tmp_path: Path) -> None:
    found: Found = []

    async def act(ctx: Context) -> None:
        found.append(ctx.checkpointed)
        await ctx.checkpoint({"try": ctx.attempt})
        raise OSError("no")

    backend = MemoryBackend()
    made = task("t", step("a", act, retry={"attempts": 3, "delay": 2.0}))
    async with opened(tmp_path, made, backend=backend) as kit:
        assert (await kit.run("t")).state == "failed"
    assert found == [None, {"try": 1}, {"try": 2}]
    assert rows(backend) == []


async def test_each_step_and_each_item_has_its_own(tmp_path: Path) -> None:
    found: Found = []

    async def act(ctx: Context, index: int = -1) -> None:
        found.append((ctx.step, index, ctx.checkpointed))
        await ctx.checkpoint([ctx.step, index])
        if len(found) <= 3:
            await anyio.sleep(3600)

    loop = {"times": 2, "parallelism": 2}
    made = task("t", step("a", act), step("b", act, params={"index": "{{ loop.index }}"}, loop=loop))
    async with opened(tmp_path, made) as kit:
        run = await begun(kit, 3)
        await until(lambda: len(rows(kit.backend)) == 3)
        assert sorted(place[:2] for place in rows(kit.backend)) == [("a", -1), ("b", 0), ("b", 1)]
        await pause(kit, run)
        await resume(kit, run)
        await kit.ended(run)
    assert sorted(found[3:]) == [(name, index, [name, index]) for name, index in (("a", -1), ("b", 0), ("b", 1))]


async def test_what_is_put_by_while_it_is_stopped_counts(tmp_path: Path) -> None:
    found: Found = []

    async def act(ctx: Context) -> None:
        found.append(ctx.checkpointed)
        if ctx.checkpointed is None:
            try:
                await anyio.sleep(3600)
            finally:
                await ctx.checkpoint("cut off")

    async with opened(tmp_path, task("t", step("a", act))) as kit:
        run = await begun(kit)
        await pause(kit, run)
        await resume(kit, run)
        await kit.ended(run)
    assert found == [None, "cut off"]


async def test_checkpoint_that_a_stop_overtakes_is_there_all_the_same(tmp_path: Path) -> None:
    """The stop comes while it is on its way to the store: the unit is written, and counts."""
    backend = FaultyBackend()
    found: Found = []

    async def act(ctx: Context) -> None:
        found.append(ctx.checkpointed)
        if not ctx.checkpointed:
            backend.gate = anyio.Event()
            await ctx.checkpoint("on its way")

    async with opened(tmp_path, task("t", step("a", act)), backend=backend) as kit:
        run = await kit.begin_run("t")
        await until(lambda: backend.gate)
        kit.engine.pausing.request_pause(run)
        await turns(10)
        assert (run.state, rows(backend)) == (RunState.PREEMPTED, [])
        assert backend.gate is not None
        backend.gate.set()
        backend.gate = None
        await until(lambda: rows(backend))
        await resume(kit, run)
        await kit.ended(run)
    assert found == [None, "on its way"]


async def test_checkpoint_from_a_thread(tmp_path: Path) -> None:
    def act(ctx: Context) -> Any:
        ctx.from_thread(ctx.checkpoint, [1])
        return ctx.checkpointed

    async with opened(tmp_path, task("t", step("a", act), returns="{{ steps.a.output }}")) as kit:
        assert (await kit.run("t")).result == [1]


# -- gone


async def test_it_is_gone_when_its_item_has_ended(tmp_path: Path) -> None:
    gate = anyio.Event()

    async def act(ctx: Context, index: int) -> None:
        await ctx.checkpoint(index)
        if index == 2:
            await gate.wait()

    loop = {"times": 3, "parallelism": 1}
    made = task("t", step("a", act, params={"index": "{{ loop.index }}"}, loop=loop))
    async with opened(tmp_path, made) as kit:
        run = await kit.begin_run("t")
        await until(lambda: rows(kit.backend) == [("a", 2, b"2")])
        assert list(run.checkpoints or {}) == ["a[2]"]
        gate.set()
        await kit.ended(run)
        assert (rows(kit.backend), run.checkpoints or None) == ([], None)


async def test_next_step_and_the_run_behind_see_nothing_of_it(tmp_path: Path) -> None:
    found: Found = []
    made = task("t", step("a", counting(found, hangs=False)), step("b", counting(found, hangs=False), ("a",)))
    async with opened(tmp_path, made) as kit:
        await kit.run("t")
        await kit.run("t")
        assert rows(kit.backend) == []
    assert found == [None] * 4


@pytest.mark.parametrize("kind", [Stop.CANCEL, Stop.TIMEOUT], ids=str)
async def test_it_is_gone_with_a_run_that_was_stopped(tmp_path: Path, kind: Stop) -> None:
    async with opened(tmp_path, task("t", step("a", counting([])))) as kit:
        run = await put_by(kit)
        kit.stop(run, kind)
        await kit.ended(run)
        assert rows(kit.backend) == []


async def test_it_is_gone_with_a_run_that_is_cancelled_while_it_rests(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", counting([])))) as kit:
        run = await put_by(kit)
        await pause(kit, run)
        await kit.engine.cancel(run.cid)
        assert rows(kit.backend) == []


@pytest.mark.parametrize("recovery", list(Recovery), ids=str)
async def test_crash_of_a_run_that_does_not_go_on(tmp_path: Path, recovery: Recovery) -> None:
    """One that starts over begins with nothing; one that has crashed leaves nothing."""
    found: Found = []
    made = task("t", step("a", counting(found)), recovery=recovery)
    async with opened(tmp_path, made) as kit:
        run = await put_by(kit)
        left = copy_of(kit.backend)  # type: ignore[arg-type]
        kit.stop(run, Stop.CANCEL)
        await kit.ended(run)
        async with opened(tmp_path / "again", made, backend=left) as again:
            restarted = again.engine.runtime.open.get(run.cid)
            if recovery is Recovery.RESTART:
                assert restarted is not None
                await until(lambda: len(found) == 2 and rows(left))
                again.stop(restarted, Stop.CANCEL)
                await again.ended(restarted)
            assert rows(left) == []
    assert found == [None] * (2 if recovery is Recovery.RESTART else 1)


async def test_shutdown_of_a_run_that_is_to_start_over(tmp_path: Path) -> None:
    found: Found = []
    backend = MemoryBackend()
    made = task("t", step("a", counting(found)), recovery=Recovery.RESTART)
    async with opened(tmp_path, made, backend=backend) as kit:
        await put_by(kit)
    assert rows(backend) == []
    async with opened(tmp_path, made, backend=backend) as kit:
        await until(lambda: len(found) == 2)
    assert found == [None, None]


async def test_plan_that_is_gone_takes_nothing_of_it_along(tmp_path: Path) -> None:
    """A run that rests and cannot go on with its code keeps what it has put by until it ends."""
    backend = MemoryBackend()
    async with opened(tmp_path, task("t", step("a", counting([]))), backend=backend) as kit:
        run = await put_by(kit)
        await pause(kit, run)
    generations = PythonGenerations(task("t", step("a", counting([]))))
    assert generations.now is not None
    generations.now.hash = "g2"
    async with opened(tmp_path, generations=generations, backend=backend) as kit:
        assert rows(backend) == [("a", -1, b"1")]
        await kit.engine.cancel(run.cid)
        assert rows(backend) == []


# -- refused

BAD = {
    "a set": ({1}, "is not JSON"),
    "not a number": (float("nan"), "is not JSON"),
    "no Unicode": ("\ud800", "no JSON text"),
    "too large": ("x" * MAX_VALUE, f"{MAX_VALUE + 2} bytes"),
    "a secret": ({"token": "hunter2-hunter2"}, "has a secret in it"),
}


@pytest.mark.parametrize(("value", "message"), BAD.values(), ids=BAD)
async def test_what_cannot_be_kept_leaves_the_last_one(tmp_path: Path, value: Any, message: str) -> None:
    async def act(ctx: Context) -> Any:
        await ctx.checkpoint(1)
        with pytest.raises(CheckpointInvalid, match=message):
            await ctx.checkpoint(value)
        return ctx.checkpointed

    async with opened(tmp_path, task("t", step("a", act), returns="{{ steps.a.output }}")) as kit:
        kit.engine.runtime.redactor.learn("p/token", "hunter2-hunter2")
        assert (await kit.run("t")).result == 1


async def test_it_is_refused_when_the_attempt_is_over(tmp_path: Path) -> None:
    held: list[Context] = []

    async def act(ctx: Context) -> None:
        held.append(ctx)

    async with opened(tmp_path, task("t", step("a", act))) as kit:
        await kit.run("t")
        with pytest.raises(ContextClosed):
            await held[0].checkpoint(1)
        with pytest.raises(ContextClosed):
            _ = held[0].checkpointed
        assert rows(kit.backend) == []


# -- the store


class Losing(FaultyBackend):
    """Loses the next unit with a statement that begins so, and that one alone."""

    loses: str | None = None

    async def commit(self, batch: Sequence[Ticket]) -> None:
        for ticket in batch:
            ticket.unit = self._picking(ticket.unit, [])
        await super().commit(batch)

    def _picking(self, unit: Unit, lost: list[bool]) -> Unit:
        def picked(execute: Execute) -> None:
            def pick(sql: str, *values: Any) -> Any:
                if lost or (self.loses and sql.startswith(self.loses)):
                    self.loses = None
                    lost.append(True)  # a unit runs twice
                    raise ValueError("lost")
                return execute(sql, *values)

            unit(pick)

        return picked


async def test_lost_checkpoint_is_not_there(tmp_path: Path) -> None:
    backend = Losing()

    async def act(ctx: Context) -> Any:
        await ctx.checkpoint(1)
        backend.loses = "INSERT INTO checkpoint"
        with pytest.raises(ValueError, match="lost"):
            await ctx.checkpoint(2)
        return ctx.checkpointed

    made = task("t", step("a", act), returns="{{ steps.a.output }}")
    async with opened(tmp_path, made, backend=backend) as kit:
        assert (await kit.run("t")).result == 1
    assert rows(backend) == []


async def test_unit_that_was_to_drop_it_is_lost(tmp_path: Path) -> None:
    """The next unit of the run drops it."""
    backend = Losing()

    async def act(ctx: Context) -> None:
        await ctx.checkpoint(1)
        backend.loses = "DELETE FROM checkpoint"

    made = task("t", step("a", act), step("b", lambda: None, ("a",)))
    async with opened(tmp_path, made, backend=backend, faults=2) as kit:
        await kit.begin_run("t")
        await kit.advance(1)
        assert rows(backend) == []


async def test_run_without_one_pays_nothing(tmp_path: Path) -> None:
    said: list[str] = []

    class Listening(MemoryBackend):
        async def commit(self, batch: Sequence[Ticket]) -> None:
            self.connection.set_trace_callback(said.append)
            await super().commit(batch)
            self.connection.set_trace_callback(None)

    async with opened(tmp_path, task("t", step("a", lambda: None)), backend=Listening()) as kit:
        run = await kit.begin_run("t")
        await kit.ended(run)
        assert run.checkpoints is None
    assert not [sql for sql in said if "checkpoint" in sql or "state " in sql.lower().split("set")[0].split("(")[0]]
