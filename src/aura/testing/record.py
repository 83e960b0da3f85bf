"""What is on record in a world: runs, events, log lines, what did not start; and what a test says of them.

Each ``assert_…`` fails with the runs as trees, so that the message says what happened instead.
"""

from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from aura.events import LEVELS, LogEntry
from aura.records.events import read_named
from aura.records.why import WhyFilter, list_why
from aura.store import StoreBackend
from aura.testing.run import Run

if TYPE_CHECKING:
    from aura.testing.world import World

#: How many events, lines of logs and of the why-ledger are given.
MOST = 10_000
#: How many runs, events and lines a message shows.
SHOWN = 20


class Record:
    """The part of a world that only looks."""

    #: What the present server keeps its records in.
    backend: StoreBackend
    #: The last log lines.
    lines: deque[LogEntry]

    def _world(self) -> "World":
        raise NotImplementedError  # a world is one

    # -- what is so

    def runs(self, task: str | None = None) -> list[Run]:
        """All runs, or those of one task, in the order of their acceptance."""
        found = self.backend.execute("SELECT cid, task_name FROM run ORDER BY seq").fetchall()
        return [Run(self._world(), cid) for cid, name in found if task in (None, name)]

    def events(self, pattern: str = "**") -> list[dict[str, Any]]:
        """The events on record whose names fit a pattern, in their order, as records: ``{name, payload, time, …}``.

        ``**`` means all that plans and clients have emitted; Aura's own are named: ``run.*``, ``interrupt.fired``.
        """
        found = read_named(self.backend.execute, pattern, 0, 2**62, MOST).events
        return [event.record() for event in reversed(found)]

    def logs(self, level: str = "debug", *, cid: str | None = None) -> list[dict[str, Any]]:
        """The last log lines from a level on, in their order, as records: ``{message, level, step, fields, …}``."""
        lines = [line for line in self.lines if line.level >= LEVELS[level] and cid in (None, line.cid)]
        return [line.record() for line in lines]

    def explain(self) -> str:
        """All runs as trees, what did not start, as it is on record, and what was not allowed."""
        runs = [run.explain() for run in self.runs()[-SHOWN:]]
        counted = Counter[str]()
        for line in list_why(self.backend.execute, WhyFilter(), MOST):
            counted[f"{line.item or line.rule or line.task_name}: {line.reason} ({line.detail})"] += line.count
        refused = [f"did not start: {what}, {count} times" for what, count in counted.most_common(SHOWN)]
        kept = [f"not allowed: {said}" for said in self._world().refused[-SHOWN:]]
        return "\n".join([*runs, *refused, *kept]) or "nothing has run"

    # -- saying what became of it

    def assert_started(self, task: str, times: int | None = None) -> list[Run]:
        """Fail with the trees of all runs unless a task was started, so many times if that is given; give its runs."""
        __tracebackhide__ = True
        runs = self.runs(task)
        if (not runs) if times is None else len(runs) != times:
            wanted = "" if times is None else f", not {times}"
            raise AssertionError(f"{task} was started {len(runs)} times{wanted}:\n{self.explain()}")
        return runs

    def assert_all_succeeded(self) -> None:
        """Fail with the trees of those that have not, unless every run has succeeded."""
        __tracebackhide__ = True
        wrong = [run for run in self.runs() if run.state != "succeeded" or run.cleanup_error is not None]
        if wrong:
            trees = "\n".join(run.explain() for run in wrong)
            raise AssertionError(f"{len(wrong)} of {len(self.runs())} runs have not succeeded:\n{trees}")

    def assert_emitted(self, name: str, payload: Any = ...) -> dict[str, Any]:
        """Fail unless an event of this name, with this payload if one is given, was emitted; give the last such one."""
        __tracebackhide__ = True
        found = self.events(name)
        fitting = [event for event in found if payload is ... or event["payload"] == payload]
        if not fitting:
            others = found or self.events()
            said = "\n".join(f"{event['name']} {event['payload']!r:.200}" for event in others[-SHOWN:]) or "nothing"
            raise AssertionError(
                f"{name} was not emitted{'' if payload is ... else f' with {payload!r}'}, but:\n{said}"
            )
        return fitting[-1]
