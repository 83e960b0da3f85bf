"""A run in memory: what the work layer knows of it between its acceptance and its committed end.

``LiveRun`` holds state and says how it is written down (``RunColumns``, step rows, history); it starts nothing and
decides nothing. Who changes it: ``admission`` makes it, ``dispatcher`` gives it a place, ``executor`` drives its
graphs, ``stops`` stops it, ``seal`` ends it. All of them run on the event loop, and none awaits between reading and
writing a state.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import anyio
import msgspec

from aura.actions import Log
from aura.attempt import Attempt
from aura.generations import Generation
from aura.graph import Graph, StepProgress
from aura.lifecycle import FINAL, STEP_FINAL, Recovery, RunState, StepState, Stop
from aura.plan import DEFAULT_CLEANUP_TIMEOUT, Steps, Task
from aura.records.columns import encoded
from aura.records.runs import Accepted, RunColumns, StepRow
from aura.run import Failure
from aura.store import Ticket


class Phase(StrEnum):
    """Which of a task's graphs a run is in. All but ``MAIN`` are handlers."""

    MAIN = "steps"
    ON_FAILURE = "on_failure"
    ON_CANCEL = "on_cancel"
    FINALLY = "finally"


#: (name, step, payload) of an event that the next unit tells of.
Happening = tuple[str, str | None, Any]


