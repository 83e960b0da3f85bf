"""What must be true after any number of kills. Each check gives what is wrong, one text for each case."""

from collections import Counter
from collections.abc import Callable, Iterator

from tests.acceptance.crash import mix
from tests.acceptance.crash.evidence import Evidence, Run

from aura.lifecycle import FINAL, STEP_FINAL

Check = Callable[[Evidence], Iterator[str]]

FINAL_STATES = frozenset(state.value for state in FINAL)
FINAL_STEPS = frozenset(state.value for state in STEP_FINAL)
FINAL_EVENTS = frozenset(f"run.{state}" for state in FINAL_STATES)
#: What the data folder holds once the server has ended in good order.
FILES = frozenset({"aura.db", "aura.lock", "token", "work"})
#: Seconds by which two processes may differ about the time.
CLOCKS = 0.05


def acknowledged_runs_are_there(evidence: Evidence) -> Iterator[str]:
    """202 was a promise."""
    for note in evidence.notes:
        if note.kind == "told" and note.status == 202:
            run = evidence.runs.get(note.cid)
            if run is None:
                yield f"run {note.cid} was acknowledged to {note.key} and is not on record"
            elif (run.key, run.task) != (note.key, note.task):
                yield f"run {note.cid} was acknowledged to {note.key} ({note.task}), and is {run.key} ({run.task})"


def every_run_was_asked_for_once(evidence: Evidence) -> Iterator[str]:
    """A run is one request's; one that was refused left nothing."""
    sent = {note.key for note in evidence.notes if note.kind == "sent"}
    refused = {note.key for note in evidence.notes if note.kind == "told" and note.status not in (0, 202)}
    keys = Counter(run.key for run in evidence.runs.values() if run.parent is None)
    for key, count in keys.items():
        if key not in sent:
            yield f"nobody asked for the run with key {key!r}"
        if key in refused:
            yield f"request {key} was refused, and there is a run of it"
        if count > 1:
            yield f"request {key} became {count} runs"


def each_run_ends_once(evidence: Evidence) -> Iterator[str]:
    """One acceptance, one end, nothing after it."""
    for run in evidence.runs.values():
        ends = [name for name in run.events if name in FINAL_EVENTS]
        if run.state not in FINAL_STATES:
            yield f"run {run.cid} ({run.task}) is still {run.state}"
        elif ends != [f"run.{run.state}"] or run.events[-1] != ends[0]:
            yield f"run {run.cid} ({run.task}) is {run.state}, and its events are {' '.join(run.events)}"
        if run.events.count("run.accepted") != 1 or run.events[0] != "run.accepted":
            yield f"run {run.cid} ({run.task}) has the events {' '.join(run.events)}"
        open_steps = [f"{step.name} {step.state}" for step in run.steps if step.state not in FINAL_STEPS]
        if open_steps:
            yield f"run {run.cid} ({run.task}) is {run.state}, and these of its steps are open: {', '.join(open_steps)}"


def nothing_failed_by_itself(evidence: Evidence) -> Iterator[str]:
    """No task of the mix can fail: what did not succeed was stopped, or was killed with the server."""
    for run in evidence.runs.values():
        if run.state not in ("succeeded", "cancelled", "crashed") or run.reason == "fault":
            yield f"run {run.cid} ({run.task}) is {run.state}, reason {run.reason}"
        starts_again = run.recovery == "restart" and run.parent is None
        if run.state == "crashed" and starts_again and run.reason != "parked":
            yield f"run {run.cid} ({run.task}) was to start again, and is crashed, reason {run.reason}"


def calls_have_one_answer(evidence: Evidence) -> Iterator[str]:
    """A sub-task never runs alone, and of each call of a run one at most has run to an end of its own."""
    parts = [run for run in evidence.runs.values() if run.parent is not None]
    for run in parts:
        parent = evidence.runs.get(run.parent or "")
        if parent is None:
            yield f"run {run.cid} is a part of {run.parent}, which is not on record"
        elif parent.state == "succeeded" and run.state in ("failed", "crashed"):
            yield f"run {parent.cid} ({parent.task}) is succeeded, and its sub-task {run.cid} is {run.state}"
    for (parent_cid, call), count in Counter((run.parent, run.call) for run in parts).items():
        if count > 1:
            yield f"call {call} of run {parent_cid} was answered {count} times"


