"""Loops that something stops: a pause, a cancel, a time-out, a shutdown, a restart; what is kept, and what is not.

The sweep stops the same run at every turn of the loop, from its acceptance to its committed end.
"""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, quiet, step, task, turns, until
from tests.engine.test_one_lost_unit import MANY, Units, asked
from tests.engine.test_pause_at_every_turn import pause, rested
from tests.engine.test_stop_at_every_turn import TOO_MANY, accepted, end_of, stop_in
from tests.fakes.invariants import check_forgotten, check_history, check_idle, record_of
from tests.fakes.kernel import FaultyBackend, copy_of, works

from aura.context import Context
from aura.lifecycle import FINAL, STEP_FINAL, Recovery, Stop
from aura.runs import runtime
from aura.runs.liverun import LiveRun
from aura.stores.memory import MemoryBackend

ITEMS = [10, 20, 30]


class Bodies:
    """The items' bodies: how often each began and ended, by key."""

    def __init__(self) -> None:
        self.began: Counter[Any] = Counter()
        self.ended: Counter[Any] = Counter()

    def clear(self) -> None:
        self.began.clear()
        self.ended.clear()

    def act(self, seconds: float = 0.0, fails_first: bool = False) -> Any:
        async def act(ctx: Context, value: Any) -> Any:
            self.began[value] += 1
            await turns(1)
            await anyio.sleep(seconds)
            if fails_first and ctx.attempt == 1:
                raise OSError("not yet")
            self.ended[value] += 1
            return value

        return act


def looping(bodies: Bodies, seconds: float = 0.0, **keys: Any) -> Any:
    loop = keys.pop("loop", {"for_each": ITEMS})
    act = bodies.act(seconds, keys.pop("fails_first", False))
    return step("a", act, params={"value": "{{ loop.item }}"}, loop=loop, **keys)


Shape = Callable[[Bodies], list[Any]]
SHAPES: dict[str, Shape] = {
    "one after the other": lambda b: [looping(b)],
    "side by side": lambda b: [looping(b, loop={"for_each": ITEMS, "parallelism": 2})],
    "rounds": lambda b: [looping(b, loop={"until": "{{ loop.last == 2 }}"})],
    "rounds with rests": lambda b: [looping(b, loop={"while_": "{{ loop.index < 3 }}", "delay": 0.9})],
    "tries": lambda b: [looping(b, fails_first=True, retry={"attempts": 2, "delay": 0.9})],
    "behind and before steps": lambda b: [step("b", works), looping(b, needs=("b",)), step("c", works, ("a",))],
}


def items_of(kit: Opened, run: LiveRun) -> list[Any]:
    """(index, state, output) of all items on record."""
    sql = "SELECT idx, state, CAST(output AS TEXT) FROM item WHERE seq=? ORDER BY idx"
    return kit.backend.execute(sql, (run.seq,)).fetchall()


def whole(kit: Opened, run: LiveRun) -> Any:
    """What came of a run: its result, its items."""
    return record_of(kit, run).result, items_of(kit, run)


def check_ended(kit: Opened, run: LiveRun, bodies: Bodies) -> None:
    """Nothing is open, and no item began more often than is on record."""
    check_history(kit.backend.execute, run.seq, record_of(kit, run).state)
    check_forgotten(kit, run)
    check_items_ended(kit, run)


def check_items_ended(kit: Opened, run: LiveRun) -> None:
    assert [state for _, state, _ in items_of(kit, run) if state not in STEP_FINAL] == []


STOPS = {
    (Stop.INTERRUPT, Recovery.FAIL): "succeeded",
    (Stop.SHUTDOWN, Recovery.FAIL): "cancelled",
    (Stop.SHUTDOWN, Recovery.RESUME): "succeeded",
    (Stop.SHUTDOWN, Recovery.RESTART): "succeeded",
    (Stop.TIMEOUT, Recovery.FAIL): "timed_out",
    (Stop.CANCEL, Recovery.FAIL): "cancelled",
}


