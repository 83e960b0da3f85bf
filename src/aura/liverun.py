"""A run in memory: what the work layer knows of it between its acceptance and its committed end.

``LiveRun`` holds state and says how it is written down (``RunColumns``, step rows, history); it starts nothing and
decides nothing. Who changes it: ``admission`` makes it, ``dispatcher`` gives it a place, ``executor`` drives its
graphs, ``stops`` stops it, ``seal`` ends it. All of them run on the event loop, and none awaits between reading and
writing a state.
"""

import asyncio
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import anyio

from aura.actions import Log
from aura.attempt import Attempt
from aura.generations import Generation
from aura.graph import Graph, StepProgress
from aura.lifecycle import FINAL, Recovery, RunState, Stop
from aura.plan import DEFAULT_CLEANUP_TIMEOUT, Steps, Task
from aura.records import Accepted, RunColumns, StepRow, encoded
from aura.run import Failure
from aura.store import Ticket


class Phase(Enum):
    """Which of a task's graphs a run is in. All but ``MAIN`` are handlers."""

    MAIN = "steps"
    ON_FAILURE = "on_failure"
    ON_CANCEL = "on_cancel"
    FINALLY = "finally"


#: (name, step, payload) of an event that the next unit tells of.
Happening = tuple[str, str | None, Any]


