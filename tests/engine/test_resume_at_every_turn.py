"""A crash at every turn of the loop of runs with ``recovery: resume``, and what the next start makes of each.

The same run is begun again and again in one world, and what is on record is copied one turn later each time: that is
what a crash leaves. A server opens each copy. What had ended stays ended, what was caught in the middle is run again if
it says that it may be, and else the run has crashed and names it.
"""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from tests.engine.kit import Opened, opened, step, task, turns
from tests.engine.test_stop_at_every_turn import SHAPES, TOO_MANY, Bodies, accepted, stop_in
from tests.fakes.invariants import check_history, check_idle, record_of
from tests.fakes.kernel import copy_of

from aura.builtin import shipped
from aura.lifecycle import STEP_FINAL, Recovery
from aura.runs.keptcode import HARMLESS
from aura.runs.liverun import LiveRun
from aura.stores.memory import MemoryBackend

#: Those whose steps end as they would without a crash, however often they begin.
SWEPT = [name for name in SHAPES if name not in ("no step", "step time-out", "run time-out", "ended early")]


def test_actions_that_change_nothing_are_shipped() -> None:
    assert set(shipped()) >= HARMLESS


class Left(NamedTuple):
    """What a crash left of a run: its database, and what that says of the run and of the steps of its graph."""

    run: LiveRun
    backend: MemoryBackend
    state: str
    steps: dict[str, str]
    #: How often each body had begun.
    began: Counter[str]

    def in_state(self, *states: str) -> set[str]:
        return {name for name, state in self.steps.items() if state in states}


def left_of(kit: Opened, run: LiveRun, began: Counter[str]) -> Left | None:
    """What a crash would leave now; None while the run is not on record."""
    assert isinstance(kit.backend, MemoryBackend)
    copy = copy_of(kit.backend)
    found = copy.execute("SELECT state FROM run WHERE seq=?", (run.seq,)).fetchone()
    rows = copy.execute("SELECT name, state FROM step WHERE seq=? AND name < 'f'", (run.seq,))  # 'f' …: handlers'
    return Left(run, copy, found[0], dict(rows.fetchall()), began.copy()) if found else None


def resumable(bodies: Bodies, shape: str, *, idempotent: bool) -> Any:
    steps, keys = SHAPES[shape](bodies)
    made = [(msgspec.structs.replace(one, idempotent=idempotent), body) for one, body in steps]
    return task("t", *made, recovery=Recovery.RESUME, **keys)


async def crashes(kit: Opened, began: Counter[str]) -> list[Left]:
    """What a crash in each turn of a run leaves, from its acceptance to its end."""
    left: list[Left | None] = []

    def crash(run: LiveRun) -> str:
        left.append(left_of(kit, run, began))
        return ""

    for turn in range(TOO_MANY):
        began.clear()
        run = accepted(kit)
        gone = await stop_in(kit, run, turn, partial(crash, run), True) is None
        await kit.ended(run)
        if gone:
            crash(run)
            return [one for one in left if one is not None]
    raise AssertionError("it takes too many turns")


async def check_goes_on(kit: Opened, one: Left, bodies: Bodies, by_itself: str, *, idempotent: bool) -> None:
    """Let it end after the next start, and compare."""
    if one.run.cid in kit.engine.runtime.open:
        await kit.ended(one.run.cid)
    record = record_of(kit, one.run)
    check_history(one.backend.execute, one.run.seq, record.state)
    again = bodies.began - one.began
    caught = one.in_state("running", "stopping") if one.state == "running" else set()
    crashed = bool(caught) and not idempotent
    assert (record.state, record.attempt) == ("crashed" if crashed else by_itself, 1), one
    assert not one.in_state(*STEP_FINAL) & again.keys(), "what had ended was run again"
    if crashed:
        assert record.error is not None
        assert (record.error["step"] in caught, again) == (True, Counter())
    check_idle(kit)


@pytest.mark.parametrize("idempotent", [True, False], ids=["idempotent", "not idempotent"])
@pytest.mark.parametrize("shape", SWEPT)
async def test_crash_at_every_turn(tmp_path: Path, shape: str, idempotent: bool) -> None:
    bodies = Bodies()
    made = resumable(bodies, shape, idempotent=idempotent)
    async with opened(tmp_path, made) as kit:
        by_itself = str((await kit.ended(accepted(kit))).state)
        left = await crashes(kit, bodies.began)
    for one in left:
        bodies.began = one.began.copy()
        async with opened(tmp_path, made, backend=one.backend) as kit:
            await check_goes_on(kit, one, bodies, by_itself, idempotent=idempotent)
    assert {one.state for one in left} >= {"running", by_itself}


@pytest.mark.parametrize("parallelism", [1, 2])
async def test_crash_at_every_turn_of_a_loop(tmp_path: Path, parallelism: int) -> None:
    """No item that has ended runs again, and all of them have run in the end."""
    began: Counter[str] = Counter()

    async def act(item: int) -> int:
        began[str(item)] += 1
        await turns(2)
        return item

    loop = {"for_each": [0, 1, 2], "parallelism": parallelism}
    looping = step("a", act, loop=loop, params={"item": "{{ loop.item }}"}, idempotent=True)
    made = task("t", looping, recovery=Recovery.RESUME)
    async with opened(tmp_path, made) as kit:
        left = await crashes(kit, began)
    for one in left:
        rows = one.backend.execute("SELECT idx FROM item WHERE seq=? AND state='succeeded'", (one.run.seq,))
        ended = {str(index) for (index,) in rows.fetchall()}
        began.clear()
        async with opened(tmp_path, made, backend=one.backend) as kit:
            await check_loop_goes_on(kit, one, began, ended)


async def check_loop_goes_on(kit: Opened, one: Left, began: Counter[str], ended: set[str]) -> None:
    if one.run.cid in kit.engine.runtime.open:
        await kit.ended(one.run.cid)
    assert (record_of(kit, one.run).state, (await kit.steps(one.run.cid))["a"].output) == ("succeeded", [0, 1, 2])
    assert not ended & began.keys(), "an item that had ended was run again"
    check_idle(kit)