@pytest.mark.parametrize("first", [True, False], ids=["first in its turn", "last in its turn"])
@pytest.mark.parametrize(("kind", "recovery"), STOPS, ids=lambda v: v.label if isinstance(v, Stop) else str(v))
@pytest.mark.parametrize("shape", SHAPES)
async def test_stop_of_a_loop_at_every_turn(
    tmp_path: Path, shape: str, kind: Stop, recovery: Recovery, first: bool
) -> None:
    bodies = Bodies()
    made = task("t", *SHAPES[shape](bodies), recovery=recovery, returns="{{ steps.a.output }}")
    async with opened(tmp_path, made) as kit:
        unstopped = accepted(kit)
        assert (await kit.ended(unstopped)).state == "succeeded"
        came_to = whole(kit, unstopped)
        for turn in range(TOO_MANY):
            bodies.clear()
            run = accepted(kit)
            if await stop_in(kit, run, turn, lambda run=run: kit.stop(run, kind), first) is None:  # type: ignore[misc]
                break
            state = (await end_of(kit, run)).state
            assert state in {"succeeded", STOPS[kind, recovery]}, turn
            check_ended(kit, run, bodies)
            if state == "succeeded":
                assert whole(kit, run) == came_to, turn
                if recovery is not Recovery.RESTART:  # what has ended is kept
                    assert set(bodies.ended.values()) == {1}, (turn, bodies.ended)
        assert turn > 10
        check_idle(kit)


@pytest.mark.parametrize("shape", SHAPES)
async def test_pause_of_a_loop_at_every_turn_outlives_a_restart(tmp_path: Path, shape: str) -> None:
    bodies = Bodies()
    made = task("t", *SHAPES[shape](bodies), returns="{{ [steps.a.output, steps.a.each | length] }}")
    left: list[tuple[LiveRun, MemoryBackend, Counter[Any]]] = []
    async with opened(tmp_path, made) as kit:
        unstopped = accepted(kit)
        await kit.ended(unstopped)
        came_to = whole(kit, unstopped)
        for turn in range(TOO_MANY):
            bodies.clear()
            run = accepted(kit)
            if await stop_in(kit, run, turn, lambda run=run: pause(kit, run), True) is None:  # type: ignore[misc]
                break
            if await rested(kit, run):
                assert isinstance(kit.backend, MemoryBackend)
                left.append((run, copy_of(kit.backend), bodies.ended.copy()))
                await kit.engine.resume(run.cid)
            await kit.ended(run)
    assert len(left) > 5
    for old, backend, ended in left:
        bodies.clear()
        async with opened(tmp_path, made, backend=backend) as kit:
            run = kit.engine.runtime.open[old.cid]
            await kit.engine.resume(run.cid)
            assert (await kit.ended(run)).state == "succeeded"
            assert whole(kit, run) == came_to
            assert set((bodies.ended + ended).values()) == {1}, (ended, bodies.ended)


async def test_loop_that_is_stopped_before_its_first_item_begins_has_not_begun(tmp_path: Path) -> None:
    bodies = Bodies()
    backend = FaultyBackend()
    made = task("t", looping(bodies, loop={"for_each": ITEMS, "parallelism": 2}))
    async with opened(tmp_path, made, backend=backend) as kit:
        backend.gate = anyio.Event()
        run = accepted(kit)
        await quiet()  # the commit of its first starts stands at the gate
        assert run.begun
        kit.stop(run, Stop.SHUTDOWN)
        backend.gate.set()
        await until(lambda: run.state == "queued")
        assert (run.begun, run.starts["a"]) == (False, 0)
        assert (await kit.ended(run)).state == "succeeded"
        assert dict(bodies.began) == {10: 1, 20: 1, 30: 1}


# -- what a pause keeps


async def paused_in(kit: Opened, bodies: Bodies, item: Any) -> LiveRun:
    """A run that was paused while this item ran."""
    run = await kit.begin_run("t")
    await until(lambda: bodies.began[item])
    await quiet()
    assert pause(kit, run) == "stopping"
    assert await rested(kit, run)
    return run


