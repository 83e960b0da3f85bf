"""Every cell of the lifecycle's tables, and that the schema and the docs repeat them."""

import itertools
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import resources
from pathlib import Path

import pytest

from aura.errors import InternalError
from aura.lifecycle import (
    FINAL,
    PLACED,
    RUN_MOVES,
    STARTABLE,
    STEP_FINAL,
    STEP_MOVES,
    Recovery,
    RunState,
    StepState,
    Stop,
    boot_move,
    check_move,
    check_step_move,
    end_of_stop,
    mermaid,
    outranks,
)

S = RunState
#: The whole table, written a second time by hand: state → what may follow.
EXPECTED = {
    "queued": "running preempted failed cancelled timed_out crashed",
    "running": "queued waiting stopping preempted succeeded failed cancelled timed_out crashed",
    "waiting": "running stopping preempted failed cancelled timed_out crashed",
    "stopping": "succeeded failed cancelled timed_out crashed",
    "preempted": "running waiting stopping queued failed cancelled timed_out crashed",
    "succeeded": "",
    "failed": "",
    "cancelled": "",
    "timed_out": "",
    "crashed": "",
}
EXPECTED_STEPS = {
    "pending": "running skipped failed cancelled",
    "running": "pending retrying waiting stopping succeeded failed cancelled timed_out",
    "retrying": "pending running waiting failed cancelled timed_out",
    "waiting": "pending running retrying succeeded failed cancelled timed_out",
    "stopping": "pending succeeded failed cancelled timed_out",
    **dict.fromkeys(("succeeded", "failed", "skipped", "cancelled", "timed_out"), ""),
}
CELLS = list(itertools.product(RunState, RunState))
STEP_CELLS = list(itertools.product(StepState, StepState))
FINAL_NAMES = {"succeeded", "failed", "cancelled", "timed_out", "crashed"}


@pytest.mark.parametrize(("former", "to"), CELLS, ids=[f"{a}-{b}" for a, b in CELLS])
def test_every_cell_of_the_run_table(former: RunState, to: RunState) -> None:
    if to in EXPECTED[former].split():
        check_move(former, to)
    else:
        with pytest.raises(InternalError, match=f"cannot go from {former} to {to}"):
            check_move(former, to)


@pytest.mark.parametrize(("former", "to"), STEP_CELLS, ids=[f"{a}-{b}" for a, b in STEP_CELLS])
def test_every_cell_of_the_step_table(former: StepState, to: StepState) -> None:
    if to in EXPECTED_STEPS[former].split():
        check_step_move(former, to)
    else:
        with pytest.raises(InternalError, match=f"cannot go from {former} to {to}"):
            check_step_move(former, to)


def test_final_states_have_no_way_out_and_the_sets_agree() -> None:
    assert {s.value for s in FINAL} == FINAL_NAMES
    assert {s.value for s in STEP_FINAL} == {"succeeded", "failed", "skipped", "cancelled", "timed_out"}
    assert set(RUN_MOVES) == set(RunState)
    assert set(STEP_MOVES) == set(StepState)
    assert not PLACED & FINAL
    assert all(S.RUNNING in RUN_MOVES[s] for s in STARTABLE)


def test_stop_kinds_rank() -> None:
    assert [s.label for s in sorted(Stop)] == ["interrupt", "shutdown", "timeout", "cancel"]
    for old, new in itertools.product(Stop, Stop):
        assert outranks(new, old) == (new > old)
    assert all(outranks(s, None) for s in Stop)


#: (stop, recovery, stuck, begun) → end; the order of the columns is that of ``Stop``.
ENDS = {
    ("interrupt", False, True): dict.fromkeys(Recovery, S.PREEMPTED),
    ("interrupt", False, False): dict.fromkeys(Recovery, S.QUEUED),
    ("interrupt", True, True): dict.fromkeys(Recovery, S.CANCELLED),
    ("interrupt", True, False): dict.fromkeys(Recovery, S.CANCELLED),
    ("shutdown", False, True): {
        Recovery.FAIL: S.CANCELLED,
        Recovery.RESUME: S.PREEMPTED,
        Recovery.RESTART: S.QUEUED,
    },
    ("shutdown", False, False): dict.fromkeys(Recovery, S.QUEUED),
    ("shutdown", True, True): dict.fromkeys(Recovery, S.CANCELLED),
    ("shutdown", True, False): dict.fromkeys(Recovery, S.CANCELLED),
    **{("timeout", a, b): dict.fromkeys(Recovery, S.TIMED_OUT) for a in (True, False) for b in (True, False)},
    **{("cancel", a, b): dict.fromkeys(Recovery, S.CANCELLED) for a in (True, False) for b in (True, False)},
}


