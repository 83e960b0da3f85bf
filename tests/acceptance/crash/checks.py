"""What must be true after any number of kills. Each check gives what is wrong, one text for each case.

Here are those of whole runs and of what is left; ``stepchecks`` has those of steps, ``toldchecks`` those of what
clients were told, ``firingchecks`` those of rules, ``itemchecks`` those of what starts by itself.
"""

from collections import Counter
from collections.abc import Callable, Iterator

from tests.acceptance.crash import firingchecks, itemchecks, mix, stepchecks, toldchecks
from tests.acceptance.crash.evidence import Evidence

from aura.lifecycle import FINAL, STEP_FINAL

Check = Callable[[Evidence], Iterator[str]]

FINAL_STATES = frozenset(state.value for state in FINAL)
FINAL_STEPS = frozenset(state.value for state in STEP_FINAL)
FINAL_EVENTS = frozenset(f"run.{state}" for state in FINAL_STATES)
#: What a run was last told to do if it ran.
BEGUN = frozenset({"run.started", "run.resumed"})
#: What the data folder holds once the server has ended in good order.
FILES = frozenset({"aura.db", "aura.lock", "ballast", "token", "work"})
#: Beginnings of names of what is kept on purpose: the database as it was before its schema was brought up to date.
KEPT = ("aura.db.before-",)


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
    of_others = ("parent", "asked_by", "handles", "item")
    by_client = (run for run in evidence.runs.values() if not any(getattr(run, by) for by in of_others))
    keys = Counter(run.key for run in by_client)
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


def only_what_ran_crashed(evidence: Evidence) -> Iterator[str]:
    """What was queued, waited or was paused when the server died is there as before."""
    for run in evidence.runs.values():
        if run.state == "crashed" and run.parent is None and BEGUN.isdisjoint(run.events[-2:-1]):
            yield f"run {run.cid} ({run.task}) did not run, and is crashed: {' '.join(run.events)}"


def only_what_was_told_to_stop_is_cancelled(evidence: Evidence) -> Iterator[str]:
    """By a client, or by a shutdown that it is not to outlive."""
    for run in evidence.runs.values():
        if run.state != "cancelled" or run.task in mix.CANCELLED or run.parent is not None:
            continue
        if (run.reason, run.recovery) != ("shutdown", "fail"):
            yield f"nobody cancelled run {run.cid} ({run.task}, {run.recovery}), and it is, reason {run.reason}"


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


def nothing_is_left(evidence: Evidence) -> Iterator[str]:
    """No process, lock or file of a dead server."""
    yield from (f"process {process} is still there" for process in evidence.processes)
    left = (name for name in evidence.files if name not in FILES and not name.startswith(KEPT))
    yield from (f"file {name} is left in the data folder" for name in left)
    if not evidence.lock_is_free:
        yield "the lock of the data folder is still held"


def database_is_whole(evidence: Evidence) -> Iterator[str]:
    yield from (f"the database says: {line}" for line in evidence.database if line != "ok")


CHECKS: tuple[Check, ...] = (
    acknowledged_runs_are_there,
    every_run_was_asked_for_once,
    each_run_ends_once,
    nothing_failed_by_itself,
    only_what_ran_crashed,
    only_what_was_told_to_stop_is_cancelled,
    calls_have_one_answer,
    toldchecks.cancels_were_told_the_truth,
    toldchecks.pauses_were_told_the_truth,
    toldchecks.ends_that_were_shown_stay,
    toldchecks.batches_are_whole,
    toldchecks.events_are_on_record_once,
    toldchecks.waits_were_woken_by_what_came,
    toldchecks.answers_count,
    stepchecks.steps_ran_as_often_as_recorded,
    stepchecks.finishes_follow_their_marks,
    stepchecks.finished_work_is_kept,
    stepchecks.checkpoints_are_kept,
    stepchecks.crashes_say_what_is_unknown,
    stepchecks.runs_that_go_on_are_greeted,
    stepchecks.clean_up_ran,
    stepchecks.state_counts_each_run_once,
    stepchecks.steps_emit_once,
    stepchecks.starts_ask_once,
    firingchecks.firings_were_told_the_truth,
    firingchecks.each_firing_has_its_handler,
    firingchecks.firings_end_with_their_handlers,
    firingchecks.victims_are_counted,
    itemchecks.slots_start_once,
    itemchecks.slots_have_no_gap,
    itemchecks.items_that_are_off_start_nothing,
    itemchecks.events_start_their_item_once,
    itemchecks.files_start_their_item_once,
    itemchecks.calls_start_their_item_once,
    nothing_is_left,
    database_is_whole,
)


def problems(evidence: Evidence) -> list[str]:
    """Everything that is wrong."""
    return [f"{check.__name__}: {text}" for check in CHECKS for text in check(evidence)]
