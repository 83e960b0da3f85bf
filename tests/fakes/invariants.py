"""What must be so of every run, whatever met it: looked up in the record, the history and the engine's own memory."""

import asyncio
import itertools
from collections import Counter
from typing import Any

from tests.engine.kit import Opened

from aura.eventloop import IN_BACKGROUND
from aura.lifecycle import FINAL, RUN_MOVES, STEP_FINAL, RunState
from aura.plan import Rate
from aura.records.reading import get_run
from aura.run import RunRecord
from aura.runs.liverun import LiveRun

#: Events of a run that say which state it has come to; what has no row of its own says nothing.
_SAYS = {
    "run.accepted": RunState.QUEUED,
    "run.started": RunState.RUNNING,
    "run.resumed": RunState.RUNNING,
    "run.requeued": RunState.QUEUED,
    "run.waiting": RunState.WAITING,
    "run.preempted": RunState.PREEMPTED,
    **{f"run.{state.value}": state for state in FINAL},
}


def record_of(kit: Opened, run: LiveRun) -> RunRecord:
    """The run's one row."""
    record = get_run(kit.backend.execute, run.cid)
    assert record is not None, f"{run.cid} is not on record"
    return record


def events_of(execute: Any, seq: int) -> list[str]:
    """The names of a run's events, in order, without those of its steps."""
    rows = execute("SELECT name FROM history WHERE seq=? AND name LIKE 'run.%' ORDER BY id", (seq,))
    return [name for (name,) in rows]


def states_of(execute: Any, seq: int) -> list[RunState]:
    """The states that a run has gone through, as its history tells; ``stopping`` leaves no event."""
    return [_SAYS[name] for name in events_of(execute, seq)]


def check_history(execute: Any, seq: int, state: str) -> None:
    """The history goes along the table and ends where the row is; a final state comes once, and last."""
    states = states_of(execute, seq)
    assert states[0] is RunState.QUEUED
    for former, to in itertools.pairwise(states):
        assert to in RUN_MOVES[former] or to in RUN_MOVES[RunState.STOPPING], f"{former} → {to} in {states}"
        assert former not in FINAL, states
    told = {RunState.RUNNING, RunState.WAITING, RunState.PREEMPTED} if state == RunState.STOPPING else {state}
    assert states[-1] in told, f"the row says {state}, the history {states}"


def check_steps(execute: Any, seq: int, began: Counter[str]) -> None:
    """No step of an ended run is left open, and each was counted as often as its body began."""
    rows = execute("SELECT name, state, starts FROM step WHERE seq=?", (seq,)).fetchall()
    assert all(state in STEP_FINAL for _, state, _ in rows), rows
    assert {name: starts for name, _, starts in rows if starts} == dict(began), rows


def check_forgotten(kit: Opened, run: LiveRun) -> None:
    """Nothing of an ended run is left in memory: no place, no entry in a queue, no timer, no attempt."""
    engine = kit.engine
    assert run.sealed
    assert run.cid not in engine.runtime.open
    assert (run.placed, run.waits, run.entry, run.timer) == (False, False, None, None)
    assert (run.live, run.backoffs) == ({}, {})
    assert run not in engine.dispatcher.lanes[run.lane].stuck
    assert not engine.runtime.faults


def check_idle(kit: Opened) -> None:
    """Nobody runs and nobody waits, and nobody holds anything but what is spent."""
    for lane in kit.engine.dispatcher.lanes.values():
        assert (lane.waiting, lane.waiting_bytes, lane.placed, lane.stuck) == (0, 0, set(), set()), lane.name
    assert not kit.engine.runtime.open
    for name, resource, in_use, waiting in kit.engine.claims.pool:
        assert (waiting, isinstance(resource, Rate) or in_use) in ((0, True), (0, 0)), name
    assert not kit.engine.claims.pool._holders
    assert not kit.engine.modes._groups


def timers() -> int:
    """How many timers of the loop are armed, but for those in the background."""
    scheduled = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    return sum(not (timer.cancelled() or timer._context.get(IN_BACKGROUND, False)) for timer in scheduled)