def cancels_were_told_the_truth(evidence: Evidence) -> Iterator[str]:
    """202 ``cancelled`` is the end, 202 ``stopping`` ends so unless every step had ended; 409 named the end."""
    for note in evidence.notes:
        run = evidence.runs.get(note.cid)
        if note.kind != "cancel" or run is None or note.status == 503:
            continue
        if note.status == 202:
            if run.state != "cancelled" and (note.state == "cancelled" or not _finished(run)):
                yield f"run {run.cid} ({run.task}) was to be cancelled (told: {note.state}), and is {run.state}"
        elif note.status != 409 or note.state != run.state:
            yield f"cancel of run {run.cid} was answered {note.status} {note.state}, and it is {run.state}"


def pauses_were_told_the_truth(evidence: Evidence) -> Iterator[str]:
    """202 ``preempted`` is on record; 409 was of a run that was ending or had another reason to stop."""
    for note in evidence.notes:
        run = evidence.runs.get(note.cid)
        if note.kind == "pause" and note.state == "preempted" and run and "run.preempted" not in run.events:
            yield f"pause of run {run.cid} ({run.task}) was answered {note.state}, and it never was"


def _finished(run: Run) -> bool:
    return run.state == "succeeded" and all(step.state == "succeeded" for step in run.steps)


def ends_that_were_shown_stay(evidence: Evidence) -> Iterator[str]:
    """Who was shown an end was shown the end."""
    for note in evidence.notes:
        if note.kind == "seen":
            run = evidence.runs.get(note.cid)
            if run is None or run.state != note.state:
                yield f"run {note.cid} was shown as {note.state}, and is {run.state if run else 'not on record'}"


def steps_ran_as_often_as_recorded(evidence: Evidence) -> Iterator[str]:
    """A body never begins before its start is committed; only of a paused run one that a crash may not repeat does."""
    begun = Counter((mark.cid, mark.step) for mark in evidence.marks)
    for (cid, name), count in begun.items():
        run = evidence.runs.get(cid)
        starts = next((step.starts for step in run.steps if step.name == name), 0) if run else 0
        if run is None or count > starts:
            yield f"step {name} of run {cid} ran {count} times, and {starts} starts are on record"
        elif run.recovery == "fail" and count > 1 and "run.preempted" not in run.events:
            yield f"step {name} of run {cid} ({run.task}) ran {count} times, though it may not be repeated"


def finishes_follow_their_marks(evidence: Evidence) -> Iterator[str]:
    """A step that succeeded has run, and its finish was recorded after it had."""
    last = {(mark.cid, mark.step): mark for mark in evidence.marks}
    for run in evidence.runs.values():
        for step in run.steps:
            if step.state != "succeeded" or step.name not in mix.MARKED[run.task]:
                continue
            mark = last.get((run.cid, step.name))
            if mark is None:
                yield f"step {step.name} of run {run.cid} succeeded on record and never ran"
            elif not (step.started_at or 0) - CLOCKS <= mark.at <= (step.finished_at or 0) + CLOCKS:
                yield f"step {step.name} of run {run.cid} ran at {mark.at}, and not while it was on record as running"


def clean_up_ran(evidence: Evidence) -> Iterator[str]:
    """A ``finally`` runs; where the server was killed before its end, the record says that it is unknown."""
    for run in evidence.runs.values():
        tidied = any(step.name == "tidy" and step.state == "succeeded" for step in run.steps)
        if run.task == "tidy" and run.state == "succeeded" and tidied == run.unclean:
            told = "says that it is unknown" if run.unclean else "says nothing of it"
            yield f"run {run.cid} succeeded, its clean-up did {'' if tidied else 'not '}run, and its record {told}"


def nothing_is_left(evidence: Evidence) -> Iterator[str]:
    """No process, lock or file of a dead server."""
    yield from (f"process {process} is still there" for process in evidence.processes)
    yield from (f"file {name} is left in the data folder" for name in evidence.files if name not in FILES)
    if not evidence.lock_is_free:
        yield "the lock of the data folder is still held"


def database_is_whole(evidence: Evidence) -> Iterator[str]:
    yield from (f"the database says: {line}" for line in evidence.database if line != "ok")


CHECKS: tuple[Check, ...] = (
    acknowledged_runs_are_there,
    every_run_was_asked_for_once,
    each_run_ends_once,
    nothing_failed_by_itself,
    calls_have_one_answer,
    cancels_were_told_the_truth,
    pauses_were_told_the_truth,
    ends_that_were_shown_stay,
    steps_ran_as_often_as_recorded,
    finishes_follow_their_marks,
    clean_up_ran,
    nothing_is_left,
    database_is_whole,
)


def problems(evidence: Evidence) -> list[str]:
    """Everything that is wrong."""
    return [f"{check.__name__}: {text}" for check in CHECKS for text in check(evidence)]
