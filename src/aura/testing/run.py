"""A run of a world, as a test sees it: what is on record of it now, what can be done to it, and all of it as a tree."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from aura.lifecycle import RunState
from aura.reasons import branches, details, head
from aura.records.reading import get_run, get_steps, list_children
from aura.run import RunRecord, StepRecord
from aura.runs.liverun import LiveRun
from aura.testing.causes import asked_by, replaced_by

if TYPE_CHECKING:
    from aura.testing.world import World

#: How many sub-tasks of a run, and failed items of a step, a tree shows.
SHOWN = 20


class Run:
    """One run of a world. What it shows is on record now: nothing of it can be undone by a failing commit."""

    def __init__(self, world: "World", cid: str) -> None:
        self._world = world
        self.cid = cid

    def __repr__(self) -> str:
        return f"<Run {self.record.task_name} {self.cid} {self.state}>"

    # -- what is so

    @property
    def live(self) -> LiveRun | None:
        """The run in memory, while it has not ended or its end is not committed."""
        return self._world.engine.runtime.open.get(self.cid)

    @property
    def record(self) -> RunRecord:
        """The run as it is on record; a stop that is under way shows as well."""
        found = get_run(self._world.backend.execute, self.cid)
        assert found is not None, f"run {self.cid} is not on record"
        return self._world.engine.history.as_it_is(found)

    @property
    def state(self) -> str:
        """Its state: ``queued running waiting stopping preempted``, or how it has ended."""
        return self.record.state

    @property
    def reason(self) -> str | None:
        """Why it ended so, or what it is being stopped for."""
        return self.record.reason

    @property
    def task_name(self) -> str:
        return self.record.task_name

    @property
    def inputs(self) -> Mapping[str, Any]:
        """Its inputs, with the defaults of those that were not given."""
        return self.record.inputs or {}

    @property
    def workdir(self) -> Path:
        """The folder in which its actions work; it goes with the world."""
        return self._world.engine.workdirs / self.cid

    @property
    def due(self) -> str:
        """The slot that it was started for, else when it was accepted, in the zone of its plan.

        As ``2027-03-28T03:00:00+02:00``.
        """
        record = self.record
        return datetime.fromtimestamp(record.due, ZoneInfo(self._world.timezone(record.plan_name))).isoformat()

    @property
    def result(self) -> Any:
        """What ``returns`` made, as plain data."""
        return self.record.result

    @property
    def error(self) -> Mapping[str, Any] | None:
        """Why it failed: ``{type, message, step, item, file, line}``."""
        return self.record.error

    @property
    def cleanup_error(self) -> Mapping[str, Any] | None:
        """What went wrong in its clean-up, in the same form."""
        return self.record.cleanup_error

    @property
    def preemptions(self) -> int:
        """How often a rule has stopped it to come back; a pause does not count."""
        return self.record.preemptions

    @property
    def cause(self) -> Mapping[str, Any]:
        """What asked for it: ``{kind, item, rule, event_id, cid}``."""
        return self.record.cause

    @property
    def steps(self) -> dict[str, StepRecord]:
        """The steps that have begun or ended, by name, as they are on record."""
        return {step.name: step for step in get_steps(self._world.backend.execute, self.record.seq)}

    def logs(self, level: str = "debug") -> list[dict[str, Any]]:
        """Its log lines from a level on, as records."""
        return self._world.logs(level, cid=self.cid)

    def events(self, pattern: str = "**") -> list[dict[str, Any]]:
        """The events of it whose names fit, as records; for Aura's own the pattern names them: ``step.*``."""
        return [event for event in self._world.events(pattern) if event["cid"] == self.cid]

    # -- what can be done to it

    async def cancel(self, reason: str | None = None) -> str:
        """Cancel it as a user does, and give its state once that is on record; ``RequestError`` if it has ended."""
        return await self._world.call(self._world.engine.cancel, self.cid, reason)

    async def pause(self) -> str:
        """Pause it as a user does, and give its state once that is on record."""
        return await self._world.call(self._world.engine.pause, self.cid)

    async def resume(self) -> str:
        """Let it go on, and give its state once that is on record."""
        return await self._world.call(self._world.engine.resume, self.cid)

    async def answer(self, step: str, approved: bool = True, index: int | None = None, **values: Any) -> str:
        """Answer its step that waits for approval, as a user does. Raises ``RequestError`` if none waits."""
        return await self._world.call(self._world.engine.answer, self.cid, step, index, approved, values, "test")

    # -- saying what became of it

    def explain(self) -> str:
        """The run, its steps and its sub-tasks as a tree of text, with errors, places and reasons."""
        return "\n".join(_tree(self._world, self.record))

    def assert_state(self, state: str) -> None:
        """Fail with the tree of the run unless it is in a state."""
        __tracebackhide__ = True
        RunState(state)  # a word that no state has is the test's mistake
        if self.state != state:
            raise AssertionError(f"the run is {self.state}, not {state}:\n{self.explain()}")

    def assert_succeeded(self) -> None:
        """Fail with the tree of the run unless it has succeeded, its clean-up too."""
        __tracebackhide__ = True
        self.assert_state("succeeded")
        if self.cleanup_error is not None:
            raise AssertionError(f"the run has succeeded, its clean-up has not:\n{self.explain()}")

    def assert_steps(self, **states: str) -> None:
        """Fail with the tree of the run unless these steps are in these states."""
        __tracebackhide__ = True
        steps = self.steps
        found = {name: steps[name].state if name in steps else "pending" for name in states}
        wrong = [f"{name} is {found[name]}, not {state}" for name, state in states.items() if found[name] != state]
        if wrong:
            raise AssertionError(f"{'; '.join(wrong)}:\n{self.explain()}")


def _tree(world: "World", record: RunRecord) -> list[str]:
    execute = world.backend.execute
    record = world.engine.history.as_it_is(record)
    first = f"run {record.plan_name}/{record.task_name} {record.cid}: {record.state}"
    lines = [first + _because(record.reason, record.error)]
    below = [[f"started by {asked_by(world, record.cause)}"]]
    if (other := replaced_by(world, record)) is not None:
        below.append([f"run {other.cid} was started by {asked_by(world, other.cause)}"])
    below += [_step_lines(step) for step in get_steps(execute, record.seq)]
    below += [_tree(world, child) for child in reversed(list_children(execute, record.cid, SHOWN))]
    if record.cleanup_error is not None:
        below.append([f"clean-up failed{_because(None, record.cleanup_error)}"])
    if record.preempted_by is not None:
        by = record.preempted_by
        below.append([f"pre-empted {record.preemptions} times, the last time by {by['plan_name']}/{by['rule']}"])
    return [*lines, *branches(below)]


def _step_lines(step: StepRecord) -> list[str]:
    """A step and, below it, what is known of why it was skipped and which of its items failed."""
    reason = head(step.explained) if step.explained else step.skipped_because
    tries = f", attempt {step.attempt}" if step.attempt > 1 else ""
    below = list(branches([line] for line in details(step.explained))) if step.explained else []
    return [f"{step.name}: {step.state}{tries}" + _because(reason, step.error), *below, *branches(_items(step))]


def _items(step: StepRecord) -> Iterable[list[str]]:
    for item in (step.items or [])[:SHOWN]:
        if item.error is not None:
            yield [f"item {item.index}, {item.item!r:.60}: {item.state}{_because(None, item.error)}"]


def _because(reason: str | None, error: Mapping[str, Any] | None) -> str:
    if error is None:
        return f" ({reason})" if reason else ""
    at = f" at {error['file']}:{error['line']}" if error.get("file") else ""
    return f" ({error['type']}: {error['message']}{at})"
