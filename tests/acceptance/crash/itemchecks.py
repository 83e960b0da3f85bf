"""What must be true of what starts by itself, after any number of kills: slots, events and files start once each."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator

from tests.acceptance.crash import mix
from tests.acceptance.crash.evidence import Evidence, Run

#: Seconds by which the times in a line are rounded.
ROUNDING = 1e-3


def slots_start_once(evidence: Evidence) -> Iterator[str]:
    """No slot has two runs, and none that has one was missed."""
    for item in mix.TIMED:
        starts = Counter(run.due for run in _started(evidence, item))
        yield from (f"slot {due} of {item} has {count} runs" for due, count in starts.items() if count > 1)
        for line in evidence.missed:
            if line.item == item and (both := [due for due in starts if _is_in(due, line.first, line.last)]):
                yield f"slots {both[:3]} of {item} have runs, and a line says that they were missed: {line}"


def slots_have_no_gap(evidence: Evidence) -> Iterator[str]:
    """From the first to the last each slot has its run, or a line stands for it; there is a slot each second."""
    for item in mix.TIMED:
        ran = sorted(run.due for run in _started(evidence, item))
        lines = [line for line in evidence.missed if line.item == item]
        ends = [*ran[-1:], *(line.last for line in lines)]
        first = _first_slot(item, evidence.anchors.get(item))
        if first is None or not ends:
            yield f"item {item} has had no slot"
            continue
        dues = [first + number for number in range(round(max(ends) - first) + 1)]
        silent = [due for due in dues if not _has(ran, due) and not any(_is_in(due, x.first, x.last) for x in lines)]
        if silent:
            yield f"{len(silent)} of {len(dues)} slots of {item} have neither a run nor a line: {silent[:3]}"


def items_that_are_off_start_nothing(evidence: Evidence) -> Iterator[str]:
    """Nor does one whose condition never holds."""
    for item in ("off", "deaf"):
        yield from (f"item {item} has started run {run.cid}" for run in _started(evidence, item))


def events_start_their_item_once(evidence: Evidence) -> Iterator[str]:
    """A run is on record together with its event, or neither is."""
    told = [event.id for event in evidence.events if event.name == mix.TOLD]
    yield from _once("event", told, (run.event_id for run in _started(evidence, mix.ECHO)))


def files_start_their_item_once(evidence: Evidence) -> Iterator[str]:
    """Whether it came while a server was there or not."""
    yield from _once("file", evidence.inbox, (run.file for run in _started(evidence, mix.FILES)))


def calls_start_their_item_once(evidence: Evidence) -> Iterator[str]:
    """202 and 200 of a webhook are promises, and a delivery that comes again is the same."""
    runs = _started(evidence, mix.HOOK)
    told = {note.key: note.cid for note in evidence.notes if note.kind == "called" and note.cid}
    unsure = {note.key for note in evidence.notes if note.kind == "call"} - told.keys()
    here = {run.delivery for run in runs if run.delivery in unsure}  # of these nobody has been told
    yield from _once("delivery", [*told, *here], (run.delivery for run in runs))
    lost = told.items() - {(run.delivery, run.cid) for run in runs}
    yield from (f"delivery {key} was acknowledged as run {cid}, which it has not started" for key, cid in lost)


def _once(what: str, wanted: Iterable[str], got: Iterable[str | None]) -> Iterator[str]:
    counts, names = Counter(got), set(wanted)
    yield from (f"{what} {name} has started {counts[name]} runs" for name in names if counts[name] != 1)
    yield from (f"{counts[name]} runs are of {what} {name}, which never was" for name in counts.keys() - names)


def _started(evidence: Evidence, item: str) -> list[Run]:
    return [run for run in evidence.runs.values() if run.item == item]


def _first_slot(item: str, anchor: float | None) -> float | None:
    """``beat`` is on whole seconds, the others one second and more after they were first seen."""
    return None if anchor is None else float(int(anchor) + 1) if item == "beat" else anchor + 1


def _is_in(due: float, first: float, last: float) -> bool:
    return first - ROUNDING < due < last + ROUNDING


def _has(ran: list[float], due: float) -> bool:
    place = bisect_left(ran, due - ROUNDING)
    return place < len(ran) and ran[place] < due + ROUNDING
