"""What clients were told must be true, after any number of kills."""

from collections.abc import Iterator
from typing import Any

from tests.acceptance.crash import mix
from tests.acceptance.crash.evidence import Evidence, Run


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


def batches_are_whole(evidence: Evidence) -> Iterator[str]:
    """What was asked for under one key is on record as a whole, or not at all."""
    kept = {run.key for run in evidence.runs.values()}
    batches: dict[str, list[str]] = {}
    refused = {note.key for note in evidence.notes if note.kind == "told" and note.status not in (0, 202)}
    for note in evidence.notes:
        if note.kind == "sent" and note.batch:
            batches.setdefault(note.batch, []).append(note.key)
    for batch, keys in batches.items():
        there = kept.intersection(keys)
        if 0 < len(there) < len(keys) and refused.isdisjoint(keys):
            yield f"of batch {batch} with {len(keys)} runs there are {len(there)}: {' '.join(sorted(there))}"


def events_are_on_record_once(evidence: Evidence) -> Iterator[str]:
    """202 of an event is a promise too, and nobody asked for it twice."""
    by_key: dict[str, list[str]] = {}
    for event in evidence.events:
        if event.name != mix.TOLD:
            by_key.setdefault(event.key, []).append(event.id)
    told = {note.key: note for note in evidence.notes if note.kind == "emitted" and note.status == 202}
    sent = {note.key for note in evidence.notes if note.kind == "emit"}
    for key, note in told.items():
        if by_key.get(key) != [note.state]:
            yield f"event {key} was acknowledged as {note.state}, and is on record as {by_key.get(key)}"
    for key, ids in by_key.items():
        if key not in sent or len(ids) > 1:
            yield f"event {key!r} is on record {len(ids)} times, asked for {'once' if key in sent else 'never'}"


def waits_were_woken_by_what_came(evidence: Evidence) -> Iterator[str]:
    """A step that has heard an event has heard one of its own, which was emitted while it waited."""
    mine: dict[str, set[str]] = {}
    for note in evidence.notes:
        if note.kind == "emit":
            mine.setdefault(note.cid, set()).add(note.key)
    for run in evidence.runs.values():
        heard = _output(run, "b") if run.task == mix.HEARS else None
        if heard is not None and heard["payload"]["key"] not in mine.get(run.cid, ()):
            yield f"run {run.cid} heard {heard}, and was sent {mine.get(run.cid)}"


def answers_count(evidence: Evidence) -> Iterator[str]:
    """The answer that was acknowledged is what the run has; of those that were not, one may be."""
    given: dict[str, set[str]] = {}
    told: dict[str, list[str]] = {}
    for note in evidence.notes:
        if note.kind == "answer":
            given.setdefault(note.cid, set()).add(note.state)
        elif note.kind == "answered" and note.status == 202:
            told.setdefault(note.cid, []).append(note.state)
    for cid, words in told.items():
        if len(words) > 1:
            yield f"the question of run {cid} was answered {len(words)} times: {' '.join(words)}"
    for run in evidence.runs.values():
        output = _output(run, mix.ASKED) if run.task == mix.ASKS else None
        if output is not None:
            word, may_be = (
                "yes" if output["approved"] else "no",
                set(told.get(run.cid, ())) or given.get(run.cid, set()),
            )
            if word not in may_be:
                yield f"run {run.cid} has the answer {word}, and was given {' '.join(may_be) or 'none'}"


def _output(run: Run, step: str) -> dict[str, Any] | None:
    return next((one.output for one in run.steps if one.name == step and one.state == "succeeded"), None)
