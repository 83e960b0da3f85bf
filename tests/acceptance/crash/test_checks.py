"""Each check of the crash tests finds what it is for."""

from typing import Any

import msgspec
import pytest
from tests.acceptance.crash.checks import CHECKS, problems
from tests.acceptance.crash.clients import Note
from tests.acceptance.crash.evidence import Evidence, Run, Step
from tests.acceptance.crash.mix import Mark

DONE = Step("a", "succeeded", starts=1, started_at=10.0, finished_at=12.0)
TOLD = ("run.accepted", "run.started", "run.succeeded")
RUN = Run("c1", "slow", "succeeded", None, "fail", False, "0-1", TOLD, (DONE,))
SENT, ACCEPTED = Note("sent", "0-1", "slow"), Note("told", "0-1", "slow", 202, "c1")
MARK = Mark("c1", "a", 1, 7, 11.0)
GOOD = Evidence(runs={"c1": RUN}, notes=(SENT, ACCEPTED), marks=(MARK,), files=("aura.db", "aura.lock", "token"))


def run(**changes: Any) -> dict[str, Any]:
    """The evidence with another run in the place of the good one."""
    return {"runs": {"c1": msgspec.structs.replace(RUN, **changes)}}


def notes(*more: Note) -> dict[str, Any]:
    return {"notes": (*GOOD.notes, *more)}


def cancelled(status: int, state: str) -> dict[str, Any]:
    return notes(Note("cancel", "", "", status, "c1", state))


def parts(*parents: str) -> dict[str, Any]:
    """The good run, and sub-tasks that answer its first call."""
    part = msgspec.structs.replace(RUN, steps=(), key="", call="1/a/1/0")
    made = {f"p{n}": msgspec.structs.replace(part, cid=f"p{n}", parent=cid) for n, cid in enumerate(parents)}
    return {"runs": {"c1": RUN} | made}


CRASHED = {"state": "crashed", "reason": "crash", "events": ("run.accepted", "run.crashed")}


def step(**changes: Any) -> dict[str, Any]:
    return run(steps=(msgspec.structs.replace(DONE, **changes),))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="all-well"),
        pytest.param({"notes": (SENT, Note("told", "0-1", status=0))}, id="no-answer-and-a-run"),
        pytest.param(cancelled(202, "stopping"), id="cancel-after-its-last-step"),
        pytest.param(cancelled(409, "succeeded"), id="cancel-too-late"),
        pytest.param(run(**CRASHED, steps=()), id="crashed"),
        pytest.param(parts("c1"), id="sub-task"),
    ],
)
def test_what_may_be_is_not_reported(changes: dict[str, Any]) -> None:
    evidence = msgspec.structs.replace(GOOD, **changes)
    if not evidence.runs["c1"].steps:
        evidence = msgspec.structs.replace(evidence, marks=())
    assert problems(evidence) == []


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        pytest.param(
            "pauses_were_told_the_truth",
            notes(Note("pause", "", "", 202, "c1", "preempted")),
            id="pause-that-never-was",
        ),
        pytest.param("acknowledged_runs_are_there", {"runs": {}, "marks": ()}, id="lost"),
        pytest.param("acknowledged_runs_are_there", run(task="chain"), id="another-run"),
        pytest.param("every_run_was_asked_for_once", {"notes": ()}, id="nobody-asked"),
        pytest.param("every_run_was_asked_for_once", notes(Note("told", "0-1", status=429)), id="refused-and-run"),
        pytest.param(
            "every_run_was_asked_for_once",
            {"runs": {"c1": RUN, "c2": msgspec.structs.replace(RUN, cid="c2", steps=())}},
            id="run-twice",
        ),
        pytest.param("each_run_ends_once", run(state="running", events=TOLD[:2]), id="open"),
        pytest.param("each_run_ends_once", run(events=(*TOLD, "run.succeeded")), id="ended-twice"),
        pytest.param("each_run_ends_once", run(events=TOLD[1:]), id="never-accepted"),
        pytest.param("each_run_ends_once", run(events=(*TOLD, "run.started")), id="started-after-its-end"),
        pytest.param("each_run_ends_once", step(name="b", state="running"), id="step-is-open"),
        pytest.param("nothing_failed_by_itself", run(state="failed", events=(*TOLD[:2], "run.failed")), id="failed"),
        pytest.param("nothing_failed_by_itself", run(reason="fault"), id="fault"),
        pytest.param("nothing_failed_by_itself", run(**CRASHED, recovery="restart"), id="not-started-again"),
        pytest.param("calls_have_one_answer", parts("c1", "c1"), id="answered-twice"),
        pytest.param("calls_have_one_answer", parts("c9"), id="part-of-nothing"),
        pytest.param("cancels_were_told_the_truth", cancelled(202, "cancelled"), id="not-cancelled"),
        pytest.param("cancels_were_told_the_truth", cancelled(409, "cancelled"), id="told-another-end"),
        pytest.param("cancels_were_told_the_truth", cancelled(404, ""), id="unknown"),
        pytest.param(
            "cancels_were_told_the_truth", {**run(**CRASHED, steps=(DONE,)), **cancelled(202, "stopping")}, id="crashed"
        ),
        pytest.param(
            "ends_that_were_shown_stay", notes(Note("seen", "", "", 200, "c1", "crashed")), id="shown-another-end"
        ),
        pytest.param("steps_ran_as_often_as_recorded", {"marks": (MARK, MARK)}, id="ran-unrecorded"),
        pytest.param("steps_ran_as_often_as_recorded", {**step(starts=2), "marks": (MARK, MARK)}, id="ran-twice"),
        pytest.param("steps_ran_as_often_as_recorded", run(steps=()), id="ran-before-its-start"),
        pytest.param("finishes_follow_their_marks", {"marks": ()}, id="never-ran"),
        pytest.param("finishes_follow_their_marks", step(finished_at=10.5), id="finished-before-it-ran"),
        pytest.param("clean_up_ran", run(task="tidy"), id="no-clean-up"),
        pytest.param("nothing_is_left", {"processes": ("7 sleep",)}, id="process"),
        pytest.param("nothing_is_left", {"files": ("aura.db-wal",)}, id="file"),
        pytest.param("nothing_is_left", {"lock_is_free": False}, id="lock"),
        pytest.param("database_is_whole", {"database": ("row 7 missing from index",)}, id="database"),
    ],
)
def test_check_finds_what_it_is_for(check: str, changes: dict[str, Any]) -> None:
    found = problems(msgspec.structs.replace(GOOD, **changes))
    assert check in {text.partition(":")[0] for text in found}


def test_every_check_is_run() -> None:
    assert len(set(CHECKS)) == len(CHECKS) == 13