class LiveRun:
    """One run that has not ended, or whose end is not committed yet.

    Invariants: ``row`` is the state that the last unit handed over will have written, ``state`` is the one in memory;
    ``waits`` is set while it is in its lane's queue, and ``entry`` is the heap entry that counts; ``sealed`` is set
    once, by the seal, and nothing changes a sealed run.
    """

    def __init__(
        self,
        accepted: Accepted,
        inputs: Mapping[str, Any],
        *,
        boot_tag: str,
        workdirs: Path,
        logger_for: Callable[..., Log],
    ) -> None:
        self.accepted = accepted
        self.seq = accepted.seq
        self.cid = accepted.cid
        self.plan_name = accepted.plan_name
        self.task_name = accepted.task_name
        self.lane = accepted.lane
        self.priority = accepted.priority
        self.not_before = accepted.not_before
        self.recovery = Recovery(accepted.recovery)
        self.inputs = inputs
        self.boot_tag = boot_tag
        self._workdirs = workdirs
        self._logger_for = logger_for
        # -- what it runs
        self.generation: Generation | None = None
        self.task: Task | None = None
        self.attempt = 0
        self.crashes = 0
        #: How often each step began, for ever, and how many starts there were since the run's own last beginning.
        self.starts: dict[str, int] = {}
        self.begun_starts = 0
        self.used_processes = False
        self.graphs: dict[Phase, Graph] = {}
        self.phase = Phase.MAIN
        self.live: dict[str, Attempt] = {}
        #: Steps that wait for their next try, and those whose wait is over.
        self.backoffs: dict[str, asyncio.TimerHandle] = {}
        self.due_retries: list[StepProgress] = []
        self.progress: dict[str, dict[str, Any]] = {}
        self.scope: dict[str, Any] | None = None
        # -- where it stands
        self.state = RunState.QUEUED
        self.row = RunState.QUEUED
        self.stop: Stop | None = None
        #: Loop time at which its handlers have to be done.
        self.cleanup_deadline = float("inf")
        self.reason: str | None = None
        #: Of the row that says that it is stopping.
        self.stop_ticket: Ticket | None = None
        self.ending: RunState | None = None
        self.stuck = False
        self.sealed = False
        self.refused = False
        self.fault: BaseException | None = None
        # -- its place and its time
        self.entry: tuple[int, int, LiveRun] | None = None
        self.waits = False
        self.placed = False
        self.timer: asyncio.TimerHandle | None = None
        self.active_s = 0.0
        self.active_since: float | None = None
        self.started_at: float | None = None
        self.finished_at: float | None = None
        # -- what it came to
        self.result: bytes | None = None
        self.error: Failure | None = None
        self.cleanup_error: Failure | None = None
        # -- what the next unit has to write
        self.dirty: dict[str, StepProgress] = {}
        self.happened: list[Happening] = []
        self.columns_changed = False
        self._has_changed = False
        self._change: anyio.Event | None = None
        self._ended = False
        self._done: anyio.Event | None = None

    # -- the plan that it runs

    def take(self, generation: Generation, task: Task) -> None:
        """Begin from the beginning with this generation, which it keeps until it ends or starts over."""
        self.generation, self.task = generation, task
        self.attempt += 1
        self.begun_starts = 0
        self.graphs = {Phase.MAIN: self._graph(task.steps)}
        self.phase = Phase.MAIN
        self.scope = None

    def enter(self, phase: Phase) -> Graph:
        """Go on with another of the task's graphs."""
        assert self.task is not None
        steps: Mapping[Phase, Steps] = {
            Phase.ON_FAILURE: self.task.on_failure,
            Phase.ON_CANCEL: self.task.on_cancel,
            Phase.FINALLY: self.task.finally_,
        }
        self.phase = phase
        self.scope = None  # the handler sees how the run will end, and its own steps
        self.graphs[phase] = self._graph(steps[phase])
        return self.graphs[phase]

    def _graph(self, steps: Steps) -> Graph:
        graph = Graph(steps)
        for progress in graph:
            progress.starts = self.starts.get(progress.name, 0)
        return graph

    @property
    def main(self) -> Graph | None:
        return self.graphs.get(Phase.MAIN)

    @property
    def begun(self) -> bool:
        """Whether a step has begun since it was last started from its beginning."""
        return self.begun_starts > 0

    @property
    def cleanup_timeout(self) -> float:
        """How long its clean-up may take, in seconds."""
        return self.task.cleanup_timeout if self.task else DEFAULT_CLEANUP_TIMEOUT

    @property
    def code_prefix(self) -> str:
        """What the file names of its plan's code begin with."""
        return self.generation.code_prefix if self.generation else "\0"

    @property
    def workdir_path(self) -> Path:
        """Where its own folder is, or would be."""
        return self._workdirs / self.cid

    @property
    def workdir(self) -> Path:
        """Its own folder, made at first use; it lives as long as the run's record."""
        self.workdir_path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.workdir_path

    def logger(self, step: str | None = None, attempt: int | None = None) -> Log:
        """Make a logger whose lines say that they are this run's."""
        return self._logger_for(self.cid, self.plan_name, self.task_name, step, attempt)

    # -- what happened, and how it is written down

    def mark(self, progress: StepProgress, event: str | None = None, payload: Any = None) -> None:
        """Note that a step has changed, and the event that says so."""
        self.dirty[progress.name] = progress
        if event:
            self.happened.append((event, progress.name, payload))
        if self.scope is not None:
            self.scope["steps"][progress.name] = progress.value()

    def count_start(self, progress: StepProgress) -> None:
        """Count a start that is being written down."""
        progress.attempt += 1
        progress.starts += 1
        self.starts[progress.name] = progress.starts
        self.begun_starts += 1

    def uncount_start(self, progress: StepProgress) -> None:
        """Take back a start whose body never began."""
        self.begun_starts -= 1
        progress.attempt -= 1
        progress.starts -= 1
        self.starts[progress.name] = progress.starts
        if not progress.starts:
            del self.starts[progress.name]
            progress.started_at = None

    def start_over(self) -> None:
        """Forget all but how often each step began: it takes the plan's current generation when it starts again."""
        self.generation = self.task = None
        self.graphs.clear()
        self.progress.clear()
        self.phase = Phase.MAIN
        self.scope = self.started_at = self.error = self.cleanup_error = self.result = None
        self.active_s = 0.0

    def come_back(self) -> None:
        """Forget the stop: it is to run again."""
        self.stop = self.reason = self.ending = self.stop_ticket = None
        self.cleanup_deadline = float("inf")

    def note_progress(self, step: str, done: float, total: float | None, message: str) -> None:
        """Keep the last progress of a step; it lives in memory only."""
        self.progress[step] = {"done": done, "total": total, "message": message}

    def count_active(self, now: float) -> None:
        """Add the time since the last call to what counts against its time-out. ``now`` is monotonic."""
        if self.active_since is not None:
            self.active_s += now - self.active_since
            self.active_since = now

    def columns(self, boot: int) -> RunColumns:
        """The columns that change, as they are now."""
        return RunColumns(
            state=self.row.value,
            stop=self.stop.label if self.stop else None,
            reason=self.reason,
            generation=self.generation.hash if self.generation else self.accepted.generation,
            ending=self.ending.value if self.ending in FINAL else None,
            stuck=self.stuck,
            attempt=self.attempt,
            crashes=self.crashes,
            started_at=self.started_at,
            finished_at=self.finished_at,
            active_s=round(self.active_s, 6),
            boot=boot,
            result=self.result,
            error=encoded(self.error.shown()) if self.error else None,
            cleanup_error=encoded(self.cleanup_error.shown()) if self.cleanup_error else None,
        )

    def take_step_rows(self) -> list[StepRow]:
        """The rows of the steps that have changed since the last call."""
        rows = [step_row(self.seq, p) for p in self.dirty.values()]
        self.dirty.clear()
        return rows

    # -- waiting for it

    def changed(self) -> None:
        """Wake the executor: a step has ended, a back-off is over, or a stop has come."""
        self._has_changed = True
        if self._change:
            self._change.set()

    async def wait_change(self) -> None:
        """Return once ``changed`` has been called since the last return. Only its executor waits here."""
        if not self._has_changed:
            self._change = anyio.Event()
            await self._change.wait()
            self._change = None
        self._has_changed = False

    def end(self) -> None:
        """Tell all who wait that its end is committed."""
        self._ended = True
        if self._done:
            self._done.set()

    async def wait_end(self) -> None:
        """Return once its end is committed, or its acceptance was undone."""
        if not self._ended:
            self._done = self._done or anyio.Event()
            await self._done.wait()


def step_row(seq: int, progress: StepProgress) -> StepRow:
    """A step as the store keeps it."""
    return (
        seq,
        progress.name,
        progress.state.value,
        progress.attempt,
        progress.starts,
        progress.started_at,
        progress.finished_at,
        progress.output_json,
        encoded(progress.outputs),
        encoded(progress.error.shown()) if progress.error else None,
        progress.skipped_because,
    )