async def test_paused_loop_goes_on_behind_its_finished_items(tmp_path: Path) -> None:
    bodies = Bodies()
    async with opened(tmp_path, task("t", looping(bodies, 10), returns="{{ steps.a.output }}")) as kit:
        run = await paused_in(kit, bodies, 20)
        assert [(index, state) for index, state, _ in items_of(kit, run)] == [(0, "succeeded"), (1, "pending")]
        assert (await kit.steps(run))["a"].state == "pending"
        await kit.engine.resume(run.cid)
        assert (await kit.ended(run)).result == ITEMS
        assert (dict(bodies.began), dict(bodies.ended)) == ({10: 1, 20: 2, 30: 1}, {10: 1, 20: 1, 30: 1})
        sql = "SELECT idx, attempt, starts FROM item WHERE seq=? ORDER BY idx"
        assert kit.backend.execute(sql, (run.seq,)).fetchall() == [(0, 1, 1), (1, 1, 2), (2, 1, 1)]


@pytest.mark.parametrize("restart", [False, True], ids=["in one life", "over a restart"])
async def test_paused_loop_goes_on_over_what_was_frozen(tmp_path: Path, restart: bool) -> None:
    """The list and the condition before it are not asked for again."""
    bodies = Bodies()
    loop = {"for_each": "{{ [run.attempt, run.state, steps.c.state] }}"}
    made = task(
        "t",
        looping(bodies, 10, loop=loop, when="{{ steps.c.state == 'pending' }}"),
        step("c", works, ()),
        returns="{{ steps.a.output }}",
    )
    backend = MemoryBackend()
    async with opened(tmp_path, made, backend=backend) as kit:
        run = await paused_in(kit, bodies, "running")
        if not restart:
            await kit.engine.resume(run.cid)
            assert (await kit.ended(run)).result == [1, "running", "pending"]
            return
        kept = copy_of(backend)
        await kit.engine.cancel(run.cid)
    async with opened(tmp_path, made, backend=kept) as kit:
        await kit.engine.resume(run.cid)
        assert (await kit.ended(run.cid)).result == [1, "running", "pending"]


async def test_pause_in_the_rest_between_rounds_ends_the_rest(tmp_path: Path) -> None:
    bodies = Bodies()
    loop = {"until": "{{ loop.last == 1 }}", "delay": 0.9}
    async with opened(tmp_path, task("t", looping(bodies, loop=loop))) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.backoffs)
        pause(kit, run)
        assert await rested(kit, run)
        assert not run.backoffs
        began = anyio.current_time()
        await kit.engine.resume(run.cid)
        assert (await kit.ended(run)).state == "succeeded"
        assert anyio.current_time() - began < 0.5
        assert dict(bodies.began) == {0: 1, 1: 1}


async def test_round_that_a_pause_cut_off_is_rested_after(tmp_path: Path) -> None:
    began: list[float] = []

    async def act() -> None:
        began.append(anyio.current_time())
        await anyio.sleep(10)

    loop = {"until": "{{ loop.index == 1 }}", "delay": 100.0}
    async with opened(tmp_path, task("t", step("a", act, loop=loop))) as kit:
        run = await kit.begin_run("t")
        await until(lambda: began)
        pause(kit, run)
        assert await rested(kit, run)
        await kit.engine.resume(run.cid)
        assert (await kit.ended(run)).state == "succeeded"
        assert [round(later - one) for one, later in pairwise(began)] == [0, 110]


@pytest.mark.parametrize("restart", [False, True], ids=["in one life", "over a restart"])
async def test_failure_beside_an_item_that_a_pause_cut_off_fails_the_step(tmp_path: Path, restart: bool) -> None:
    async def act(value: int) -> None:
        if value == 1:
            raise OSError("no")
        await anyio.sleep(3600)

    made = task("t", step("a", act, params={"value": "{{ loop.item }}"}, loop={"times": 5, "parallelism": 2}))
    backend = MemoryBackend()
    async with opened(tmp_path, made, backend=backend) as kit:
        run = await kit.begin_run("t")
        await until(lambda: [state for _, state, _ in items_of(kit, run)] == ["running", "failed"])
        pause(kit, run)
        assert await rested(kit, run)
        kept = copy_of(backend)
        await (kit.engine.cancel(run.cid) if restart else kit.engine.resume(run.cid))
        record = await kit.ended(run)
    if restart:
        async with opened(tmp_path, made, backend=kept) as kit:
            await kit.engine.resume(run.cid)
            record = await kit.ended(run.cid)
    assert record.error is not None
    assert (record.state, record.error["message"], record.error["item"]) == ("failed", "no", 1)