class LiveRun(msgspec.Struct, eq=False):
    """One run that has not ended, or whose end is not committed yet.

    Invariants: ``row`` is the state that the last unit handed over will have written, ``state`` is the one in memory;
    ``waits`` is set while it is in its lane's queue, which it never is while it is ``held``, and ``entry`` is the heap
    entry that counts; ``sealed`` is set once, by the seal, and nothing changes a sealed run.
    """

    accepted: Accepted
    inputs: Mapping[str, Any]
    boot_tag: str
    workdirs: Path
    logger_for: Callable[..., Log]
    # -- of ``accepted``, since they are asked for often or may change
    seq: int = 0
    cid: str = ""
    plan_name: str = ""
    task_name: str = ""
    lane: str = ""
    priority: int = 0
    not_before: float | None = None
    recovery: Recovery = Recovery.FAIL
    # -- what it runs
    generation: Generation | None = None
    task: Task | None = None
    attempt: int = 0
    crashes: int = 0
    #: How often each step began, for ever, and how many starts there were since the run's own last beginning.
    starts: dict[str, int] = {}
    begun_starts: int = 0
    used_processes: bool = False
    graphs: dict[Phase, Graph] = {}
    phase: Phase = Phase.MAIN
    live: dict[str, Attempt] = {}
    #: Steps that wait for their next try, and those whose wait is over.
    backoffs: dict[str, asyncio.TimerHandle] = {}
    due_retries: list[StepProgress] = []
    progress: dict[str, dict[str, Any]] = {}
    scope: dict[str, Any] | None = None
    # -- where it stands
    state: RunState = RunState.QUEUED
    row: RunState = RunState.QUEUED
    stop: Stop | None = None
    #: Loop time at which its handlers have to be done.
    cleanup_deadline: float = float("inf")
    reason: str | None = None
    #: Of the row that says that it is stopping.
    stop_ticket: Ticket | None = None
    ending: RunState | None = None
    stuck: bool = False
    #: Why it is kept from starting until somebody resumes it (``pausing``); None if it is not.
    held: str | None = None
    #: Of the row that says whether it is.
    hold_ticket: Ticket | None = None
    #: Somebody resumed it, and it has not gone on yet: whenever it is ``preempted`` it stands in its lane.
    resumed: bool = False
    sealed: bool = False
    refused: bool = False
    #: Its end could not be stored.
    lost: bool = False
    #: Where its row stands while moves are lost one behind the other; None when the last of them is.
    lost_from: RunState | None = None
    fault: BaseException | None = None
    # -- its place and its time
    entry: tuple[float, int, "LiveRun"] | None = None
    waits: bool = False
    placed: bool = False
    #: Its wait for its first start has been noted.
    waited: bool = False
    timer: asyncio.TimerHandle | None = None
    #: Seconds that were left of its ``queue_timeout`` when it was paused.
    queue_left: float | None = None
    active_s: float = 0.0
    active_since: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    # -- what it came to
    result: bytes | None = None
    error: Failure | None = None
    cleanup_error: Failure | None = None
    # -- what the next unit has to write
    dirty: dict[str, StepProgress] = {}
    happened: list[Happening] = []
    former_rows: list[StepRow] = []
    #: What an older boot left of its steps, while they are in no graph: its plan's code is not the same any more.
    kept_rows: list[StepRow] = []
    #: What a rerun takes over of the run that it repeats: in its graph whenever it begins from its beginning.
    inherited: Sequence[StepRow] = ()
    columns_changed: bool = False
    _has_changed: bool = False
    _change: anyio.Event | None = None
    _ended: bool = False
    _done: anyio.Event | None = None

    def __post_init__(self) -> None:
        accepted = self.accepted
        self.seq, self.cid = accepted.seq, accepted.cid
        self.plan_name, self.task_name = accepted.plan_name, accepted.task_name
        self.lane, self.priority, self.not_before = accepted.lane, accepted.priority, accepted.not_before
        self.recovery = Recovery(accepted.recovery)

    def __repr__(self) -> str:
        return f"<run {self.cid} {self.state}>"

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
    def kept(self) -> bool:
        """Whether an interrupt or a shutdown leaves it preempted: it is paused, or was and has not gone on yet."""
        return self.held is not None or self.resumed or self.row is RunState.PREEMPTED

    def handlers(self, ending: RunState | None) -> list[Phase]:
        """The handlers that it goes through if it ends so, in their order; none while its code is not known."""
        if self.task is None:
            return []
        wanted = [
            (Phase.ON_FAILURE, ending in (RunState.FAILED, RunState.TIMED_OUT) and bool(self.task.on_failure)),
            (Phase.ON_CANCEL, ending is RunState.CANCELLED and bool(self.task.on_cancel)),
            (Phase.FINALLY, bool(self.task.finally_)),
        ]
        return [phase for phase, applies in wanted if applies]

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
        return self.workdirs / self.cid

    @property
    def workdir(self) -> Path:
        """Its own folder, made at first use; it lives as long as the run's record."""
        self.workdir_path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.workdir_path

    def logger(self, step: str | None = None, attempt: int | None = None) -> Log:
        """Make a logger whose lines say that they are this run's."""
        return self.logger_for(self.cid, self.plan_name, self.task_name, step, attempt)

    # -- what happened, and how it is written down

    def mark(self, progress: StepProgress, event: str | None = None, payload: Any = None) -> None:
        """Note that a step has changed, and the event that says so."""
        self.dirty[progress.name] = progress
        if event:
            self.happened.append((event, progress.name, payload))
        if self.scope is not None:
            self.scope["steps"][progress.name] = progress.value()

    def mark_all(self) -> None:
        """Note every step that has begun or ended as changed: a unit that should have written some was lost."""
        found = [progress for graph in self.graphs.values() for progress in graph]
        self.dirty.update({step.name: step for step in found if step.starts or step.finished_at})

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
            progress.started_at = None

    def start_over(self) -> None:
        """Forget all but how often each step began: it takes the plan's current generation when it starts again."""
        self.generation = self.task = None
        self.graphs.clear()
        self.begun_starts = 0
        self.progress.clear()
        self.phase = Phase.MAIN
        self.scope = self.started_at = self.error = self.cleanup_error = self.result = self.queue_left = None
        self.active_s = 0.0

    def end_former_steps(self, now: float) -> None:
        """End on record what began in an earlier start and is none of this one's steps: its run ends without it."""
        known = {progress.name for graph in self.graphs.values() for progress in graph}
        known |= {row[1] for row in (*self.kept_rows, *self.inherited) if row[2] in STEP_FINAL}
        self.former_rows = [
            (self.seq, name, StepState.CANCELLED.value, 0, starts, None, now, None, None, None, None)
            for name, starts in self.starts.items()
            if name not in known
        ]

    def come_back(self) -> None:
        """Forget the stop: it is to run again."""
        self.stop = self.ending = self.stop_ticket = None
        self.reason = self.held
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
            held=self.held is not None,
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
        if self.former_rows:
            rows += self.former_rows
            self.former_rows = []
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
