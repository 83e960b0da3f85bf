"""What must be true of steps, items, checkpoints and what they did outside, after any number of kills."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from tests.acceptance.crash import mix
from tests.acceptance.crash.evidence import Evidence, Run, Step

#: Seconds by which two processes may differ about the time.
CLOCKS = 0.05
_MAY_REPEAT_ALL = "restart"


def steps_ran_as_often_as_recorded(evidence: Evidence) -> Iterator[str]:
    """A body never begins before its start is committed, and again only if that may be: paused, or to be repeated."""
    begun = Counter((mark.cid, mark.step) for mark in evidence.marks)
    for (cid, name), count in begun.items():
        run = evidence.runs.get(cid)
        starts = next((step.starts for step in run.steps if step.name == name), 0) if run else 0
        if run is None or count > starts:
            yield f"step {name} of run {cid} ran {count} times, and {starts} starts are on record"
        elif count > 1 and not _may_repeat(run, name):
            yield f"step {name} of run {cid} ({run.task}) ran {count} times, though it may not be repeated"


def _may_repeat(run: Run, step: str) -> bool:
    if run.paused or run.recovery == _MAY_REPEAT_ALL:
        return True
    return run.recovery == "resume" and step in mix.REPEATABLE.get(run.task, ())


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


def finished_work_is_kept(evidence: Evidence) -> Iterator[str]:
    """What has succeeded, a step or an item, never does so again, but in a run that starts over."""
    for run in evidence.runs.values():
        for step in run.steps:
            if step.finishes > 1 and run.recovery != _MAY_REPEAT_ALL and not _is_of_handler(step):
                yield f"step {step.name} of run {run.cid} ({run.task}) has succeeded {step.finishes} times"


def _is_of_handler(step: Step) -> bool:
    return step.name in ("rest", "wake")  # each round of these is a new one


def checkpoints_are_kept(evidence: Evidence) -> Iterator[str]:
    """A step that goes on behind its checkpoint repeats what it was at, and nothing before."""
    counts: dict[str, list[int]] = {}
    for cid, number in evidence.counts:
        counts.setdefault(cid, []).append(number)
    for cid, numbers in counts.items():
        if any(after not in (before, before + 1) for before, after in pairwise([-1, *numbers])):
            yield f"run {cid} counted {numbers}"


def crashes_say_what_is_unknown(evidence: Evidence) -> Iterator[str]:
    """A run that resumes crashes only over a step that may not be repeated, or if it was parked."""
    for run in evidence.runs.values():
        if run.state != "crashed" or run.recovery != "resume" or run.reason == "parked" or run.parent is not None:
            continue
        repeatable = {name.partition("[")[0] for name in mix.REPEATABLE.get(run.task, ())}
        caught = run.error.partition("while step ")[2].partition(" was running")[0].split(", ")
        if set(caught) <= repeatable | {""}:
            yield f"run {run.cid} ({run.task}) was to go on, and is crashed: {run.error}"


def runs_that_go_on_are_greeted(evidence: Evidence) -> Iterator[str]:
    """``on_resume`` runs before a run goes on that had begun something."""
    begun = {mark.cid for mark in evidence.marks if mark.step == "b"}
    for run in evidence.runs.values():
        if run.task != mix.GREETED or run.state != "succeeded" or "run.resumed" not in run.events:
            continue
        woken = any(step.name == "wake" and step.state == "succeeded" for step in run.steps)
        if not woken and run.cid in begun:
            yield f"run {run.cid} went on and succeeded, and its on_resume did not run"


def clean_up_ran(evidence: Evidence) -> Iterator[str]:
    """A ``finally`` runs; where the server was killed before its end, the record says that it is unknown."""
    for run in evidence.runs.values():
        tidied = any(step.name == "tidy" and step.state == "succeeded" for step in run.steps)
        if run.task == "tidy" and run.state == "succeeded" and tidied == run.unclean:
            told = "says that it is unknown" if run.unclean else "says nothing of it"
            yield f"run {run.cid} succeeded, its clean-up did {'' if tidied else 'not '}run, and its record {told}"


def state_counts_each_run_once(evidence: Evidence) -> Iterator[str]:
    """What the plan remembers was changed by each body at most once, and by each that was told so exactly once."""
    told = Counter(count.number for count in evidence.tallies)
    yield from (f"the tally {number} was given {count} times" for number, count in told.items() if count > 1)
    begun = sum(_task(evidence, mark.cid) == "tally" for mark in evidence.marks)
    if not max(told, default=0) <= evidence.tally or not len(told) <= evidence.tally <= begun:
        yield f"{begun} bodies counted, {len(told)} were told so, and the tally is {evidence.tally}"


def steps_emit_once(evidence: Evidence) -> Iterator[str]:
    """Each body emits at most one event, and exactly one if its step succeeded without being repeated."""
    emitted = Counter(event.cid for event in evidence.events if event.name == mix.TOLD)
    begun = Counter(mark.cid for mark in evidence.marks)
    for run in evidence.runs.values():
        count = emitted[run.cid]
        if run.task == "tell" and not (run.state == "succeeded") <= count <= begun[run.cid]:
            yield f"run {run.cid} is {run.state}, began {begun[run.cid]} times, and {count} events of it are on record"


def starts_ask_once(evidence: Evidence) -> Iterator[str]:
    """``task.start`` asks at most once for each of its starts, and has asked if it succeeded."""
    asked = Counter(run.asked_by for run in evidence.runs.values() if run.asked_by)
    for run in evidence.runs.values():
        for step in run.steps:
            count = asked.pop((run.cid, step.name), 0)
            asks = run.task == "beget" and step.name == "b"
            if not (asks and step.state == "succeeded") <= count <= (step.starts if asks else 0):
                told = f"is {step.state}, began {step.starts} times and asked {count} times"
                yield f"step {step.name} of run {run.cid} ({run.task}) {told}"
    yield from (f"{count} runs were asked for by {who}, which is not on record" for who, count in asked.items())


def _task(evidence: Evidence, cid: str) -> str | None:
    run = evidence.runs.get(cid)
    return run.task if run else None