async def test_cancel_of_a_paused_loop_ends_its_items(tmp_path: Path) -> None:
    bodies = Bodies()
    async with opened(tmp_path, task("t", looping(bodies, 10))) as kit:
        run = await paused_in(kit, bodies, 20)
        await kit.engine.cancel(run.cid)
        assert (await kit.ended(run)).state == "cancelled"
        assert [state for _, state, _ in items_of(kit, run)] == ["succeeded", "cancelled"]
        check_ended(kit, run, bodies)


async def test_handlers_of_a_cancelled_loop_see_what_its_items_came_to(tmp_path: Path) -> None:
    seen: list[Any] = []

    async def note(value: Any) -> None:
        seen.append(value)

    bodies = Bodies()
    tidy = step("z", note, params={"value": "{{ steps.a.each | map(attribute='output') | list }}"})
    async with opened(tmp_path, task("t", looping(bodies, 10), finally_=[tidy])) as kit:
        run = await kit.begin_run("t")
        await until(lambda: bodies.began[20])
        await kit.engine.cancel(run.cid)
        await kit.ended(run)
        assert seen == [[10, None, None]]


# -- starting over, and crashes


async def test_loop_that_starts_over_forgets_its_items(tmp_path: Path) -> None:
    bodies = Bodies()
    count: list[int] = []

    async def lengths() -> list[int]:
        count.append(1)
        return [1, 2, 3, 4] if len(count) == 1 else [7, 8]

    loop = {"for_each": "{{ steps.b.output }}", "parallelism": 3}
    made = task(
        "t",
        step("b", lengths),
        looping(bodies, 10, loop=loop, needs=("b",)),
        recovery=Recovery.RESTART,
        returns="{{ steps.a.output }}",
    )
    async with opened(tmp_path, made) as kit:
        run = await kit.begin_run("t")
        await until(lambda: bodies.began[3])
        await kit.engine.stop("cancel", 0.2)
        await quiet()
        assert run.state == "queued"
        assert kit.backend.execute("SELECT * FROM item").fetchall() == []
        assert kit.backend.execute("SELECT * FROM loop").fetchall() == []
        await kit.engine.start()
        assert (await kit.ended(run)).result == [7, 8]
        assert items_of(kit, run) == [(0, "succeeded", "7"), (1, "succeeded", "8")]


@pytest.mark.parametrize("recovery", [Recovery.RESTART, Recovery.FAIL])
async def test_loop_that_a_crash_caught(tmp_path: Path, recovery: Recovery) -> None:
    bodies = Bodies()
    made = task(
        "t",
        looping(bodies, 10, loop={"for_each": ITEMS, "parallelism": 2}),
        recovery=recovery,
        returns="{{ steps.a.output }}",
    )
    backend = MemoryBackend()
    async with opened(tmp_path, made, backend=backend) as kit:
        run = await kit.begin_run("t")
        await until(lambda: bodies.began[30])
        kept = copy_of(backend)
        await kit.engine.cancel(run.cid)
    async with opened(tmp_path, made, backend=kept) as kit:
        if recovery is Recovery.RESTART:
            assert (await kit.ended(run.cid)).result == ITEMS
            assert (await kit.steps(run.cid))["a"].items_total == 3
            return
        assert (await kit.ended(run.cid)).state == "crashed"
        found = (await kit.steps(run.cid))["a"].items
        assert found is not None
        assert [item.state for item in found][2:] == ["failed"]
        assert (found[2].error or {})["type"] == "outcome_unknown"
        check_history(kit.backend.execute, run.seq, "crashed")


@pytest.mark.parametrize("recovery", [Recovery.FAIL, Recovery.RESTART])
async def test_any_one_lost_unit_leaves_the_items_as_the_run_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recovery: Recovery
) -> None:
    """The run is paused, resumed, and shut down in its loop; one of its units fails by itself, each in its turn."""
    real = runtime.change_run  # type: ignore[attr-defined]
    for bad in range(MANY):
        units = Units(real, bad)
        monkeypatch.setattr(runtime, "change_run", units)
        await lose_one(tmp_path / str(bad), units, recovery)
        if len(units.to) <= bad:
            return
    pytest.fail("a run had more units than there were tried")