@pytest.mark.parametrize("kept", [False, True], ids=["", "kept"])
@pytest.mark.parametrize(("stop", "stuck", "begun"), list(ENDS), ids=str)
def test_every_end_of_a_stop(stop: str, stuck: bool, begun: bool, kept: bool) -> None:
    for recovery, end in ENDS[stop, stuck, begun].items():
        expected = S.PREEMPTED if kept and not stuck and stop in ("interrupt", "shutdown") else end
        assert end_of_stop(Stop[stop.upper()], recovery, stuck=stuck, begun=begun, kept=kept) is expected


CRASH = {Recovery.FAIL: S.CRASHED, Recovery.RESUME: S.PREEMPTED, Recovery.RESTART: S.QUEUED}
BOOT_CELLS = list(itertools.product(RunState, [None, *Stop], Recovery))


@pytest.mark.parametrize(("state", "stop", "recovery"), BOOT_CELLS, ids=[f"{a}-{b}-{c}" for a, b, c in BOOT_CELLS])
def test_every_cell_of_the_boot_table(state: RunState, stop: Stop | None, recovery: Recovery) -> None:
    if state in FINAL:
        with pytest.raises(InternalError):
            boot_move(state, stop, recovery)
    elif state in (S.QUEUED, S.WAITING, S.PREEMPTED):
        assert boot_move(state, stop, recovery) is state
    elif state is S.STOPPING and stop in (Stop.CANCEL, Stop.TIMEOUT):
        assert boot_move(state, stop, recovery) is {Stop.CANCEL: S.CANCELLED, Stop.TIMEOUT: S.TIMED_OUT}[stop]
    else:
        to = boot_move(state, stop, recovery)
        assert to is CRASH[recovery]
        if state is S.RUNNING:
            check_move(state, to)


# -- what repeats the tables


def schema() -> str:
    folder = resources.files("aura.stores").joinpath("schema")
    return "\n".join(f.read_text() for f in sorted(folder.iterdir(), key=lambda f: f.name))


def words_of_check(table: str, column: str) -> set[str]:
    body = re.search(rf"CREATE TABLE {table} \((.*?)\n\)", schema(), re.DOTALL)
    assert body
    check = re.search(rf"CHECK \(({column} = .*?)\)", body[1], re.DOTALL)
    assert check
    return set(re.findall(rf"{column} = '(\w+)'", check[1]))


@pytest.mark.parametrize(
    ("table", "column", "words"),
    [
        ("run", "state", {s.value for s in RunState}),
        ("run", "stop", {s.label for s in Stop}),
        ("run", "ending", FINAL_NAMES),
        ("run", "recovery", {r.value for r in Recovery}),
        ("step", "state", {s.value for s in StepState}),
    ],
    ids=["run.state", "run.stop", "run.ending", "run.recovery", "step.state"],
)
def test_checks_of_the_schema_repeat_the_tables(table: str, column: str, words: set[str]) -> None:
    assert words_of_check(table, column) == words


@contextmanager
def row_in(state: str) -> Iterator[sqlite3.Connection]:
    """A database with one run in this state."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(schema())
        db.execute(
            "INSERT INTO run (seq, cid, plan_name, task_name, lane, priority, labels, state, recovery, due,"
            " accepted_at, cause, root_cid, boot, inputs)"
            " VALUES (1, 'c', 'p', 't', 'main', 0, '{}', ?, 'fail', 0, 0, '{}', 'c', 1, '{}')",
            (state,),
        )
        yield db


@pytest.mark.parametrize("state", list(RunState), ids=str)
def test_trigger_refuses_to_change_a_finished_row(state: RunState) -> None:
    with row_in(state.value) as db:
        if state in FINAL:
            with pytest.raises(sqlite3.IntegrityError, match="has ended"):
                db.execute("UPDATE run SET reason='late' WHERE seq=1")
        else:
            db.execute("UPDATE run SET reason='fine' WHERE seq=1")


def test_state_that_is_none_is_refused_by_the_schema() -> None:
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"), row_in("paused"):
        pass


def test_diagram_in_the_docs_is_the_one_that_the_table_draws() -> None:
    page = Path(__file__).parents[2].joinpath("docs", "lifecycle.md").read_text()
    assert f"```mermaid\n{mermaid()}\n```" in page
