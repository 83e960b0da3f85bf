"""Runs that wait for events: which one wakes them, what is missed (nothing), and what becomes of it in a crash."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from tests.engine.kit import Opened, opened, quiet, step, task, turns, until
from tests.fakes.invariants import check_idle
from tests.fakes.kernel import copy_of, noting

from aura.context import Context
from aura.errors import WaitFor
from aura.events import Chain, Emitter
from aura.expressions import condition
from aura.lifecycle import RunState
from aura.runs.liverun import LiveRun
from aura.stores.memory import MemoryBackend
from aura.task import Step
from aura.wait import Wait, WaitKind


def hears(pattern: str, seconds: float | None = None) -> Any:
    """An action that waits for such an event."""

    async def act() -> None:
        raise WaitFor(Wait(WaitKind.EVENT, seconds, pattern=pattern))

    return act


def heard(name: str, pattern: str, *needs: str, when: str | None = None, **keys: Any) -> tuple[Step, Any]:
    """A step that waits for such an event, for which ``when`` is true."""
    asked = None if when is None else condition(when, f"test.yaml:{name}")
    return step(name, hears(pattern), needs, event_when=asked, **keys)


async def waiting(kit: Opened) -> LiveRun:
    run = await kit.begin_run("t")
    await until(lambda: run.state is RunState.WAITING)
    await quiet()
    return run


async def emit(kit: Opened, name: str, payload: Any = None) -> str:
    emitted = kit.engine.runtime.bus.emit(name, payload)
    await emitted.ticket.wait()
    return str(emitted.entry.id)


async def test_event_is_the_output(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", heard("a", "door.*"), returns="{{ steps.a.output }}")) as kit:
        run = await waiting(kit)
        await emit(kit, "window.open")
        await emit(kit, "door.open.wide")
        assert run.state == "waiting"
        event_id = await emit(kit, "door.open", {"which": "front"})
        result = (await kit.ended(run)).result
        assert (result["id"], result["name"], result["payload"]) == (event_id, "door.open", {"which": "front"})
        check_idle(kit)


async def test_first_event_for_which_when_is_true_counts(tmp_path: Path) -> None:
    made = heard("a", "level", when="{{ event.payload > 3 }}")
    async with opened(tmp_path, task("t", made, returns="{{ steps.a.output.payload }}")) as kit:
        run = await waiting(kit)
        for level in (1, 3, 5, 7):
            await emit(kit, "level", level)
        assert (await kit.ended(run)).result == 5


async def test_when_that_has_no_value_fails_the_step(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", heard("a", "level", when="{{ event.payload.deep > 3 }}"))) as kit:
        run = await waiting(kit)
        await emit(kit, "level", 1)
        record = await kit.ended(run)
        assert (record.state, (record.error or {})["step"]) == ("failed", "a")


async def test_several_that_wait_for_it_are_all_woken(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", heard("a", "go"), heard("b", "*"), heard("c", "**"))) as kit:
        run = await waiting(kit)
        await emit(kit, "go")
        assert (await kit.ended(run)).state == "succeeded"


async def test_own_event_wakes(tmp_path: Path) -> None:
    made = heard("a", "run.succeeded", when="{{ event.task_name == 'u' }}")
    async with opened(tmp_path, task("t", made), task("u", step("u", noting([], "u")))) as kit:
        run = await waiting(kit)
        other = await kit.begin_run("u")
        await kit.ended(other)
        assert (await kit.ended(run)).state == "succeeded"
        assert (await kit.steps(run))["a"].output["cid"] == other.cid


async def test_star_hears_nothing_of_auras_own(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", heard("a", "**")), task("u", step("u", noting([], "u")))) as kit:
        run = await waiting(kit)
        await kit.record("u")
        assert run.state == "waiting"


async def test_too_late(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", hears("go", 60.0)))) as kit:
        run = await waiting(kit)
        await kit.ended(run)
        error = (await kit.steps(run))["a"].error
        assert error is not None
        assert (error["type"], error["message"]) == ("TimeoutError", "no event go came within 60 s")


# -- nothing is missed


@pytest.mark.parametrize("order", list(itertools.permutations(["a", "b"])), ids="-".join)
async def test_step_that_starts_with_the_one_that_emits_misses_nothing(tmp_path: Path, order: tuple[str, str]) -> None:
    async def emits(ctx: Context) -> None:
        await ctx.emit("go")

    made = {"a": heard("a", "go"), "b": step("b", emits)}
    async with opened(tmp_path, task("t", *(made[name] for name in order))) as kit:
        assert (await kit.record("t")).state == "succeeded"


@pytest.mark.parametrize("order", list(itertools.permutations(["a", "b"])), ids="-".join)
async def test_step_of_a_handler_that_starts_with_the_one_that_emits_misses_nothing(
    tmp_path: Path, order: tuple[str, str]
) -> None:
    async def emits(ctx: Context) -> None:
        await ctx.emit("go")

    made = {"a": heard("a", "go"), "b": step("b", emits)}
    main = step("m", noting([], "m"))
    async with opened(tmp_path, task("t", main, finally_=[made[name] for name in order])) as kit:
        run = await kit.begin_run("t")
        assert (await kit.ended(run)).cleanup_error is None
        assert (await kit.steps(run))["a"].state == "succeeded"
        assert kit.backend.execute("SELECT * FROM wait").fetchall() == []


async def test_event_in_any_turn_from_the_start_of_its_step_on_wakes(tmp_path: Path) -> None:
    """The one that comes before the start is on record is not for it; every later one is, wherever the step is."""
    for turn in range(40):
        async with opened(tmp_path, task("t", heard("a", "go"))) as kit:
            run = await kit.begin_run("t")
            began = kit.backend.execute("SELECT state FROM step").fetchone() is not None
            for _ in range(turn):
                await turns(1)
                began = began or bool(run.main and run.main.steps["a"].starts)
            await emit(kit, "go")
            if run.main and run.main.steps["a"].starts and not began:
                continue  # its start was written down in the turn of the event
            await quiet()
            if began:
                assert (await kit.ended(run)).state == "succeeded", turn
            else:
                assert run.state == "waiting", turn
                await emit(kit, "go")
                await kit.ended(run)


async def test_event_that_was_lost_never_came(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", heard("a", "go"), returns="{{ steps.a.output.payload }}")) as kit:
        run = await waiting(kit)
        kit.backend.execute(
            "CREATE TRIGGER no BEFORE INSERT ON event WHEN new.name='go' BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        with pytest.raises(Exception, match="no"):
            await emit(kit, "go", 1)
        await quiet()
        assert run.state == "waiting"
        kit.backend.execute("DROP TRIGGER no")
        await emit(kit, "go", 2)
        assert (await kit.ended(run)).result == 2


async def test_event_behind_one_that_was_lost_is_not_missed(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", heard("a", "go.*"), returns="{{ steps.a.output.payload }}")) as kit:
        run = await waiting(kit)
        kit.backend.execute(
            "CREATE TRIGGER no BEFORE INSERT ON event WHEN new.name='go.lost' BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        bus = kit.engine.runtime.bus
        lost, kept = bus.emit("go.lost", 1), bus.emit("go.kept", 2)  # one turn: the second finds the first one's claim
        with pytest.raises(Exception, match="no"):
            await lost.ticket.wait()
        await kept.ticket.wait()
        assert (await kit.ended(run)).result == 2


# -- crashes


async def test_event_that_came_before_a_crash_counts_and_is_not_waited_for_again(tmp_path: Path) -> None:
    for turn in range(30):
        backend, log = MemoryBackend(), list[str]()
        made = task("t", heard("a", "go"), step("b", noting(log, "b"), ("a",)), returns="{{ steps.a.output.payload }}")
        async with opened(tmp_path, made, backend=backend) as kit:
            run = await waiting(kit)
            emitted = kit.engine.runtime.bus.emit("go", 7)
            await turns(turn)
            acknowledged = emitted.ticket.done
            if run.sealed:
                return
            left, before = copy_of(backend), len(log)
        del log[before:]
        state = left.execute("SELECT state FROM run").fetchone()[0]
        async with opened(tmp_path, made, backend=left) as kit:
            await quiet()
            again = kit.engine.runtime.open.get(run.cid)
            if again is not None and again.state is RunState.WAITING:
                assert not acknowledged, turn
                await emit(kit, "go", 7)
            record = await kit.ended(run.cid)
            assert (record.state, record.result) == ("succeeded", 7) or state == "running", turn
    raise AssertionError("it never ended")


async def test_wait_for_an_event_outlives_the_server(tmp_path: Path) -> None:
    backend, log = MemoryBackend(), list[str]()
    first = step("z", noting(log, "z"), outputs={"level": "{{ 5 }}"})
    made = task(
        "t", first, heard("a", "level", "z", when="{{ event.payload > steps.z.outputs.level and inputs == {} }}")
    )
    async with opened(tmp_path, made, backend=backend) as kit:
        run = await waiting(kit)
        left = copy_of(backend)
    async with opened(tmp_path, made, backend=left) as kit:
        await emit(kit, "level", 3)
        await quiet()
        assert kit.engine.runtime.open[run.cid].state == "waiting"
        await emit(kit, "level", 6)
        assert (await kit.ended(run.cid)).state == "succeeded"
        assert log == ["z"]


# -- circles


async def test_event_too_deep_in_its_chain_fails_the_step(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", heard("a", "go"))) as kit:
        run = await waiting(kit)
        chain = Chain(None, "0", 17, ("elsewhere",))
        kit.engine.runtime.bus.emit("go", origin=Emitter("p", "u", "c", "s", chain))
        record = await kit.ended(run)
        assert ((record.error or {})["type"], record.state) == ("LoopDetected", "failed")