async def lose_one(folder: Path, units: Units, recovery: Recovery) -> None:
    bodies = Bodies()
    folder.mkdir()
    loop = {"for_each": ITEMS, "parallelism": 2}
    made = task("t", looping(bodies, 10, loop=loop), recovery=recovery, returns="{{ steps.a.output }}")
    async with opened(folder, made) as kit:
        run = await kit.begin_run("t")
        await kit.advance(15)
        await asked(kit.engine.pause(run.cid))
        await kit.advance(1)
        await asked(kit.engine.resume(run.cid))
        await kit.advance(5)
        await kit.engine.stop("cancel", 1)
        await kit.engine.start()
        await asked(kit.engine.resume(run.cid))
        await kit.advance(60)
        state, result = kit.backend.execute("SELECT state, CAST(result AS TEXT) FROM run").fetchone()
        assert state in FINAL or units.lost_the_end
        if not units.lost_the_end:
            check_items_ended(kit, run)
            assert recovery is Recovery.RESTART or len(items_of(kit, run)) >= len(bodies.began)
        if state == "succeeded":
            assert (result, [was for _, was, _ in items_of(kit, run)]) == ("[10,20,30]", ["succeeded"] * 3)
        check_idle(kit)
        kit.engine.runtime.faults.clear()


async def test_items_are_forgotten_though_the_unit_that_says_so_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run starts over, and its step does not loop again."""
    units, tries = Units(runtime.change_run, 2), []  # type: ignore[attr-defined]
    monkeypatch.setattr(runtime, "change_run", units)

    async def which() -> int:
        tries.append(1)
        return len(tries)

    when = "{{ steps.b.output == 1 }}"
    loop = looping(Bodies(), 10, loop={"times": "{{ 2 }}"}, needs=("b",), when=when)
    async with opened(tmp_path, task("t", step("b", which), loop, recovery=Recovery.RESTART), faults=1) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.live and "a[0]" in run.live)
        await kit.engine.stop("cancel", 0.2)
        await kit.engine.start()
        assert (await kit.ended(run)).state == "succeeded"
        assert units.to[2] == "queued"
        assert items_of(kit, run) == []
        assert (await kit.steps(run))["a"].items is None


# -- reruns


async def test_rerun_takes_a_loop_over_with_its_items(tmp_path: Path) -> None:
    bodies = Bodies()

    async def fails_first(value: int) -> int:
        bodies.began[value] += 1
        if value == 1:
            raise OSError("no")
        return value

    loop = {"times": 3, "stop_on_failure": False}
    a = step("a", fails_first, params={"value": "{{ loop.item }}"}, loop=loop)
    states = "steps.a.each | map(attribute='state') | list"
    whole = f"{{{{ [steps.a.output, steps.a.failed | map(attribute='item') | list, {states}] }}}}"
    made = task("t", a, step("b", works, ("a",)), returns=whole, recovery=Recovery.RESTART)
    came_to = [[0, None, 2], [1], ["succeeded", "failed", "succeeded"]]
    backend = MemoryBackend()
    async with opened(tmp_path, made, backend=backend) as kit:
        old = await kit.begin_run("t")
        assert (await kit.ended(old)).result == came_to
        again = await kit.engine.rerun(old.cid, "b")
        assert (await kit.ended(again.cid)).result == came_to
        found = (await kit.steps(again.cid))["a"]
        assert (found.items_total, found.items_failed, found.output) == (3, 1, [0, None, 2])
        await kit.engine.stop("cancel", 0.1)
        third = await kit.engine.rerun(again.cid, "b")
        kept = copy_of(backend)
    async with opened(tmp_path, made, backend=kept) as kit:  # it takes its items over again after a restart
        assert (await kit.ended(third.cid)).result == came_to
    assert dict(bodies.began) == {0: 1, 1: 1, 2: 1}
