"""What must be true of the firings of interrupt rules, after any number of kills."""

from collections import Counter
from collections.abc import Iterator

from tests.acceptance.crash import mix
from tests.acceptance.crash.evidence import Evidence


def firings_were_told_the_truth(evidence: Evidence) -> Iterator[str]:
    """A handler that was acknowledged is that of a firing of this rule, and one event fires a rule once."""
    rules = {fired.cid: fired.rule for fired in evidence.firings}
    for note in evidence.notes:
        if note.kind == "fired" and note.status == 202 and note.cid and rules.get(note.cid) != note.state:
            yield f"rule {note.state} fired with handler {note.cid}, and on record that is {rules.get(note.cid)}"
    for (rule, event), count in Counter((fired.rule, fired.event_id) for fired in evidence.firings).items():
        if count > 1:
            yield f"event {event} fired rule {rule} {count} times"


def each_firing_has_its_handler(evidence: Evidence) -> Iterator[str]:
    """Firing and handler are on record together; nobody asks for a handler but a firing, and it runs to its end."""
    handlers = {run.cid: run for run in evidence.runs.values() if run.task == mix.HANDLES}
    for fired in evidence.firings:
        run = handlers.pop(fired.cid, None)
        if run is None:
            yield f"the handler {fired.cid} of rule {fired.rule} is not on record"
        elif run.state != "succeeded" and run.reason != "parked":
            yield f"the handler {run.cid} of rule {fired.rule} is {run.state}, reason {run.reason}"
    yield from (f"run {cid} handles a firing that is not on record" for cid in handlers)


def firings_end_with_their_handlers(evidence: Evidence) -> Iterator[str]:
    """None is left open, each says how its handler ended, and its end was told once."""
    for fired in evidence.firings:
        run = evidence.runs.get(fired.cid)
        if not fired.ended or run is None or fired.outcome != run.state:
            state = run.state if run else "gone"
            yield f"firing of {fired.rule} by {fired.event_id} is {fired.outcome}, and its handler {state}"
        if fired.told > 1:
            yield f"the end of the firing of {fired.rule} by {fired.event_id} was told {fired.told} times"


#: What a victim comes to that was not stopped after all: nothing of it had begun, or it has just ended by itself.
_NOT_STOPPED = ("queued", "succeeded", "failed")


def victims_are_counted(evidence: Evidence) -> Iterator[str]:
    """A run was preempted as often as firings say that they have stopped it, and those stop what their rule names."""
    gone = [(seq, outcome) for fired in evidence.firings for seq, outcome in fired.victims]
    stopped = Counter(seq for seq, outcome in gone if outcome not in (None, *_NOT_STOPPED))
    by_seq = {run.seq: run for run in evidence.runs.values()}
    for run in by_seq.values():
        if run.preemptions != stopped[run.seq]:
            yield f"run {run.cid} ({run.task}) was preempted {run.preemptions} times, by {stopped[run.seq]} firings"
    for fired in evidence.firings:
        tasks = {by_seq[seq].task for seq, _ in fired.victims if seq in by_seq}
        if not tasks <= {task for task, rule in mix.RULE_OF.items() if rule == fired.rule} | {mix.HANDLES}:
            yield f"rule {fired.rule} has stopped {', '.join(sorted(tasks))}"
