"""Says of each nominal time of each item whether what happened is what the policy says. It knows nothing of the engine.

The policy, as people are told it. A time that comes while the server is there starts one run, within a moment; an item
that is off, or whose mode is ``single`` while it runs, has a line instead. What has come while nobody was there is
settled at once when somebody is again: up to ``ON_TIME`` seconds later as if on time, else each trigger by its
``misfire``, if that may still start after its ``misfire_grace``; the rest are lines. A time is settled once, unless the
clock is set back by more than ``STEP_BACK`` seconds: then those that have started nothing come again. None starts two
runs, ever. A trigger has no times up to when it was first seen.

Invariant: whatever is in the history is explained, and whatever is expected is in the history: a run that no time asks
for, and a line that stands for none, are named as well.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.scheduling.year.nominal import Item, Trigger, times
from tests.scheduling.year.telling import MORE, History, Line, Run, Span

#: Seconds: how late is still on time, how far a clock goes back before times come again, what a line's times lack.
ON_TIME, STEP_BACK, ROUNDING = 5.0, 60.0, 1e-3
#: Seconds in which a jump is noticed, and in which a run is accepted.
NOTICED, SOON = 0.1, 0.5
#: What starts at most of the missed ones of a trigger.
MOST = 100
#: How many runs of an item may be open when one more starts, by its mode: of ``queued`` one runs and ten wait.
OPEN = {"single": 0, "queued": 10}


class Problem(str):
    """What is wrong: a word for it, and where."""

    def __new__(cls, word: str, item: str, due: float | None, detail: str) -> "Problem":
        made = super().__new__(cls, f"{word}: {item} at {due}: {detail}")
        made.word = word
        return made

    word: str


@dataclass
class Known:
    """What there is to know of an item up to now: when its triggers were first seen, what is settled, what has run."""

    anchors: dict[Trigger, float] = field(default_factory=dict)
    looked_to: dict[Trigger, float] = field(default_factory=dict)
    #: The times that have started a run, in hundredths of a second.
    started: set[float] = field(default_factory=set)
    #: The times that have a line: if they come again, once the clock was set back, they may start, and need not.
    told: set[float] = field(default_factory=set)
    #: Of the present span, all times of each trigger, those that other triggers have too included.
    each: dict[Trigger, list[float]] = field(default_factory=dict)
    #: The runs that have not ended before the present span.
    open: list[Run] = field(default_factory=list)


@dataclass
class Seen:
    """What happened to an item in a span, as far as it is not explained yet."""

    runs: list[Run]
    lines: list[Line]

    def take_run(self, due: float) -> Run | None:
        found = next((run for run in self.runs if abs(run.due - due) < ROUNDING), None)
        if found:
            self.runs.remove(found)
        return found

    def take_line(self, first: float, last: float) -> Line | None:
        """That which stands for the times from ``first`` to ``last``."""
        found = next((line for line in self.lines if line.names(first, last, ROUNDING)), None)
        if found:
            self.lines.remove(found)
        return found


def problems(history: History) -> list[Problem]:
    """All that is wrong with a history."""
    names = sorted({name for span in history.spans for name in span.items})
    return [problem for name in names for problem in Checker(name, history).check()] + _strangers(history, set(names))


def _strangers(history: History, names: set[str]) -> list[Problem]:
    seen: list[tuple[str, object]] = [(one.item, one) for span in history.spans for one in span.runs]
    seen += [(one.item, one) for span in history.spans for one in span.lines]
    return [Problem("stranger", item, None, str(one)) for item, one in seen if item not in names]


class Checker:
    """Checks one item over all spans."""

    def __init__(self, name: str, history: History) -> None:
        self.name = name
        self._history = history
        self._known = Known()

    def check(self) -> Iterator[Problem]:
        """What is wrong with it."""
        for span in self._history.spans:
            runs = [run for run in span.runs if run.item == self.name]
            seen = Seen(runs, [line for line in span.lines if line.item == self.name])
            if self.name in span.items:
                yield from self._check_span(span, span.items[self.name], seen)
            yield from self._unexplained(seen)
            self._known.open = [run for run in self._known.open if run.seq not in span.ended]

    def _unexplained(self, seen: Seen) -> Iterator[Problem]:
        for run in seen.runs:
            word = "doubled" if self._has_started(run.due) else "untargeted"
            yield Problem(word, self.name, run.due, f"nothing asks for {run}")
        for line in seen.lines:
            yield Problem("line", self.name, line.first, f"stands for nothing: {line}")

    def _has_started(self, due: float) -> bool:
        return any(round(due + by, 2) in self._known.started for by in (-ROUNDING, ROUNDING))

    # -- a span

    def _check_span(self, span: Span, item: Item, seen: Seen) -> Iterator[Problem]:
        if span.on or span.begins in ("boot", "reload"):
            self._set_back(span)
        if span.begins in ("boot", "reload"):
            self._load(span, item)
        yield from self._check_anchors(span, item)
        if not span.on:
            return
        dues = self._dues(span, item)
        begun = bisect_left([due for due, _ in dues], span.begin + ROUNDING)
        yield from self._check_gap(span, item, dues[:begun], seen)
        for due, _ in dues[begun:]:
            yield from self._check_start(span, item, due, due, seen)

    def _set_back(self, span: Span) -> None:
        """Whatever lies more than a minute ahead was seen by a clock that was wrong."""
        known, now = self._known, span.begin
        ahead = max([*known.looked_to.values(), *known.anchors.values()], default=now)
        if ahead > now + STEP_BACK:
            known.looked_to = {trigger: min(to, now) for trigger, to in known.looked_to.items()}
            known.anchors = {trigger: min(anchor, now) for trigger, anchor in known.anchors.items()}

    def _load(self, span: Span, item: Item) -> None:
        known = self._known
        known.anchors = {trigger: known.anchors.get(trigger, span.begin) for trigger in item.triggers}
        known.looked_to = {trigger: known.looked_to.get(trigger, span.begin) for trigger in item.triggers}

    def _check_anchors(self, span: Span, item: Item) -> Iterator[Problem]:
        """The server's are taken from here on, if they are those that can be: a jump is noticed in a moment."""
        for trigger, expected in self._known.anchors.items():
            told = span.anchors[self.name, trigger]
            if abs(told - expected) > NOTICED:
                yield Problem("anchor", self.name, None, f"first seen at {expected}, and the server says {told}")
            self._known.anchors[trigger] = told

    def _dues(self, span: Span, item: Item) -> list[tuple[float, Trigger]]:
        """All times that come in it, with the trigger, and those that have come meanwhile; not what has started.

        A time that several triggers mean is that of the first of them which may still start it. What came in the last
        moment before a crash is of this span only if it left something behind.
        """
        found = dict[float, Trigger]()
        known, until = self._known, _steady(span)
        known.each = {}
        for trigger in item.triggers:
            anchor, after = known.anchors[trigger], known.looked_to[trigger]
            come = times(trigger, anchor, max(anchor, after), span.end)
            known.each[trigger] = [due for due in come if due <= until or self._left_something(span, due)]
            known.looked_to[trigger] = max(after, until)
        for trigger in known.each:
            found = dict.fromkeys(self._latest(span, trigger), trigger) | found
        for trigger, come in known.each.items():
            found = dict.fromkeys(come, trigger) | found
        return sorted((due, trigger) for due, trigger in found.items() if not self._has_started(due))

    def _left_something(self, span: Span, due: float) -> bool:
        run = any(run.item == self.name and abs(run.due - due) < ROUNDING for run in span.runs)
        return run or any(line.item == self.name and line.last == due for line in span.lines)

    # -- what was missed

    def _check_gap(self, span: Span, item: Item, dues: list[tuple[float, Trigger]], seen: Seen) -> Iterator[Problem]:
        starting = self._starting(span, dues, seen)
        missed = [due for due, _ in dues if due not in starting]
        if missed:
            yield from self._check_missed(span, missed, seen)
        for due in starting:
            yield from self._check_start(span, item, due, span.begin, seen)

    def _starting(self, span: Span, dues: list[tuple[float, Trigger]], seen: Seen) -> list[float]:
        """Which of those that have come meanwhile start."""
        ran = {run.due for run in seen.runs}
        on_time = [due for due, _ in dues if _within(span.begin - due, ON_TIME, due in ran)]
        late = [
            (due, trigger)
            for due, trigger in dues
            if due not in on_time and (trigger.grace is None or _within(span.begin - due, trigger.grace, due in ran))
        ]
        starting = set(on_time)
        for trigger in {trigger for _, trigger in late if trigger.misfire == "run_all"}:
            starting |= {due for due, its in late if its == trigger and due in self._latest(span, trigger)}
        once = [due for due, trigger in late if trigger.misfire == "run_once"]
        return sorted(starting | set(once[-1:] if not on_time else []))

    def _latest(self, span: Span, trigger: Trigger) -> list[float]:
        """Those of a trigger that may start: all but what has come before the latest ``MOST`` of a gap."""
        dues = self._known.each[trigger]
        return dues[max(0, bisect_left(dues, span.begin + ROUNDING) - MOST) :]

    def _counted_twice(self, span: Span) -> int:
        """Beyond the latest of each trigger the server counts, and does not look whether two mean the same."""
        come = [due for dues in self._known.each.values() for due in dues if due <= span.begin + ROUNDING]
        return len(come) - len(set(come)) if len(come) > MOST else 0

    def _check_missed(self, span: Span, missed: list[float], seen: Seen) -> Iterator[Problem]:
        line = seen.take_line(missed[0], missed[-1])
        if line is None:
            yield Problem(
                "silent", self.name, missed[0], f"{len(missed)} up to {missed[-1]} have no line in {_of(span)}"
            )
        elif not 0 <= line.count - len(missed) <= self._counted_twice(span) and MORE not in line.detail:
            yield Problem("count", self.name, missed[0], f"{len(missed)} were missed: {line}")
        elif line.reason != ("misfire" if span.enabled[self.name] else "disabled"):
            yield Problem("reason", self.name, missed[0], f"{line}")

    # -- what starts

    def _check_start(self, span: Span, item: Item, due: float, when: float, seen: Seen) -> Iterator[Problem]:
        """A time that starts a run at ``when``, unless the item is off or its mode has none."""
        run, open_runs = seen.take_run(due), self._open_at(span, when)
        if run is None:
            yield from self._check_refused(span, item, due, open_runs, seen)
            return
        self._known.started.add(round(due, 2))
        self._known.open.append(run)
        open_runs = [one for one in open_runs if span.ended.get(one.seq, math.inf) > when + ROUNDING]
        if not span.enabled[self.name]:
            yield Problem("disabled", self.name, due, f"it is off in {_of(span)}, and there is {run}")
        if len(open_runs) > OPEN.get(item.mode, math.inf):
            yield Problem("mode", self.name, due, f"it is {item.mode}, and there is {run} beside {open_runs}")
        if not when - ROUNDING <= run.accepted_at <= when + SOON:
            yield Problem("late", self.name, due, f"it was to start at {when}, and there is {run}")
        yield from self._check_jitter(span, run)

    def _check_refused(self, span: Span, item: Item, due: float, open_runs: list[Run], seen: Seen) -> Iterator[Problem]:
        line, was_told = seen.take_line(due, due), round(due, 2) in self._known.told
        self._known.told.add(round(due, 2))
        if line is None and was_told:
            return
        if line is None:
            yield Problem("lost", self.name, due, f"no run and no line in {_of(span)}")
        elif not span.enabled[self.name]:
            if line.reason != "disabled":
                yield Problem("reason", self.name, due, f"it is off: {line}")
        elif line.reason != "mode" or len(open_runs) <= OPEN.get(item.mode, math.inf):
            yield Problem("refused", self.name, due, f"nothing stands in the way: {line} in {_of(span)}")

    def _open_at(self, span: Span, when: float) -> list[Run]:
        return [run for run in self._known.open if span.ended.get(run.seq, math.inf) >= when - ROUNDING]

    def _check_jitter(self, span: Span, run: Run) -> Iterator[Problem]:
        """It begins up to ``jitter`` seconds after its time; checked where nothing but that delays it."""
        item, begun = span.items[self.name], self._history.begun[run.seq]
        last = run.due + max(trigger.jitter for trigger in item.triggers) + SOON
        is_free = item.mode == "single" and run.accepted_at < run.due + SOON and last < span.end
        if is_free and not (begun is not None and run.due - ROUNDING <= begun <= last):
            yield Problem("jitter", self.name, run.due, f"it began at {begun}")


def _steady(span: Span) -> float:
    """Until when what comes in a span is settled in it, whatever stands at its end."""
    return span.end - ROUNDING


def _within(seconds: float, bound: float, happened: bool) -> bool:
    """At the very bound it may be so or not."""
    return happened if abs(seconds - bound) <= NOTICED else seconds <= bound


def _of(span: Span) -> str:
    return f"the span from {span.begin} ({span.begins}) to {span.end}"
