"""Sealing cannot raise: for every state a run can be in, and every reason it can end for, the table has the move."""

import itertools
from collections.abc import Iterator

import pytest

from aura.lifecycle import FINAL, RUN_MOVES, Recovery, RunState, Stop, check_move
from aura.records.runs import Accepted
from aura.run import Cause
from aura.runs.liverun import LiveRun
from aura.runs.seal import decide

S = RunState


def live(
    row: RunState,
    stop: Stop | None,
    recovery: Recovery,
    stuck: bool,
    begun: bool,
    ending: RunState | None,
    held: str | None = None,
) -> LiveRun:
    accepted = Accepted(
        seq=1, cid="c", plan_name="p", task_name="t", generation="g", lane="main", priority=0, labels={},
        recovery=recovery.value, due=0.0, not_before=None, accepted_at=0.0, cause=Cause(), parent_cid=None,
        root_cid="c", depth=0, boot=1, inputs=b"{}",
    )  # fmt: skip
    run = LiveRun(accepted, {}, boot_tag="s.1", workdirs=None, logger_for=None)  # type: ignore[arg-type]
    run.row, run.stop, run.stuck, run.ending = row, stop, stuck, ending
    run.begun_starts, run.held = int(begun), held
    return run


def reachable() -> Iterator[tuple[RunState, Stop | None, Recovery, bool, bool, RunState | None, str | None]]:
    """Every combination that the work layer can bring to the seal."""
    rows = [S.QUEUED, S.RUNNING, S.STOPPING, S.PREEMPTED, S.WAITING]
    for row, stop, recovery, stuck, begun, held in itertools.product(
        rows, [None, *Stop], Recovery, (False, True), (False, True), (None, "paused")
    ):
        if held and (row not in (S.RUNNING, S.PREEMPTED) or stop not in (Stop.INTERRUPT, Stop.SHUTDOWN)):
            continue  # a pause interrupts, and whatever ends the run takes it back
        if row is S.STOPPING and stop not in (Stop.TIMEOUT, Stop.CANCEL):
            continue  # only these two write a row, and a stop is only ever replaced by a higher one
        if row is S.WAITING and (not begun or stop in (Stop.INTERRUPT, Stop.SHUTDOWN)):
            continue  # these mean nothing to a run that waits
        if stuck and stop is None:
            continue  # whatever hangs is told to stop first
        for ending in (None, S.SUCCEEDED, S.FAILED):
            if ending is S.SUCCEEDED and row not in (S.RUNNING, S.STOPPING):
                continue
            yield row, stop, recovery, stuck, begun, ending, held


CASES = list(reachable())


@pytest.mark.parametrize("fault", [False, True], ids=["", "engine fault"])
def test_every_outcome_that_can_be_decided_is_a_move_of_the_table(fault: bool) -> None:
    for case in CASES:
        run = live(*case)
        run.fault = RuntimeError("x") if fault else None
        to = decide(run)
        if to is not run.row:
            check_move(run.row, to)
        assert to in FINAL | {S.QUEUED, S.PREEMPTED}, case
        assert not fault or to is S.CRASHED
    assert len(CASES) > 100


@pytest.mark.parametrize("ending", [S.SUCCEEDED, S.FAILED], ids=str)
@pytest.mark.parametrize("stop", list(Stop), ids=lambda s: s.label)
def test_stop_after_the_graph_ended_changes_nothing(stop: Stop, ending: RunState) -> None:
    assert decide(live(S.RUNNING, stop, Recovery.RESTART, False, True, ending)) is ending


def test_run_that_ends_with_neither_outcome_nor_stop_is_a_fault_and_crashed() -> None:
    run = live(S.RUNNING, None, Recovery.FAIL, False, True, None)
    assert decide(run) is S.CRASHED
    assert run.error is not None
    assert (run.reason, "bug in Aura" in run.error.message) == ("fault", True)


def test_every_unfinished_state_can_crash() -> None:
    assert all(S.CRASHED in moves for moves in RUN_MOVES.values() if moves)
